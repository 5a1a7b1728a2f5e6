"""Filled templates against the documents that msgspec encodes, value by value."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.schema import MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS
from dafu.stages.decision_json import (
    MICRO,
    Template,
    UnwritableValueError,
    number_slot,
    quoted_text_slot,
    text_slot,
    time_slot,
)

DAY_MS = 86_400_000
DOCUMENT = {
    "in quotes": quoted_text_slot(0),
    "at": time_slot(),
    "nested": {"plain": text_slot(1), "number": [number_slot(1), number_slot(0)]},
    "again": quoted_text_slot(0),
    "escaped \0": 'a constant, "quoted" and \0',
}
TEMPLATE = Template(msgspec.json.encode(DOCUMENT))
NUMBERS = Template(msgspec.json.encode(number_slot(0)))
TIMES = Template(msgspec.json.encode(time_slot()))

rows = st.lists(
    st.tuples(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        ),
        st.integers(0, MICRO),
        st.integers(0, MICRO),
        st.integers(MIN_TIMESTAMP_MS, MAX_TIMESTAMP_MS - 1),
    ),
    max_size=20,
)


def iso(time: int) -> str:
    return str(np.datetime_as_string(np.datetime64(time, "ms"), timezone="UTC"))


def naive(text: str, plain: Any, first: int, second: int, time: int) -> bytes:
    document = {
        **DOCUMENT,
        "in quotes": text,
        "at": iso(time),
        "nested": {"plain": plain, "number": [second / MICRO, first / MICRO]},
        "again": text,
    }
    return msgspec.json.encode(document)


@settings(deadline=None)  # the first one compiles
@given(rows)
def test_rows_are_what_msgspec_writes(described: list[tuple[str, Any, int, int, int]]) -> None:
    texts = [
        ByteColumn.of([msgspec.json.encode(text)[1:-1] for text, *_ in described]),
        ByteColumn.of([msgspec.json.encode(plain) for _, plain, *_ in described]),
    ]
    micros = np.array([row[2:4] for row in described], dtype=np.int64).reshape(-1, 2)
    times = np.array([row[4] for row in described], dtype=np.int64)
    filled = TEMPLATE.fill(texts, micros, times)
    assert filled.tolist() == [naive(*row) for row in described]


def test_every_number_is_what_msgspec_writes() -> None:
    micros = np.arange(MICRO + 1)
    filled = NUMBERS.fill([ByteColumn.of([])], micros[:, None], np.zeros(MICRO + 1, np.int64))
    assert filled.tolist() == list(map(msgspec.json.encode, (micros / MICRO).tolist()))


def test_every_day_of_the_calendar() -> None:
    days = np.arange(MIN_TIMESTAMP_MS, MAX_TIMESTAMP_MS, DAY_MS)
    within = np.random.default_rng(7).integers(0, DAY_MS, len(days))
    within[:3] = (0, 1, DAY_MS - 1)
    times = days + within
    filled = TIMES.fill([ByteColumn.of([])], np.zeros((len(times), 1), np.int64), times)
    stamps = np.datetime_as_string(times.astype("datetime64[ms]"), timezone="UTC")
    assert filled.tolist() == [b'"%s"' % stamp.encode() for stamp in stamps.tolist()]


@settings(deadline=None)
@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_any_time_with_a_year_of_four_digits(time: int) -> None:
    filled = TIMES.fill([ByteColumn.of([])], np.zeros((1, 1), np.int64), np.array([time]))
    assert filled.tolist() == [b'"%s"' % iso(time).encode()]


@pytest.mark.parametrize(
    ("text", "micro", "time", "says"),
    [
        (None, 0, 0, "text's length is -1"),
        (b"", -1, 0, "number in millionths is -1"),
        (b"", MICRO + 1, 0, "number in millionths is 1000001"),
        (b"", 0, -62_135_596_800_001, "time in epoch milliseconds is -62135596800001"),
        (b"", 0, 253_402_300_800_000, "time in epoch milliseconds is 253402300800000"),
    ],
)
def test_what_has_no_form_is_refused(text: bytes | None, micro: int, time: int, says: str) -> None:
    texts = [ByteColumn.of([b"", text]), ByteColumn.of([b"", b""])]
    micros, times = np.array([[0, 0], [0, micro]]), np.array([0, time])
    with pytest.raises(UnwritableValueError, match=says):
        TEMPLATE.fill(texts, micros, times)
