"""Chunks out of aiokafka's fetcher: what is handed out, and where the consumer then stands."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.consumer import fetcher as aiokafka_fetcher

from dafu.columns import ByteColumn
from dafu.streaming.fetching import RecordSet, fetch_chunks, keep_fetching, keep_record_sets
from dafu.streaming.records import RecordBatch
from dafu.streaming.sender import BatchSender
from dafu.streaming.wire import CorruptRecordsError

PARTITIONS = 3
RECORDS = 250
"""In each partition."""


@pytest.fixture(autouse=True)
def record_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka_fetcher, "MemoryRecords", aiokafka_fetcher.MemoryRecords)
    keep_record_sets()


class Reader:
    """A consumer of a topic with RECORDS in each partition."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str) -> None:
        self.consumer = consumer
        self.tps = [TopicPartition(topic, p) for p in range(PARTITIONS)]

    async def chunks(
        self, limit: int | None, *partitions: int, timeout: float = 10.0
    ) -> dict[int, RecordBatch]:
        wanted = [self.tps[p] for p in partitions or range(PARTITIONS)]
        found = await fetch_chunks(self.consumer._fetcher, wanted, timeout, lambda tp: limit)
        assert all((c.topic, c.partition) == tp for tp, c in found.items())
        return {tp.partition: chunk for tp, chunk in found.items()}

    async def buffered(self) -> None:
        """Wait until something of every partition has been fetched."""
        async with asyncio.timeout(20):
            while len(self.consumer._fetcher._records) < PARTITIONS:
                await asyncio.sleep(0.01)

    async def position(self, partition: int) -> int:
        position: int = await self.consumer.position(self.tps[partition])
        return position


@pytest.fixture
async def reader(bootstrap: str, unique: Callable[[str], str]) -> AsyncIterator[Reader]:
    topic = unique("t")
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=2000)
    await producer.start()
    values = ByteColumn.of([b"%d" % i for i in range(RECORDS)])
    for partition in range(PARTITIONS):
        await BatchSender(producer).send(topic, values, values, partition=partition)
    await producer.stop()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=20
    )
    await consumer.start()
    made = Reader(consumer, topic)
    consumer.assign(made.tps)
    yield made
    await consumer.stop()


@pytest.mark.broker
async def test_every_partition_has_its_own_limit(reader: Reader) -> None:
    await reader.buffered()
    chunks = await reader.chunks(100)
    assert {p: len(c) for p, c in chunks.items()} == dict.fromkeys(range(PARTITIONS), 100)
    for partition, chunk in chunks.items():
        assert chunk.offsets.tolist() == list(range(100))
        assert await reader.position(partition) == 100


@pytest.mark.broker
async def test_all_of_it_comes_once_and_in_order(reader: Reader) -> None:
    found: list[list[bytes | None]] = [[] for _ in range(PARTITIONS)]
    while sum(map(len, found)) < PARTITIONS * RECORDS:
        for partition, chunk in (await reader.chunks(77)).items():
            assert chunk.offsets[0] == len(found[partition])
            assert 0 < len(chunk) <= 77
            found[partition] += chunk.values.tolist()
    assert found == [[b"%d" % i for i in range(RECORDS)]] * PARTITIONS
    assert await reader.chunks(77, timeout=0.1) == {}


@pytest.mark.broker
async def test_without_a_limit_a_chunk_is_what_was_fetched(reader: Reader) -> None:
    await reader.buffered()
    chunks = await reader.chunks(None)
    assert [len(chunks[p]) for p in range(PARTITIONS)] == [RECORDS] * PARTITIONS
    assert not reader.consumer._fetcher._records, "so that the next fetch starts at once"


@pytest.mark.broker
async def test_partitions_that_are_not_wanted_keep_theirs(reader: Reader) -> None:
    await reader.buffered()
    assert set(await reader.chunks(100, 1)) == {1}
    assert await reader.position(0) == 0
    chunks = await reader.chunks(100, 0, 1)
    assert chunks[0].offsets[0] == 0
    assert chunks[1].offsets[0] == 100


