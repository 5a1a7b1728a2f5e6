"""What aiokafka's fetcher brings, handed out as columns: up to so many records a partition.

aiokafka's own way makes an object of every record and bounds the records of all partitions
together. Here a fetched record set is decoded once, as a whole, and cut into chunks.

It knows aiokafka's fetcher from inside (`dafu.streaming.transport` lists what of it), and nothing
of Faust.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import KafkaError
from aiokafka.record.memory_records import MemoryRecords

from dafu.streaming.records import RecordBatch
from dafu.streaming.wire import Aborted, CodecMissingError, CorruptRecordsError, decode

__all__ = ["PAUSE_SECONDS", "Intake", "RecordSet", "keep_record_sets"]

PAUSE_SECONDS: Final = 0.005
"""Between the requests to a broker."""

AHEAD_RECORDS: Final = 1000
"""No more is taken over of a partition while so many of its records are ready."""

Limit = Callable[[TopicPartition], int | None]
"""Records of a partition in one chunk at most, None for any number."""


class RecordSet(MemoryRecords):  # type: ignore[misc]
    """The bytes that a fetch returned for a partition, kept so that they can be decoded whole.

    To aiokafka it is what it inherits from, and with `keep_record_sets` what every fetcher makes.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = data

    def take(
        self, tp: TopicPartition, position: int, *, check_crc: bool, aborted: Aborted = ()
    ) -> tuple[RecordBatch, int]:
        """The partition's records from a position on, perhaps none, and the position behind them.

        Without those of the aborted transactions.

        Raises
        ------
        CorruptRecordsError, CodecMissingError
            As `decode`, with partition and position.
        """
        try:
            decoded = decode(self._data, position, check_crc=check_crc, aborted=aborted)
        except (CorruptRecordsError, CodecMissingError) as exc:
            raise type(exc)(
                f"{tp.topic}[{tp.partition}] cannot be read on from offset {position}: {exc}"
            ) from exc
        return decoded.batch(tp.topic, tp.partition, 0, len(decoded)), decoded.next_offset


def keep_record_sets() -> None:
    """Make the fetchers of this process buffer `RecordSet`; nothing changes for other consumers."""
    aiokafka_fetcher.MemoryRecords = RecordSet


