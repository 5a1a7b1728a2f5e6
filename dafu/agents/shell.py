"""What both agents do around their stage: order of sends, dead letters, counting, crashing.

The order is the promise: outputs acknowledged, then the changelog acknowledged, then the local
store, then the offset. Whatever fails on the way stops the worker, which reads the batch again
when it comes back; the fences in the state make that harmless.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from dafu.errors import DafuError
from dafu.stages.batch import NO_TIMESTAMP, InputBatch, Rejected
from dafu.streaming import dead_letters
from dafu.streaming.records import RecordBatch
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable

LATENCY: Final = "dafu-latency-ms"
WORKER: Final = "dafu-worker"
WORKER_NAME: Final = f"{socket.gethostname()}:{os.getpid()}".encode()

SenderSource = Callable[[], BatchSender]
"""Gives the worker's sender once the producer has started."""


class Counters(Struct):
    """What an agent has done since the worker started, for people; no decision depends on it."""

    records: int = 0
    batches: int = 0
    outputs: int = 0
    rejected: int = 0
    duplicates: int = 0
    repeats: int = 0
    fenced: int = 0
    rerouted: int = 0
    busy_seconds: float = 0.0
    last_batch_at: float = 0.0


def input_batch(chunk: RecordBatch) -> InputBatch:
    """The columns of a fetched chunk."""
    records = chunk.records
    rerouted = frozenset(
        i
        for i, r in enumerate(records)
        if r.headers and any(name == dead_letters.REROUTED for name, _ in r.headers)
    )
    return InputBatch(
        chunk.partition,
        [r.key for r in records],
        [r.value for r in records],
        [r.offset for r in records],
        [NO_TIMESTAMP if r.timestamp is None else r.timestamp for r in records],
        rerouted,
    )


async def send_dead_letters(
    sender: BatchSender,
    topic: str,
    chunk: RecordBatch,
    rejected: Sequence[Rejected],
) -> None:
    """Keep rejected records on the dead-letters topic."""
    records = [chunk.records[r.index] for r in rejected]
    await sender.send(
        topic,
        [r.key for r in records],
        [r.value for r in records],
        headers=[
            dead_letters.headers(
                dead_letters.Origin(
                    why.reason, why.detail, chunk.topic, chunk.partition, r.offset, r.timestamp
                )
            )
            for why, r in zip(rejected, records, strict=True)
        ],
    )


async def all_sent(*sends: Awaitable[Any]) -> None:
    """Wait for several sends; the first failure is raised after all have come to an end."""
    results = await asyncio.gather(*sends, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


class PartitionMismatchError(DafuError):
    """A topic and the changelog of the table that it feeds have different partition counts."""


async def prepare(
    source: Any, table: PackedTable, outputs: Sequence[Any], sender: BatchSender
) -> None:
    """Create the topics that an agent needs and see that they fit together.

    Raises
    ------
    PartitionMismatchError
        If the source topic and the table's changelog differ in their partition counts.
    """
    for topic in (source, table.changelog_topic, *outputs):
        await topic.maybe_declare()
    name, changelog = source.get_topic_name(), table.changelog_topic_name
    there = await sender.partition_count(name)
    logged = await sender.partition_count(changelog)
    if there != logged:
        raise PartitionMismatchError(
            f"topic {name} has {there} partitions, its changelog {changelog} has {logged}. Set "
            f"DAFU_PARTITIONS={there} and a new DAFU_APP_ID (or delete the changelog), or create "
            f"{name} with {logged} partitions"
        )


async def consume(stream: Any, process: Callable[[RecordBatch], Awaitable[None]]) -> None:
    """Feed each chunk of a stream to `process` and acknowledge it only when that returned."""
    async for event in stream.noack().events():
        await process(event.value)
        await stream.ack(event)


def now_ms() -> int:
    """Wall clock in epoch milliseconds; for headers and counters only."""
    return time.time_ns() // 1_000_000
