"""Chunks of several partitions in one batch: what goes together, in which order, and when."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from dafu.agents.histogram import Histogram
from dafu.agents.shell import (
    PartitionMismatchError,
    Sending,
    StageAgent,
    all_done,
    consume,
    input_batch,
    prepare,
)
from dafu.stages.batch import Piece, StageOutput
from dafu.streaming.dead_letters import REROUTED
from dafu.streaming.records import RecordBatch
from dafu.tables.changes import Changes


def chunk(partition: int, first: int, size: int, headers: Sequence[Any] = ()) -> RecordBatch:
    records = [
        SimpleNamespace(
            offset=n, timestamp=n, key=b"%d" % partition, value=b"%d" % n, headers=headers
        )
        for n in range(first, first + size)
    ]
    return RecordBatch.of("t", partition, records)


class Stream:
    """Gives events when told to, and notes what is acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[RecordBatch] = []
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[Any]:
        while (event := await self._events.get()) is not None:
            yield event

    async def ack(self, event: Any) -> None:
        self.acknowledged.append(event.value)

    def put(self, *chunks: RecordBatch) -> None:
        for each in chunks:
            self._events.put_nowait(SimpleNamespace(value=each))

    def end(self) -> None:
        self._events.put_nowait(None)


class Work:
    """Notes the batches that it is given and holds each up until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[RecordBatch]] = []
        self.doors: deque[asyncio.Event] = deque()

    async def process(self, chunks: Sequence[RecordBatch]) -> None:
        self.batches.append(list(chunks))
        self.doors.append(door := asyncio.Event())
        await door.wait()

    def let_go(self) -> None:
        self.doors.popleft().set()


async def turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_chunks_become_pieces_and_those_of_a_partition_one() -> None:
    batch = input_batch([chunk(2, 5, 2), chunk(2, 7, 1), chunk(0, 0, 2, [(REROUTED, b"1")])])
    assert batch.pieces == [Piece(2, 0, 3), Piece(0, 3, 5)]
    assert batch.offsets.tolist() == [5, 6, 7, 0, 1]
    assert batch.timestamps.tolist() == [5, 6, 7, 0, 1]
    assert batch.partitions.tolist() == [2, 2, 2, 0, 0]
    assert batch.keys.tolist() == [b"2", b"2", b"2", b"0", b"0"]
    assert batch.values.tolist() == [b"5", b"6", b"7", b"0", b"1"]
    assert batch.rerouted == {3, 4}


async def test_what_comes_while_a_batch_is_in_work_goes_into_the_next() -> None:
    stream, work = Stream(), Work()
    seconds = Histogram([1000.0])
    running = asyncio.create_task(consume(stream, work.process, 100, seconds))
    first = chunk(0, 0, 3)
    stream.put(first)
    await turn()
    later = [chunk(0, 3, 1), chunk(1, 0, 2), chunk(0, 4, 1)]
    stream.put(*later)
    await turn()
    assert work.batches == [[first]]
    work.let_go()
    await turn()
    assert stream.acknowledged == [first]
    assert work.batches[1] in ([later[0], later[2], later[1]], [later[1], later[0], later[2]])
    work.let_go()
    await turn()
    stream.end()
    await running
    assert len(stream.acknowledged) == 4
    assert seconds.counts.tolist() == [2, 0]
    assert 0.0 < seconds.sum < 1000.0


async def test_a_full_batch_of_other_partitions_does_not_wait() -> None:
    stream, work = Stream(), Work()
    running = asyncio.create_task(consume(stream, work.process, 10, Histogram([1.0])))
    stream.put(chunk(0, 0, 10))
    await turn()
    stream.put(chunk(0, 10, 10), chunk(1, 0, 6))
    await turn()
    assert len(work.batches) == 1, "partition 0 is in work, and 1 alone is worth waiting for"
    stream.put(chunk(2, 0, 6))
    await turn()
    assert [[c.partition for c in b] for b in work.batches] == [[0], [1]], "6 + 6 are more than 10"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_nobody_waits_for_gathers_unless_it_is_full() -> None:
    stream, work = Stream(), Work()
    apart = 0.2
    running = asyncio.create_task(consume(stream, work.process, 10, Histogram([1.0]), apart))
    began = asyncio.get_running_loop().time()
    stream.put(first := chunk(0, 0, 1))
    await turn()
    assert work.batches == [[first]], "the first one does not wait"
    work.let_go()
    later = [chunk(0, 1, 1), chunk(1, 0, 2)]
    for each in later:
        stream.put(each)
        await turn()
    early = asyncio.get_running_loop().time() < began + apart
    assert len(work.batches) == 1 or not early
    stream.put(rest := chunk(2, 0, 9))
    await turn()
    if early:
        assert work.batches[1:] == [later], "there is enough for a full one, and then there is not"
    work.let_go()
    while len(work.batches) < 3:
        await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() >= began + apart
    work.let_go()
    await turn()
    stream.end()
    await running
    assert sorted(map(id, stream.acknowledged)) == sorted(map(id, [first, *later, rest]))


def test_what_has_gathered_is_worked_on_without_anything_more_coming() -> None:
    """On the workers' own event loop, whose timers may be early by what its clock can not tell."""

    async def rounds() -> None:
        stream = Stream()
        done = 0

        async def process(chunks: Sequence[RecordBatch]) -> None:
            nonlocal done
            done += len(chunks)

        running = asyncio.create_task(consume(stream, process, 10, Histogram([1.0]), 0.0013))
        for i in range(150):
            stream.put(chunk(0, 2 * i, 1))
            await turn()
            stream.put(chunk(0, 2 * i + 1, 1))
            async with asyncio.timeout(20):
                while done < 2 * i + 2:
                    await asyncio.sleep(0.001)
        stream.end()
        await running

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(rounds())


