"""Recognising what a restarted stage one sent again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.features.state import SCHEMA_VERSION
from dafu.tables.migrations import StateError
from dafu.tables.records import MemoryRecords
from dafu.tables.working_set import SourceMarks

LOGS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=60)


def ask(marks: SourceMarks, log: list[tuple[int, int]]) -> list[bool]:
    sources = np.array([s for s, _ in log], dtype=np.int64)
    offsets = np.array([o for _, o in log], dtype=np.int64)
    answer: list[bool] = marks.repeats(sources, offsets).tolist()
    return answer


def test_a_fresh_partition_knows_nothing() -> None:
    marks = SourceMarks.load(MemoryRecords())
    assert (marks.fence, marks.marks.size) == (-1, 0)
    assert ask(marks, []) == []
    assert ask(marks, [(2, 0), (2, 0), (0, 5), (0, 4), (2, 1), (0, 6)]) == [
        False,
        True,
        False,
        True,
        False,
        False,
    ]
    assert marks.marks.tolist() == [6, -1, 1]


@given(log=LOGS, cut=st.integers(0, 60))
def test_a_record_repeats_if_its_source_was_further_before(
    log: list[tuple[int, int]], cut: int
) -> None:
    highest: dict[int, int] = {}
    expected = []
    for source, offset in log:
        expected.append(offset <= highest.get(source, -1))
        highest[source] = max(highest.get(source, -1), offset)

    records = MemoryRecords()
    marks = SourceMarks.load(records)
    answer = ask(marks, log[:cut])
    marks.fence = cut
    records.write([marks.changes()[0]])
    marks = SourceMarks.load(records)
    assert marks.fence == cut
    assert answer + ask(marks, log[cut:]) == expected
    assert {s: m for s, m in enumerate(marks.marks.tolist()) if m >= 0} == highest


def test_a_loaded_mark_is_its_own_copy() -> None:
    records = MemoryRecords()
    marks = SourceMarks.load(records)
    ask(marks, [(0, 1)])
    change = marks.changes()[0]
    records.write([change])
    ask(SourceMarks.load(records), [(0, 9)])
    assert records.data == dict([change])


def test_another_schema_version_is_refused() -> None:
    records = MemoryRecords()
    key, value = SourceMarks(-1, np.zeros(2, np.int64)).changes()[0]
    assert value is not None
    records.write([(key, (SCHEMA_VERSION + 1).to_bytes(8, "little") + value[8:])])
    with pytest.raises(StateError, match="source marks has schema version 4"):
        SourceMarks.load(records)


@pytest.mark.parametrize("kept", [0, 10, 24, 31])
def test_a_cut_record_is_refused(kept: int) -> None:
    records = MemoryRecords()
    key, value = SourceMarks(5, np.arange(2)).changes()[0]
    assert value is not None
    records.write([(key, value[:kept])])
    with pytest.raises(StateError, match="source marks"):
        SourceMarks.load(records)
