"""Reading a stretch of a partition, and two tables that write to one changelog, on a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import faust
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from faust.types import TP
from faust.types.tuples import Message

from dafu.columns import ByteColumn
from dafu.streaming import stretch
from dafu.streaming.sender import BatchSender
from dafu.streaming.stretch import read_stretch
from dafu.tables.ownership import LostPartitionError, PartitionLog, log_page
from dafu.tables.records import MemoryRecords
from dafu.tables.table import PackedTable
from tests.integration.test_broker import create_topic

pytestmark = pytest.mark.broker


@asynccontextmanager
async def senders(bootstrap: str, count: int) -> AsyncIterator[list[BatchSender]]:
    producers = [AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") for _ in range(count)]
    for producer in producers:
        await producer.start()
    try:
        yield [BatchSender(producer) for producer in producers]
    finally:
        for producer in producers:
            await producer.stop()


async def test_reads_from_the_middle_of_one_batch_into_another(
    bootstrap: str, unique: Callable[[str], str]
) -> None:
    topic = unique("stretch")
    await create_topic(bootstrap, topic)
    values = [b"%d" % i for i in range(40)]
    async with senders(bootstrap, 1) as (sender,):
        for at in range(0, 40, 10):
            await sender.send(
                topic,
                ByteColumn.repeated(b"k", 10),
                ByteColumn.of(values[at : at + 10]),
                partition=0,
            )
    tp = TopicPartition(topic, 0)
    for first, end in ((0, 40), (7, 23), (39, 40), (10, 20), (5, 5)):
        found = await read_stretch(tp, first, end, bootstrap_servers=bootstrap)
        offsets = found.offsets.tolist()
        assert offsets == list(range(first, first + len(found)))
        assert len(found) >= end - first
        assert found.values == values[first : first + len(found)]


async def test_says_what_it_could_not_read(
    bootstrap: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = unique("short")
    await create_topic(bootstrap, topic)
    async with senders(bootstrap, 1) as (sender,):
        await sender.send(topic, ByteColumn.of([b"k"]), ByteColumn.of([b"v"]), partition=0)
    monkeypatch.setattr(stretch, "DEADLINE", 1.0)
    with pytest.raises(Exception, match="up to offset 5 within 1 s"):
        await read_stretch(TopicPartition(topic, 0), 0, 5, bootstrap_servers=bootstrap)


def open_table(bootstrap: str, name: str) -> PackedTable:
    app = faust.App(name, broker=f"dafu://{bootstrap}", store="dafu-memory://", Table=PackedTable)
    table: PackedTable = app.Table("users", key_type=bytes, value_type=bytes, partitions=1)
    app.tables.recovery.active_tps.add(TP(table.changelog_topic_name, 0))
    return table


async def recover(table: PackedTable, end: int) -> None:
    tp = TP(table.changelog_topic_name, 0)
    chunk = await table.app.consumer.read_stretch(tp, 0, end)
    message = Message(tp.topic, 0, int(chunk.offsets[-1]), 0.0, 0, [], None, chunk, None, tp=tp)
    table.apply_changelog_batch([SimpleNamespace(message=message)])


async def test_a_former_owner_is_noticed_repaired_and_stopped(
    bootstrap: str, unique: Callable[[str], str]
) -> None:
    name = unique("app")
    ours, theirs = open_table(bootstrap, name), open_table(bootstrap, name)
    topic = ours.changelog_topic_name
    await create_topic(bootstrap, topic)
    async with senders(bootstrap, 2) as (our_sender, their_sender):
        their_claim = await theirs.claim(their_sender, 0)
        await theirs.commit_batch(their_sender, 0, [(b"a", b"1"), (b"b", b"1")], their_claim)
        await recover(ours, 3)
        # Logged after our recovery and before our claim: it counts.
        await theirs.commit_batch(their_sender, 0, [(b"b", b"2")], their_claim)
        our_claim = await ours.claim(our_sender, 0)
        assert our_claim == 4
        assert ours.partition(0).get_many([b"a", b"b"]) == [b"1", b"2"]
        await ours.commit_batch(our_sender, 0, [(b"a", b"3")], our_claim)
        with pytest.raises(LostPartitionError, match="another worker has claimed it"):
            await theirs.commit_batch(
                their_sender, 0, [(b"a", b"2"), (b"c", b"2"), (b"b", b"3")], their_claim
            )
        assert theirs.partition(0).get_many([b"a", b"b", b"c"]) == [b"1", b"2", None]
        await ours.commit_batch(our_sender, 0, [(b"b", b"4")], our_claim)
    state = {b"a": b"3", b"b": b"4"}
    assert dict(ours.records.items(0)) == state
    records = await read_stretch(TopicPartition(topic, 0), 0, 12, bootstrap_servers=bootstrap)
    log, found = PartitionLog(), MemoryRecords()
    found.write(log.recover(log_page(records)))
    assert found.data == state
    assert not log.stale
    compacted = dict(zip(records.keys.present(), records.values.tolist(), strict=True))
    assert [compacted[key] for key in (b"a", b"b", b"c")] == [b"3", b"4", None]