class Intake:
    """Takes over what a consumer's fetcher brings as soon as it is there, and hands it out.

    aiokafka has one request under way with a broker, and leaves out of it what it has buffered and
    nobody has read yet. Such a partition waits until that request has ended: where nothing else
    happens, as long as a broker may keep it. Here nothing stays in the fetcher while there is room,
    so that every request is for all partitions that are read, and a broker may keep it for long.
    And whoever works on records in another thread need not ask this one for them, which takes as
    long as each thread waits for the interpreter: they are there when it hears of them.

    To be made in the consumer's event loop before it fetches; `keep_record_sets` must have been
    called before that.

    Parameters
    ----------
    fetcher
        aiokafka's.
    pause
        Seconds from the end of a request to the next one to the same broker. What comes meanwhile
        comes together: each answer costs as much as many records.
    """

    def __init__(self, fetcher: Any, pause: float = PAUSE_SECONDS) -> None:
        self._fetcher = fetcher
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._ready: dict[TopicPartition, _Ready] = {}
        self._wanted: Collection[TopicPartition] = ()
        # What fetches have failed with, by partition; None stands for the group.
        self._failures: dict[TopicPartition | None, BaseException] = {}
        self.pause = pause
        # It would wait up to 100 ms before it asks a broker again that has just sent records for a
        # partition nobody has read from yet.
        fetcher._prefetch_backoff = 0.0
        self._proceed = fetcher._proc_fetch_request
        fetcher._proc_fetch_request = self._fetch
        self._seek_to, self._reset = fetcher.seek_to, fetcher.request_offset_reset
        fetcher.seek_to = self._on_seek
        fetcher.request_offset_reset = self._on_reset

    def position(self, tp: TopicPartition) -> int:
        """The offset behind what was handed out; the consumer's own is what it fetches next."""
        ready = self._of(tp)
        if ready is not None:
            return ready.position
        return int(self._state(tp).position)

    def hand_out(
        self, partitions: Collection[TopicPartition], limit: Limit
    ) -> dict[TopicPartition, RecordBatch]:
        """A chunk of each partition of which something is there; from any one thread.

        Nothing is handed out while partitions are being assigned, nor what a seek or a pause has
        overtaken. Whoever calls it from another thread sees to it that no seek is under way.

        Parameters
        ----------
        partitions
            Others are left alone. Until the next call, what comes of these is taken over.
        limit
            Bounds each chunk. The rest stays for the next call.

        Raises
        ------
        CorruptRecordsError, CodecMissingError
            If what was fetched cannot be read. The position stays where it is.
        KafkaError
            What a fetch has failed with, or what went wrong with the group.
        """
        self._wanted = partitions
        chunks: dict[TopicPartition, RecordBatch] = {}
        if not self._fetcher._subscriptions.reassignment_in_progress:
            with self._lock:
                for tp in [tp for tp in self._ready if self._of(tp) is None]:
                    del self._ready[tp]
                for tp in partitions:
                    ready = self._ready.get(tp)
                    if ready is not None and not ready.state.paused:
                        chunks[tp] = ready.cut(limit(tp))
                        if not ready.records:
                            del self._ready[tp]
        if not chunks and self._failures:
            for failed in (None, *partitions):
                if (failure := self._failures.pop(failed, None)) is not None:
                    raise failure
        if any(tp in self._fetcher._records for tp in partitions):  # there may be room now
            self._loop.call_soon_threadsafe(self._take_over)
        return chunks

    async def chunks(
        self, partitions: Collection[TopicPartition], timeout: float, limit: Limit
    ) -> dict[TopicPartition, RecordBatch]:
        """As `hand_out`, in the consumer's event loop, waiting for the first records.

        Parameters
        ----------
        partitions, limit
            See `hand_out`, also for what it raises.
        timeout
            Seconds to wait when nothing is there.
        """
        fetcher = self._fetcher
        deadline = self._loop.time() + timeout
        while True:
            if fetcher._subscriptions.reassignment_in_progress:
                await fetcher._subscriptions.wait_for_assignment()
            self._wanted = partitions
            self._take_over()
            chunks = self.hand_out(partitions, limit)
            left = deadline - self._loop.time()
            if chunks or left <= 0:
                return chunks
            waiter = fetcher._create_fetch_waiter()
            await asyncio.wait([waiter], timeout=left)
            if not waiter.done() or fetcher._closed:
                waiter.cancel()
                return {}
            waiter.result()  # raises what went wrong with the group

    async def announce(self, news: Callable[[], None]) -> None:
        """Call `news` whenever there may be something to hand out or to raise, until cancelled."""
        while True:
            waiter = self._fetcher._create_fetch_waiter()
            await asyncio.wait([waiter])
            if (failure := waiter.exception()) is not None:
                self._failures[None] = failure
            news()

    async def _fetch(self, *request: Any) -> bool:
        """A request of the fetcher's, and what it brought taken over before it makes the next."""
        try:
            if await self._proceed(*request):
                self._take_over()
            with contextlib.suppress(asyncio.CancelledError):  # as the fetcher's own does
                await asyncio.sleep(self.pause)
        finally:
            # When it is woken in the very turn of the loop in which a request ends, it still takes
            # the broker for busy when it looks, and forgets the request before it looks again: it
            # sleeps for 200 ms. Two turns on, since in the next one it is told of the end.
            self._loop.call_soon(self._loop.call_soon, self._look_again)
        return False

    def _look_again(self) -> None:
        if not self._fetcher._pending_tasks:
            self._fetcher._notify(self._fetcher._wait_consume_future)

    def _take_over(self) -> None:
        """Take what the fetcher has buffered, of the partitions that there is room for."""
        news = False
        for tp, found in list(self._fetcher._records.items()):
            state = self._state(tp)
            if state is None:
                self._free(tp)
                continue
            ready = self._of(tp)
            if tp not in self._wanted or (ready is not None and ready.records >= AHEAD_RECORDS):
                continue
            try:
                news = self._take(tp, found, state) or news
            except (CorruptRecordsError, CodecMissingError, KafkaError) as exc:
                # What was fetched before is handed out first; it is found again then.
                if ready is None:
                    self._failures[tp], news = exc, True
        if news:
            for waiter in self._fetcher._fetch_waiters:
                self._fetcher._notify(waiter)

    def _take(self, tp: TopicPartition, found: Any, state: Any) -> bool:
        """Take over what was fetched of a partition; whether there is anything in it."""
        if not isinstance(found, aiokafka_fetcher.FetchResult):
            if self._of(tp) is None:
                self._free(tp)
            found.check_raise()
            return False
        position = state.position if state.has_valid_position else -1
        chunk = _whole(found, tp)
        self._free(tp)
        if chunk is None or not len(chunk):
            return False
        with self._lock:
            ready = self._of(tp)
            if ready is None:
                ready = self._ready[tp] = _Ready(state, position)
            ready.add(chunk, int(state.position))
        return True

    def _state(self, tp: TopicPartition) -> Any:
        """What the consumer keeps of a partition that is assigned to it."""
        subscription = self._fetcher._subscriptions.subscription
        assignment = None if subscription is None else subscription.assignment
        return None if assignment is None else assignment.state_value(tp)

    def _of(self, tp: TopicPartition) -> _Ready | None:
        """What is ready of a partition, under this assignment."""
        ready = self._ready.get(tp)
        return ready if ready is not None and ready.state is self._state(tp) else None

    def _free(self, tp: TopicPartition) -> None:
        """Have the fetcher forget what it has buffered of a partition, and ask for more."""
        del self._fetcher._records[tp]
        self._fetcher._notify(self._fetcher._wait_consume_future)

    def _on_seek(self, tp: TopicPartition, offset: int) -> None:
        self._forget(tp)
        self._seek_to(tp, offset)

    def _on_reset(self, partitions: Collection[TopicPartition], strategy: Any) -> Any:
        for tp in partitions:
            self._forget(tp)
        return self._reset(partitions, strategy)

    def _forget(self, tp: TopicPartition) -> None:
        self._failures.pop(tp, None)
        with self._lock:
            self._ready.pop(tp, None)


