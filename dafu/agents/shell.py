"""What both agents do around their stage: order of sends, dead letters, counting, crashing.

The order is the promise: outputs acknowledged, then the changelog acknowledged, then the local
store, then the offset. Whatever fails on the way stops the worker, which reads the batch again
when it comes back; the fences in the state make that harmless.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.agents.histogram import Histogram
from dafu.columns import ByteColumn, positions
from dafu.errors import DafuError
from dafu.stages.batch import (
    NO_TIMESTAMP,
    InputBatch,
    Messages,
    Partitions,
    Piece,
    Rejected,
    StageOutput,
)
from dafu.streaming import dead_letters
from dafu.streaming.records import RecordBatch, encode_headers
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable
from dafu.topics import report_dangers

logger = logging.getLogger(__name__)

LATENCY: Final = "dafu-latency-ms"
WORKER: Final = "dafu-worker"
SOURCE: Final = "dafu-source"
SOURCE_PLACE: Final = struct.Struct(">iq")
"""Partition and offset of the transaction's record, in the header of that name."""

WORKER_NAME: Final = f"{socket.gethostname()}:{os.getpid()}".encode()

MAX_DEAD_LETTER_BYTES: Final = 900_000
"""Key and value of a dead letter, at most: with its headers it must fit the producer's limit and
the broker's (1 MB both, unless somebody changed them), however large the record was that came."""

LATENCY_BOUNDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""Seconds; latencies are known to the millisecond. Fine below the 100 ms that matter at a checkout,
up to where there is a backlog."""

BATCH_BOUNDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Seconds."""

UNHURRIED: Final = 0.05
"""Seconds between the starts of batches that no decision waits for."""

SenderSource = Callable[[], BatchSender]
"""Gives the worker's sender once the producer has started."""

Sending = Awaitable[Any]
"""Records on their way; awaiting it waits for the broker's acknowledgement."""


