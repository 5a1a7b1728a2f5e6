"""Thresholds against trying every one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.models.errors import ModelError
from dafu.models.thresholds import by_alert_budget, by_expected_cost, by_false_positive_rate

labelled = st.lists(
    st.tuples(st.integers(0, 9).map(lambda k: k / 10), st.integers(0, 1), st.integers(0, 50)),
    min_size=1,
    max_size=30,
)


@given(labelled, st.integers(0, 35))
def test_the_budget_is_used_and_kept(rows: list[tuple[float, int, int]], budget: int) -> None:
    scores = np.array([s for s, _, _ in rows])
    found = by_alert_budget(scores, budget)
    allowed = [t for t in (*scores, np.inf) if (scores >= t).sum() <= budget]
    assert found == min(allowed)


@given(labelled, st.floats(0, 1))
def test_the_false_positive_rate_is_used_and_kept(
    rows: list[tuple[float, int, int]], rate: float
) -> None:
    scores, y = np.array([s for s, _, _ in rows]), np.array([y for _, y, _ in rows])
    found = by_false_positive_rate(scores, y, rate)
    genuine = scores[y == 0]
    allowed = [t for t in (*scores, np.inf) if (genuine >= t).sum() <= rate * len(genuine)]
    assert found == min(allowed)


@given(labelled, st.integers(0, 20))
def test_no_threshold_costs_less(rows: list[tuple[float, int, int]], alarm: int) -> None:
    scores, y, amounts = (np.array(column, dtype=float) for column in zip(*rows, strict=True))

    def cost(t: float) -> float:
        taken = scores >= t
        return float(alarm * (taken & (y == 0)).sum() + amounts[~taken & (y == 1)].sum())

    found = by_expected_cost(scores, y, alarm, amounts)
    candidates = [*scores, np.inf]
    least = min(cost(t) for t in candidates)
    assert found == max(t for t in candidates if cost(t) == least)


def test_what_makes_no_sense_is_refused() -> None:
    scores, y = np.array([0.1, 0.2]), np.array([0, 1])
    with pytest.raises(ModelError, match="can not be negative"):
        by_alert_budget(scores, -1)
    with pytest.raises(ModelError, match=r"within 0\.\.1"):
        by_false_positive_rate(scores, y, 1.5)
    with pytest.raises(ModelError, match="each is 0 or 1"):
        by_false_positive_rate(scores, y[:1], 0.5)
    with pytest.raises(ModelError, match="not negative"):
        by_expected_cost(scores, y, float("nan"), 1.0)
    with pytest.raises(ModelError, match="finite scores"):
        by_alert_budget(np.array([np.nan]), 1)
