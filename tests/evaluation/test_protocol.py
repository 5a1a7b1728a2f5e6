"""Folds against the handbook's own way of telling training from test, day by day with sets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.evaluation.protocol import Fold, ProtocolError, folds_before, prequential, split

DAY = 86_400_000
START = 1_531_267_200_000  # 2018-07-11

transactions = st.lists(
    st.tuples(
        st.integers(-3, 14),  # day, from the start of training
        st.integers(0, DAY - 1),
        st.integers(0, 5),  # user
        st.sampled_from((0, 0, 0, 1, -1)),
    ),
    min_size=1,
    max_size=80,
)


def by_sets(rows: list[tuple[int, int, int, int]], fold: Fold) -> tuple[list[int], list[int]]:
    """The handbook's steps: a growing set of compromised cards, one test day after the other."""
    train = [i for i, (day, _, _, _) in enumerate(rows) if 0 <= day < fold.train_days]
    known = {rows[i][2] for i in train if rows[i][3] == 1}
    test = []
    for day in range(fold.test_days):
        that_day = fold.train_days + fold.delay_days + day
        known_since_yesterday = fold.train_days + day - 1
        known |= {u for d, _, u, label in rows if d == known_since_yesterday and label == 1}
        test += [i for i, (d, _, u, _) in enumerate(rows) if d == that_day and u not in known]
    return train, sorted(test)


@given(
    transactions,
    st.integers(1, 5),
    st.integers(0, 5),
    st.integers(1, 5),
)
def test_split_is_the_handbooks(rows: list[Any], train: int, delay: int, test: int) -> None:
    fold = Fold(START, train, delay, test)
    times = np.array([START + day * DAY + at for day, at, _, _ in rows])
    users = np.array([user for _, _, user, _ in rows])
    labels = np.array([label for _, _, _, label in rows], dtype=np.int8)
    expected = by_sets(rows, fold)
    if not all(expected):
        with pytest.raises(ProtocolError):
            split(fold, times, users, labels)
        return
    found = split(fold, times, users, labels)
    assert (found.train.tolist(), found.test.tolist()) == expected
    days = [rows[i][0] - train - delay for i in expected[1]]
    assert found.test_days.tolist() == days
    in_test = sum(fold.test_start <= t < fold.test_end for t in times.tolist())
    assert found.left_out == in_test - len(expected[1])


def test_a_card_is_left_out_from_the_day_after_its_label_is_known() -> None:
    """Fraud on delay day 2 (day 9): known when test day 17 begins, not on day 16."""
    fold = Fold(START)
    days = np.array([1, 9, 16, 17, 15, 16, 20])
    users = np.array([0, 1, 1, 1, 2, 2, 2])
    labels = np.array([0, 1, 0, 0, 1, 0, 1], dtype=np.int8)
    found = split(fold, START + days * DAY + 5, users, labels)
    assert found.test.tolist() == [2, 4, 5, 6]
    assert found.left_out == 1


def test_folds_follow_each_other() -> None:
    latest = Fold(START, 7, 7, 7)
    folds = prequential(latest, 4)
    assert [f.describe().split(",")[0] for f in folds] == [
        "train 2018-07-11..2018-07-17",
        "train 2018-07-04..2018-07-10",
        "train 2018-06-27..2018-07-03",
        "train 2018-06-20..2018-06-26",
    ]
    assert all(a.test_start == b.test_end for a, b in pairwise(folds))
    before = folds_before(latest, 2)
    assert before[0].test_end == latest.train_end
    assert before[1].test_end == before[0].test_start


@pytest.mark.parametrize(
    ("days", "what"),
    [([20, 21], "no transactions in the training"), ([0, 1], "no transactions in the test")],
)
def test_a_fold_without_data_says_what_there_is(days: list[int], what: str) -> None:
    times = START + np.array(days) * DAY
    with pytest.raises(ProtocolError, match=f"{what} of train 2018-07-11.*the file covers 2018-"):
        split(Fold(START), times, np.array([0, 1]), np.zeros(2, np.int8))
    with pytest.raises(ProtocolError, match="the file has none at all"):
        empty = np.empty(0, np.int64)
        split(Fold(START), empty, empty, np.empty(0, np.int8))


def test_every_card_compromised() -> None:
    times = START + np.array([0, 14]) * DAY
    with pytest.raises(ProtocolError, match="every card"):
        split(Fold(START), times, np.array([0, 0]), np.array([1, 0], np.int8))
