"""The merchants agent: transactions with user features in, decisions out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from dafu.agents.histogram import Histogram
from dafu.agents.rules import RuleCounts, RuleShelf
from dafu.agents.serving import ServingAgent
from dafu.agents.shelf import Shelf
from dafu.agents.shell import (
    LATENCY,
    LATENCY_BOUNDS,
    SOURCE,
    SOURCE_PLACE,
    WORKER,
    WORKER_NAME,
    RingTopics,
    SenderSource,
    Sending,
    now_ms,
    seconds_since,
    send_messages,
)
from dafu.columns import ByteColumn, prepend
from dafu.recent import RecentlyJudged
from dafu.registry import Level, Role, RulesSwitch
from dafu.rules import RuleSet
from dafu.rules.model import Rule
from dafu.stages.batch import InputBatch, MerchantOutput
from dafu.stages.decide import DECISIONS
from dafu.stages.merchants import MerchantStage
from dafu.stages.switches import in_force, rules_document
from dafu.streaming.records import encode_headers
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable

_BEGIN: Final = encode_headers([(SOURCE, b"")])
_HEAD: Final = np.dtype([("begin", f"V{len(_BEGIN)}"), ("source", ">i4"), ("offset", ">i8")])
"""The part of a decision's headers that each has its own: up to the end of the first of them."""


class _Document(msgspec.Struct, frozen=True):
    """What counts of a rule file's document here."""

    rules: tuple[Rule, ...]


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

    def rebuilt(
        self, champion: Any, candidates: Sequence[tuple[Role, Any]], rules: RuleSet | None
    ) -> MerchantStage:
        """Stage two with other models and rules."""
        stage = self.stage
        return MerchantStage(
            rules or stage.rules, champion, stage.thresholds, candidates, rings=stage.rings
        )

    async def rules_of(self, partition: int, version: str) -> RuleSet:
        """The rules of a version, which hold for a partition."""
        if (held := self._rule_sets.held(version)) is not None:
            return held
        document = rules_document(self.table.partition, partition)
        return await self._rule_sets.get(version, document)

    async def get_ready(self, switch: RulesSwitch) -> None:
        """Compile the rules of a switch."""
        if switch.rules is not None:
            document = msgspec.json.encode(switch.rules.document)
            await self._rule_sets.get(switch.rules.version, document)

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
        self._rule_sets = RuleShelf()
        self.by_outcome = dict.fromkeys(DECISIONS, 0)
        self.fired: dict[str, RuleCounts] = {}
        self.alerts = 0
        self.recent = RecentlyJudged()
        self.latency = Histogram(LATENCY_BOUNDS)
        self.degraded = 0
        self.is_degraded = stage.model is None

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
            now = now_ms()
            self.latency.add_many(seconds_since(output.ingested, now))
            headers = _decision_headers(now - output.ingested, output.sources, output.offsets)
            sends.append(
                sender.post(self._decisions, output.keys, output.decisions, headers=headers)
            )
        if self._rings:
            identifiers, links, alerts = self._rings
            sends += send_messages(sender, identifiers, output.sightings)
            sends += send_messages(sender, links, output.activities)
            sends += send_messages(sender, alerts, output.alerts)
        return sends

    def details(self) -> dict[str, Any]:
        """Decisions by outcome, those made without a model, alerts of bursts, which rules hold by
        partition, and how often each rule fired."""
        return {
            "decisions": dict(self.by_outcome),
            "degraded": self.degraded,
            "alerts": self.alerts,
            "rules": self.rules_in_force(),
            "fired": dict(self.fired),
        }

    def rules_in_force(self) -> dict[int, str]:
        """The version of the rules that hold for each partition here."""
        return {
            number: in_force(self.table.partition, number).rules or self.stage.rules.version
            for number in sorted(self.table.records.open_partitions())
        }

    def rules_by_version(self) -> dict[str, tuple[Rule, ...]]:
        """The rules of every version that holds for a partition here."""
        found: dict[str, tuple[Rule, ...]] = {}
        for number, version in self.rules_in_force().items():
            if version in found:
                continue
            if version == self.stage.rules.version:
                found[version] = self.stage.rules.rules
            else:
                document = rules_document(self.table.partition, number)
                found[version] = msgspec.json.decode(document, type=_Document).rules
        return found

    def count(self, output: MerchantOutput) -> None:
        """Count what a batch came to."""
        self.counters.outputs += len(output.decisions)
        self.counters.repeats += output.repeats
        self.alerts += len(output.alerts.keys)
        if output.judged is not None:
            self.recent.add(output.judged)
        for rule_id, mode, transactions in output.fired:
            counts = self.fired.setdefault(rule_id, RuleCounts())
            if mode == "live":
                counts.live += transactions
            else:
                counts.shadow += transactions
        for code, name in enumerate(DECISIONS):
            self.by_outcome[name] += int((output.outcomes == code).sum())
        if len(output.decisions):
            self.is_degraded = output.degraded
            self.degraded += output.degraded * len(output.decisions)


def _decision_headers(
    latencies_ms: NDArray[np.int64], sources: NDArray[np.int64], offsets: NDArray[np.int64]
) -> ByteColumn:
    """What depends on the log, the clock and the worker, beside the payload, which must not."""
    latencies, which = np.unique(latencies_ms, return_inverse=True)
    rest = ByteColumn.of([_headers(n)[_HEAD.itemsize :] for n in latencies.tolist()])
    heads = np.empty(len(which), _HEAD)
    heads["begin"] = np.void(_headers(0)[: _HEAD["begin"].itemsize])
    heads["source"], heads["offset"] = sources, offsets
    return prepend(heads.view(np.uint8), _HEAD.itemsize, rest.take(which))


@lru_cache(maxsize=10_000)
def _headers(latency_ms: int) -> bytes:
    place, latency = SOURCE_PLACE.pack(0, 0), b"%d" % latency_ms
    return encode_headers([(SOURCE, place), (LATENCY, latency), (WORKER, WORKER_NAME)])