class Counters(Struct):
    """What an agent has done since the worker started, for people; no decision depends on it."""

    records: int = 0
    batches: int = 0
    outputs: int = 0
    rejected: int = 0
    duplicates: int = 0
    labels: int = 0
    repeats: int = 0
    fenced: int = 0
    rerouted: int = 0
    busy_seconds: float = 0.0
    last_batch_at: float = 0.0
    rejected_by_reason: dict[str, int] = {}

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Count records that go to the dead letters."""
        self.rejected += len(rejected)
        for why in rejected:
            self.rejected_by_reason[why.reason] = self.rejected_by_reason.get(why.reason, 0) + 1


def input_batch(chunks: Sequence[RecordBatch]) -> InputBatch:
    """The columns of fetched chunks, one after the other; those of a partition stand together."""
    ends = np.cumsum([len(chunk) for chunk in chunks]).tolist()
    starts = [0, *ends[:-1]]
    pieces: list[Piece] = []
    for chunk, start, end in zip(chunks, starts, ends, strict=True):
        if pieces and pieces[-1].partition == chunk.partition:
            pieces[-1] = pieces[-1]._replace(end=end)
        else:
            pieces.append(Piece(chunk.partition, start, end))
    rerouted = frozenset(
        start + i
        for chunk, start in zip(chunks, starts, strict=True)
        for i in positions(chunk.has_headers).tolist()
        if any(name == dead_letters.REROUTED for name, _ in chunk.headers_of(i))
    )
    if len(chunks) == 1:
        only = chunks[0]
        return InputBatch(pieces, only.keys, only.values, only.offsets, only.timestamps, rerouted)
    return InputBatch(
        pieces,
        ByteColumn.joined([chunk.keys for chunk in chunks]),
        ByteColumn.joined([chunk.values for chunk in chunks]),
        np.concatenate([chunk.offsets for chunk in chunks]),
        np.concatenate([chunk.timestamps for chunk in chunks]),
        rerouted,
    )


def send_dead_letters(
    sender: BatchSender,
    topic: str,
    source: str,
    batch: InputBatch,
    rejected: Sequence[Rejected],
) -> Sending:
    """Start to send rejected records to the dead-letters topic, the very largest cut short.

    `source` is the topic that the batch is from.
    """
    partitions = batch.partitions
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: list[bytes] = []
    for why in rejected:
        i = why.index
        key, value, cut = _cut_to_size(batch.keys[i], batch.values[i])
        keys.append(key)
        values.append(value)
        origin = dead_letters.Origin(
            why.reason,
            cut + why.detail,
            source,
            int(partitions[i]),
            int(batch.offsets[i]),
            int(batch.timestamps[i]),
        )
        headers.append(encode_headers(dead_letters.headers(origin)))
    return sender.post(
        topic, ByteColumn.of(keys), ByteColumn.of(values), headers=ByteColumn.of(headers)
    )


def _cut_to_size(key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None, str]:
    """Key and value as a dead letter can carry them, and a note if that is not all of them."""
    size = len(key or b"") + len(value or b"")
    if size <= MAX_DEAD_LETTER_BYTES:
        return key, value, ""
    key = key and key[:MAX_DEAD_LETTER_BYTES]
    value = value and value[: MAX_DEAD_LETTER_BYTES - len(key or b"")]
    return key, value, f"(cut to {MAX_DEAD_LETTER_BYTES} of {size} bytes) "


class RingTopics(NamedTuple):
    """The Faust topics that lead to rings, and to what is told of them."""

    identifiers: Any
    links: Any
    alerts: Any

    @property
    def names(self) -> tuple[str, str, str]:
        """Their names, in this order."""
        identifiers, links, alerts = (topic.get_topic_name() for topic in self)
        return identifiers, links, alerts


def send_messages(sender: BatchSender, topic: str, messages: Messages) -> list[Sending]:
    """Start sending messages, if there are any."""
    return [sender.post(topic, messages.keys, messages.values)] if len(messages.keys) else []


async def all_done(sends: Sequence[Sending]) -> None:
    """Wait until all of it is acknowledged; the first failure is raised after all have ended.

    One after the other: that they end together costs no turn of the event loop.
    """
    failures: list[Exception] = []
    for each in sends:
        try:
            await each
        except Exception as exc:
            failures.append(exc)
    if failures:
        raise failures[0]


Output = TypeVar("Output", bound=StageOutput)
Output_co = TypeVar("Output_co", bound=StageOutput, covariant=True)


class Stage(Protocol[Output_co]):
    """A stage: a pure function of (state, batch)."""

    def run(self, batch: InputBatch, records: Partitions) -> Output_co:
        """Apply a batch to the state in `records`, which is read and not written."""
        ...


class StageAgent(abc.ABC, Generic[Output]):
    """Runs a stage on a stream. Owns the stage's table and is the only one to write it.

    Parameters
    ----------
    stage : Stage
    table : PackedTable
        Changelogged with the partitions of the topic that the stream reads.
    sender : callable
        The worker's sender.
    outputs : sequence of Faust topics
        Where outputs go; created if they are missing.
    dead_letters : Faust topic
        Where rejected records go; likewise.
    """

    apart: ClassVar[float] = 0.0
    """Seconds between the starts of batches, see `consume`."""

    def __init__(
        self,
        stage: Stage[Output],
        table: PackedTable,
        sender: SenderSource,
        *,
        outputs: Sequence[Any],
        dead_letters: Any,
    ) -> None:
        self.stage = stage
        self.table = table
        self.sender = sender
        self.dead_letter_topic: str = dead_letters.get_topic_name()
        self.counters = Counters()
        self.batch_seconds = Histogram(BATCH_BOUNDS)
        self._outputs = (*outputs, dead_letters)

    @abc.abstractmethod
    def publish(
        self, sender: BatchSender, source: str, batch: InputBatch, output: Output
    ) -> list[Sending]:
        """Start sending what the stage made of a batch from a topic, rejected records aside."""

    @abc.abstractmethod
    def count(self, output: Output) -> None:
        """Count what a batch came to; called when all of it is done."""

    def details(self) -> dict[str, Any]:
        """What else is to be told of its work, for people."""
        return {}

    async def run(self, stream: Any) -> None:
        """The agent's body."""
        await prepare(stream.channel, self.table, self._outputs, self.sender())
        most = self.table.app.settings.batch_records
        await consume(stream, self.process, most, self.batch_seconds, self.apart)

    async def process(self, chunks: Sequence[RecordBatch]) -> None:
        """Apply chunks of one topic, publish what comes of them, then log and store the new state.

        Those of a partition stand together, in order.
        """
        sender, source = self.sender(), chunks[0].topic
        claims = {
            partition: await self.table.claim(sender, partition)
            for partition in {chunk.partition for chunk in chunks}
        }
        await self.apply(sender, source, input_batch(chunks), claims)

    async def apply(
        self, sender: BatchSender, source: str, batch: InputBatch, claims: Mapping[int, int]
    ) -> None:
        """Do what `process` says, under these claims to the batch's partitions."""
        await self.work(sender, source, batch, claims, self.stage)

    async def work(
        self,
        sender: BatchSender,
        source: str,
        batch: InputBatch,
        claims: Mapping[int, int],
        stage: Stage[Output],
    ) -> None:
        """Run a stage on a batch and make durable what comes of it."""
        started = time.perf_counter()
        output = stage.run(batch, self.table.partition)
        self.counters.busy_seconds += time.perf_counter() - started
        sends = self.publish(sender, source, batch, output)
        if output.rejected:
            sends.append(
                send_dead_letters(sender, self.dead_letter_topic, source, batch, output.rejected)
            )
        await all_done(sends)
        await self.table.commit_batches(sender, output.changes, claims)
        self.counters.batches += 1
        self.counters.records += len(batch)
        self.counters.reject(output.rejected)
        self.counters.fenced += output.fenced
        self.counters.last_batch_at = time.time()
        self.count(output)


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
    if there != source.partitions:
        logger.warning(
            "topic %s has %d partitions, the settings say %d: the topic counts, and a topic's "
            "partitions are not changed once it exists",
            name,
            there,
            source.partitions,
        )
    if there != logged:
        raise PartitionMismatchError(
            f"topic {name} has {there} partitions, its changelog {changelog} has {logged}. Before "
            f"anything is decided: delete what this start created and set DAFU_PARTITIONS={there}, "
            f"or create {name} with {logged} partitions. Otherwise see `Starting anew` in "
            "docs/operations.md"
        )
    streams = [topic.get_topic_name() for topic in (source, *outputs)]
    # Beside the way: it asks the broker about things that can wait.
    table.add_future(report_dangers(table.app.settings, changelog, streams))


