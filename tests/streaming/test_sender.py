"""The batch sender against a running broker: what arrives, in which order, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import DefaultPartitioner

from dafu.columns import ByteColumn
from dafu.streaming.records import RecordBatch, encode_headers
from dafu.streaming.sender import BatchSender, SendError, Written

pytestmark = pytest.mark.broker

Unique = Callable[[str], str]

of = ByteColumn.of


@pytest.fixture
async def producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", max_batch_size=4096, request_timeout_ms=5000
    )
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
def sender(producer: AIOKafkaProducer) -> BatchSender:
    return BatchSender(producer)


async def create(bootstrap: str, topic: str, partitions: int = 1) -> str:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()
    return topic


async def read(bootstrap: str, topic: str, partitions: int = 1) -> list[list[ConsumerRecord]]:
    """Everything on a topic, by partition, up to its end at the time of the call."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=5
    )
    await consumer.start()
    try:
        tps = [TopicPartition(topic, p) for p in range(partitions)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        found: list[list[ConsumerRecord]] = [[] for _ in tps]
        async with asyncio.timeout(20):
            for tp in tps:
                while await consumer.position(tp) < ends[tp]:
                    for got, records in (await consumer.getmany(timeout_ms=100)).items():
                        found[got.partition].extend(records)
        return found
    finally:
        await consumer.stop()


async def test_everything_arrives_in_order(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"))
    values = [b"%06d" % i + b"x" * (i % 50) for i in range(3000)]
    written = await sender.send(topic, ByteColumn.repeated(b"k", 3000), of(values))
    assert written == {0: Written(0, 2999)}, "of several batches, the first and the last record"
    (found,) = await read(bootstrap, topic)
    assert [r.value for r in found] == values
    assert {r.key for r in found} == {b"k"}


async def test_keys_choose_partitions_as_kafka_does(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"), 5)
    keys = [b"user-%d" % (i % 37) for i in range(1000)]
    values = [b"%d" % i for i in range(1000)]
    await sender.send(topic, of(keys), of(values))
    found = await read(bootstrap, topic, 5)
    oracle = DefaultPartitioner()
    for partition, records in enumerate(found):
        expected = [
            v
            for k, v in zip(keys, values, strict=True)
            if oracle(k, [0, 1, 2, 3, 4], []) == partition
        ]
        assert [r.value for r in records] == expected


async def test_posts_keep_their_order_even_before_the_topic_is_known(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"))
    posted = [
        sender.post(topic, of([None] * 40), of([b"%d-%d" % (n, i) + b"." * 200 for i in range(40)]))
        for n in range(20)
    ]
    await asyncio.sleep(0.05)
    posted += [sender.post(topic, of([None]), of([b"%d-0" % n])) for n in range(20, 30)]
    await asyncio.gather(*posted)
    (found,) = await read(bootstrap, topic)
    seen = [tuple(map(int, r.value.rstrip(b".").split(b"-"))) for r in found]
    assert seen == sorted(seen)
    assert len(seen) == 20 * 40 + 10


async def test_partitions_headers_and_timestamps(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"), 3)
    await sender.send(
        topic,
        of([b"a", None, b"c", b"d"]),
        of([b"1", b"2", None, b"4"]),
        partition=np.array([2, 0, 2, 0]),
        headers=of(
            [
                encode_headers([("h", b"1")]),
                None,
                encode_headers((("h", b"3"), ("i", b""))),
                encode_headers([("h", b"4")]),
            ]
        ),
        timestamps=np.array([1000, 2000, 3000, 4000]),
    )
    await sender.send(topic, of([b"e"]), of([b"5"]), partition=1)
    found = await read(bootstrap, topic, 3)
    plain = [[(r.key, r.value, list(r.headers), r.timestamp) for r in part] for part in found]
    assert plain[0] == [(None, b"2", [], 2000), (b"d", b"4", [("h", b"4")], 4000)]
    assert plain[2] == [
        (b"a", b"1", [("h", b"1")], 1000),
        (b"c", None, [("h", b"3"), ("i", b"")], 3000),
    ]
    assert [(r.key, r.value) for r in found[1]] == [(b"e", b"5")]
    assert found[1][0].timestamp > 1_700_000_000_000


async def test_records_without_a_key_share_a_partition_in_turn(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"), 2)
    for i in range(4):
        await sender.send(topic, of([None, None]), of([b"%d" % i, b"%d" % i]))
    found = await read(bootstrap, topic, 2)
    assert [len(part) for part in found] == [4, 4]
    assert [[r.value for r in part] for part in found] == [
        [b"0", b"0", b"2", b"2"],
        [b"1", b"1", b"3", b"3"],
    ]


async def test_columns_that_point_nowhere(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"))
    outside = ByteColumn(b"a", np.array([0]), np.array([2]))
    for _ in ("before the topic is known", "after"):
        with pytest.raises(SendError, match="outside its buffer; nothing was sent"):
            await sender.send(topic, outside, outside)
    await sender.send(topic, of([b"a"]), of([b"1"]))
    (found,) = await read(bootstrap, topic)
    assert [r.value for r in found] == [b"1"]


async def test_the_offsets_written_by_partition(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"), 3)
    one = of([b"x" * 3000] * 5)  # a batch each
    each = np.array([0, 2, 2, 0, 2])
    assert await sender.send(topic, one, one, partition=each) == {0: (0, 1), 2: (0, 2)}
    assert await sender.send(topic, one, one, partition=each) == {0: (2, 3), 2: (3, 5)}
    assert await sender.send(topic, one, one, partition=1) == {1: (0, 4)}


async def test_the_producer_s_compression(bootstrap: str, unique: Unique) -> None:
    topic = await create(bootstrap, unique("t"))
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type="gzip")
    await producer.start()
    batches = BatchSender(producer)
    values = [b"%04d" % i + b"x" * 40 for i in range(100)]
    await batches.send(topic, of([None] * 100), of(values), partition=0)
    await producer.stop()
    (found,) = await read(bootstrap, topic)
    assert [r.value for r in found] == values


async def test_single_records_of_the_same_producer_go_between(
    bootstrap: str, unique: Unique, producer: AIOKafkaProducer, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"))
    await sender.partition_count(topic)
    posted = [sender.post(topic, of([b"k"]), of([b"batch"])) for _ in range(3)]
    await asyncio.sleep(0)
    single = await producer.send(topic, b"single", partition=0)
    await asyncio.gather(single, *posted)
    (found,) = await read(bootstrap, topic)
    assert sorted(r.value for r in found) == [b"batch"] * 3 + [b"single"]


async def test_a_listener_hears_what_a_consumer_reads(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"), 3)
    heard: list[RecordBatch] = []
    sender.listen(topic, heard.append)
    keys = [b"%d" % (i % 17) for i in range(400)]
    values = [b"%06d" % i + b"x" * (i % 90) for i in range(400)]
    headers = [encode_headers([("n", b"%d" % i)]) if i % 3 else None for i in range(400)]
    await sender.send(topic, of(keys), of(values), headers=of(headers))
    await sender.send(topic, of([b"k"]), of([None]), timestamps=np.array([7]))
    await asyncio.sleep(0)
    found = await read(bootstrap, topic, 3)
    for partition, records in enumerate(found):
        own = [batch for batch in heard if batch.partition == partition]
        assert len(own) > 1, "several batches"
        told = RecordBatch.joined(own)
        there = RecordBatch.of(topic, partition, records)
        assert told.offsets.tolist() == there.offsets.tolist()
        assert told.timestamps.tolist() == there.timestamps.tolist()
        assert (told.keys, told.values) == (there.keys, there.values)
        assert [told.headers_of(i) for i in range(len(told))] == [
            there.headers_of(i) for i in range(len(there))
        ]
    sender.listen(topic, None)
    count = len(heard)
    await sender.send(topic, of([b"k"]), of([b"unheard"]))
    await asyncio.sleep(0)
    assert len(heard) == count


async def test_an_idempotent_producer_is_refused(bootstrap: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    with pytest.raises(ValueError, match="without idempotence"):
        BatchSender(producer)
    await producer.stop()


async def test_a_producer_that_waits_for_nothing_is_refused(bootstrap: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks=0)
    with pytest.raises(ValueError, match="acks are 1 or all"):
        BatchSender(producer)
    await producer.stop()


async def test_nothing_to_send(unique: Unique, sender: BatchSender) -> None:
    await asyncio.wait_for(sender.send(unique("no-such-topic"), of([]), of([])), 1)


async def test_too_large_a_record_stops_all_of_them(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"))
    with pytest.raises(SendError, match=r"record 1 of 3 has up to \d+ bytes") as caught:
        await sender.post(topic, of([None] * 3), of([b"a", b"b" * 2_000_000, b"c"]))
    assert caught.value.topic == topic
    large = encode_headers([("h", b"b" * 2_000_000)])
    with pytest.raises(SendError, match="record 0 of 1"):
        await sender.send(topic, of([None]), of([b"a"]), headers=of([large]))
    assert await read(bootstrap, topic) == [[]]
    # A record over the batch size, and under the request size, has a batch of its own.
    await sender.send(topic, of([None] * 3), of([b"a", b"b" * 50_000, b"c"]))
    (found,) = await read(bootstrap, topic)
    assert [len(r.value) for r in found] == [1, 50_000, 1]


async def test_partition_that_does_not_exist(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"), 2)
    for partition in (2, -1, np.array([0, 2])):
        count = 1 if isinstance(partition, int) else 2
        with pytest.raises(SendError, match=r"partitions 0\.\.1 only"):
            empty = ByteColumn.repeated(b"", count)
            await sender.send(topic, empty, empty, partition=partition)
    assert await read(bootstrap, topic, 2) == [[], []]


async def test_lengths_must_agree(unique: Unique, sender: BatchSender) -> None:
    topic = unique("t")
    with pytest.raises(ValueError, match="differ in number"):
        await sender.send(topic, of([b"a"]), of([b"a", b"b"]))
    with pytest.raises(ValueError, match="differ in number"):
        await sender.send(topic, of([b"a"]), of([b"a"]), partition=np.array([0, 1]))
    with pytest.raises(ValueError, match="differ in number"):
        await sender.send(topic, of([b"a"]), of([b"a"]), timestamps=np.empty(0, np.int64))


async def test_a_producer_that_is_gone_closes_the_partition(bootstrap: str, unique: Unique) -> None:
    topic = await create(bootstrap, unique("t"))
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    closed: list[SendError] = []
    sender = BatchSender(producer, closed.append)
    await sender.send(topic, of([b"a"]), of([b"1"]))
    with pytest.raises(SendError, match="bytes"):  # which closes nothing
        await sender.send(topic, of([None]), of([b"b" * 2_000_000]))
    await sender.send(topic, of([b"a"]), of([b"1"]))
    assert closed == []
    await producer.stop()
    first, second = (sender.post(topic, of([b"a"]), of([v])) for v in (b"2", b"3"))
    with pytest.raises(SendError, match="ProducerClosed") as caught:
        await first
    assert (caught.value.topic, caught.value.partition) == (topic, 0)
    with pytest.raises(SendError, match="an earlier batch failed"):
        await second
    with pytest.raises(SendError, match="an earlier batch failed"):
        await sender.send(topic, of([b"a"]), of([b"4"]))
    assert closed == [caught.value], "told once"
    (found,) = await read(bootstrap, topic)
    assert [r.value for r in found] == [b"1", b"1"]


async def test_a_caller_that_gives_up_does_not_stop_the_records(
    bootstrap: str, unique: Unique, sender: BatchSender
) -> None:
    topic = await create(bootstrap, unique("t"))
    waiting = asyncio.create_task(sender.send(topic, of([b"a"]), of([b"1"])))
    await asyncio.sleep(0)
    waiting.cancel()
    await sender.send(topic, of([b"a"]), of([b"2"]))
    (found,) = await read(bootstrap, topic)
    assert [r.value for r in found] == [b"1", b"2"]


async def test_a_request_that_takes_long_holds_up_its_own_partitions_only(
    bootstrap: str, unique: Unique, sender: BatchSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await create(bootstrap, unique("t"), 2)
    answer = asyncio.Event()
    ask = sender._dispatcher._ask

    async def slow(line: Any, request: Any) -> Any:
        if any(partition == 0 for _, batches in request._topics for partition, _ in batches):
            await answer.wait()
        return await ask(line, request)

    monkeypatch.setattr(sender._dispatcher, "_ask", slow)
    held = [sender.post(topic, of([None]), of([b"%d" % i]), partition=0) for i in range(3)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        for i in range(3):
            await sender.send(topic, of([None]), of([b"%d" % i]), partition=1)
    assert not any(future.done() for future in held)
    answer.set()
    await asyncio.gather(*held)
    found = await read(bootstrap, topic, 2)
    assert [[r.value for r in records] for records in found] == [[b"0", b"1", b"2"]] * 2
