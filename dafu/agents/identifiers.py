"""The identifiers agent: who was seen with what in, who shares what out."""

from __future__ import annotations

from typing import Any

from dafu.agents.shell import UNHURRIED, SenderSource, Sending, StageAgent, send_messages
from dafu.stages.batch import InputBatch
from dafu.stages.identifiers import IdentifierOutput, IdentifierStage
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable


class IdentifiersAgent(StageAgent[IdentifierOutput]):
    """Runs the stage that finds what users share.

    Parameters
    ----------
    stage, table, sender, dead_letters
        See `StageAgent`.
    links : Faust topic
        Where links between users and what they share go.
    """

    stage: IdentifierStage
    apart = UNHURRIED

    def __init__(
        self,
        stage: IdentifierStage,
        table: PackedTable,
        sender: SenderSource,
        *,
        links: Any,
        dead_letters: Any,
    ) -> None:
        super().__init__(stage, table, sender, outputs=(links,), dead_letters=dead_letters)
        self.by_fate = dict.fromkeys(("sightings", "late", "ignored", "withdrawn"), 0)
        self._links: str = links.get_topic_name()

    def publish(
        self,
        sender: BatchSender,
        source: str,  # noqa: ARG002
        batch: InputBatch,  # noqa: ARG002
        output: IdentifierOutput,
    ) -> list[Sending]:
        """Publish the links."""
        return send_messages(sender, self._links, output.links)

    def details(self) -> dict[str, Any]:
        """Sightings applied; of these, what was late or of identifiers that are ignored."""
        return dict(self.by_fate)

    def count(self, output: IdentifierOutput) -> None:
        """Count what a batch came to."""
        self.counters.outputs += len(output.links.keys)
        for fate in self.by_fate:
            self.by_fate[fate] += getattr(output, fate)
