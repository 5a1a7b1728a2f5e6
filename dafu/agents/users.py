"""The users agent: transactions in, transactions with user features out."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any

from dafu.agents.shell import (
    Counters,
    SenderSource,
    all_sent,
    consume,
    input_batch,
    prepare,
    send_dead_letters,
)
from dafu.stages.users import UserStage
from dafu.streaming import dead_letters
from dafu.streaming.records import RecordBatch
from dafu.tables.table import PackedTable


class UsersAgent:
    """Owns the users table and is the only one to write it.

    Parameters
    ----------
    stage : UserStage
    table : PackedTable
        Users, changelogged with the partitions of the transactions topic.
    sender : callable
        The worker's sender.
    forward_topic, dead_letter_topic : Faust topics
        Created if they are missing.
    """

    def __init__(
        self,
        stage: UserStage,
        table: PackedTable,
        sender: SenderSource,
        *,
        forward_topic: Any,
        dead_letter_topic: Any,
    ) -> None:
        self.stage = stage
        self.table = table
        self.sender = sender
        self.forward_topic = forward_topic.get_topic_name()
        self.dead_letter_topic = dead_letter_topic.get_topic_name()
        self._outputs = (forward_topic, dead_letter_topic)
        self.counters = Counters()

    async def run(self, stream: Any) -> None:
        """The agent's body."""
        await prepare(stream.channel, self.table, self._outputs, self.sender())
        await consume(stream, self.process)

    async def process(self, chunk: RecordBatch) -> None:
        """Apply one chunk, publish what comes of it, then log and store the new state."""
        started = time.perf_counter()
        sender = self.sender()
        output = self.stage.run(input_batch(chunk), self.table.partition(chunk.partition))
        counters = self.counters
        counters.busy_seconds += time.perf_counter() - started
        sends: list[Awaitable[Any]] = []
        if output.forward_keys:
            sends.append(
                sender.send(self.forward_topic, output.forward_keys, output.forward_values)
            )
        if output.rejected:
            sends.append(send_dead_letters(sender, self.dead_letter_topic, chunk, output.rejected))
        if output.reroutes:
            sends.append(
                sender.send(
                    chunk.topic,
                    [key for _, key in output.reroutes],
                    [chunk.records[i].value for i, _ in output.reroutes],
                    headers=[[(dead_letters.REROUTED, b"1")] for _ in output.reroutes],
                )
            )
        await all_sent(*sends)
        await self.table.commit_batch(sender, chunk.partition, output.changes)
        counters.batches += 1
        counters.records += len(chunk)
        counters.outputs += len(output.forward_keys)
        counters.rejected += len(output.rejected)
        counters.duplicates += output.duplicates
        counters.fenced += output.fenced
        counters.rerouted += len(output.reroutes)
        counters.last_batch_at = time.time()
