"""Whole batches to Kafka, in order, each acknowledged.

Records come as columns, are written into Kafka's format at once (`dafu.streaming.wire`), and go to
their brokers by as few requests as there can be (`dafu.streaming.produce`).

What it promises per partition: records arrive in the order they were posted, and none is
acknowledged unless all that were posted before it are. To that end one batch of a partition is
under way at a time, while those of other partitions go their own ways, and after a failure the
partition refuses everything until the process starts over, which a worker does then. Later stages
rely on that: they take the highest offset they have seen as proof of all lower ones.

It knows keys, values and headers as bytes, and nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from numpy.typing import NDArray

from dafu.columns import I64, ByteColumn, positions
from dafu.errors import DafuError
from dafu.partitioner import ABSENT, partitions_for
from dafu.streaming.produce import Dispatcher, Outcome, Parcel
from dafu.streaming.records import RecordBatch
from dafu.streaming.wire import BATCH_OVERHEAD, RECORD_OVERHEAD, EncodedBatch, encode_groups

__all__ = ["BatchSender", "SendError", "Written"]

Listener = Callable[[RecordBatch], None]

_OVERHEAD: Final = BATCH_OVERHEAD + RECORD_OVERHEAD
"""Bytes of a batch of one record without key, value and headers, at most."""


class Written(NamedTuple):
    """Offsets of the first and the last record that a call wrote to a partition.

    Records of other producers may be between them.
    """

    first: int
    last: int


class SendError(DafuError):
    """Records that were not delivered, or not known to be.

    `topic` and `partition` say where to (`partition` is None when it did not come to that).
    """

    def __init__(self, topic: str, partition: int | None, reason: str) -> None:
        place = topic if partition is None else f"{topic}[{partition}]"
        super().__init__(f"cannot send to {place}: {reason}")
        self.topic = topic
        self.partition = partition
        self.reason = reason


class _Job:
    """One call of `post`: what to send, and the future that its caller waits for."""

    __slots__ = (
        "done",
        "headers",
        "key_hashes",
        "keys",
        "left",
        "offsets",
        "order",
        "partition",
        "sent_at",
        "timestamps",
        "topic",
        "values",
    )

    def __init__(
        self,
        topic: str,
        keys: ByteColumn,
        values: ByteColumn,
        *,
        partition: int | I64 | None,
        key_hashes: NDArray[Any] | None,
        headers: ByteColumn | None,
        timestamps: I64 | None,
    ) -> None:
        self.topic = topic
        self.keys = keys
        self.values = values
        self.partition = partition
        self.key_hashes = key_hashes
        self.headers = headers
        self.timestamps = timestamps
        self.sent_at = time.time_ns() // 1_000_000
        self.order: I64 | None = None  # set if somebody listens
        self.left = 0  # batches without acknowledgement
        self.offsets: dict[int, Written] = {}
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[dict[int, Written]] = loop.create_future()

    def acknowledge(self, partition: int, written: Written) -> None:
        """One of its batches arrived, with these offsets."""
        first = self.offsets.get(partition, written).first
        self.offsets[partition] = Written(first, written.last)
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(self.offsets)

    def written(self, lane: _Lane, item: _Item, offset: int) -> RecordBatch | None:
        """The records of one of its batches as they are in the log, if somebody listens."""
        if self.order is None:
            return None
        rows = self.order[item.begin : item.begin + item.batch.count]
        n = len(rows)
        headers = self.headers
        return RecordBatch(
            lane.where.topic,
            lane.where.partition,
            np.arange(offset, offset + n),
            np.full(n, self.sent_at) if self.timestamps is None else self.timestamps[rows],
            self.keys.take(rows),
            self.values.take(rows),
            ByteColumn.repeated(b"\0", n) if headers is None else headers.take(rows),
        )

    def fail(self, error: SendError, *, consequence: bool = False) -> None:
        """It will not be delivered; a consequence of another job's failure is not logged twice."""
        if not self.done.done():
            self.done.set_exception(error)
            if consequence:
                self.done.exception()


class _Item(NamedTuple):
    """A batch of a job, and where in the job's order its records begin."""

    batch: EncodedBatch
    job: _Job
    begin: int


class _Lane:
    """The way to one partition: batches that wait for their turn, and why it is closed if it is.

    The first in the queue is under way.
    """

    __slots__ = ("failure", "queue", "where")

    def __init__(self, where: TopicPartition) -> None:
        self.where = where
        self.queue: deque[_Item] = deque()
        self.failure: SendError | None = None


