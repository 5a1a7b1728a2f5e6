"""The compiled helpers of both kernels, one by one."""

from __future__ import annotations

import math
import statistics
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.state import N_WINDOWS, RETAINED_MAX, WINDOW_MS
from dafu.features.windows import (
    SEEN,
    TABLE_SIZE,
    count_distinct,
    forget_seen,
    linear_count,
    median,
    window_of,
)
from tests.oracle import MS

finite = st.floats(0, 1e12)


@settings(deadline=None)
@given(st.lists(st.one_of(finite, st.sampled_from((1.0, 2.0))), min_size=1, max_size=50))
def test_median(values: list[float]) -> None:
    scratch = np.array([*values, -1.0, 1e13])
    assert median(scratch, len(values)) == statistics.median(values)
    assert sorted(scratch[:-2]) == sorted(values), "reordered, not changed"


@settings(deadline=None)
@given(st.lists(st.one_of(finite, st.just(math.nan)), min_size=1, max_size=20))
def test_a_median_of_what_is_no_number_comes_to_an_end(values: list[float]) -> None:
    scratch = np.array(values)
    median(scratch, len(values))
    assert np.sort(scratch).tobytes() == np.sort(values).tobytes(), "reordered, not changed"


def test_window_edges() -> None:
    assert WINDOW_MS.tolist() == list(MS.values())
    for k, length in enumerate(MS.values()):
        assert window_of(length - 1) == k
        assert window_of(length) == k + 1
    assert window_of(0) == 0


_ROUND = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 5), st.integers(0, 3).map(lambda k: 2**63 + k * TABLE_SIZE)),
        st.sampled_from([0, *(m + d for m in MS.values() for d in (-1, 0))]),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(st.lists(_ROUND, max_size=3))
def test_distinct_values_by_their_youngest_sight(rounds: list[list[tuple[int, int]]]) -> None:
    table = np.zeros(1, SEEN)[0]
    for sights in rounds:
        forget_seen(table)
        for value, age in sights:
            count_distinct(cast("int", np.uint64(value)), window_of(age), table)
        for k, length in enumerate(MS.values()):
            assert table["youngest"][: k + 1].sum() == len({v for v, age in sights if age < length})


def test_as_many_values_as_are_ever_retained_are_told_apart() -> None:
    table = np.zeros(1, SEEN)[0]
    forget_seen(table)
    for value in range(RETAINED_MAX + 1):
        for k in (2, 1):
            count_distinct(cast("int", np.uint64(value * TABLE_SIZE + value % 3)), k, table)
    assert table["youngest"].tolist() == [0, RETAINED_MAX + 1, *[0] * (N_WINDOWS - 1)]


@pytest.mark.parametrize("slots", [128, 512])
def test_linear_count_is_the_formula_and_finite_when_full(slots: int) -> None:
    assert linear_count(slots, slots) == 0.0
    assert linear_count(slots // 2, slots) == pytest.approx(slots * math.log(2))
    assert linear_count(0, slots) == pytest.approx(slots * math.log(2 * slots))
