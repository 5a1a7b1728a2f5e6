"""The transport: commits by whole chunks in order, with Faust's own objects; failing sends.

A timeline of chunks is written as their last offsets: chunks [0..9], [10..19] are 9, 19.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import faust
import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer
from faust.transport import by_url
from faust.types import TP, ConsumerMessage
from hypothesis import given
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.streaming.records import RecordBatch
from dafu.streaming.transport import Consumer, Producer, Transport, insist_on_end
from tests.integration.payments import by_transaction, in_memory, payments
from tests.integration.worker import BRISK, DRAIN_SECONDS, NARROW, NARROW_LARGEST, System

EARLIEST = 3
"""The broker has deleted what was before."""
ONE, TWO = TP("transactions", 0), TP("transactions", 1)


def chunk(tp: TP, first: int, last: int) -> RecordBatch:
    """Records first..last of a partition."""
    offsets = np.arange(first, last + 1)
    same = ByteColumn.repeated(b"k", len(offsets))
    no_headers = ByteColumn.repeated(b"\0", len(offsets))
    return RecordBatch(tp.topic, tp.partition, offsets, 1000 + offsets, same, same, no_headers)


class Chunks:
    """A consumer as the worker has it, but for the network: what it delivers and commits."""

    def __init__(self, committed: Mapping[TP, int] | None = None) -> None:
        self.app = faust.App("transport", broker="dafu://127.0.0.1:9")
        self.committed = dict(committed or {})
        self.delivered: list[ConsumerMessage] = []
        self.app.topics.acks_enabled_for = lambda topic: True
        self.consumer: Any = self.app.transport.create_consumer(
            self._receive, on_partitions_revoked=self._nothing, on_partitions_assigned=self._nothing
        )
        self.consumer._commit = self._commit
        self.consumer.assignment = lambda: {ONE, TWO}
        self.consumer.seek_to_committed = self._seek_to_committed
        self.consumer.earliest_offsets = self._earliest_offsets
        self.consumer._thread.seek_wait = self._seek_wait
        self.position: dict[TP, int] = {}
        self.app.producer.flush = self._nothing
        self.consumer.resume_flow()

    async def _receive(self, message: ConsumerMessage) -> None:
        self.consumer.track_message(message)
        self.delivered.append(message)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        for tp, offset in offsets.items():
            assert offset > self.committed.get(tp, -1), "commits go forward only"
            self.committed[tp] = offset
        return True

    async def _seek_to_committed(self) -> dict[TP, int | None]:
        """As aiokafka: what has no committed offset is not moved."""
        self.position |= self.committed
        return {tp: self.committed.get(tp) for tp in (ONE, TWO)}

    async def _earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, EARLIEST)

    async def _seek_wait(self, offsets: Mapping[TP, int]) -> None:
        self.position |= offsets

    async def _nothing(self, *args: Any, **kwargs: Any) -> None:
        pass

    async def deliver(self, first: int, last: int, tp: TP = ONE) -> ConsumerMessage:
        """Deliver the chunk first..last."""
        message: ConsumerMessage = self.consumer._to_batch_message(tp, chunk(tp, first, last))
        await self.consumer._deliver(tp, message)
        return message

    def hand_out(self, lasts: Mapping[TP, int]) -> None:
        """Have chunks from offset 0 on there, whenever the consumer looks."""
        self.consumer._set_active_tps(set(lasts))
        self.consumer._thread.hand_out = lambda _: {tp: chunk(tp, 0, n) for tp, n in lasts.items()}
        self.consumer._thread.highwater = lambda tp: lasts[tp] + 1

    async def seek(self) -> None:
        """Go back to what is committed, and go on from there, as a recovery does at its end."""
        await self.consumer.perform_seek()
        self.consumer.resume_flow()

    async def commit(self, tp: TP = ONE) -> int | None:
        """Commit what may be committed; the committed offset of a partition."""
        await self.consumer.commit()
        return self.committed.get(tp)


def test_is_registered_with_faust() -> None:
    app = faust.App("transport", broker="dafu://broker.example:9093;other.example")
    assert by_url("dafu://localhost") is Transport
    assert isinstance(app.transport, Transport)
    assert app.transport.Consumer is Consumer
    assert isinstance(app.producer, Producer)
    assert [url.host for url in app.transport.url] == ["broker.example", "other.example"]


async def test_a_message_is_a_chunk() -> None:
    chunks = Chunks()
    message = await chunks.deliver(5, 7)
    assert chunks.delivered == [message]
    assert isinstance(message.value, RecordBatch)
    assert message.value.offsets.tolist() == [5, 6, 7]
    assert (message.tp, message.offset, message.timestamp) == (ONE, 7, 1.007)


async def test_commits_past_the_last_record_of_a_chunk() -> None:
    chunks = Chunks()
    first = await chunks.deliver(0, 9)
    assert await chunks.commit() is None
    assert chunks.consumer.ack(first)
    assert await chunks.commit() == 10
    assert await chunks.commit() == 10
    second = await chunks.deliver(10, 10)
    chunks.consumer.ack(second)
    assert await chunks.commit() == 11


async def test_never_commits_past_a_chunk_that_is_not_acknowledged() -> None:
    chunks = Chunks({ONE: 10})
    await chunks.seek()
    first, second, third = [await chunks.deliver(n, n + 9) for n in (10, 20, 30)]
    chunks.consumer.ack(second)
    assert await chunks.commit() == 10
    chunks.consumer.ack(third)
    assert await chunks.commit() == 10
    chunks.consumer.ack(first)
    assert await chunks.commit() == 40
    assert not chunks.consumer._delivered[ONE]
    assert not chunks.consumer._acked[ONE]
    assert not chunks.consumer._acked_index[ONE]


async def test_gaps_of_a_compacted_topic_hold_nothing_up() -> None:
    chunks = Chunks()
    for first, last in ((0, 3), (17, 20), (1000, 1000)):
        chunks.consumer.ack(await chunks.deliver(first, last))
    assert await chunks.commit() == 1001


async def test_partitions_do_not_wait_for_each_other() -> None:
    chunks = Chunks()
    await chunks.deliver(0, 9, ONE)
    chunks.consumer.ack(await chunks.deliver(0, 4, TWO))
    assert await chunks.commit(TWO) == 5
    assert ONE not in chunks.committed


@given(
    ends=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_commits_follow_the_oldest_open_chunk(ends: list[int], order: Any) -> None:
    asyncio.run(commits_follow(ends, order))


async def commits_follow(ends: list[int], order: Any) -> None:
    chunks = Chunks()
    messages, at = [], 0
    for size in ends:
        messages.append(await chunks.deliver(at, at + size - 1))
        at += size
    waiting = list(range(len(messages)))
    order.shuffle(waiting)
    done: set[int] = set()
    for number in waiting:
        chunks.consumer.ack(messages[number])
        done.add(number)
        oldest_open = next((n for n in range(len(messages)) if n not in done), len(messages))
        expected = messages[oldest_open - 1].offset + 1 if oldest_open else None
        assert await chunks.commit() == expected
    assert chunks.consumer._in_flight[ONE] == 0


async def test_an_acknowledgement_counts_once() -> None:
    chunks = Chunks()
    first, second = await chunks.deliver(0, 9), await chunks.deliver(10, 19)
    assert chunks.consumer._in_flight[ONE] == 20
    assert chunks.consumer.ack(first)
    assert not chunks.consumer.ack(first)
    assert chunks.consumer._in_flight[ONE] == 10
    chunks.consumer.ack(second)
    assert chunks.consumer._in_flight[ONE] == 0


async def test_a_full_partition_waits_for_room_and_no_longer() -> None:
    chunks = Chunks()
    asked: list[set[TP]] = []

    def hand_out(partitions: set[TP]) -> dict[TP, RecordBatch]:
        asked.append(set(partitions))
        return {}

    chunks.consumer._thread.hand_out = hand_out
    chunks.consumer._set_active_tps({ONE, TWO})

    async def poll(timeout: float = 30.0) -> None:
        async for _ in chunks.consumer.getmany(timeout=timeout):
            pass

    chunks.consumer._most_in_flight = 20
    full = [await chunks.deliver(0, 3), await chunks.deliver(4, 22)]
    await chunks.deliver(0, 18, TWO)
    await poll(0.0)
    assert asked == [{TWO}]
    await chunks.deliver(19, 19, TWO)
    waiting = asyncio.create_task(poll())
    while not chunks.consumer.news._waiters:
        await asyncio.sleep(0)
    chunks.consumer.ack(full[0])
    await asyncio.wait_for(waiting, 5)
    assert asked[1:] == [set()], "with everything full it must not have asked for anything"
    await poll(0.0)
    assert asked[2:] == [{ONE}]


async def test_a_seek_forgets_what_was_not_committed() -> None:
    chunks = Chunks({ONE: 10})
    await chunks.seek()
    first = await chunks.deliver(10, 19)
    await chunks.deliver(20, 29)
    chunks.consumer.ack(first)
    await chunks.seek()
    assert await chunks.commit() == 10, "it is read again, so it must not be committed now"
    assert chunks.consumer._in_flight[ONE] == 0
    # Read again, cut differently.
    chunks.consumer.ack(await chunks.deliver(10, 24))
    assert await chunks.commit() == 25


async def test_what_was_never_committed_is_read_from_the_beginning() -> None:
    """A rebalance drops what it finds fetched; nothing else would bring the partition back."""
    chunks = Chunks({TWO: 10})
    chunks.position = {ONE: 50, TWO: 60}
    await chunks.seek()
    assert chunks.position == {ONE: EARLIEST, TWO: 10}
    chunks.consumer._is_changelog_tp = lambda tp: tp == ONE
    chunks.position = {ONE: 50, TWO: 60}
    await chunks.seek()
    assert chunks.position == {ONE: 50, TWO: 10}, "recovery says where a changelog is read"


async def test_a_late_acknowledgement_does_not_count_for_the_chunk_read_again() -> None:
    chunks = Chunks()
    stale = await chunks.deliver(0, 9)
    await chunks.seek()
    again = await chunks.deliver(0, 14)
    chunks.consumer.ack(stale)
    assert await chunks.commit() is None
    chunks.consumer.ack(again)
    assert await chunks.commit() == 15


async def test_a_seek_that_overtook_a_commit_blocks_nothing() -> None:
    """The chunk comes again although it is committed; Faust takes no notice of its ack."""
    chunks = Chunks()
    chunks.consumer.ack(await chunks.deliver(0, 9))
    await chunks.seek()
    chunks.consumer._committed_offset[ONE] = chunks.committed[ONE] = 10
    again, following = await chunks.deliver(0, 9), await chunks.deliver(10, 19)
    assert not chunks.consumer.ack(again)
    assert chunks.consumer._in_flight[ONE] == 10
    chunks.consumer.ack(following)
    assert await chunks.commit() == 20
    assert not chunks.consumer._delivered[ONE]


async def test_drops_what_was_read_before_a_seek() -> None:
    chunks = Chunks({ONE: 100})
    await chunks.seek()
    await chunks.deliver(0, 99)
    assert chunks.delivered == []
    assert chunks.consumer._in_flight[ONE] == 0
    chunks.consumer.ack(await chunks.deliver(100, 100))
    assert await chunks.commit() == 101


async def test_revoked_partitions_are_forgotten_and_others_kept() -> None:
    chunks = Chunks()
    here, gone = await chunks.deliver(0, 9, ONE), await chunks.deliver(0, 9, TWO)
    await chunks.consumer.on_partitions_revoked({TWO})
    assert TWO not in chunks.consumer._in_flight
    assert TWO not in chunks.consumer._delivered
    chunks.consumer.ack(gone)
    chunks.consumer.ack(here)
    assert await chunks.commit(ONE) == 10
    assert TWO not in chunks.committed
    # It comes back: from the start, since nothing of it was committed.
    await chunks.seek()
    chunks.consumer.ack(await chunks.deliver(0, 4, TWO))
    assert await chunks.commit(TWO) == 5


@pytest.mark.parametrize("crashed", ["app", "consumer"])
async def test_a_crashed_worker_commits_nothing_more(crashed: str) -> None:
    """Its consumer thread is gone: a call to it, here a commit, would never come back."""
    chunks = Chunks()

    async def never(offsets: Mapping[TP, int]) -> bool:
        await asyncio.Event().wait()
        return False

    chunks.consumer._commit = never
    chunks.consumer.ack(await chunks.deliver(0, 9))
    {"app": chunks.app, "consumer": chunks.consumer}[crashed]._crash(OSError("no broker"))
    await asyncio.wait_for(chunks.consumer.wait_empty(), 5)
    assert chunks.committed == {}


async def test_a_worker_that_stops_commits_what_is_done() -> None:
    chunks = Chunks()
    chunks.consumer.ack(await chunks.deliver(0, 9))
    await asyncio.wait_for(chunks.consumer.wait_empty(), 5)
    assert chunks.committed == {ONE: 10}


async def test_what_is_handed_out_while_the_worker_stops_takes_nothing_back() -> None:
    chunks = Chunks()
    chunks.consumer.ack(await chunks.deliver(0, 9))
    chunks.consumer._get_active_partitions = lambda: {ONE}

    def fetched(_: set[TP]) -> dict[TP, RecordBatch]:
        # As the app does it: it is stopped, then the flow.
        chunks.app._stopped.set()
        chunks.consumer.stop_flow()
        return {ONE: chunk(ONE, 10, 10)}

    chunks.consumer._thread.hand_out = fetched
    assert [message async for message in chunks.consumer.getmany(timeout=1.0)] == []
    assert await chunks.commit() == 10


async def test_a_rebalance_does_not_wait_for_a_delivery_that_waits_for_it() -> None:
    chunks = Chunks()

    waits = asyncio.Event()

    async def never(message: ConsumerMessage) -> None:
        waits.set()
        await asyncio.Event().wait()

    chunks.consumer.callback = never
    chunks.hand_out({ONE: 9, TWO: 9})
    fetcher = Mock(should_stop=False)
    drain = asyncio.create_task(chunks.consumer._drain_messages(fetcher))
    await asyncio.wait_for(waits.wait(), 5)
    fetcher.should_stop = True
    chunks.consumer.stop_flow()
    await asyncio.wait_for(drain, 5)


async def test_a_seek_that_overtakes_a_delivery_drops_what_is_left_of_it() -> None:
    chunks = Chunks()

    async def sought(message: ConsumerMessage) -> None:
        chunks.delivered.append(message)
        await chunks.consumer.seek_wait({ONE: 0, TWO: 0})

    chunks.consumer.callback = sought
    chunks.hand_out({ONE: 9, TWO: 9})
    found = [chunk async for chunk in chunks.consumer.getmany(timeout=1.0)]
    assert len(found) == 2
    await chunks.consumer._deliver_all(found, chunks.consumer._seeks, 0)
    assert len(chunks.delivered) == 1
    assert not any(chunks.consumer._read_offset.values())


async def test_a_task_that_loses_a_cancellation_ends_all_the_same() -> None:
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60.0)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(10.0):
        await insist_on_end(task)
    assert task.cancelled()
    await insist_on_end(task)  # there is nothing left to do
    assert lost == 3


async def test_a_consumer_that_could_not_be_started_is_stopped_all_the_same() -> None:
    thread = Chunks().consumer._thread
    thread._consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:9")
    await thread.on_thread_stop()
    assert thread._consumer._closed


@pytest.mark.broker
async def test_a_failed_send_stops_the_worker_and_loses_nothing(
    bootstrap: str, tmp_path: Path
) -> None:
    """It exits with an error, has committed nothing past the failure, and a restart goes on."""
    records = list(payments(1000, seed=51))
    key, value = records[600]
    document = {**json.loads(value), "attributes": "x" * NARROW_LARGEST}
    records[600] = key, json.dumps(document).encode()
    expected, _ = in_memory(records)
    system = System(bootstrap, tmp_path, app=BRISK, DAFU_BATCH_RECORDS="50", DAFU_RINGS="false")
    await system.create(system.topics.transactions)
    await system.publish(records)
    with system.worker(NARROW) as worker:
        status = await asyncio.to_thread(worker.exited, DRAIN_SECONDS)
    assert status > 0, worker.describe(f"exited with {status}")
    assert "SendError" in worker.output
    assert f"max_request_size allows {NARROW_LARGEST}" in worker.output
    committed = await system.committed(system.topics.transactions)
    assert committed[0] <= 600
    before = await system.decisions()
    assert before == expected[: len(before)]
    assert len(before) <= 600
    with system.worker() as worker:
        await worker.ready()
        await system.drained(worker)
    after = await system.decisions()
    assert by_transaction(after) == by_transaction(expected)
    assert list(dict.fromkeys(after)) == expected
