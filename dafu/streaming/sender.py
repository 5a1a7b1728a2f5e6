"""Whole batches to Kafka, in order, each acknowledged: aiokafka's batch interface made safe.

What it promises per partition: records arrive in the order they were posted, and none is
acknowledged unless all that were posted before it are. To that end one batch of a partition is
under way at a time (aiokafka has one request in flight per broker anyway), and after a failure
the partition refuses everything until the process starts over. Later stages rely on that: they
take the highest offset they have seen as proof of all lower ones.

It knows keys, values and headers as bytes, and nothing of what they mean.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Coroutine, Sequence
from itertools import repeat
from typing import Any, Final

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from numpy.typing import NDArray

from dafu.errors import DafuError
from dafu.streaming.partitioner import partitions_for

__all__ = ["BatchSender", "SendError"]

_Headers = Sequence[tuple[str, bytes]]

# Of a record batch without its records, and of a record without key, value and headers, at most.
_BATCH_OVERHEAD: Final = 61
_RECORD_OVERHEAD: Final = 21 + 2 * 5 + 5
_HEADER_OVERHEAD: Final = 2 * 5


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
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        *,
        partition: int | Sequence[int] | None,
        headers: Sequence[_Headers] | None,
        timestamps: Sequence[int] | None,
    ) -> None:
        self.topic = topic
        self.keys = keys
        self.values = values
        self.partition = partition
        # The builder takes lists only.
        self.headers = None if headers is None else [*map(list, headers)]
        self.timestamps = timestamps
        self.left = 0  # batches without acknowledgement
        self.offsets: dict[int, int] = {}  # last offset written, by partition
        self.done: asyncio.Future[dict[int, int]] = asyncio.get_running_loop().create_future()

    def acknowledge(self, partition: int, offset: int) -> None:
        """One of its batches arrived; its last record has this offset."""
        self.offsets[partition] = offset
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(self.offsets)

    def fail(self, error: SendError, *, consequence: bool = False) -> None:
        """It will not be delivered; a consequence of another job's failure is not logged twice."""
        if not self.done.done():
            self.done.set_exception(error)
            if consequence:
                self.done.exception()


