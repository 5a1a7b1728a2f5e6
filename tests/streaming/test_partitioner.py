"""The batch partitioner against aiokafka's, record by record."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner, murmur2
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.streaming.partitioner import ABSENT, partitions_for

oracle = DefaultPartitioner()


@settings(deadline=None)  # the first example compiles
@given(keys=st.lists(st.binary(max_size=70), max_size=40), n=st.integers(1, 5000))
def test_equals_the_default_partitioner(keys: list[bytes], n: int) -> None:
    expected = [oracle(key, list(range(n)), []) for key in keys]
    assert partitions_for(ByteColumn.of(keys), n).tolist() == expected


def test_spreads_over_the_whole_hash() -> None:
    keys = [str(i).encode() * (i % 7) for i in range(2000)]
    n = 2**31 - 1
    assert partitions_for(ByteColumn.of(keys), n).tolist() == [
        (murmur2(key) & 0x7FFFFFFF) % n for key in keys
    ]


def test_bytes_that_are_no_text() -> None:
    keys = [bytes([b]) * length for b in (0, 127, 128, 255) for length in range(1, 10)]
    assert partitions_for(ByteColumn.of(keys), 97).tolist() == [
        oracle(k, list(range(97)), []) for k in keys
    ]


def test_without_a_key_there_is_nothing_to_choose_by() -> None:
    keys = ByteColumn.of([b"a", None, b"", None])
    found = partitions_for(keys, 7).tolist()
    assert found == [
        oracle(b"a", list(range(7)), []),
        ABSENT,
        oracle(b"", list(range(7)), []),
        ABSENT,
    ]
    assert partitions_for(keys.take([3, 0]), 1).tolist() == [ABSENT, 0]


def test_one_partition() -> None:
    assert partitions_for(ByteColumn.of([b"a", b""]), 1).tolist() == [0, 0]


@pytest.mark.parametrize("n", [0, -1])
def test_a_topic_has_a_partition(n: int) -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        partitions_for(ByteColumn.of([b"a"]), n)