async def test_a_failure_ends_everything_and_acknowledges_nothing() -> None:
    stream = Stream()

    async def fail(chunks: Sequence[RecordBatch]) -> None:
        raise ValueError("no")

    stream.put(chunk(0, 0, 1))
    with pytest.raises(ValueError, match="no"):
        await consume(stream, fail, 10, Histogram([1.0]))
    assert stream.acknowledged == []


@given(
    sizes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), max_size=25),
    most=st.integers(1, 30),
    order=st.randoms(use_true_random=False),
)
def test_partitions_keep_their_order_and_no_batch_is_too_large(
    sizes: list[tuple[int, int]], most: int, order: Any
) -> None:
    asyncio.run(_in_any_order(sizes, most, order))


async def _in_any_order(sizes: list[tuple[int, int]], most: int, order: Any) -> None:
    stream, work = Stream(), Work()
    running = asyncio.create_task(consume(stream, work.process, most, Histogram([1.0])))
    ends = dict.fromkeys(range(4), 0)
    for partition, size in sizes:
        stream.put(chunk(partition, ends[partition], size))
        ends[partition] += size
        if order.random() < 0.5:
            await turn()
        if work.doors and order.random() < 0.5:
            work.let_go()
    await turn()
    while work.doors:
        work.let_go()
        await turn()
    stream.end()
    await running
    done = dict.fromkeys(range(4), 0)
    for batch in work.batches:
        assert len(batch) == 1 or sum(map(len, batch)) <= most
        partitions = [c.partition for c in batch]
        assert partitions == sorted(partitions, key=partitions.index), "pieces stand together"
        for each in batch:
            assert each.offsets[0] == done[each.partition]
            done[each.partition] += len(each)
    assert done == ends
    assert len(stream.acknowledged) == len(sizes)


async def test_the_first_failure_is_raised_after_all_sends_have_ended() -> None:
    loop = asyncio.get_running_loop()
    first, second, third = (loop.create_future() for _ in range(3))
    waiting = asyncio.create_task(all_done([first, second, third]))
    second.set_exception(OSError("second"))
    first.set_exception(ValueError("first"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    third.set_result({})
    with pytest.raises(ValueError, match="first"):
        await waiting
    await all_done([])


class Publishing(StageAgent[StageOutput]):
    """Publishes what it is given to await."""

    sends: Sequence[Sending] = ()

    def publish(self, *_: Any) -> list[Sending]:
        return list(self.sends)

    def count(self, output: StageOutput) -> None:
        """Nothing to count."""


async def test_nothing_is_logged_before_all_outputs_are_acknowledged() -> None:
    logged: list[Any] = []

    async def claim(_sender: Any, partition: int) -> int:
        return partition

    async def commit_batches(_sender: Any, changes: Any, claims: Any) -> None:
        logged.append((changes, claims))

    table: Any = SimpleNamespace(claim=claim, commit_batches=commit_batches, partition=None)
    output = StageOutput(changes={3: Changes.of([(b"k", b"v")])}, rejected=[])
    stage: Any = SimpleNamespace(run=lambda *_: output)
    letters: Any = SimpleNamespace(get_topic_name=lambda: "dead-letters")
    sender: Any = lambda: None  # noqa: E731
    agent = Publishing(stage, table, sender, outputs=(), dead_letters=letters)
    loop = asyncio.get_running_loop()
    one, other = loop.create_future(), loop.create_future()
    agent.sends = [one, other]
    working = asyncio.create_task(agent.process([chunk(3, 0, 2)]))
    one.set_result({})
    for _ in range(5):
        await asyncio.sleep(0)
    assert not logged
    other.set_result({})
    await working
    assert logged == [(output.changes, {3: 3})]

    lost = loop.create_future()
    lost.set_exception(OSError("no broker"))
    agent.sends = [lost]
    with pytest.raises(OSError, match="no broker"):
        await agent.process([chunk(3, 2, 2)])
    assert len(logged) == 1


class Topic:
    """A Faust topic as far as it is created."""

    def __init__(self, name: str, partitions: int = 3) -> None:
        self.name = name
        self.partitions = partitions
        self.declared = False

    def get_topic_name(self) -> str:
        return self.name

    async def maybe_declare(self) -> None:
        self.declared = True


@pytest.mark.parametrize("there", [3, 12])
async def test_a_topic_and_its_changelog_must_have_the_same_partitions(
    there: int, caplog: pytest.LogCaptureFixture
) -> None:
    source, output, changelog = Topic("payments"), Topic("decisions"), Topic("app-users-changelog")
    table: Any = SimpleNamespace(
        changelog_topic=changelog,
        changelog_topic_name=changelog.name,
        app=SimpleNamespace(settings=None),
        add_future=lambda future: future.close(),
    )

    async def partition_count(topic: str) -> int:
        return there if topic == source.name else 3

    sender: Any = SimpleNamespace(partition_count=partition_count)
    if there == 3:
        await prepare(source, table, [output], sender)
        assert not caplog.records
    else:
        with pytest.raises(PartitionMismatchError, match=r"has 12 partitions, its changelog .* 3"):
            await prepare(source, table, [output], sender)
        assert "topic payments has 12 partitions, the settings say 3" in caplog.text
    assert all(topic.declared for topic in (source, output, changelog))
