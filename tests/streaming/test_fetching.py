"""Chunks out of aiokafka's fetcher: what is handed out, and where the consumer then stands."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import faust
import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import GroupAuthorizationFailedError
from faust.types import TP

from dafu.columns import ByteColumn
from dafu.streaming import fetching
from dafu.streaming.fetching import Intake, RecordSet, keep_record_sets
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
        self.intake = Intake(consumer._fetcher)
        self.tps = [TopicPartition(topic, p) for p in range(PARTITIONS)]

    async def chunks(
        self, limit: int | None, *partitions: int, timeout: float = 10.0
    ) -> dict[int, RecordBatch]:
        wanted = [self.tps[p] for p in partitions or range(PARTITIONS)]
        found = await self.intake.chunks(wanted, timeout, lambda tp: limit)
        assert all((c.topic, c.partition) == tp for tp, c in found.items())
        return {tp.partition: chunk for tp, chunk in found.items()}

    async def buffered(self) -> None:
        """Wait until something of every partition has been fetched."""
        async with asyncio.timeout(20):
            while len(self.consumer._fetcher._records) < PARTITIONS:
                await asyncio.sleep(0.01)

    def position(self, partition: int) -> int:
        return self.intake.position(self.tps[partition])


@pytest.fixture
async def producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=2000)
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
async def reader(
    bootstrap: str, unique: Callable[[str], str], producer: AIOKafkaProducer
) -> AsyncIterator[Reader]:
    topic = unique("t")
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    values = ByteColumn.of([b"%d" % i for i in range(RECORDS)])
    for partition in range(PARTITIONS):
        await BatchSender(producer).send(topic, values, values, partition=partition)
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
        assert reader.position(partition) == 100


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
    assert not reader.consumer._fetcher._records, "so that the next fetch is for all of them"


@pytest.mark.broker
async def test_partitions_that_are_not_wanted_keep_theirs(reader: Reader) -> None:
    await reader.buffered()
    assert set(await reader.chunks(100, 1)) == {1}
    assert reader.position(0) == 0
    chunks = await reader.chunks(100, 0, 1)
    assert chunks[0].offsets[0] == 0
    assert chunks[1].offsets[0] == 100


@pytest.mark.broker
async def test_a_seek_in_the_middle_of_what_was_fetched(reader: Reader) -> None:
    await reader.buffered()
    await reader.chunks(100, 0)
    reader.consumer.seek(reader.tps[0], 33)
    assert (await reader.chunks(100, 0))[0].offsets.tolist() == list(range(33, 133))
    assert reader.position(0) == 133


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
    assert reader.position(0) == 0


@pytest.mark.broker
async def test_a_seek_forgets_what_could_not_be_read(reader: Reader) -> None:
    await reader.buffered()
    damaged = reader.consumer._fetcher._records[reader.tps[0]]._partition_records._records
    damaged._data = damaged._data[:-1] + bytes([damaged._data[-1] ^ 1])
    async with asyncio.timeout(10):
        while not (found := reader.intake.hand_out(reader.tps, lambda tp: 1)):
            await asyncio.sleep(0.01)
    assert set(found) == set(reader.tps[1:]), "what can be read is handed out first"
    reader.consumer.seek(reader.tps[0], 40)
    assert (await reader.chunks(1, 0))[0].offsets.tolist() == [40]


@pytest.mark.broker
async def test_another_thread_hears_of_what_comes_and_takes_it(reader: Reader) -> None:
    """Every record once and in order, while fetches go on here."""
    heard = threading.Event()
    announcing = asyncio.create_task(reader.intake.announce(heard.set))
    seen: dict[TopicPartition, list[int]] = {tp: [] for tp in reader.tps}

    def work() -> None:
        while sum(map(len, seen.values())) < PARTITIONS * RECORDS:
            heard.clear()
            if found := reader.intake.hand_out(reader.tps, lambda tp: 7):
                for tp, chunk in found.items():
                    seen[tp] += chunk.offsets.tolist()
            else:
                assert heard.wait(10), "nobody said that something had come"

    await asyncio.to_thread(work)
    announcing.cancel()
    assert list(seen.values()) == [list(range(RECORDS))] * PARTITIONS


@pytest.mark.broker
async def test_what_goes_wrong_with_the_group_is_raised_once(reader: Reader) -> None:
    announcing = asyncio.create_task(reader.intake.announce(lambda: None))
    await asyncio.sleep(0)
    reader.consumer._subscription.abort_waiters(GroupAuthorizationFailedError("g"))
    await asyncio.sleep(0.01)
    with pytest.raises(GroupAuthorizationFailedError):
        reader.intake.hand_out((), lambda tp: None)
    assert reader.intake.hand_out((), lambda tp: None) == {}
    announcing.cancel()


@pytest.mark.broker
async def test_other_consumers_of_the_process_notice_nothing(reader: Reader) -> None:
    await reader.buffered()
    assert isinstance(
        reader.consumer._fetcher._records[reader.tps[0]]._partition_records._records, RecordSet
    )
    records = (await reader.consumer.getmany(reader.tps[0], timeout_ms=5000))[reader.tps[0]]
    assert [r.offset for r in records] == list(range(RECORDS))


def test_of_an_empty_set_comes_nothing() -> None:
    chunk, position = RecordSet(b"").take(TopicPartition("t", 0), 7, check_crc=True)
    assert (len(chunk), position) == (0, 7)
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


class Fetcher:
    """What of a fetcher's routine matters: when it looks, and whether it takes the broker for busy
    then."""

    def __init__(self) -> None:
        self.looks: list[bool] = []
        self._pending_tasks: set[asyncio.Task[bool]] = set()
        self._wait_consume_future = asyncio.get_running_loop().create_future()
        self.seek_to = self.request_offset_reset = None

    async def _proc_fetch_request(self) -> bool:
        await asyncio.sleep(0)
        return False

    def _notify(self, future: asyncio.Future[None]) -> None:
        self.looks.append(future is self._wait_consume_future)


async def test_the_end_of_a_request_is_noticed_whenever_records_are_taken() -> None:
    """Taking records wakes the fetcher in the turn of the loop in which its request ends."""
    fetcher = Fetcher()
    Intake(fetcher, pause=0.0)
    task = asyncio.create_task(fetcher._proc_fetch_request())
    fetcher._pending_tasks.add(task)
    assert await task is False
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert fetcher.looks == [], "a request is under way, so its end will wake the routine"
    fetcher._pending_tasks.clear()
    assert await fetcher._proc_fetch_request() is False
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert fetcher.looks == [True]


async def test_requests_to_a_broker_stand_apart() -> None:
    fetcher = Fetcher()
    Intake(fetcher, pause=0.05)
    began = asyncio.get_running_loop().time()
    await fetcher._proc_fetch_request()
    assert asyncio.get_running_loop().time() >= began + 0.05
    task = asyncio.create_task(fetcher._proc_fetch_request())
    await asyncio.sleep(0.01)
    task.cancel()
    assert await task is False, "the fetcher waits for what it has cancelled, and expects no error"


@pytest.mark.broker
async def test_what_nobody_has_read_yet_does_not_keep_a_partition_from_being_fetched(
    reader: Reader, producer: AIOKafkaProducer
) -> None:
    topic = reader.tps[0].topic
    while sum(map(len, (await reader.chunks(None, timeout=0.5)).values())):
        pass
    for i in range(3):
        await producer.send_and_wait(topic, b"%d" % i, partition=0)
        async with asyncio.timeout(20):
            while await reader.consumer.position(reader.tps[0]) < RECORDS + i + 1:
                await asyncio.sleep(0.01)
    assert reader.position(0) == RECORDS, "nothing of it has been handed out"
    assert (await reader.chunks(2, 0))[0].values.tolist() == [b"0", b"1"]
    assert reader.position(0) == RECORDS + 2
    assert (await reader.chunks(2, 0))[0].values.tolist() == [b"2"]


@pytest.mark.broker
async def test_a_worker_stands_behind_what_was_handed_out(reader: Reader, bootstrap: str) -> None:
    """By it a partition counts as drained or not, see `dafu.web.progress`."""
    consumer: Any = faust.App("position", broker=f"dafu://{bootstrap}").consumer
    thread = consumer._thread
    thread._consumer, thread._intake = reader.consumer, reader.intake
    await reader.chunks(100, 0)
    assert await reader.consumer.position(reader.tps[0]) == RECORDS
    assert await thread._position(TP(*reader.tps[0])) == 100
    await reader.chunks(None, 0)
    assert await thread._position(TP(*reader.tps[0])) == RECORDS


@pytest.mark.broker
async def test_so_many_are_taken_over_and_no_more(
    reader: Reader, producer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "AHEAD_RECORDS", 100)
    tp, fetcher = reader.tps[0], reader.consumer._fetcher
    fetcher._max_partition_fetch_bytes = 1  # a record batch at a time, of brokers that can
    seen = (await reader.chunks(1, 0))[0].offsets.tolist()
    more = 0
    async with asyncio.timeout(20):
        while tp not in fetcher._records:
            if await reader.consumer.position(tp) == RECORDS and not more:
                more += 1
                await producer.send_and_wait(tp.topic, b"more", partition=0)
            await asyncio.sleep(0.01)
    assert await reader.consumer.position(tp) > 100
    assert reader.position(0) == 1
    while len(seen) < RECORDS + more:
        seen += (await reader.chunks(40, 0))[0].offsets.tolist()
    assert seen == list(range(RECORDS + more))


@pytest.mark.broker
async def test_a_seek_to_where_the_next_fetch_begins_is_a_seek(reader: Reader) -> None:
    await reader.chunks(100, 0)
    end = await reader.consumer.position(reader.tps[0])
    assert reader.position(0) == 100 < end
    reader.consumer.seek(reader.tps[0], end)
    assert reader.position(0) == end
    await reader.consumer.seek_to_beginning(reader.tps[0])
    assert (await reader.chunks(10, 0))[0].offsets[0] == 0
