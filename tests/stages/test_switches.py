"""Switches among records: where a batch is cut, what holds behind one, what changes nothing."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.registry import SWITCH_KEY, Lineup, ModelRef, Switch, encode_switch
from dafu.stages.batch import InputBatch, Piece
from dafu.stages.switches import (
    LINEUP_KEY,
    apply_switch,
    by_settings,
    cut_at_switches,
    in_force,
    is_switch,
    last_switch,
)
from dafu.tables.migrations import StateError
from dafu.tables.records import MemoryRecords
from tests.streams import alone

LINEUPS = [Lineup(ModelRef("m", v, "u")) for v in "abc"]
LIKE_A_SWITCH = b"\x00modelz"
KEYS = st.sampled_from([SWITCH_KEY, b"u1", b"u2", LIKE_A_SWITCH, None])


def batch_of(parts: dict[int, list[bytes | None]], rerouted: frozenset[int]) -> InputBatch:
    pieces: list[Piece] = []
    keys: list[bytes | None] = []
    offsets: list[int] = []
    for partition, own in parts.items():
        pieces.append(Piece(partition, len(keys), len(keys) + len(own)))
        keys += own
        offsets += range(10 * partition, 10 * partition + len(own))
    values = [b"%d" % i for i in range(len(keys))]
    return InputBatch(
        pieces,
        ByteColumn.of(keys),
        ByteColumn.of(values),
        np.array(offsets, np.int64),
        np.array(offsets, np.int64),
        rerouted,
    )


@given(
    parts=st.dictionaries(
        st.integers(0, 3), st.lists(KEYS, min_size=1, max_size=9), min_size=1, max_size=3
    ),
    rerouted=st.frozensets(st.integers(0, 8), max_size=3),
)
def test_a_batch_is_cut_so_that_switches_stand_alone_and_nothing_else_changes(
    parts: dict[int, list[bytes | None]], rerouted: frozenset[int]
) -> None:
    size = sum(map(len, parts.values()))
    batch = batch_of(parts, frozenset(i for i in rerouted if i < size))
    cut = cut_at_switches(batch)
    records = [
        (int(p), int(o), k, v, start + i in batch.rerouted)
        for start, part in [(0, batch)]
        for i, (p, o, k, v) in enumerate(
            zip(
                part.partitions, part.offsets, part.keys.tolist(), part.values.tolist(), strict=True
            )
        )
    ]
    again = [
        (
            int(part.partitions[i]),
            int(part.offsets[i]),
            part.keys[i],
            part.values[i],
            i in part.rerouted,
        )
        for part in cut
        for i in range(len(part))
    ]
    assert again == records
    kinds = [[is_switch(part, i) for i in range(len(part))] for part in cut]
    assert all(len(kind) == 1 or not any(kind) for kind in kinds)
    expected = []
    for switch, run in groupby(batch.keys.tolist(), key=lambda key: key == SWITCH_KEY):
        n = len(list(run))
        expected += [1] * n if switch else [n]
    assert [len(part) for part in cut] == expected
    for part in cut:
        assert [p.start for p in part.pieces] == [0, *(p.end for p in part.pieces[:-1])]
        assert part.pieces[-1].end == len(part)


@given(lineups=st.dictionaries(st.integers(0, 5), st.sampled_from([None, *LINEUPS]), min_size=1))
def test_pieces_with_the_same_models_go_together(lineups: dict[int, Lineup | None]) -> None:
    tables = {number: MemoryRecords() for number in lineups}
    for number, lineup in lineups.items():
        if lineup is not None:
            switch = InputBatch.of(number, [SWITCH_KEY], [encode_switch(Switch(1, lineup))])
            changes = apply_switch(switch, tables.__getitem__)
            assert changes is not None
            tables[number].write(changes)
    batch = batch_of({number: [b"k"] * (1 + number % 3) for number in lineups}, frozenset())
    shared = by_settings(batch, tables.__getitem__)
    assert len({held for held, _ in shared}) == len(shared)
    seen = []
    for (lineup, rules), part in shared:
        assert rules is None
        for piece in part.pieces:
            assert lineups[piece.partition] == lineup
            seen += [(piece.partition, v) for v in part.values.tolist()[piece.start : piece.end]]
    partitions = batch.partitions.tolist()
    assert sorted(seen) == sorted(zip(partitions, batch.values.tolist(), strict=True))


def test_only_a_higher_number_changes_anything() -> None:
    records = MemoryRecords()

    def put(number: int, lineup: Lineup) -> int:
        value = encode_switch(Switch(number, lineup))
        changes = apply_switch(InputBatch.of(0, [SWITCH_KEY], [value]), alone(records))
        assert changes is not None
        records.write(changes)
        return len(changes)

    assert in_force(alone(records), 0).lineup is None
    assert put(4, LINEUPS[0]) == 1
    assert put(4, LINEUPS[1]) == 0, "a repeat, whatever it says"
    assert put(3, LINEUPS[2]) == 0
    assert in_force(alone(records), 0).lineup == LINEUPS[0]
    assert put(9, LINEUPS[1]) == 1
    assert last_switch(alone(records), 0) == Switch(9, LINEUPS[1])
    assert list(records.data) == [LINEUP_KEY]


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"{}", b'{"models":}', b'{"models":{"number":1}}', b'{"models":{"number":"1"}}',
        b'{"models":\xff}', encode_switch(Switch(1, LINEUPS[0]))[:-2],
    ],
)  # fmt: skip
def test_a_damaged_switch_is_none(value: bytes | None) -> None:
    batch = InputBatch.of(0, [SWITCH_KEY], [value])
    assert is_switch(batch, 0)
    assert apply_switch(batch, alone(MemoryRecords())) is None


@pytest.mark.parametrize("stored", [b"", b"{", b'{"number":1}', b"\xff"])
def test_a_damaged_record_of_the_models_stops(stored: bytes) -> None:
    records = MemoryRecords()
    records.write([(LINEUP_KEY, stored)])
    with pytest.raises(StateError):
        in_force(alone(records), 0)
