"""What aiokafka's fetcher has buffered, handed out as columns: up to so many records a partition.

aiokafka's own way makes an object of every record and bounds the records of all partitions
together. Here a fetched record set is decoded once, as a whole, and cut into chunks.

It knows aiokafka's fetcher from inside (`dafu.streaming.transport` lists what of it), and nothing
of Faust.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.record.memory_records import MemoryRecords

from dafu.streaming.records import RecordBatch
from dafu.streaming.wire import CodecMissingError, CorruptRecordsError, Decoded, decode

__all__ = ["RecordSet", "fetch_chunks", "keep_fetching", "keep_record_sets", "tune"]

Limit = Callable[[TopicPartition], int | None]
"""Records of a partition in one chunk at most, None for any number."""


class RecordSet(MemoryRecords):  # type: ignore[misc]
    """The bytes that a fetch returned for a partition, kept so that they can be decoded whole.

    To aiokafka it is what it inherits from, and with `keep_record_sets` what every fetcher makes.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = data
        self._decoded: Decoded | None = None
        self._taken = 0

    def take(
        self, tp: TopicPartition, position: int, limit: int | None, *, check_crc: bool
    ) -> tuple[RecordBatch, int]:
        """The next records of the partition, perhaps none, and the position behind them.

        Raises
        ------
        CorruptRecordsError, CodecMissingError
            As `decode`, with partition and position.
        """
        if self._decoded is None:
            try:
                self._decoded = decode(self._data, position, check_crc=check_crc)
            except (CorruptRecordsError, CodecMissingError) as exc:
                raise type(exc)(
                    f"{tp.topic}[{tp.partition}] cannot be read on from offset {position}: {exc}"
                ) from exc
        decoded, first = self._decoded, self._taken
        end = len(decoded) if limit is None else min(len(decoded), first + limit)
        self._taken = end
        batch = decoded.batch(tp.topic, tp.partition, first, end)
        if self.exhausted:
            return batch, decoded.next_offset
        return batch, int(batch.offsets[-1]) + 1

    @property
    def exhausted(self) -> bool:
        """Whether all of its records have been taken."""
        return self._decoded is not None and self._taken == len(self._decoded)


def keep_record_sets() -> None:
    """Make the fetchers of this process buffer `RecordSet`; nothing changes for other consumers."""
    aiokafka_fetcher.MemoryRecords = RecordSet


def tune(fetcher: Any) -> None:
    """Have a fetcher ask for records whenever it can; in its event loop, before it fetches.

    One partition's unread records must not hold up the others: aiokafka waits up to 100 ms before
    it asks a broker again that has just sent records for a partition nobody has read from yet.
    """
    fetcher._prefetch_backoff = 0.0
    keep_fetching(fetcher)


def keep_fetching(fetcher: Any) -> None:
    """Have a fetcher notice the end of every request that it sends.

    When records are taken from it in the very turn of the loop in which a request ends, it still
    takes the broker for busy when it looks, and forgets the request before it looks again: it
    sleeps for 200 ms. To be called in its event loop, before it fetches.
    """
    proceed = fetcher._proc_fetch_request
    loop = asyncio.get_running_loop()

    def look_again() -> None:
        if not fetcher._pending_tasks:
            fetcher._notify(fetcher._wait_consume_future)

    async def fetch(*request: Any) -> bool:
        try:
            found: bool = await proceed(*request)
            return found
        finally:
            # Two turns on: in the next one it is told that the request has ended.
            loop.call_soon(loop.call_soon, look_again)

    fetcher._proc_fetch_request = fetch


async def fetch_chunks(
    fetcher: Any, partitions: Collection[TopicPartition], timeout: float, limit: Limit
) -> dict[TopicPartition, RecordBatch]:
    """A chunk of each partition that records have been fetched of, waiting for the first of them.

    The counterpart of `Fetcher.fetched_records`, with its rules: nothing is handed out while
    partitions are being assigned, nor what a seek or a pause has overtaken; the consumer's
    positions move on with what is handed out, and a partition is fetched again once all that it
    has buffered is.

    Parameters
    ----------
    fetcher
        A consumer's fetcher, in whose event loop this runs; `keep_record_sets` must have been
        called before it fetched anything.
    partitions
        Others are left alone.
    timeout
        Seconds to wait when nothing is there.
    limit
        Bounds each chunk. The rest stays for the next call.

    Raises
    ------
    CorruptRecordsError, CodecMissingError
        If what was fetched cannot be read. The position stays where it is.
    KafkaError
        What a fetch has failed with.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        if fetcher._subscriptions.reassignment_in_progress:
            await fetcher._subscriptions.wait_for_assignment()
        chunks = _buffered(fetcher, partitions, limit)
        left = deadline - loop.time()
        if chunks or left <= 0:
            return chunks
        waiter = fetcher._create_fetch_waiter()
        await asyncio.wait([waiter], timeout=left)
        if not waiter.done() or fetcher._closed:
            waiter.cancel()
            return {}
        waiter.result()  # raises what went wrong with the group


def _buffered(
    fetcher: Any, partitions: Collection[TopicPartition], limit: Limit
) -> dict[TopicPartition, RecordBatch]:
    chunks: dict[TopicPartition, RecordBatch] = {}
    for tp, found in list(fetcher._records.items()):
        if tp not in partitions:
            if not fetcher._subscriptions.is_assigned(tp):
                del fetcher._records[tp]
        elif isinstance(found, aiokafka_fetcher.FetchResult):
            chunk = _next_chunk(found, tp, limit(tp))
            if not found.has_more():
                _fetch_again(fetcher, tp)
            if chunk is not None and len(chunk):
                chunks[tp] = chunk
        elif chunks:
            break  # an error: it is raised by the next call, these records first
        else:
            _fetch_again(fetcher, tp)
            found.check_raise()
    return chunks


def _next_chunk(found: Any, tp: TopicPartition, limit: int | None) -> RecordBatch | None:
    if not found.check_assignment(tp):
        return None
    state = found._partition_records
    # It is not used, and refers back to `state`: with it, what was fetched would stay in memory
    # until the garbage collector comes by, which is seldom.
    state._records_iterator = None
    records: RecordSet = state._records
    chunk, state.next_fetch_offset = records.take(
        tp, state.next_fetch_offset, limit, check_crc=state._check_crcs
    )
    found._update_position()
    if records.exhausted:
        found._partition_records = None
    return chunk


def _fetch_again(fetcher: Any, tp: TopicPartition) -> None:
    del fetcher._records[tp]
    fetcher._notify(fetcher._wait_consume_future)