@pytest.mark.broker
async def test_a_seek_in_the_middle_of_what_was_fetched(reader: Reader) -> None:
    await reader.buffered()
    await reader.chunks(100, 0)
    reader.consumer.seek(reader.tps[0], 33)
    assert (await reader.chunks(100, 0))[0].offsets.tolist() == list(range(33, 133))
    assert await reader.position(0) == 133


@pytest.mark.broker
async def test_a_paused_partition_gives_nothing_and_loses_nothing(reader: Reader) -> None:
    await reader.buffered()
    reader.consumer.pause(reader.tps[0])
    assert await reader.chunks(100, 0, timeout=0.1) == {}
    reader.consumer.resume(reader.tps[0])
    assert (await reader.chunks(100, 0))[0].offsets[0] == 0


@pytest.mark.broker
async def test_revoked_partitions_are_forgotten(reader: Reader) -> None:
    await reader.buffered()
    reader.consumer.assign(reader.tps[:1])
    assert set(await reader.chunks(100)) == {0}


@pytest.mark.broker
async def test_corrupt_records_stop_the_reader_where_they_are(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    await reader.buffered()
    damaged = reader.consumer._fetcher._records[reader.tps[0]]._partition_records._records
    damaged._data = damaged._data[:-1] + bytes([damaged._data[-1] ^ 1])
    with pytest.raises(CorruptRecordsError, match=r"\[0\] cannot be read on from offset 0: "):
        await reader.chunks(100, 0)
    assert await reader.position(0) == 0


@pytest.mark.broker
async def test_other_consumers_of_the_process_notice_nothing(reader: Reader) -> None:
    await reader.buffered()
    assert isinstance(
        reader.consumer._fetcher._records[reader.tps[0]]._partition_records._records, RecordSet
    )
    records = (await reader.consumer.getmany(reader.tps[0], timeout_ms=5000))[reader.tps[0]]
    assert [r.offset for r in records] == list(range(RECORDS))


def test_an_empty_set_is_exhausted_at_once() -> None:
    records = RecordSet(b"")
    assert not records.exhausted
    chunk, position = records.take(TopicPartition("t", 0), 7, 100, check_crc=True)
    assert (len(chunk), position, records.exhausted) == (0, 7, True)
    assert np.array_equal(chunk.has_headers, [])


@pytest.mark.broker
async def test_what_was_handed_out_is_freed_without_the_garbage_collector(reader: Reader) -> None:
    def held() -> int:
        return sum(isinstance(item, RecordSet) for item in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = held()
        seen = 0
        while seen < PARTITIONS * RECORDS:
            seen += sum(map(len, (await reader.chunks(100)).values()))
        assert held() == before
    finally:
        gc.enable()


async def test_the_end_of_a_request_is_noticed_whenever_records_are_taken() -> None:
    """Taking records wakes the fetcher in the turn of the loop in which its request ends."""
    looks: list[bool] = []

    class Fetcher:
        """What of a fetcher's routine matters: when it looks, and whether it takes the broker for
        busy then."""

        def __init__(self) -> None:
            self._pending_tasks: set[asyncio.Task[bool]] = set()
            self._wait_consume_future = asyncio.get_running_loop().create_future()

        async def _proc_fetch_request(self) -> bool:
            await asyncio.sleep(0)
            return False

        def _notify(self, future: asyncio.Future[None]) -> None:
            looks.append(future is self._wait_consume_future)

    fetcher = Fetcher()
    keep_fetching(fetcher)
    task = asyncio.create_task(fetcher._proc_fetch_request())
    fetcher._pending_tasks.add(task)
    assert await task is False
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert looks == [], "a request is under way, so its end will wake the routine"
    fetcher._pending_tasks.clear()
    assert await fetcher._proc_fetch_request() is False
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert looks == [True]
