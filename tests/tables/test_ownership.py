"""Owners, frozen owners and compaction at one changelog partition: what its reader gets to see.

The model is a group that gives one partition to three workers in turn. Any of them may stand still
between any two things it does, while another takes over, and go on later with what it had in mind.
The state of a key is the list of the input offsets that were counted in it, so that losing one,
counting one twice and going back to an older state all show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.tables.changes import Change, Changes
from dafu.tables.ownership import (
    CLAIM_KEY,
    NO_CLAIM,
    NOWHERE,
    Append,
    LogPage,
    LostPartitionError,
    PartitionLog,
    Position,
    Read,
)
from dafu.tables.records import MemoryRecords

KEYS = (b"a", b"b", b"c")
INPUTS = tuple(KEYS[(i * i + i // 3) % 3] for i in range(60))
"""The key that each input record touches."""


@dataclass(frozen=True)
class Entry:
    """A record of the changelog."""

    offset: int
    key: bytes
    value: bytes | None
    stamp: int


def page_of(entries: Sequence[Entry]) -> LogPage:
    return LogPage(
        np.array([e.offset for e in entries], np.int64),
        [e.key for e in entries],
        [e.value for e in entries],
        np.array([e.stamp for e in entries], np.int64),
    )


class Log:
    """The changelog partition at the broker."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.end = 0

    def append(self, changes: Iterable[Change], stamp: int) -> int:
        for key, value in changes:
            self.entries.append(Entry(self.end, key, value, stamp))
            self.end += 1
        return self.end - 1

    def read(self, first: int) -> list[Entry]:
        return [e for e in self.entries if e.offset >= first]

    def view(self) -> tuple[dict[bytes, bytes], PartitionLog]:
        """What recovery from the beginning finds."""
        records, log = MemoryRecords(), PartitionLog()
        records.write(log.recover(page_of(self.entries)))
        return records.data, log

    def compact(self, before: int, tombstones_before: int) -> None:
        """Keep the last record of each key in the part before an offset."""
        last = {e.key: e.offset for e in self.entries if e.offset < before}
        self.entries = [
            e
            for e in self.entries
            if e.offset >= before
            or (last[e.key] == e.offset and (e.value is not None or e.offset >= tombstones_before))
        ]


@dataclass
class Worker:
    """One worker, with what it has in mind; `disk` outlives it if it has one."""

    durable: bool
    alive: bool = False
    log: PartitionLog = field(default_factory=PartitionLog)
    records: MemoryRecords = field(default_factory=MemoryRecords)
    disk: tuple[dict[bytes, bytes], Position] = field(default_factory=lambda: ({}, NOWHERE))
    next_input: int = 0
    steps: Any = None
    """What it is doing, if anything, and of that: what it is about to do, what it has yet to
    append, whether that was done, and with what answer."""
    what: str = ""
    step: Append | Read | None = None
    left: list[Change] = field(default_factory=list)
    done: bool = False
    answer: Any = None
    changes: list[Change] = field(default_factory=list)
    reached: int = 0

    def apply(self, changes: Sequence[Change]) -> None:
        self.records.write(changes)
        if self.durable:
            self.disk = dict(self.records.data), self.log.position

    def die(self) -> None:
        self.alive = False
        self.steps = self.step = None


def counted(value: bytes | None) -> list[int]:
    return [int(v) for v in value.split(b",")] if value else []


def batch(records: MemoryRecords, first: int, size: int) -> list[Change]:
    """What inputs first.. make of the state: a list of offsets by key, and a flag that comes and
    goes with it and is written first."""
    state: dict[bytes, list[int]] = {}
    for i, key in list(enumerate(INPUTS))[first : first + size]:
        seen = state.setdefault(key, counted(records.data.get(key)))
        if not seen or i > seen[-1]:
            seen.append(i)
    changes: list[Change] = []
    for key, seen in state.items():
        changes.append((b"odd " + key, b"%d" % len(seen) if len(seen) % 2 else None))
        changes.append((key, b",".join(b"%d" % i for i in seen)))
    return changes


def expected(inputs: int) -> dict[bytes, bytes]:
    records = MemoryRecords()
    records.write(batch(records, 0, inputs))
    return records.data


