"""The merchants agent: transactions with user features in, decisions out."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any

from dafu.agents.shell import (
    LATENCY,
    WORKER,
    WORKER_NAME,
    Counters,
    SenderSource,
    all_sent,
    consume,
    input_batch,
    now_ms,
    prepare,
    send_dead_letters,
)
from dafu.stages.batch import MerchantOutput
from dafu.stages.decide import DECISIONS
from dafu.stages.merchants import MerchantStage
from dafu.streaming.records import RecordBatch
from dafu.tables.table import PackedTable


class MerchantsAgent:
    """Owns the merchants table and is the only one to write it.

    Parameters
    ----------
    stage : MerchantStage
    table : PackedTable
        Merchants, changelogged with the partitions of the merchant-keyed topic.
    sender : callable
        The worker's sender.
    decision_topic, dead_letter_topic : Faust topics
        Created if they are missing.
    """

    def __init__(
        self,
        stage: MerchantStage,
        table: PackedTable,
        sender: SenderSource,
        *,
        decision_topic: Any,
        dead_letter_topic: Any,
    ) -> None:
        self.stage = stage
        self.table = table
        self.sender = sender
        self.decision_topic = decision_topic.get_topic_name()
        self.dead_letter_topic = dead_letter_topic.get_topic_name()
        self._outputs = (decision_topic, dead_letter_topic)
        self.counters = Counters()
        self.by_outcome = dict.fromkeys(DECISIONS, 0)

    async def run(self, stream: Any) -> None:
        """The agent's body."""
        await prepare(stream.channel, self.table, self._outputs, self.sender())
        await consume(stream, self.process)

    async def process(self, chunk: RecordBatch) -> None:
        """Decide one chunk, publish the decisions, then log and store the new state."""
        started = time.perf_counter()
        sender = self.sender()
        output = self.stage.run(input_batch(chunk), self.table.partition(chunk.partition))
        counters = self.counters
        counters.busy_seconds += time.perf_counter() - started
        sends: list[Awaitable[Any]] = []
        if output.decisions:
            sends.append(
                sender.send(
                    self.decision_topic,
                    output.keys,
                    output.decisions,
                    headers=_decision_headers(output),
                )
            )
        if output.rejected:
            sends.append(send_dead_letters(sender, self.dead_letter_topic, chunk, output.rejected))
        await all_sent(*sends)
        await self.table.commit_batch(sender, chunk.partition, output.changes)
        counters.batches += 1
        counters.records += len(chunk)
        counters.outputs += len(output.decisions)
        counters.rejected += len(output.rejected)
        counters.repeats += output.repeats
        counters.fenced += output.fenced
        counters.last_batch_at = time.time()
        for code, name in enumerate(DECISIONS):
            self.by_outcome[name] += int((output.outcomes == code).sum())


def _decision_headers(output: MerchantOutput) -> list[list[tuple[str, bytes]]]:
    """What depends on the clock and the worker, beside the payload, which must not."""
    latencies = (now_ms() - output.ingested).tolist()
    worker = (WORKER, WORKER_NAME)
    return [[(LATENCY, b"%d" % latency), worker] for latency in latencies]
