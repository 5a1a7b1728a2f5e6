"""Histograms against counting value by value, however values come in parts."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dafu.agents.histogram
from dafu.agents.histogram import Histogram
from dafu.agents.shell import BATCH_BOUNDS, LATENCY_BOUNDS, seconds_since
from dafu.stages.batch import NO_TIMESTAMP

BOUNDS = (0.001, 0.05, 0.1, 1.0, 60.0)
VALUES = st.one_of(
    st.sampled_from([0.0, *BOUNDS]),
    st.floats(0.0, 1e6),
    st.integers(0, 70_000).map(lambda n: n / 1000),
)


@given(parts=st.lists(st.one_of(VALUES, st.lists(VALUES, max_size=20)), max_size=12))
def test_counts_each_value_at_the_first_bound_that_is_not_below_it(
    parts: list[float | list[float]],
) -> None:
    histogram = Histogram(BOUNDS)
    every: list[float] = []
    for part in parts:
        if isinstance(part, list):
            histogram.add_many(np.array(part, np.float64))
            every += part
        else:
            histogram.add(part)
            every.append(part)
    assert histogram.cumulative() == [
        *(sum(value <= bound for value in every) for bound in BOUNDS),
        len(every),
    ]
    assert histogram.sum == pytest.approx(sum(every))


def test_bounds_ascend() -> None:
    for bounds in ((1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="strictly ascending"):
            Histogram(bounds)
    Histogram(LATENCY_BOUNDS)
    Histogram(BATCH_BOUNDS)


def test_milliseconds_on_a_bound_belong_to_it() -> None:
    """50 ms is not above 50 ms, whatever the division by 1000 does to it."""
    for bound in LATENCY_BOUNDS:
        histogram = Histogram(LATENCY_BOUNDS)
        now = 1_700_000_000_000
        histogram.add_many(seconds_since(np.array([now - round(bound * 1000)]), now))
        assert histogram.counts[LATENCY_BOUNDS.index(bound)] == 1, bound


def test_seconds_since_leaves_out_what_has_no_time_and_knows_no_future() -> None:
    times = np.array([1000, NO_TIMESTAMP, 3000, 2500])
    assert seconds_since(times, 2500).tolist() == [1.5, 0.0, 0.0]


def test_the_example() -> None:
    assert doctest.testmod(dafu.agents.histogram).failed == 0