class _Lane:
    """The way to one partition: batches that wait for their turn, and why it is closed if it is."""

    __slots__ = ("failure", "queue", "task")

    def __init__(self) -> None:
        self.queue: deque[tuple[BatchBuilder, _Job]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.failure: SendError | None = None


class BatchSender:
    """Sends batches of records and waits for the broker's acknowledgement of each.

    Parameters
    ----------
    producer
        A started producer. Its `max_batch_size` bounds a batch and with it the throughput, since
        one batch of a partition is under way at a time: give it several hundred kilobytes. Its
        `max_request_size` bounds a record.

    Notes
    -----
    For use from the producer's event loop only.
    """

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._largest: int = producer._max_request_size
        self._lanes: defaultdict[tuple[str, int], _Lane] = defaultdict(_Lane)
        # Jobs for topics whose partition count is not known yet, oldest first.
        self._waiting: dict[str, deque[_Job]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0

    async def send(
        self,
        topic: str,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        *,
        partition: int | Sequence[int] | None = None,
        headers: Sequence[_Headers] | None = None,
        timestamps: Sequence[int] | None = None,
    ) -> dict[int, int]:
        """Send records and return once the broker has acknowledged all of them.

        Parameters
        ----------
        topic
            Where to.
        keys, values
            One of each per record, in the order in which they are to arrive.
        partition
            One for all records, one for each, or None for what Kafka's default partitioner says.
            Records without a key then share one partition, another one with every call.
        headers
            One sequence of headers per record.
        timestamps
            Record timestamps in epoch milliseconds; the time of sending by default.

        Returns
        -------
        dict
            The offset of the last record written, by partition.

        Raises
        ------
        SendError
            When a record is too large (nothing is sent then), the topic or partition does not
            exist, or the broker did not acknowledge. What was sent besides may have arrived.
        ValueError
            When the sequences differ in length.
        """
        return await self.post(
            topic, keys, values, partition=partition, headers=headers, timestamps=timestamps
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
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        *,
        partition: int | Sequence[int] | None = None,
        headers: Sequence[_Headers] | None = None,
        timestamps: Sequence[int] | None = None,
    ) -> asyncio.Future[dict[int, int]]:
        """Start sending, in the order of calls, and return what to await for the acknowledgement.

        Takes and raises what `send` does: `ValueError` and too large records here, the rest from
        the future.
        """
        job = _Job(topic, keys, values, partition=partition, headers=headers, timestamps=timestamps)
        each = None if isinstance(partition, int) else partition
        if any(
            given is not None and len(given) != len(keys)
            for given in (values, headers, timestamps, each)
        ):
            raise ValueError(f"records for {topic}: keys, values and the rest differ in number")
        if not keys:
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
        fixed = _BATCH_OVERHEAD + _RECORD_OVERHEAD
        longest = _longest(job.keys) + _longest(job.values) + fixed
        if job.headers is None and longest <= self._largest:
            return
        for i, (key, value) in enumerate(zip(job.keys, job.values, strict=True)):
            size = len(key or b"") + len(value or b"") + fixed
            if job.headers is not None:
                for name, content in job.headers[i]:
                    # A character is four bytes at most.
                    size += 4 * len(name) + len(content or b"") + _HEADER_OVERHEAD
            if size > self._largest:
                raise SendError(
                    job.topic,
                    None,
                    f"record {i} of {len(job.keys)} has up to {size} bytes, the producer's "
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
        except SendError as exc:
            job.fail(exc)
            return
        packed = [(partition, self._pack(job, chosen)) for partition, chosen in groups]
        job.left = sum(len(builders) for _, builders in packed)
        for partition, builders in packed:
            lane = self._lanes[job.topic, partition]
            if lane.failure is not None:
                job.fail(_consequence(job.topic, partition, lane.failure))
                continue
            lane.queue.extend((builder, job) for builder in builders)
            if lane.task is None:
                lane.task = self._run(self._drain(job.topic, partition, lane))

    def _groups(self, job: _Job, count: int) -> list[tuple[int, Sequence[int] | None]]:
        """Positions of the job's records by partition; None stands for all of them."""
        if isinstance(job.partition, int):
            _check_partition(job.topic, job.partition, count)
            return [(job.partition, None)]
        if job.partition is not None:
            partitions = np.asarray(job.partition, np.int64)
            for edge in (partitions.min(), partitions.max()):
                _check_partition(job.topic, int(edge), count)
        elif count == 1:
            return [(0, None)]
        else:
            partitions = self._by_key(job.keys, count)
        order = np.argsort(partitions, kind="stable")
        found, begins = np.unique(partitions[order], return_index=True)
        if len(found) == 1:
            return [(int(found[0]), None)]
        chunks = np.split(order, begins[1:])
        return [(int(p), chunk.tolist()) for p, chunk in zip(found, chunks, strict=True)]

    def _by_key(self, keys: Sequence[bytes | None], count: int) -> NDArray[np.int64]:
        partitions = partitions_for([key or b"" for key in keys], count).astype(np.int64)
        without = [i for i, key in enumerate(keys) if key is None]
        if without:
            partitions[without] = self._turn % count
            self._turn += 1
        return partitions

    def _pack(self, job: _Job, chosen: Sequence[int] | None) -> list[BatchBuilder]:
        """Builders that hold the chosen records, in order."""
        keys, values = job.keys, job.values
        headers, timestamps = job.headers, job.timestamps
        if chosen is not None:
            keys = [keys[i] for i in chosen]
            values = [values[i] for i in chosen]
            headers = None if headers is None else [headers[i] for i in chosen]
            timestamps = None if timestamps is None else [timestamps[i] for i in chosen]
        no_headers: list[tuple[str, bytes]] = []
        every = repeat(no_headers) if headers is None else headers
        times = repeat(None) if timestamps is None else timestamps
        count = -1
        builders: list[BatchBuilder] = []
        append = _full
        for key, value, header, at in zip(keys, values, every, times, strict=False):
            count += 1
            if append(count, at, key, value, header) is None:
                if builders:
                    builders[-1]._relative_offset = count
                builders.append(self._producer.create_batch())
                # The builder below: the one above it only adds serializers, at twice the cost.
                append = builders[-1]._builder.append
                count = 0
                append(count, at, key, value, header)  # an empty batch takes any record
        builders[-1]._relative_offset = count + 1
        for builder in builders:
            builder.close()  # nobody else may add to it, and it does not linger
        return builders

    async def _drain(self, topic: str, partition: int, lane: _Lane) -> None:
        """Send what is lined up for one partition, one batch after the other."""
        error: SendError | None = None
        try:
            while lane.queue:
                builder, job = lane.queue[0]
                delivered = await self._producer.send_batch(builder, topic, partition=partition)
                written = await delivered
                lane.queue.popleft()
                job.acknowledge(partition, written.offset + builder.record_count() - 1)
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


def _full(*_: object) -> None:
    """The `append` of no builder at all."""


def _longest(data: Sequence[bytes | None]) -> int:
    try:
        return max(map(len, data))  # type: ignore[arg-type]
    except TypeError:
        return max(0 if item is None else len(item) for item in data)


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
