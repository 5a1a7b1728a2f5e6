"""The batch partitioner against aiokafka's, record by record."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner, murmur2
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.partitioner import ABSENT, partitions_for

oracle = DefaultPartitioner()


def found(keys: list[bytes | None], n: int) -> list[int]:
    partitions: list[int] = partitions_for(ByteColumn.of(keys), n).tolist()
    return partitions


def expected(keys: list[bytes], n: int) -> list[int]:
    return [oracle(key, list(range(n)), []) for key in keys]


@settings(deadline=None)  # the first example compiles
@given(keys=st.lists(st.binary(max_size=70), max_size=40), n=st.integers(1, 5000))
def test_equals_the_default_partitioner(keys: list[bytes], n: int) -> None:
    assert found([*keys], n) == expected(keys, n)


def test_spreads_over_the_whole_hash() -> None:
    keys = [str(i).encode() * (i % 7) for i in range(2000)]
    n = 2**31 - 1
    assert found([*keys], n) == [(murmur2(key) & 0x7FFFFFFF) % n for key in keys]


def test_bytes_that_are_no_text() -> None:
    keys = [bytes([b]) * length for b in (0, 127, 128, 255) for length in range(1, 10)]
    assert found([*keys], 97) == expected(keys, 97)


def test_strings_anywhere_in_the_buffer() -> None:
    keys = ByteColumn.of([b"first", b"second", b"third"]).take([2, 0, 0])
    assert partitions_for(keys, 97).tolist() == expected([b"third", b"first", b"first"], 97)


def test_without_a_key_there_is_nothing_to_choose_by() -> None:
    a, empty = expected([b"a", b""], 7)
    assert found([b"a", None, b"", None], 7) == [a, ABSENT, empty, ABSENT]
    assert found([None, b"a"], 1) == [ABSENT, 0]


def test_one_partition() -> None:
    assert found([b"a", b""], 1) == [0, 0]


@pytest.mark.parametrize("n", [0, -1])
def test_a_topic_has_a_partition(n: int) -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        partitions_for(ByteColumn.of([b"a"]), n)
