"""The end of a recovery: nothing is lost between going back to what is committed and going on.

Faust's own recovery, conductor, flow control and stream are at work; the broker is played, with
answers that take any number of turns of the event loop, or of looks at what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import faust
import pytest
from faust.types import TP

from dafu.streaming import transport
from dafu.streaming.records import RecordBatch
from tests.streaming.test_transport import ONE, TWO, chunk

CHANGELOG: Final = TP("changelog", 0)
START: Final = 10
"""What is committed at first."""
PIECE: Final = 30
PATIENCE: Final = 2_000
"""Turns of the event loop."""


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Broker:
    """The consumer's thread with a broker behind it: logs, positions and committed offsets."""

    def __init__(self, consumer: Any, ends: Mapping[TP, int], seek: int, fetch: int) -> None:
        self.consumer = consumer
        self.ends: dict[TP, int] = dict(ends)
        self.committed = dict.fromkeys(ends, START)
        self.position = dict(self.committed)
        self.seek_turns, self.fetch_turns = seek, fetch
        self.seeking = False
        self.looks = 0

    def assignment(self) -> set[TP]:
        return set(self.ends)

    def highwater(self, tp: TP) -> int:
        return self.ends[tp]

    def hand_out(self, partitions: set[TP]) -> dict[TP, RecordBatch]:
        """Something for every so many times that somebody looks."""
        assert not self.seeking, "nothing may be handed out while positions move"
        self.looks += 1
        found: dict[TP, RecordBatch] = {}
        if self.consumer.flow_active and self.looks % (self.fetch_turns + 1) == 0:
            for tp in partitions:
                at, end = self.position[tp], min(self.ends[tp], self.position[tp] + PIECE)
                if at < end:
                    found[tp] = chunk(tp, at, end - 1)
                    self.position[tp] = end
        return found

    async def seek_to_committed(self) -> dict[TP, int]:
        """One partition after the other, as aiokafka does."""
        self.seeking = True
        for tp in self.ends:
            await turns(self.seek_turns)
            self.position[tp] = self.committed[tp]
        await turns(self.seek_turns)
        self.seeking = False
        return dict(self.committed)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        self.seeking = True
        await turns(self.seek_turns)
        self.position |= partitions
        self.consumer._read_offset.update(partitions)
        await turns(self.seek_turns)
        self.seeking = False

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        self.committed |= offsets
        return True


class Running:
    """An app that reads both partitions with one agent, in the middle of a recovery."""

    should_stop = False

    def __init__(self, seek: int, fetch: int) -> None:
        self.app = faust.App("recovery", broker="dafu://127.0.0.1:9")
        self.app.consumer_generation_id = 1
        self.app.producer.flush = self._nothing
        self.app._fetcher.maybe_start = self._nothing
        self.app.assignor.assigned_standbys = set
        self.topic = self.app.topic(ONE.topic, key_serializer="raw", value_serializer="raw")
        self.consumer: Any = self.app.consumer
        ends = {ONE: START + 90, TWO: START + 70}
        self.broker = self.consumer._thread = Broker(self.consumer, ends, seek, fetch)
        self.seen: dict[TP, list[int]] = {ONE: [], TWO: []}

    async def _nothing(self, *args: Any, **kwargs: Any) -> None:
        pass

    async def _work(self) -> None:
        stream = self.app.stream(self.topic)
        async for event in stream.noack().events():
            assert not self.broker.seeking, "nothing may come while positions move"
            self.seen[event.message.tp] += event.value.offsets.tolist()
            await stream.ack(event)

    async def start(self) -> None:
        """As far as Faust is when it has read the changelogs."""
        self.tasks = [asyncio.create_task(self._work())]
        await turns(20)
        for topic in self.app.topics:
            topic.maybe_declare = self._nothing
        await self.app.topics._update_indices()
        await self.app.topics.on_partitions_assigned({ONE, TWO})
        self.consumer._set_active_tps({ONE, TWO})
        self.consumer.pause_partitions({ONE, TWO})
        self.app.flow_control.resume()
        self.consumer.resume_flow()
        self.tasks.append(asyncio.create_task(self.consumer._drain_messages(self)))
        await turns(1)

    async def all_committed(self) -> bool:
        for _ in range(PATIENCE):
            await turns(1)
            await self.consumer.commit()
            if self.broker.committed == self.broker.ends:
                return True
        return False

    async def stop(self) -> None:
        for task in self.tasks:
            assert not task.done(), task.result()
            task.cancel()
        await asyncio.wait(self.tasks)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that passes is turns of the event loop."""
    monkeypatch.setattr(transport, "NO_PARTITIONS_WAIT", 0.0)
    monkeypatch.setattr(transport, "LOOK_SECONDS", 0.0)


@pytest.mark.parametrize("seek", [0, 3, 12, 24, 27])
@pytest.mark.usefixtures("no_pauses")
async def test_every_record_is_decided_and_committed_after_a_recovery(seek: int) -> None:
    """Whenever the answer to a fetch comes, in particular right before the queues are emptied."""
    for fetch in range(13):
        running = Running(seek, fetch)
        await running.start()
        await running.app.tables.recovery.on_recovery_completed(1)
        await turns(50)
        running.broker.ends = {ONE: START + 120, TWO: START + 110}
        assert await running.all_committed(), (fetch, running.broker.committed)
        await running.stop()
        for tp, seen in running.seen.items():
            assert list(dict.fromkeys(seen)) == list(range(START, running.broker.ends[tp]))
        assert not any(running.consumer._in_flight.values())


@pytest.mark.parametrize("seek", [2, 3, 12])
@pytest.mark.usefixtures("no_pauses")
async def test_a_changelog_is_read_from_where_the_recovery_says(seek: int) -> None:
    """Also if a fetch is under way when it says so: nothing is left out, nothing out of order."""
    for fetch in (0, 1, 2, 5, 9):
        for later in range(0, 24, 3):
            running = Running(seek, fetch)
            broker, consumer = running.broker, running.consumer
            read: list[int] = []

            async def note(message: Any, read: list[int] = read) -> None:
                read.extend(message.value.offsets.tolist())

            consumer.callback = note
            broker.ends = {CHANGELOG: START + 90}
            broker.position = {CHANGELOG: START}
            consumer._set_active_tps({CHANGELOG})
            consumer.resume_flow()
            running.tasks = [asyncio.create_task(consumer._drain_messages(running))]
            await turns(later)
            consumer.stop_flow()
            await consumer.seek_wait({CHANGELOG: 25})
            read.clear()
            consumer.resume_flow()
            for _ in range(PATIENCE):
                await turns(1)
                if read and read[-1] == START + 89:
                    break
            assert read == list(range(25, START + 90)), (fetch, later)
            await running.stop()


@pytest.mark.usefixtures("no_pauses")
async def test_what_is_assigned_is_not_read_before_its_state_is_there() -> None:
    """A worker that had no partitions has an open flow when it gets some."""
    running = Running(0, 0)
    await running.start()
    running.consumer.resume_partitions({ONE, TWO})

    async def assigned(*_: Any) -> None:
        await turns(100)

    running.consumer._on_partitions_assigned = assigned
    await running.consumer.on_partitions_assigned({ONE, TWO}, 2)
    await turns(100)
    assert running.seen == {ONE: [], TWO: []}
    await running.app.tables.recovery.on_recovery_completed(1)
    assert await running.all_committed()
    await running.stop()
