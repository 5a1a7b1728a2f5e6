"""The rings agent: links in, alerts of rings and who belongs to them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from msgspec import structs

from dafu.agents.shell import UNHURRIED, SenderSource, Sending, StageAgent, send_messages
from dafu.stages.batch import InputBatch
from dafu.stages.rings import RingOutput, RingStage
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable

AT_ONCE: Final = 50
"""Records that are applied before the event loop turns: each may have a component looked at, and
meanwhile nothing is decided."""


class RingsAgent(StageAgent[RingOutput]):
    """Runs the stage that finds rings, on a topic of one partition.

    Parameters
    ----------
    stage, table, sender, dead_letters
        See `StageAgent`.
    alerts : Faust topic
        Where it goes what becomes of rings.
    memberships : Faust topic
        Where it goes which ring a user belongs to.
    """

    stage: RingStage
    apart = UNHURRIED

    def __init__(
        self,
        stage: RingStage,
        table: PackedTable,
        sender: SenderSource,
        *,
        alerts: Any,
        memberships: Any,
        dead_letters: Any,
    ) -> None:
        outputs = (alerts, memberships)
        super().__init__(stage, table, sender, outputs=outputs, dead_letters=dead_letters)
        self.memberships = 0
        self._topics: tuple[str, str] = tuple(t.get_topic_name() for t in outputs)

    async def apply(
        self, sender: BatchSender, source: str, batch: InputBatch, claims: Mapping[int, int]
    ) -> None:
        """Do what `process` says, a few records after the other."""
        for first in range(0, len(batch), AT_ONCE):
            rows = np.arange(first, min(first + AT_ONCE, len(batch)))
            await self.work(sender, source, batch.part(rows), claims, self.stage)

    def publish(
        self,
        sender: BatchSender,
        source: str,  # noqa: ARG002
        batch: InputBatch,  # noqa: ARG002
        output: RingOutput,
    ) -> list[Sending]:
        """Publish alerts and memberships."""
        alerts, memberships = self._topics
        return [
            *send_messages(sender, alerts, output.alerts),
            *send_messages(sender, memberships, output.memberships),
        ]

    def details(self) -> dict[str, Any]:
        """Memberships told, and what the engine has met since it was built up."""
        engine = self.stage.engine(0)
        met = None if engine is None else structs.asdict(engine.counters)
        return {"memberships": self.memberships, "graph": met}

    def count(self, output: RingOutput) -> None:
        """Count what a batch came to."""
        self.counters.outputs += len(output.alerts.keys)
        self.memberships += len(output.memberships.keys)
