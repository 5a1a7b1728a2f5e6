"""The merchants agent: transactions with user features in, decisions out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dafu.agents.serving import ServingAgent
from dafu.agents.shelf import Shelf
from dafu.agents.shell import (
    LATENCY,
    WORKER,
    WORKER_NAME,
    RingTopics,
    SenderSource,
    Sending,
    now_ms,
    send_messages,
)
from dafu.columns import ByteColumn
from dafu.registry import Level, Role
from dafu.stages.batch import InputBatch, MerchantOutput
from dafu.stages.decide import DECISIONS
from dafu.stages.merchants import MerchantStage
from dafu.streaming.records import encode_headers
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable


class MerchantsAgent(ServingAgent[MerchantOutput]):
    """Runs stage two.

    Parameters
    ----------
    stage, table, sender, shelf, dead_letters
        See `ServingAgent`.
    decisions : Faust topic
        Where decisions go.
    rings : RingTopics or None
        Where it goes what was blocked, and of whom, and what bursts there are; None for nowhere.
    """

    stage: MerchantStage
    level: Level = "scoring"

    def rebuilt(self, champion: Any, candidates: Sequence[tuple[Role, Any]]) -> MerchantStage:
        """Stage two with other models."""
        stage = self.stage
        return MerchantStage(stage.rules, champion, stage.thresholds, candidates, rings=stage.rings)

    def __init__(
        self,
        stage: MerchantStage,
        table: PackedTable,
        sender: SenderSource,
        shelf: Shelf,
        *,
        decisions: Any,
        rings: RingTopics | None,
        dead_letters: Any,
    ) -> None:
        outputs = (decisions, *(rings or ()))
        super().__init__(stage, table, sender, shelf, outputs=outputs, dead_letters=dead_letters)
        self._decisions: str = decisions.get_topic_name()
        self._rings = rings and rings.names
        self.by_outcome = dict.fromkeys(DECISIONS, 0)
        self.alerts = 0

    def publish(
        self,
        sender: BatchSender,
        source: str,  # noqa: ARG002
        batch: InputBatch,  # noqa: ARG002
        output: MerchantOutput,
    ) -> list[Sending]:
        """Publish the decisions, and what they say of identifiers, rings and merchants."""
        sends: list[Sending] = []
        if len(output.decisions):
            headers = _decision_headers(output)
            sends.append(
                sender.send(self._decisions, output.keys, output.decisions, headers=headers)
            )
        if self._rings:
            identifiers, links, alerts = self._rings
            sends += send_messages(sender, identifiers, output.sightings)
            sends += send_messages(sender, links, output.activities)
            sends += send_messages(sender, alerts, output.alerts)
        return sends

    def details(self) -> dict[str, Any]:
        """Decisions by outcome, and alerts of bursts."""
        return {"decisions": dict(self.by_outcome), "alerts": self.alerts}

    def count(self, output: MerchantOutput) -> None:
        """Count what a batch came to."""
        self.counters.outputs += len(output.decisions)
        self.counters.repeats += output.repeats
        self.alerts += len(output.alerts.keys)
        for code, name in enumerate(DECISIONS):
            self.by_outcome[name] += int((output.outcomes == code).sum())


def _decision_headers(output: MerchantOutput) -> ByteColumn:
    """What depends on the clock and the worker, beside the payload, which must not."""
    latencies, which = np.unique(now_ms() - output.ingested, return_inverse=True)
    return ByteColumn.of([_headers(n) for n in latencies.tolist()]).take(which)


@lru_cache(maxsize=10_000)
def _headers(latency_ms: int) -> bytes:
    return encode_headers([(LATENCY, b"%d" % latency_ms), (WORKER, WORKER_NAME)])