async def consume(
    stream: Any,
    process: Callable[[Sequence[RecordBatch]], Awaitable[None]],
    most: int,
    seconds: Histogram,
    apart: float = 0.0,
) -> None:
    """Feed a stream's chunks to `process` and acknowledge them only when that returned.

    Chunks of one partition go one after the other. Those of several go together, up to `most`
    records: what a batch costs by itself is much when records are few. While a batch is in work
    others gather for the next one, and only a full one does not wait for its end. Likewise for
    `apart` seconds after a batch was started: what nobody waits for gathers, so that it takes less
    from what somebody does. A failure ends everything. `seconds` counts how long each batch was in
    work.
    """
    loop = asyncio.get_running_loop()
    rest: asyncio.TimerHandle | None = None
    waiting: dict[int, deque[Any]] = {}
    busy: set[int] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def work(events: Sequence[Any]) -> None:
        while events:
            started = time.perf_counter()
            await process([event.value for event in events])
            seconds.add(time.perf_counter() - started)
            for event in events:
                await stream.ack(event)
            busy.difference_update(event.value.partition for event in events)
            events = take()
            start()

    def take() -> list[Any]:
        """The next batch, if there is one to work on now."""
        nonlocal rest
        events = _next_batch(waiting, busy, most, only_full=rest is not None or bool(busy))
        busy.update(event.value.partition for event in events)
        if events and apart and rest is None:
            rest = loop.call_later(apart, wake)
        return events

    def start() -> None:
        while events := take():
            tasks.add(task := group.create_task(work(events)))
            task.add_done_callback(tasks.discard)

    def wake() -> None:
        nonlocal rest
        rest = None
        start()

    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            async for event in stream.noack().events():
                waiting.setdefault(event.value.partition, deque()).append(event)
                start()
            for task in tasks:
                task.cancel()
    except* Exception as failures:
        failure = failures.exceptions[0]  # raised here, it would be in a group of its own
    finally:
        if rest is not None:
            rest.cancel()
    if failure is not None:
        raise failure


def _next_batch(
    waiting: dict[int, deque[Any]], busy: set[int], most: int, *, only_full: bool
) -> list[Any]:
    """Take the chunks to work on now: none if there are none, or if more are worth waiting for."""
    idle = [partition for partition in waiting if partition not in busy]
    ready = sum(len(event.value) for partition in idle for event in waiting[partition])
    if only_full and ready < most:
        return []
    events: list[Any] = []
    records = 0
    for partition in idle:
        # Who is served goes to the end of the queue.
        chunks = waiting[partition] = waiting.pop(partition)
        while chunks and (not events or records + len(chunks[0].value) <= most):
            records += len(chunks[0].value)
            events.append(chunks.popleft())
        if chunks:
            break
    return events


def now_ms() -> int:
    """Wall clock in epoch milliseconds; for headers and counters only."""
    return time.time_ns() // 1_000_000


def seconds_since(times: NDArray[np.int64], now: int) -> NDArray[np.float64]:
    """Seconds from record timestamps (epoch milliseconds) to now; for counters only.

    Records without a timestamp are left out; those of a clock that is ahead count as 0.
    """
    known = times[times != NO_TIMESTAMP]
    seconds: NDArray[np.float64] = np.maximum(now - known, 0) / 1000.0
    return seconds
