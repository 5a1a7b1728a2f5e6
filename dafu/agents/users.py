"""The users agent: transactions in, transactions with user features out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dafu.agents.histogram import Histogram
from dafu.agents.serving import ServingAgent
from dafu.agents.shelf import Shelf
from dafu.agents.shell import (
    LATENCY_BOUNDS,
    RingTopics,
    SenderSource,
    Sending,
    now_ms,
    seconds_since,
    send_messages,
)
from dafu.columns import ByteColumn
from dafu.registry import Level, Role
from dafu.rules import RuleSet
from dafu.stages.batch import InputBatch, UserOutput
from dafu.stages.users import UserStage
from dafu.streaming import dead_letters
from dafu.streaming.records import encode_headers
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable

_REROUTED: Final = encode_headers([(dead_letters.REROUTED, b"1")])


class UsersAgent(ServingAgent[UserOutput]):
    """Runs stage one.

    Parameters
    ----------
    stage, table, sender, shelf, dead_letters
        See `ServingAgent`.
    forwarded : Faust topic
        The merchant-keyed one, where transactions go on.
    rings : RingTopics or None
        Where sightings of identifiers go, and what members of rings do; None for nowhere.
    """

    stage: UserStage
    level: Level = "sequence"

    def __init__(
        self,
        stage: UserStage,
        table: PackedTable,
        sender: SenderSource,
        shelf: Shelf,
        *,
        forwarded: Any,
        rings: RingTopics | None,
        dead_letters: Any,
    ) -> None:
        outputs = (forwarded, *rings[:2]) if rings else (forwarded,)
        super().__init__(stage, table, sender, shelf, outputs=outputs, dead_letters=dead_letters)
        self._forwarded: str = forwarded.get_topic_name()
        self._rings = rings and rings.names
        self.by_identifier = dict.fromkeys(("sightings", "refused", "capped"), 0)
        self.memberships = 0
        self.latency = Histogram(LATENCY_BOUNDS)

    def rebuilt(
        self,
        champion: Any,
        candidates: Sequence[tuple[Role, Any]],
        rules: RuleSet | None,  # noqa: ARG002
    ) -> UserStage:
        """Stage one with other sequence models."""
        others = [model for _, model in candidates]
        stage = self.stage
        return UserStage(stage.max_future_skew_ms, champion, others, rings=stage.rings)

    def publish(
        self, sender: BatchSender, source: str, batch: InputBatch, output: UserOutput
    ) -> list[Sending]:
        """Forward what was applied; send records with a wrong key round again."""
        self.latency.add_many(seconds_since(batch.timestamps, now_ms()))
        sends: list[Sending] = []
        if len(output.forward_keys):
            sends.append(
                sender.post(
                    self._forwarded,
                    output.forward_keys,
                    output.forward_values,
                    key_hashes=output.forward_hashes,
                )
            )
        if output.reroutes:
            sends.append(
                sender.post(
                    source,
                    ByteColumn.of([key for _, key in output.reroutes]),
                    batch.values.take([i for i, _ in output.reroutes]),
                    headers=ByteColumn.repeated(_REROUTED, len(output.reroutes)),
                )
            )
        if self._rings:
            identifiers, links, _ = self._rings
            sends += send_messages(sender, identifiers, output.sightings)
            sends += send_messages(sender, links, output.activities)
        return sends

    def details(self) -> dict[str, Any]:
        """Memberships entered, and what became of identifiers."""
        return {"memberships": self.memberships, "identifiers": dict(self.by_identifier)}

    def count(self, output: UserOutput) -> None:
        """Count what a batch came to."""
        self.counters.outputs += len(output.forward_keys)
        self.counters.duplicates += output.duplicates
        self.counters.labels += output.labels
        self.counters.rerouted += len(output.reroutes)
        self.memberships += output.memberships
        self.by_identifier["sightings"] += len(output.sightings.keys)
        self.by_identifier["refused"] += output.refused
        self.by_identifier["capped"] += output.capped
