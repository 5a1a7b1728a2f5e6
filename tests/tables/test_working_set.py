"""How an entity's state is laid out in records, and what is said of records that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.state import (
    MERCHANTS,
    NEVER,
    RETAINED_MAX,
    RETAINED_MIN,
    SCHEMA_VERSION,
    USERS,
    EntityLayout,
)
from dafu.tables.changes import Changes
from dafu.tables.migrations import StateError
from dafu.tables.records import MemoryRecords
from dafu.tables.slotted import ARCHIVE, RING, slotted_key
from dafu.tables.working_set import (
    CHUNK,
    HEAD,
    Memory,
    Share,
    WorkingSet,
    blank_head,
    chunk_key,
)
from tests.streams import states

LAYOUTS = pytest.mark.parametrize("layout", [USERS, MERCHANTS], ids=["users", "merchants"])


def load(layout: EntityLayout, records: MemoryRecords, *arrivals: tuple[bytes, int]) -> WorkingSet:
    share = Share(records, [e for e, _ in arrivals])
    return WorkingSet(layout, [share], np.array([n for _, n in arrivals], np.int64))


def changes_of(state: WorkingSet) -> Changes:
    """The changes of a state of one share."""
    (changes,) = state.changes()
    return changes


def append(state: WorkingSet, e: int, n: int, drop: int = 0) -> None:
    """What a kernel does to an entity, in short: `n` more events, `drop` fewer at the old end."""
    head = state.heads[e]
    for _ in range(n):
        number = int(head["next_event"])
        state.events[state.origins[e] + number]["time"] = number
        head["next_event"] += 1
        head["fence"] += 1
    head["first_event"] += drop


def numbers(state: WorkingSet, e: int) -> list[int]:
    at, head = state.origins[e], state.heads[e]
    times: list[int] = state.events["time"][at + head["first_event"] : at + head["next_event"]]
    return list(times)


@LAYOUTS
def test_records_of_a_growing_entity(layout: EntityLayout) -> None:
    records = MemoryRecords()
    head, event, chunk = layout.head.itemsize, layout.event.itemsize, layout.chunk

    state = load(layout, records, (b"a", chunk - 1))
    assert state.heads["last_time"].tolist() == [NEVER]
    append(state, 0, chunk - 1)
    changes = changes_of(state)
    assert [k for k, _ in changes] == [b"Ha"]
    assert len(changes[0][1] or b"") == head + (chunk - 1) * event
    records.write(changes)

    state = load(layout, records, (b"a", chunk + 2))
    append(state, 0, chunk + 2)
    changes = changes_of(state)
    keys = [k for k, _ in changes]
    assert keys == [chunk_key(0, b"a"), chunk_key(1, b"a"), b"Ha"]
    assert [len(v or b"") for _, v in changes] == [chunk * event] * 2 + [head + event]
    records.write(changes)

    state = load(layout, records, (b"a", 0))
    assert numbers(state, 0) == list(range(2 * chunk + 1))


@LAYOUTS
def test_an_exactly_full_chunk_is_closed_and_the_open_one_empty(layout: EntityLayout) -> None:
    records = MemoryRecords()
    state = load(layout, records, (b"a", layout.chunk))
    append(state, 0, layout.chunk)
    changes = changes_of(state)
    assert [k for k, _ in changes] == [chunk_key(0, b"a"), b"Ha"]
    assert len(changes[-1][1] or b"") == layout.head.itemsize
    records.write(changes)
    assert numbers(load(layout, records, (b"a", 1)), 0) == list(range(layout.chunk))


@LAYOUTS
def test_only_what_changed_is_written(layout: EntityLayout) -> None:
    records = MemoryRecords()
    state = load(layout, records, (b"a", 1), (b"b", 1), (b"c", 1))
    append(state, 1, 1)
    changes = changes_of(state)
    assert [k for k, _ in changes] == [b"Hb"]
    records.write(changes)
    assert changes_of(load(layout, records, (b"a", 5), (b"b", 5))) == []
    assert changes_of(load(layout, records)) == []


@LAYOUTS
def test_tombstones_wait_until_a_durable_head_let_go(layout: EntityLayout) -> None:
    records = MemoryRecords()
    chunk = layout.chunk
    state = load(layout, records, (b"a", 3 * chunk))
    append(state, 0, 3 * chunk)
    records.write(changes_of(state))

    state = load(layout, records, (b"a", 1))
    append(state, 0, 1, drop=2 * chunk)
    letting_go = changes_of(state)
    assert [k for k, _ in letting_go] == [b"Ha"], "the old head still refers to the chunks"
    records.write(letting_go)
    assert numbers(load(layout, records, (b"a", 0)), 0) == list(range(2 * chunk, 3 * chunk + 1))
    assert changes_of(load(layout, records, (b"a", 1))) == []

    state = load(layout, records, (b"a", 1))
    append(state, 0, 1)
    deleting = changes_of(state)
    assert deleting[:-1] == [(chunk_key(0, b"a"), None), (chunk_key(1, b"a"), None)]
    records.write(deleting)
    assert sorted(records.data) == [chunk_key(2, b"a"), b"Ha"]

    state = load(layout, records, (b"a", 1))
    append(state, 0, 1)
    assert [k for k, _ in changes_of(state)] == [b"Ha"], "deleted once"


@LAYOUTS
def test_an_archive_alternates_between_two_records(layout: EntityLayout) -> None:
    records = MemoryRecords()
    state = load(layout, records, (b"a", RETAINED_MAX), (b"b", RETAINED_MAX + 1))
    assert state.archive_of.tolist() == [-1, 0], "only who may exceed the retained has one"
    step = RETAINED_MAX - RETAINED_MIN
    for turn, slot in enumerate((1, 0, 1), start=1):
        state = load(layout, records, (b"b", RETAINED_MAX + 1))
        append(state, 0, RETAINED_MAX if turn == 1 else step, drop=step)
        state.heads["archived"] = 1
        state.archives[0]["through"] = turn * step
        state.archives[0]["count"][0, 0] = turn
        changes = changes_of(state)
        assert changes == changes_of(state), "asking twice changes nothing"
        archives = [k for k, _ in changes if k.startswith(ARCHIVE)]
        assert archives == [slotted_key(ARCHIVE, slot, b"b")]
        records.write(changes)
        state = load(layout, records, (b"b", 1))
        assert state.archives[0]["count"][0, 0] == turn
        append(state, 0, 1)
        records.write(changes_of(state))
        assert not any(k.startswith(ARCHIVE) for k, _ in changes_of(state)), "unchanged, unwritten"


def test_a_ring_alternates_between_two_records_of_a_user() -> None:
    records = MemoryRecords()
    for turn, slot in enumerate((1, 0, 1), start=1):
        enrolled = np.array([1])
        share = Share(records, [b"a", b"b"])
        state = WorkingSet(USERS, [share], np.ones(2, np.int64), enrolled=enrolled)
        assert state.ring_of.tolist() == [-1, 0], "only who is in a ring has a record"
        state.heads["ringed"][1] = 1
        state.heads["fence"][1] = turn
        state.rings[0]["size"] = turn
        changes = changes_of(state)
        assert changes == changes_of(state), "asking twice changes nothing"
        assert [k for k, _ in changes] == [slotted_key(RING, slot, b"b"), HEAD + b"b"]
        records.write(changes)
        state = load(USERS, records, (b"b", 1))
        assert state.rings["size"].tolist() == [turn]
        append(state, 0, 1)
        assert [k for k, _ in changes_of(state)] == [HEAD + b"b"], "unchanged, unwritten"
    assert load(MERCHANTS, records, (b"m", 1)).ring_of.tolist() == [-1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", -1), ("blocked", 2**60), ("risk", np.nan), ("risk", 1.5), ("shared", 0xFF)],
)
def test_a_ring_that_can_not_be_true_is_damaged(field: str, value: float) -> None:
    records = MemoryRecords()
    share = Share(records, [b"u"])
    state = WorkingSet(USERS, [share], np.ones(1, np.int64), enrolled=np.array([0]))
    state.heads["ringed"] = 1
    state.heads["fence"] = 0
    state.rings["size"] = 3
    records.write(changes_of(state))
    key = slotted_key(RING, 1, b"u")
    ring = np.frombuffer(records.data[key], USERS.ring).copy()
    ring[field] = value
    records.data[key] = ring.tobytes()
    with pytest.raises(StateError, match="damaged"):
        load(USERS, records, (b"u", 1))


@pytest.mark.parametrize("field", ["archived", "labels_slot", "ringed", "ring_slot"])
def test_a_slot_that_there_is_not_is_damaged(field: str) -> None:
    head = np.frombuffer(blank_head(USERS), USERS.head).copy()
    head[field] = 2
    records = MemoryRecords()
    records.data[b"Hu"] = head.tobytes()
    with pytest.raises(StateError, match="damaged"):
        load(USERS, records, (b"u", 1))


@settings(max_examples=60, deadline=None)
@given(
    turns=st.lists(
        st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3)), min_size=3, max_size=3),
        min_size=1,
        max_size=8,
    ),
    crash=st.integers(0, 100),
    kept=st.integers(0, 1000),
)
def test_every_prefix_of_the_changes_is_a_state_from_which_to_go_on(
    turns: list[list[tuple[int, int]]], crash: int, kept: int
) -> None:
    entities = [b"", b"a", b"ab"]
    crash %= len(turns)
    records = MemoryRecords()
    before: dict[bytes, Any] = {}
    for i, turn in enumerate(turns):
        state = step(records, entities, turn)
        changes = changes_of(state)
        if i == crash:
            prefix = changes[: kept % (len(changes) + 1)]
            crashed = MemoryRecords()
            crashed.data = dict(records.data)
            crashed.write(prefix)
            done = {k for k, _ in prefix if k.startswith(HEAD)}
            after = states(USERS, crashed.data)
            records.write(changes)
            for e in entities:
                expected = states(USERS, records.data) if HEAD + e in done else before
                assert after.get(e) == expected.get(e)
            again = step(
                crashed,
                entities,
                [(0, 0) if HEAD + e in done else t for e, t in zip(entities, turn, strict=True)],
            )
            crashed.write(changes_of(again))
            assert crashed.data == records.data
        records.write(changes)
        before = states(USERS, records.data)


def step(records: MemoryRecords, entities: list[bytes], turn: list[tuple[int, int]]) -> WorkingSet:
    state = WorkingSet(USERS, [Share(records, entities)], np.array([n for n, _ in turn], np.int64))
    for e, (n, chunks) in enumerate(turn):
        if not n:
            continue
        append(state, e, n)
        head = state.heads[e]
        room = int(head["next_event"] - head["first_event"]) // USERS.chunk
        dropped = min(chunks, room) * USERS.chunk
        head["first_event"] += dropped
        if dropped:
            head["archived"] = 1
            if state.archive_of[e] >= 0:
                state.archives[state.archive_of[e]]["through"] = head["first_event"]
            else:
                head["archived"] = 0
    return state


@LAYOUTS
def test_another_schema_version_is_refused_by_name(layout: EntityLayout) -> None:
    records = MemoryRecords()
    head = bytearray(blank_head(layout))
    head[:8] = (SCHEMA_VERSION + 1).to_bytes(8, "little")
    records.data = {b"Hnew": bytes(head) + b"whatever", b"Hold": blank_head(layout)}
    with pytest.raises(StateError, match=rf"{layout.kind} b'new' has schema version 4") as error:
        load(layout, records, (b"old", 1), (b"new", 1))
    assert "reads versions 1 to 3" in str(error.value)


def written(layout: EntityLayout) -> tuple[MemoryRecords, Changes]:
    """An entity with two closed chunks, an open one and an archive."""
    records = MemoryRecords()
    n = RETAINED_MAX + 1
    state = load(layout, records, (b"a", n))
    append(state, 0, n, drop=n // layout.chunk * layout.chunk - 2 * layout.chunk)
    state.heads["archived"] = 1
    state.archives["through"] = 1
    changes = changes_of(state)
    records.write(changes)
    return records, changes


@LAYOUTS
def test_a_missing_or_short_record_is_named(layout: EntityLayout) -> None:
    _, changes = written(layout)
    kinds = [k[:1] for k, _ in changes]
    assert kinds == [ARCHIVE, CHUNK, CHUNK, HEAD]
    for key, value in changes:
        for damage in (None, b"", (value or b"")[:-8]):
            if key.startswith(HEAD) and damage is None:
                continue
            records, _ = written(layout)
            records.write([(key, damage)])
            with pytest.raises(StateError) as error:
                load(layout, records, (b"other", 1), (b"a", 1))
            assert repr(key) in str(error.value)
            assert "changelog rebuilds" in str(error.value) or "rebuild" in str(error.value)


def test_entities_that_are_prefixes_of_each_other_stay_apart() -> None:
    records = MemoryRecords()
    names = [b"", b"\x00", b"\x00\x00", b"a", b"ab", b"H"]
    for i, _ in enumerate(names):
        state = load(USERS, records, *[(name, 40) for name in names])
        append(state, i, 20 + i)
        records.write(changes_of(state))
    state = load(USERS, records, *[(name, 0) for name in names])
    for i, _ in enumerate(names):
        assert numbers(state, i) == list(range(20 + i))


def remember(
    records: MemoryRecords, ids: list[bytes], memories: list[Memory], bump: float, offset: int
) -> list[np.ndarray]:
    """Add `bump` to all numbers and move the fences, in one batch; returns what was there."""
    state = WorkingSet(USERS, [Share(records, ids)], np.ones(len(ids), np.int64), None, memories)
    before = [kept.copy() for kept in state.memories]
    for kept in state.memories:
        kept += bump
    state.heads["fence"] = offset
    (changes,) = state.changes()
    records.write(changes)
    return before


A, B, C = Memory(11, 3), Memory(12, 4), Memory(13, 1)


def test_sequence_models_find_what_they_left_and_nothing_of_others() -> None:
    records = MemoryRecords()
    assert (remember(records, [b"u", b"v"], [A], 1.0, 0)[0] == 0).all()
    assert (remember(records, [b"u"], [A], 1.0, 1)[0] == 1).all()
    # v has one block, u has one of another count, w has nothing.
    a, b = remember(records, [b"w", b"v", b"u"], [B, A], 1.0, 2)
    assert (b.T == [0, 1, 2]).all()
    assert (a == 0).all()
    # The order of models does not matter, nor does one that comes or goes.
    c, a, b = remember(records, [b"u", b"v", b"w"], [C, B, A], 1.0, 3)
    assert (b.T == [3, 2, 1]).all()
    assert (a == 1).all()
    assert (c == 0).all()
    (b,) = remember(records, [b"u"], [A], 1.0, 4)
    assert (b == 4).all()
    (b,) = remember(records, [b"u"], [B], 1.0, 5)
    assert (b == 0).all()
    # The same name with another size is another model.
    assert (remember(records, [b"u"], [Memory(12, 5)], 1.0, 6)[0] == 0).all()
    # Without models nothing is kept.
    remember(records, [b"u"], [], 1.0, 7)
    assert len(records.data[HEAD + b"u"]) == USERS.head.itemsize


def test_memory_stands_behind_the_open_chunk() -> None:
    records = MemoryRecords()
    for offset in range(40):
        state = WorkingSet(USERS, [Share(records, [b"u"])], np.ones(1, np.int64), None, [A, C])
        head = state.heads[0]
        for kept in state.memories:
            assert (kept == offset).all()
            kept += 1.0
        events = state.events[state.origins[0] + head["first_event"] :]
        assert events["time"][: head["next_event"]].tolist() == list(range(offset))
        events["time"][head["next_event"]] = offset
        head["next_event"] += 1
        head["fence"] = offset
        records.write(state.changes()[0])


@pytest.mark.parametrize("damage", [b"", b"\\xff" * 8 + (3).to_bytes(8, "little"), bytes(7)])
def test_damaged_memory_is_refused(damage: bytes) -> None:
    records = MemoryRecords()
    remember(records, [b"u"], [A], 1.0, 0)
    value = bytearray(records.data[HEAD + b"u"])
    size = USERS.head.itemsize
    head = np.frombuffer(value, USERS.head, 1)
    head["memory"] = len(damage) or 2**40
    records.data[HEAD + b"u"] = bytes(value[:size]) + damage
    with pytest.raises(StateError, match="damaged"):
        remember(records, [b"u"], [A], 1.0, 1)
