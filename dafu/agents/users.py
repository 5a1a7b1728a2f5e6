"""The users agent: transactions in, transactions with user features out."""

from __future__ import annotations

from dafu.agents.shell import Sending, StageAgent
from dafu.stages.batch import UserOutput
from dafu.stages.users import UserStage
from dafu.streaming import dead_letters
from dafu.streaming.records import RecordBatch
from dafu.streaming.sender import BatchSender


class UsersAgent(StageAgent[UserOutput]):
    """Runs stage one; its topic is the merchant-keyed one."""

    stage: UserStage

    def publish(self, sender: BatchSender, chunk: RecordBatch, output: UserOutput) -> list[Sending]:
        """Forward what was applied; send records with a wrong key round again."""
        sends: list[Sending] = []
        if output.forward_keys:
            sends.append(sender.send(self.topic, output.forward_keys, output.forward_values))
        if output.reroutes:
            sends.append(
                sender.send(
                    chunk.topic,
                    [key for _, key in output.reroutes],
                    [chunk.records[i].value for i, _ in output.reroutes],
                    headers=[[(dead_letters.REROUTED, b"1")] for _ in output.reroutes],
                )
            )
        return sends

    def count(self, output: UserOutput) -> None:
        """Count what a chunk came to."""
        self.counters.outputs += len(output.forward_keys)
        self.counters.duplicates += output.duplicates
        self.counters.rerouted += len(output.reroutes)