class BatchSender:
    """Sends batches of records and waits for the broker's acknowledgement of each.

    Parameters
    ----------
    producer
        A started producer. Its `max_batch_size` bounds a batch and with it the throughput, since
        one batch of a partition is under way at a time: give it several hundred kilobytes. Its
        `max_request_size` bounds a record. It is neither idempotent nor transactional.
    on_closed : callable, optional
        Told why a partition was closed to further sends, once for each; only another sender can
        open it again.

    Notes
    -----
    For use from the producer's event loop only.
    """

    def __init__(
        self, producer: AIOKafkaProducer, on_closed: Callable[[SendError], None] | None = None
    ) -> None:
        if producer._txn_manager is not None:
            raise ValueError("BatchSender needs a producer without idempotence and transactions")
        if not producer._sender._acks:
            raise ValueError("BatchSender needs a producer whose acks are 1 or all")
        self._producer = producer
        self._on_closed = on_closed
        self._dispatcher = Dispatcher(producer)
        accumulator = producer._message_accumulator
        self._batch_size: int = accumulator._batch_size
        self._compression: int = accumulator._compression_type
        self._largest: int = producer._max_request_size
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._listeners: dict[str, Listener] = {}
        # Jobs for topics whose partition count is not known yet, oldest first.
        self._waiting: dict[str, deque[_Job]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0

    async def send(
        self,
        topic: str,
        keys: ByteColumn,
        values: ByteColumn,
        *,
        partition: int | I64 | None = None,
        key_hashes: NDArray[Any] | None = None,
        headers: ByteColumn | None = None,
        timestamps: I64 | None = None,
    ) -> dict[int, Written]:
        """Send records and return once the broker has acknowledged all of them.

        Parameters
        ----------
        topic
            Where to.
        keys, values
            One of each per record, in the order in which they are to arrive.
        partition : int, int64 [n] or None
            One for all records, one for each, or None for what Kafka's default partitioner says.
            Records without a key then share one partition, another one with every call.
        key_hashes : int [n]
            In place of the keys for the partitioner: `dafu.partitioner.key_hashes` of other keys.
        headers
            The records' header sections (`dafu.streaming.records.encode_headers`), absent where
            there are none.
        timestamps : int64 [n]
            Record timestamps in epoch milliseconds; the time of sending by default.

        Returns
        -------
        dict
            Offsets of the first and last record written, by partition.

        Raises
        ------
        SendError
            When a record is too large (nothing is sent then), the topic or partition does not
            exist, or the broker did not acknowledge. What was sent besides may have arrived.
        ValueError
            When the columns differ in length.
        """
        return await self.post(
            topic,
            keys,
            values,
            partition=partition,
            key_hashes=key_hashes,
            headers=headers,
            timestamps=timestamps,
        )

    def listen(self, topic: str, listener: Listener | None) -> None:
        """Have somebody told what this sender writes to a topic, once it is acknowledged.

        He hears, a batch at a time and in the order of each partition, what a consumer will read
        there later, and nothing of what others write. None ends it; there is one for a topic.
        """
        if listener is None:
            self._listeners.pop(topic, None)
        else:
            self._listeners[topic] = listener

    async def partition_count(self, topic: str) -> int:
        """How many partitions a topic has, which must exist.

        Raises
        ------
        SendError
            When the broker does not know the topic.
        """
        try:
            return len(await self._producer.partitions_for(topic))
        except KafkaError as exc:
            raise SendError(topic, None, f"no metadata: {_reason(exc)}") from exc

    def post(
        self,
        topic: str,
        keys: ByteColumn,
        values: ByteColumn,
        *,
        partition: int | I64 | None = None,
        key_hashes: NDArray[Any] | None = None,
        headers: ByteColumn | None = None,
        timestamps: I64 | None = None,
    ) -> asyncio.Future[dict[int, Written]]:
        """Start sending, in the order of calls, and return what to await for the acknowledgement.

        Takes and raises what `send` does, `ValueError` here and the rest from the future.
        """
        job = _Job(
            topic,
            keys,
            values,
            partition=partition,
            key_hashes=key_hashes,
            headers=headers,
            timestamps=timestamps,
        )
        each = None if isinstance(partition, int) else partition
        if any(
            given is not None and len(given) != len(keys)
            for given in (values, headers, timestamps, each, key_hashes)
        ):
            raise ValueError(f"records for {topic}: keys, values and the rest differ in number")
        if not len(keys):
            job.done.set_result({})
            return job.done
        if (too_large := self._too_large(job)) is not None:
            job.fail(too_large)
            return job.done
        known = self._producer.client.cluster.partitions_for_topic(topic)
        if topic in self._waiting:
            self._waiting[topic].append(job)
        elif known:
            self._start(job, len(known))
        else:
            self._waiting[topic] = deque([job])
            self._run(self._learn(topic))
        return job.done

    def _too_large(self, job: _Job) -> SendError | None:
        """What is to be said of a record that is larger than the producer allows."""
        columns = [job.keys, job.values, *([] if job.headers is None else [job.headers])]
        # Strings may share their bytes, but none is longer than what it is in.
        if sum(len(column.buffer) for column in columns) + _OVERHEAD <= self._largest:
            return None
        sizes = np.sum([np.maximum(column.lengths, 0) for column in columns], axis=0)
        largest = int(np.argmax(sizes))
        size = int(sizes[largest]) + _OVERHEAD
        if size <= self._largest:
            return None
        return SendError(
            job.topic,
            None,
            f"record {largest} of {len(job.keys)} has up to {size} bytes, the producer's "
            f"max_request_size allows {self._largest}; nothing was sent",
        )

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _learn(self, topic: str) -> None:
        """Ask for the partitions of a topic, then start the jobs that wait for the answer."""
        error: SendError | None = None
        count = 0
        try:
            count = len(await self._producer.partitions_for(topic))
        except KafkaError as exc:
            error = SendError(topic, None, f"no metadata: {_reason(exc)}; does the topic exist?")
            error.__cause__ = exc
        except BaseException as exc:
            error = SendError(topic, None, f"interrupted: {exc!r}")
            raise
        finally:
            for job in self._waiting.pop(topic):
                if error is None:
                    self._start(job, count)
                else:
                    job.fail(error)

    def _start(self, job: _Job, count: int) -> None:
        """Pack a job into batches and line them up."""
        try:
            partitions, order, ends = self._groups(job, count)
            packed = encode_groups(
                job.keys,
                job.values,
                job.sent_at if job.timestamps is None else job.timestamps,
                job.headers,
                order,
                ends,
                max_bytes=self._batch_size,
                compression=self._compression,
            )
        except SendError as exc:
            job.fail(exc)
            return
        except (DafuError, ValueError) as exc:
            error = SendError(job.topic, None, f"{exc}; nothing was sent")
            error.__cause__ = exc
            job.fail(error)
            return
        job.left = sum(map(len, packed))
        if job.topic in self._listeners:
            job.order = order
        begin = 0
        for partition, batches in zip(partitions, packed, strict=True):
            lane = self._lane(job.topic, partition)
            idle = not lane.queue
            for batch in batches:
                if lane.failure is None:
                    lane.queue.append(_Item(batch, job, begin))
                begin += batch.count
            if lane.failure is not None:
                job.fail(_consequence(lane.where, lane.failure))
            elif idle:
                self._dispatch(lane)

    def _lane(self, topic: str, partition: int) -> _Lane:
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._lanes[topic, partition] = _Lane(TopicPartition(topic, partition))
        return lane

    def _dispatch(self, lane: _Lane) -> None:
        """Send the first of a lane's batches."""
        data = lane.queue[0].batch.data
        self._dispatcher.put(Parcel(lane.where, data, partial(self._settled, lane)))

    def _settled(self, lane: _Lane, outcome: Outcome) -> None:
        """Go on with the next batch of a lane, or close it."""
        item = lane.queue.popleft()
        job = item.job
        if isinstance(outcome, int):
            if (written := job.written(lane, item, outcome)) is not None:
                listener = self._listeners.get(lane.where.topic)
                if listener is not None:
                    asyncio.get_running_loop().call_soon(listener, written)
            last = outcome + item.batch.count - 1
            job.acknowledge(lane.where.partition, Written(outcome, last))
            if lane.queue:
                self._dispatch(lane)
            return
        lane.failure = error = SendError(lane.where.topic, lane.where.partition, _reason(outcome))
        error.__cause__ = outcome
        job.fail(error)
        while lane.queue:
            lane.queue.popleft().job.fail(_consequence(lane.where, error), consequence=True)
        if self._on_closed is not None:
            self._on_closed(error)

    def _groups(self, job: _Job, count: int) -> tuple[list[int], I64, I64]:
        """The partitions that a job is for, its records' positions by partition, and where in them
        those of each partition end."""
        n = len(job.keys)
        if isinstance(job.partition, int):
            _check_partition(job.topic, job.partition, count)
            return [job.partition], np.arange(n), np.array([n])
        partitions: NDArray[Any]
        if job.partition is not None:
            partitions = np.asarray(job.partition)
            for edge in (partitions.min(), partitions.max()):
                _check_partition(job.topic, int(edge), count)
        elif job.key_hashes is not None:
            partitions = job.key_hashes % count
        else:
            partitions = self._by_key(job.keys, count)
        sizes = np.bincount(partitions, minlength=count)
        those = positions(sizes)
        return those.tolist(), partitions.argsort(kind="stable"), sizes[those].cumsum()

    def _by_key(self, keys: ByteColumn, count: int) -> NDArray[np.int32]:
        partitions = partitions_for(keys, count)
        without = partitions == ABSENT
        if without.any():
            partitions[without] = self._turn % count
            self._turn += 1
        return partitions


def _consequence(where: TopicPartition, failure: SendError) -> SendError:
    error = SendError(
        where.topic,
        where.partition,
        f"an earlier batch failed ({failure.reason}), and sending on would hide the gap: "
        "start the process again",
    )
    error.__cause__ = failure
    return error


def _check_partition(topic: str, partition: int, count: int) -> None:
    if not 0 <= partition < count:
        raise SendError(topic, partition, f"the topic has partitions 0..{count - 1} only")


def _reason(exc: BaseException) -> str:
    if not isinstance(exc, Exception):
        return f"interrupted before it was acknowledged: {exc!r}"
    return str(exc) or type(exc).__name__
