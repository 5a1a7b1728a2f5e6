"""When a partition counts as standing still, and how its offsets are read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from dafu.web.progress import Offsets, Progress, ProgressMonitor

A, B = TP("transactions", 0), TP("transactions", 1)


def ages(progress: Progress) -> dict[int, tuple[int, float]]:
    return {p.partition: (p.lag, p.committed_age_s) for p in progress.partitions}


def test_an_offset_that_stands_ages_while_there_is_lag() -> None:
    progress = Progress()
    for now, committed, end, age in (
        (0.0, 5, 9, 0.0),  # first seen: nobody knows since when
        (2.0, 5, 9, 2.0),
        (4.0, 5, 20, 4.0),
        (6.0, 6, 20, 0.0),  # one record is progress
        (8.0, 6, 20, 2.0),
        (9.0, 3, 20, 0.0),  # reset by hand
        (11.0, 3, 20, 2.0),
    ):
        progress.observe(now, {A: Offsets(committed, end, False)})
        assert ages(progress) == {0: (end - committed, age)}


def test_an_idle_partition_does_not_age() -> None:
    progress = Progress()
    for now in (0.0, 1000.0, 2000.0):
        progress.observe(now, {A: Offsets(9, 9, True)})
        assert ages(progress) == {0: (0, 0.0)}
    progress.observe(2001.0, {A: Offsets(9, 10, False)})  # arrived within the last second
    assert ages(progress) == {0: (1, 1.0)}
    assert progress.stalled(1.0) == []
    progress.observe(2001.5, {A: Offsets(9, 10, False)})
    assert [p.partition for p in progress.stalled(1.0)] == [0]


def test_markers_behind_the_last_record_are_no_lag() -> None:
    progress = Progress()
    for now in (0.0, 1000.0):
        progress.observe(now, {A: Offsets(9, 10, True)})
    assert ages(progress) == {0: (0, 0.0)}
    assert progress.stalled(1.0) == []


def test_partitions_are_apart_and_go_when_revoked() -> None:
    progress = Progress()
    progress.observe(0.0, {A: Offsets(1, 9, False), B: Offsets(1, 9, False)})
    progress.observe(40.0, {A: Offsets(1, 9, False), B: Offsets(2, 9, False)})
    assert ages(progress) == {0: (8, 40.0), 1: (7, 0.0)}
    assert [p.partition for p in progress.stalled(30.0)] == [0]
    progress.observe(41.0, {B: Offsets(2, 9, False)})
    assert ages(progress) == {1: (7, 1.0)}
    progress.observe(42.0, {A: Offsets(1, 9, False), B: Offsets(2, 9, False)})
    assert ages(progress) == {0: (8, 0.0), 1: (7, 2.0)}, "a new owner starts anew"


class Consumer:
    """What the monitor asks of a consumer, answered from dictionaries."""

    def __init__(self, committed: Mapping[TP, int | None], ends: Mapping[TP, int]) -> None:
        self._committed_offset = dict(committed)
        self.ends = dict(ends)
        self.starts: dict[TP, int] = {}
        self.positions: dict[TP, int] = {}
        self.delivered: dict[TP, int] = {}
        self.silent = False

    def assignment(self) -> set[TP]:
        return set(self._committed_offset)

    async def reported_ends(self, *partitions: TP) -> dict[TP, int]:
        if self.silent:
            await asyncio.sleep(3600)
        return {tp: self.ends[tp] for tp in partitions}

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        return {tp: self.starts[tp] for tp in partitions}

    async def position(self, tp: TP) -> int:
        return self.positions[tp]

    def last_delivered(self, tp: TP) -> int:
        return self.delivered.get(tp, -1)


def monitor_of(consumer: Consumer) -> ProgressMonitor:
    app: Any = SimpleNamespace(
        consumer=consumer, tables=SimpleNamespace(changelog_topics={"changelog"})
    )
    return ProgressMonitor(app)


@pytest.mark.parametrize(
    ("committed", "end", "delivered", "position", "lag"),
    [
        (10, 10, None, 10, 0),  # all done
        (10, 10, 9, 10, 0),  # read once more after its commit
        (10, 12, None, 10, 2),  # not fetched yet
        (10, 12, 11, 12, 2),  # fetched and in work, or lost on the way to its agent
        (10, 11, 9, 11, 0),  # what follows is a marker that was skipped
        (10, 11, None, 11, 0),
        (0, 5, None, 0, 5),
    ],
)
async def test_lag_from_offsets(
    committed: int, end: int, delivered: int | None, position: int, lag: int
) -> None:
    changelog = TP("changelog", 0)
    consumer = Consumer({A: committed, changelog: None}, {A: end})
    consumer.positions = {A: position}
    consumer.delivered = {} if delivered is None else {A: delivered}
    monitor = monitor_of(consumer)
    await monitor.refresh()
    assert monitor.error is None
    assert [(p.topic, p.committed, p.lag) for p in monitor.progress.partitions] == [
        ("transactions", committed, lag)
    ]


async def test_without_a_commit_the_first_record_left_counts() -> None:
    consumer = Consumer({A: None, B: None}, {A: 100, B: 100})
    consumer.starts = {A: 100, B: 40}
    consumer.positions = {A: 100, B: 40}
    monitor = monitor_of(consumer)
    await monitor.refresh()
    assert ages(monitor.progress) == {0: (0, 0.0), 1: (60, 0.0)}


async def test_no_partitions_no_questions() -> None:
    consumer = Consumer({}, {})
    consumer.silent = True
    monitor = monitor_of(consumer)
    await monitor.refresh()
    assert (monitor.error, monitor.progress.partitions) == (None, [])


async def test_a_broker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dafu.web.progress._TIMEOUT_SECONDS", 0.01)
    consumer = Consumer({A: 1}, {A: 1})
    monitor = monitor_of(consumer)
    assert (monitor.age_s, monitor.silent_s) == (None, 0.0)
    consumer.silent = True
    await monitor.refresh()
    assert monitor.error == "TimeoutError"
    assert monitor.age_s is None
    assert monitor.silent_s >= 0.01
    consumer.silent = False
    await monitor.refresh()
    assert monitor.error is None
    assert monitor.age_s is not None and monitor.age_s == pytest.approx(monitor.silent_s, abs=0.1)
    consumer.silent = True
    await monitor.refresh()
    assert monitor.error == "TimeoutError"
    assert monitor.silent_s >= 0.01
    assert [p.lag for p in monitor.progress.partitions] == [0], "the last news stay"
