"""Byte columns against the lists that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.columns import NULL, ByteColumn, equal, positions, prepend, starting_with

STRINGS = st.lists(st.none() | st.binary(max_size=12), max_size=20)


@given(STRINGS)
def test_a_column_is_its_list(values: list[bytes | None]) -> None:
    column = ByteColumn.of(values)
    assert column.tolist() == values
    assert list(column) == values
    assert column == values
    assert column == ByteColumn.of(values)
    assert column != [*values, b""]
    assert [column[i] for i in range(len(column))] == values
    assert column.packed_copy() == values
    assert len(column.packed_copy().buffer) == column.size
    assert column.present() == [v or b"" for v in values]
    mutable = ByteColumn(bytearray(column.buffer), column.starts, column.lengths)
    assert mutable.tolist() == [mutable[i] for i in range(len(values))] == values
    assert column.size == sum(len(v or b"") for v in values)
    assert column.absent.tolist() == [v is None for v in values]


@given(STRINGS, st.data())
def test_taking_shares_the_buffer(values: list[bytes | None], data: st.DataObject) -> None:
    column = ByteColumn.of(values)
    at = data.draw(
        st.lists(st.integers(0, len(values) - 1), max_size=30) if values else st.just([])
    )
    taken = column.take(at)
    assert taken.tolist() == [values[i] for i in at]
    assert taken.buffer.ctypes.data == column.buffer.ctypes.data or not column.buffer.size
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    keep = keep.astype(bool)
    assert column.take(keep).tolist() == [v for v, k in zip(values, keep, strict=True) if k]


@given(st.lists(STRINGS, min_size=1, max_size=4))
def test_joined_columns_are_joined_lists(parts: list[list[bytes | None]]) -> None:
    columns = [ByteColumn.of(part) for part in parts]
    assert ByteColumn.joined(columns).tolist() == [v for part in parts for v in part]


@given(st.lists(st.none() | st.text(max_size=5), max_size=20))
def test_text(values: list[str | None]) -> None:
    column = ByteColumn.of([None if v is None else v.encode() for v in values])
    assert column.strings() == values
    apart = ByteColumn.of([b"x" * 200, *column.tolist(), b"y" * 200])
    assert apart.take(np.arange(1, len(values) + 1)).strings() == values


def test_strings_may_lie_anywhere_in_the_buffer() -> None:
    column = ByteColumn(bytearray(b"xabyc"), np.array([4, 1, 0, 2]), np.array([1, 2, NULL, 0]))
    assert column.tolist() == [b"c", b"ab", None, b""]
    assert ByteColumn.repeated(b"ab", 3).tolist() == [b"ab"] * 3


def test_a_buffer_is_read_only_whatever_it_came_from() -> None:
    for buffer in (b"ab", bytearray(b"ab"), np.array([97, 98], np.uint8)):
        column = ByteColumn(buffer, np.array([0]), np.array([2]))
        with pytest.raises(ValueError, match="read-only"):
            column.buffer[0] = 0


@given(st.lists(st.none() | st.binary(max_size=3), max_size=8), st.integers(0, 255))
def test_strings_that_begin_with_a_byte(values: list[bytes | None], byte: int) -> None:
    found = starting_with(ByteColumn.of(values), byte)
    assert found.tolist() == [(v or b"").startswith(bytes([byte])) for v in values]


@given(st.lists(st.booleans()))
def test_positions_are_where_a_mask_is_true(mask: list[bool]) -> None:
    assert positions(np.array(mask, bool)).tolist() == [i for i, true in enumerate(mask) if true]


@given(STRINGS, st.integers(1, 3))
def test_bytes_ahead_of_every_string(values: list[bytes | None], size: int) -> None:
    heads = np.arange(len(values) * size, dtype=np.uint8)
    found = prepend(heads, size, ByteColumn.of(values))
    assert found.tolist() == [
        heads[i * size : (i + 1) * size].tobytes() + (v or b"") for i, v in enumerate(values)
    ]


@given(st.lists(st.tuples(st.none() | st.binary(max_size=2), st.none() | st.binary(max_size=2))))
def test_where_two_columns_hold_the_same(pairs: list[tuple[bytes | None, bytes | None]]) -> None:
    ours, theirs = ([pair[k] for pair in pairs] for k in range(2))
    found = equal(ByteColumn.of(ours), ByteColumn.of(theirs))
    assert found.tolist() == [a == b for a, b in pairs]