class Group:
    """A partition that changes hands."""

    def __init__(self) -> None:
        self.log = Log()
        self.workers = [Worker(False), Worker(True), Worker(True)]
        self.assigned: Worker | None = None
        self.committed = 0
        self.token = 0

        self.assign(0, True, 1, 0)
        self.at_once(0, 3)

    def act(self, what: str, i: int, n: int, flag: bool) -> None:
        """One thing happens: to worker i, as n and the flag have it."""
        match what:
            case "assign":
                self.assign(i, flag and n > 3, n, n % 4)
            case "begin":
                self.begin(i, n, False, True)
            case "claim" | "watch":
                self.begin(i, n, what == "watch", False)
            case "perform":
                self.perform(i, n * n)
            case "answer":
                self.answer(i)
            case "send again":
                self.send_again(i)
            case "at once":
                self.at_once(i, n)
            case "kill":
                self.kill(i)
            case "compact":
                self.compact(n / 7)
        self.nothing_committed_is_missing()

    def assign(self, i: int, told: bool, cut: int, back: int) -> None:
        """The group gives the partition to a worker; the former owner may not get to know."""
        worker, former = self.workers[i], self.assigned
        if former is not None and former is not worker and told and former.alive:
            former.log.revoke()
            former.die()
        if worker.steps is not None:
            worker.die()  # it waits for what it does before it joins again
        if not worker.alive:
            data, position = worker.disk if worker.durable else ({}, NOWHERE)
            worker.records = MemoryRecords()
            worker.records.data = dict(data)
            worker.log = PartitionLog(position)
            worker.alive = True
        self.recover(worker, max(worker.log.position.offset + 1 - back, 0), cut)
        worker.next_input = self.committed
        self.assigned = worker

    def recover(self, worker: Worker, first: int, cut: int) -> None:
        entries = self.log.read(first)
        for at in range(0, len(entries), cut):
            worker.apply(worker.log.recover(page_of(entries[at : at + cut])))

    def begin(self, i: int, size: int, watch: bool, claimed: bool) -> None:
        """A worker that believes it owns the partition starts something."""
        worker = self.workers[i]
        if claimed and worker.alive and worker.log.own == NO_CLAIM:
            self.begin(i, size, False, False)
            self.finish(worker)
        if not worker.alive or worker.steps is not None:
            return
        worker.changes = []
        if worker.log.own == NO_CLAIM:
            self.token += 1
            worker.what = "take"
            worker.steps = worker.log.take(worker.records, b"%d" % self.token)
        elif watch:
            worker.what = "watch"
            worker.steps = worker.log.watch(worker.records, self.log.end)
        else:
            worker.what = "commit"
            worker.changes = batch(worker.records, worker.next_input, size)
            worker.reached = min(worker.next_input + size, len(INPUTS))
            claim = worker.log.own
            worker.steps = worker.log.commit(worker.records, Changes.of(worker.changes), claim)
        self.go_on(worker, None)

    def go_on(self, worker: Worker, answer: Any) -> None:
        try:
            worker.step = worker.steps.send(answer)
        except StopIteration as result:
            worker.steps = worker.step = None
            worker.apply(result.value if worker.what == "take" else worker.changes)
            if worker.what == "commit":
                worker.next_input = worker.reached
                if worker is self.assigned:  # the group refuses the offsets of anybody else
                    self.committed = max(self.committed, worker.reached)
        except LostPartitionError:
            worker.die()
            if worker is self.assigned:
                self.assigned = None
        else:
            worker.done = False
            worker.left = list(worker.step.changes) if isinstance(worker.step, Append) else []

    def perform(self, i: int, parts: int) -> None:
        """The broker gets a request, or a part of what was to be sent; nobody has the answer."""
        worker = self.workers[i]
        if worker.step is None or worker.done:
            return
        if isinstance(worker.step, Append):
            worker.answer = self.log.append(worker.left[:parts], worker.step.stamp)
            worker.left = worker.left[parts:]
            worker.done = not worker.left
        else:
            worker.answer = page_of(self.log.read(worker.step.first))
            worker.done = True

    def send_again(self, i: int) -> None:
        """The answer got lost, and the client repeats the request."""
        worker = self.workers[i]
        if worker.done and isinstance(worker.step, Append):
            worker.answer = self.log.append(worker.step.changes, worker.step.stamp)

    def answer(self, i: int) -> None:
        worker = self.workers[i]
        if worker.done and worker.step is not None:
            worker.done = False
            self.go_on(worker, worker.answer)

    def at_once(self, i: int, size: int) -> None:
        """Commit a batch, from beginning to end."""
        worker = self.workers[i]
        self.finish(worker)
        self.begin(i, size, False, True)
        self.finish(worker)

    def finish(self, worker: Worker) -> None:
        while worker.step is not None:
            i = self.workers.index(worker)
            self.perform(i, 100)
            self.answer(i)

    def kill(self, i: int) -> None:
        worker = self.workers[i]
        worker.die()
        if worker is self.assigned:
            self.assigned = None

    def compact(self, part: float) -> None:
        """As far as records are older than the compaction lag, within which repairs are made."""
        unrepaired = self.log.view()[1]
        before = int(part * (self.log.end + 1))
        if unrepaired.stale:
            before = min(before, unrepaired.position.offset + 1)
        known = [w.log.position.offset for w in self.workers if w.alive]
        known += [w.disk[1].offset for w in self.workers if w.durable]
        self.log.compact(before, min(known) + 1)

    def nothing_committed_is_missing(self) -> None:
        data, _ = self.log.view()
        for key in KEYS:
            seen = counted(data.get(key))
            inputs = [i for i, touched in enumerate(INPUTS) if touched == key]
            assert seen == inputs[: len(seen)], f"{key!r} is not what the inputs make of it"
            missing = [i for i in inputs[len(seen) :] if i < self.committed]
            assert not missing, f"{key!r} lost {missing}"

    def wind_up(self) -> None:
        """Whoever was late comes, then the last owner finds and repairs everything."""
        late = [w for w in self.workers if w.alive and w is not self.assigned]
        for worker in late:
            self.finish(worker)
            worker.die()
        if self.assigned is not None and self.assigned.log.own != NO_CLAIM:
            self.finish(self.assigned)
        if self.assigned is not None and self.assigned.log.own != NO_CLAIM:
            i = self.workers.index(self.assigned)
            if self.committed % 2:  # the group changes, and it keeps the partition
                self.assign(i, True, 5, 3)
            self.begin(i, 1, True, False)
            self.finish(self.workers[i])
            assert self.workers[i].log.own == NO_CLAIM or not self.log.view()[1].stale
        for _ in range(3):
            if self.assigned is None or not self.assigned.alive:
                self.assign(1, False, 5, 0)
            assert self.assigned is not None
            self.finish(self.assigned)
            for _ in range(len(INPUTS) + 2):
                if self.assigned is not None:
                    self.at_once(self.workers.index(self.assigned), 4)
            if self.assigned is not None and self.committed == len(INPUTS):
                break
        owner = self.assigned
        assert owner is not None, "with nobody late, an owner keeps what it has claimed"
        self.begin(self.workers.index(owner), 1, True, False)
        self.finish(owner)
        data, log = self.log.view()
        assert data == expected(len(INPUTS)) == owner.records.data
        assert not log.stale, "what others have spoilt is repaired"
        self.log.compact(self.log.end, self.log.end)
        assert self.log.view()[0] == data, "compaction keeps the records that count"