class _Ready:
    """What has been taken over of a partition and not been handed out.

    Parameters
    ----------
    state
        The consumer's, of the assignment under which it was fetched.
    position
        Offset from which on it was fetched.
    """

    def __init__(self, state: Any, position: int) -> None:
        self.state = state
        self.position = position
        self.records = 0
        self._batches: deque[tuple[RecordBatch, int]] = deque()

    def add(self, batch: RecordBatch, position: int) -> None:
        """Add what comes next, and the position behind it."""
        self._batches.append((batch, position))
        self.records += len(batch)

    def cut(self, limit: int | None) -> RecordBatch:
        """Take the first records, so many at most if there is a limit."""
        left = self.records if limit is None else min(limit, self.records)
        found: list[RecordBatch] = []
        self.records -= left
        while left:
            batch, position = self._batches[0]
            if len(batch) <= left:
                self._batches.popleft()
                self.position = position
            else:
                self._batches[0] = batch.part(left, len(batch)), position
                batch = batch.part(0, left)
                self.position = int(batch.offsets[-1]) + 1
            found.append(batch)
            left -= len(batch)
        return RecordBatch.joined(found)


def _whole(found: Any, tp: TopicPartition) -> RecordBatch | None:
    """All that a fetch brought of a partition; None if a seek or a pause has overtaken it."""
    if not found.check_assignment(tp):
        return None
    state = found._partition_records
    # It is not used, and refers back to `state`: with it, what was fetched would stay in memory
    # until the garbage collector comes by, which is seldom.
    state._records_iterator = None
    records: RecordSet = state._records
    chunk, state.next_fetch_offset = records.take(
        tp,
        state.next_fetch_offset,
        check_crc=state._check_crcs,
        # The broker names them to those only who read what is committed.
        aborted=state._aborted_transactions,
    )
    found._update_position()
    found._partition_records = None
    return chunk
