"""The merchants agent: transactions with user features in, decisions out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dafu.agents.shell import LATENCY, WORKER, WORKER_NAME, Sending, StageAgent, now_ms
from dafu.columns import ByteColumn
from dafu.registry import Level, Role
from dafu.stages.batch import InputBatch, MerchantOutput
from dafu.stages.decide import DECISIONS
from dafu.stages.merchants import MerchantStage
from dafu.streaming.records import encode_headers
from dafu.streaming.sender import BatchSender


class MerchantsAgent(StageAgent[MerchantOutput]):
    """Runs stage two; its topic is that of the decisions."""

    stage: MerchantStage
    level: Level = "scoring"

    def rebuilt(self, champion: Any, candidates: Sequence[tuple[Role, Any]]) -> MerchantStage:
        """Stage two with other models."""
        return MerchantStage(self.stage.rules, champion, self.stage.thresholds, candidates)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_outcome = dict.fromkeys(DECISIONS, 0)

    def publish(
        self,
        sender: BatchSender,
        source: str,  # noqa: ARG002
        batch: InputBatch,  # noqa: ARG002
        output: MerchantOutput,
    ) -> list[Sending]:
        """Publish the decisions."""
        if not len(output.decisions):
            return []
        headers = _decision_headers(output)
        return [sender.send(self.topic, output.keys, output.decisions, headers=headers)]

    def count(self, output: MerchantOutput) -> None:
        """Count what a batch came to."""
        self.counters.outputs += len(output.decisions)
        self.counters.repeats += output.repeats
        for code, name in enumerate(DECISIONS):
            self.by_outcome[name] += int((output.outcomes == code).sum())


def _decision_headers(output: MerchantOutput) -> ByteColumn:
    """What depends on the clock and the worker, beside the payload, which must not."""
    latencies, which = np.unique(now_ms() - output.ingested, return_inverse=True)
    return ByteColumn.of([_headers(n) for n in latencies.tolist()]).take(which)


@lru_cache(maxsize=10_000)
def _headers(latency_ms: int) -> bytes:
    return encode_headers([(LATENCY, b"%d" % latency_ms), (WORKER, WORKER_NAME)])
