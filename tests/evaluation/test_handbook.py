"""The handbook's features against its own recipe: rolling windows of pandas-like lists."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dafu.evaluation.handbook import HANDBOOK_FEATURES, handbook_features

DAY = 86_400_000
START = 1_522_540_800_000  # 2018-04-01

history = st.lists(
    st.tuples(
        st.sampled_from((0, 0, 1, 3_600_000, DAY, 3 * DAY, 7 * DAY, 30 * DAY)),
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from((0.0, 5.25, 80.0)),
        st.sampled_from((0, 0, 1, -1)),
    ),
    min_size=1,
    max_size=40,
)


def rolling(own: list[tuple[int, float]], at: int, length: int) -> float:
    """Sum of a time-based rolling window that ends with element `at`, as pandas has it."""
    time = own[at][0]
    return sum(value for t, value in own[: at + 1] if time - length < t)


def expected(rows: list[tuple[int, int, int, float, int]], i: int, delay: int) -> list[float]:
    time, user, merchant, amount, _ = rows[i]
    moment = datetime.fromtimestamp(time / 1000, UTC)
    out = [amount, float(moment.weekday() >= 5), float(moment.hour <= 6)]
    order = sorted(range(len(rows)), key=lambda k: rows[k][0])
    card = [k for k in order if rows[k][1] == user]
    amounts = [(rows[k][0], rows[k][3]) for k in card]
    ones = [(t, 1.0) for t, _ in amounts]
    for days in (1, 7, 30):
        count = rolling(ones, card.index(i), days * DAY)
        out += [count, rolling(amounts, card.index(i), days * DAY) / count]
    terminal = [k for k in order if rows[k][2] == merchant]
    frauds = [(rows[k][0], float(rows[k][4] == 1)) for k in terminal]
    ones = [(t, 1.0) for t, _ in frauds]
    at = terminal.index(i)
    for days in (1, 7, 30):
        count, fraud = (
            rolling(values, at, (delay + days) * DAY) - rolling(values, at, delay * DAY)
            for values in (ones, frauds)
        )
        out += [count, fraud / count if count else 0.0]
    return out


@given(history, st.sampled_from((0, 1, 7)), st.booleans())
def test_features_are_the_books(steps: list[Any], delay: int, shuffled: bool) -> None:
    times = START + np.cumsum([step[0] for step in steps])
    rows = [(int(t), *step[1:]) for t, step in zip(times, steps, strict=True)]
    if shuffled:
        rows = rows[::2] + rows[1::2]
    time, user, merchant, amount, label = (np.array(c) for c in zip(*rows, strict=True))
    found = handbook_features(time, user, merchant, amount, label.astype(np.int8), delay)
    assert found.shape == (len(rows), len(HANDBOOK_FEATURES)) == (len(rows), 15)
    for i in range(len(rows)):
        np.testing.assert_allclose(found[i], expected(rows, i, delay), rtol=1e-9, atol=1e-9)