OFTEN = ("begin", "perform", "answer", "at once", "at once", "assign")
SELDOM = ("claim", "watch", "send again", "kill", "compact")
actions = st.tuples(
    st.sampled_from(OFTEN * 3 + SELDOM), st.integers(0, 2), st.integers(1, 7), st.booleans()
)


@settings(max_examples=120, deadline=None)
@given(played=st.lists(actions, min_size=40, max_size=120))
def test_the_log_is_that_of_its_rightful_owners(
    played: list[tuple[str, int, int, bool]],
) -> None:
    group = Group()
    for action in played:
        group.act(*action)
    group.wind_up()


def answered(steps: Any, *answers: Any) -> Any:
    """What comes of steps whose requests get these answers."""
    step = next(steps)
    try:
        for answer in answers:
            step = steps.send(answer)
    except StopIteration as result:
        return result.value
    raise AssertionError(f"asks for {step}")


def test_who_claims_behind_another_claim_stops() -> None:
    """Its log would be right, but the group may think otherwise."""
    log = PartitionLog(Position(4))
    between = page_of([Entry(5, CLAIM_KEY, b"another", NO_CLAIM), Entry(6, b"a", b"1", 5)])
    with pytest.raises(LostPartitionError, match="claimed it at the same time"):
        answered(log.take(MemoryRecords(), b"mine"), 7, between)
    assert log.own == NO_CLAIM


def test_a_claim_sent_twice_is_no_other_claim() -> None:
    log = PartitionLog(Position(4))
    between = page_of([Entry(5, CLAIM_KEY, b"mine", NO_CLAIM)])
    assert answered(log.take(MemoryRecords(), b"mine"), 6, between) == []
    assert (log.own, log.end) == (6, 6)


def test_records_without_a_stamp_count_for_a_reader_and_stop_an_owner() -> None:
    log, records = PartitionLog(), MemoryRecords()
    entries = [Entry(0, CLAIM_KEY, b"one", NO_CLAIM), Entry(1, b"a", b"1", NO_CLAIM)]
    assert log.recover(page_of(entries)) == [(b"a", b"1")]
    answered(log.take(records, b"mine"), 2)
    between = page_of([Entry(3, b"a", b"2", NO_CLAIM), Entry(4, b"b", b"1", 2)])
    with pytest.raises(LostPartitionError, match="version without claims"):
        answered(log.commit(records, [(b"b", b"1")], 2), 4, between)


def test_own_records_that_come_late_are_put_right() -> None:
    log, records = PartitionLog(), MemoryRecords()
    answered(log.take(records, b"mine"), 0)
    answered(log.commit(records, [(b"a", b"1")], 0), 1)
    answered(log.commit(records, [(b"a", b"2")], 0), 2)
    records.write([(b"a", b"2")])
    late = [Entry(3, b"a", b"1", 0)]
    steps = log.watch(records, 4)
    assert next(steps) == Read(3, 4)
    assert steps.send(page_of(late)) == Append([(b"a", b"2")], 0)
