"""Whole batches to Kafka, in order, each acknowledged: aiokafka's batch interface made safe.

Records come as columns and are written into Kafka's format at once (`dafu.streaming.wire`); to
aiokafka a batch is a builder that is full.

What it promises per partition: records arrive in the order they were posted, and none is
acknowledged unless all that were posted before it are. To that end one batch of a partition is
under way at a time, while those of other partitions go their own ways, and after a failure the
partition refuses everything until the process starts over. Later stages rely on that: they take
the highest offset they have seen as proof of all lower ones.

It knows keys, values and headers as bytes, and nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from numpy.typing import NDArray

from dafu.columns import I64, ByteColumn
from dafu.errors import DafuError
from dafu.partitioner import ABSENT, partitions_for
from dafu.streaming.produce import join_requests_once
from dafu.streaming.wire import BATCH_OVERHEAD, RECORD_OVERHEAD, EncodedBatch, encode

__all__ = ["BatchSender", "SendError", "Written"]

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
        "partition",
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

    def fail(self, error: SendError, *, consequence: bool = False) -> None:
        """It will not be delivered; a consequence of another job's failure is not logged twice."""
        if not self.done.done():
            self.done.set_exception(error)
            if consequence:
                self.done.exception()


class _FullBatch:
    """A finished batch as the producer sees it: a `BatchBuilder` that takes nothing more."""

    __slots__ = ("_batch",)

    def __init__(self, batch: EncodedBatch) -> None:
        self._batch = batch

    def append(self, **_: object) -> None:
        """Nothing can be added; that is what None says to the producer."""

    def close(self) -> None:
        """It is closed."""

    def closed(self) -> bool:
        return True

    def record_count(self) -> int:
        return self._batch.count

    def size(self) -> int:
        return len(self._batch.data)

    def _build(self) -> bytearray:
        return self._batch.data

    def _set_producer_state(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("batches of dafu carry no producer id: use a producer without transactions")


class _Lane:
    """The way to one partition: batches that wait for their turn, and why it is closed if it is."""

    __slots__ = ("failure", "queue", "task")

    def __init__(self) -> None:
        self.queue: deque[tuple[_FullBatch, _Job]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.failure: SendError | None = None


class _NoNodes(set[int]):
    """In place of the brokers that aiokafka's sender has a request under way to: always none.

    It would send the next request only when the last one is answered, for all partitions of a
    broker together. What keeps a partition's batches in order is that it has one under way, which
    the lanes see to, and aiokafka itself.
    """

    def add(self, node: int) -> None:
        """Remember nothing."""

    def remove(self, node: int) -> None:
        """Forget nothing."""


class BatchSender:
    """Sends batches of records and waits for the broker's acknowledgement of each.

    Parameters
    ----------
    producer
        A started producer. Its `max_batch_size` bounds a batch and with it the throughput, since
        one batch of a partition is under way at a time: give it several hundred kilobytes. Its
        `max_request_size` bounds a record. It is neither idempotent nor transactional.

    Notes
    -----
    For use from the producer's event loop only.
    """

    def __init__(self, producer: AIOKafkaProducer) -> None:
        if producer._txn_manager is not None:
            raise ValueError("BatchSender needs a producer without idempotence and transactions")
        self._producer = producer
        producer._sender._in_flight = _NoNodes()
        join_requests_once()
        accumulator = producer._message_accumulator
        self._batch_size: int = accumulator._batch_size
        self._compression: int = accumulator._compression_type
        self._largest: int = producer._max_request_size
        self._lanes: defaultdict[tuple[str, int], _Lane] = defaultdict(_Lane)
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

        Takes and raises what `send` does: `ValueError` and too large records here, the rest from
        the future.
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
        self._refuse_too_large(job)
        known = self._producer.client.cluster.partitions_for_topic(topic)
        if topic in self._waiting:
            self._waiting[topic].append(job)
        elif known:
            self._start(job, len(known))
        else:
            self._waiting[topic] = deque([job])
            self._run(self._learn(topic))
        return job.done

    def _refuse_too_large(self, job: _Job) -> None:
        sizes = np.maximum(job.keys.lengths, 0) + np.maximum(job.values.lengths, 0)
        if job.headers is not None:
            sizes += np.maximum(job.headers.lengths, 0)
        largest = int(np.argmax(sizes))
        size = int(sizes[largest]) + _OVERHEAD
        if size > self._largest:
            raise SendError(
                job.topic,
                None,
                f"record {largest} of {len(job.keys)} has up to {size} bytes, the producer's "
                f"max_request_size allows {self._largest}; nothing was sent",
            )

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

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
            groups = self._groups(job, count)
            packed = [(partition, self._pack(job, chosen)) for partition, chosen in groups]
        except SendError as exc:
            job.fail(exc)
            return
        except (DafuError, ValueError) as exc:
            error = SendError(job.topic, None, f"{exc}; nothing was sent")
            error.__cause__ = exc
            job.fail(error)
            return
        job.left = sum(len(batches) for _, batches in packed)
        for partition, batches in packed:
            lane = self._lanes[job.topic, partition]
            if lane.failure is not None:
                job.fail(_consequence(job.topic, partition, lane.failure))
                continue
            lane.queue.extend((batch, job) for batch in batches)
            if lane.task is None:
                lane.task = self._run(self._drain(job.topic, partition, lane))

    def _groups(self, job: _Job, count: int) -> list[tuple[int, I64 | None]]:
        """Positions of the job's records by partition; None stands for all of them."""
        if isinstance(job.partition, int):
            _check_partition(job.topic, job.partition, count)
            return [(job.partition, None)]
        partitions: NDArray[Any]
        if job.partition is not None:
            partitions = np.asarray(job.partition)
            for edge in (partitions.min(), partitions.max()):
                _check_partition(job.topic, int(edge), count)
        elif job.key_hashes is not None:
            partitions = job.key_hashes % count
        else:
            partitions = self._by_key(job.keys, count)
        first = int(partitions[0])
        if (partitions == first).all():
            return [(first, None)]
        order = np.argsort(partitions, kind="stable")
        ends = np.cumsum(np.bincount(partitions, minlength=count)).tolist()
        begins = [0, *ends[:-1]]
        return [(p, order[a:b]) for p, (a, b) in enumerate(zip(begins, ends, strict=True)) if a < b]

    def _by_key(self, keys: ByteColumn, count: int) -> NDArray[np.int32]:
        partitions = partitions_for(keys, count)
        without = partitions == ABSENT
        if without.any():
            partitions[without] = self._turn % count
            self._turn += 1
        return partitions

    def _pack(self, job: _Job, chosen: I64 | None) -> list[_FullBatch]:
        """Batches that hold the chosen records, in order."""
        keys, values = job.keys, job.values
        headers, timestamps = job.headers, job.timestamps
        if chosen is not None:
            keys, values = keys.take(chosen), values.take(chosen)
            headers = None if headers is None else headers.take(chosen)
            timestamps = None if timestamps is None else timestamps[chosen]
        times = time.time_ns() // 1_000_000 if timestamps is None else timestamps
        encoded = encode(
            keys,
            values,
            times,
            headers,
            max_bytes=self._batch_size,
            compression=self._compression,
        )
        return [_FullBatch(batch) for batch in encoded]

    async def _drain(self, topic: str, partition: int, lane: _Lane) -> None:
        """Send what is lined up for one partition, one batch after the other."""
        error: SendError | None = None
        try:
            while lane.queue:
                batch, job = lane.queue[0]
                delivered = await self._producer.send_batch(batch, topic, partition=partition)
                first = (await delivered).offset
                lane.queue.popleft()
                job.acknowledge(partition, Written(first, first + batch.record_count() - 1))
        except Exception as exc:
            error = SendError(topic, partition, _reason(exc))
            error.__cause__ = exc
        except BaseException as exc:
            error = SendError(topic, partition, f"interrupted before it was acknowledged: {exc!r}")
            raise
        finally:
            lane.task = None
            if error is not None:
                lane.failure = error
                lane.queue.popleft()[1].fail(error)
                while lane.queue:
                    job = lane.queue.popleft()[1]
                    job.fail(_consequence(topic, partition, error), consequence=True)


def _consequence(topic: str, partition: int, failure: SendError) -> SendError:
    error = SendError(
        topic,
        partition,
        f"an earlier batch failed ({failure.reason}), and sending on would hide the gap: "
        "start the process again",
    )
    error.__cause__ = failure
    return error


def _check_partition(topic: str, partition: int, count: int) -> None:
    if not 0 <= partition < count:
        raise SendError(topic, partition, f"the topic has partitions 0..{count - 1} only")


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
