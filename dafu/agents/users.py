"""The users agent: transactions in, transactions with user features out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dafu.agents.shell import Sending, StageAgent
from dafu.columns import ByteColumn
from dafu.registry import Level, Role
from dafu.stages.batch import InputBatch, UserOutput
from dafu.stages.users import UserStage
from dafu.streaming import dead_letters
from dafu.streaming.records import encode_headers
from dafu.streaming.sender import BatchSender

_REROUTED: Final = encode_headers([(dead_letters.REROUTED, b"1")])


class UsersAgent(StageAgent[UserOutput]):
    """Runs stage one; its topic is the merchant-keyed one."""

    stage: UserStage
    level: Level = "sequence"

    def rebuilt(self, champion: Any, candidates: Sequence[tuple[Role, Any]]) -> UserStage:
        """Stage one with other sequence models."""
        others = [model for _, model in candidates]
        return UserStage(self.stage.max_future_skew_ms, champion, others)

    def publish(
        self, sender: BatchSender, source: str, batch: InputBatch, output: UserOutput
    ) -> list[Sending]:
        """Forward what was applied; send records with a wrong key round again."""
        sends: list[Sending] = []
        if len(output.forward_keys):
            sends.append(
                sender.send(
                    self.topic,
                    output.forward_keys,
                    output.forward_values,
                    key_hashes=output.forward_hashes,
                )
            )
        if output.reroutes:
            sends.append(
                sender.send(
                    source,
                    ByteColumn.of([key for _, key in output.reroutes]),
                    batch.values.take([i for i, _ in output.reroutes]),
                    headers=ByteColumn.repeated(_REROUTED, len(output.reroutes)),
                )
            )
        return sends

    def count(self, output: UserOutput) -> None:
        """Count what a batch came to."""
        self.counters.outputs += len(output.forward_keys)
        self.counters.duplicates += output.duplicates
        self.counters.labels += output.labels
        self.counters.rerouted += len(output.reroutes)
