"""Metrics against plain recomputation, against scikit-learn, and weights against repeated users."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from dafu.evaluation.intervals import Bootstrapped, bootstrap, difference, intervals, mean
from dafu.evaluation.metrics import (
    METRICS,
    Budget,
    EvaluationError,
    Measure,
    Sample,
    auc_roc,
    average_precision,
)

rows = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.1, 0.25, 0.5, 0.5, 0.9, 1.0)),
        st.integers(0, 1),
        st.integers(0, 6),  # user
        st.integers(0, 3),  # day
        st.sampled_from((0.0, 1.0, 10.0, 99.5)),
    ),
    min_size=2,
    max_size=40,
)
budgets = st.builds(
    Budget,
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from((0.0, 2.5)),
    st.sampled_from((0.5, 1.0)),
)


def sample_of(described: list[tuple[Any, ...]]) -> Sample:
    scores, labels, users, days, amounts = zip(*described, strict=True)
    return Sample(
        np.array(scores),
        np.array(labels, dtype=np.int8),
        np.array(users),
        np.array(days),
        np.array(amounts),
    )


def figures(measure: Measure, weights: Any = None) -> dict[str, float]:
    return dict(zip(METRICS, measure(weights).tolist(), strict=True))


def pairwise_auc(labels: Any, scores: Any) -> float:
    """The chance that a fraud scores above a genuine transaction, ties for half, pair by pair."""
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, b in itertools.product(scores[labels == 1], scores[labels == 0])
    ]
    return math.fsum(pairs) / len(pairs)


def card_precision(sample: Sample, k: int) -> float:
    """Day by day with dictionaries, as the handbook tells it."""
    found: set[int] = set()
    shares = []
    for day in sorted(set(sample.days.tolist())):
        cards: dict[int, tuple[float, int]] = {}
        for score, label, user, when, _ in zip(*(p.tolist() for p in sample), strict=True):
            if when == day and user not in found:
                best, worst = cards.get(user, (-math.inf, 0))
                cards[user] = max(best, score), max(worst, label)
        ranked = sorted(cards, key=lambda card: (-cards[card][0], card))[:k]
        hits = [card for card in ranked if cards[card][1]]
        shares.append(len(hits) / k)
        found.update(hits)
    return math.fsum(shares) / len(shares)


def alerts(sample: Sample, budget: Budget) -> dict[str, float]:
    chosen: list[int] = []
    for day in sorted(set(sample.days.tolist())):
        of_day = [i for i, d in enumerate(sample.days.tolist()) if d == day]
        chosen += sorted(of_day, key=lambda i: -sample.scores[i])[: budget.alerts]
    hits = [i for i in chosen if sample.labels[i] == 1]
    frauds = [i for i, label in enumerate(sample.labels) if label == 1]
    value, total = (math.fsum(float(sample.amounts[i]) for i in some) for some in (hits, frauds))
    return {
        "alert_precision": len(hits) / len(chosen),
        "alert_recall": len(hits) / len(frauds),
        "value_detected": value / total if total else math.nan,
        "cost": len(chosen) * budget.review_cost + (total - value) * budget.loss_share,
    }


def both_kinds(sample: Sample) -> bool:
    return len(set(sample.labels.tolist())) == 2


@given(rows, budgets)
def test_metrics_are_what_their_definitions_say(described: list[Any], budget: Budget) -> None:
    sample = sample_of(described)
    assume(both_kinds(sample))
    found = figures(Measure(sample, budget))
    expected = {
        "auc_roc": pairwise_auc(sample.labels, sample.scores),
        "average_precision": average_precision_score(sample.labels, sample.scores),
        "card_precision": card_precision(sample, budget.cards),
        **alerts(sample, budget),
    }
    assert found == pytest.approx(expected, nan_ok=True)
    assert roc_auc_score(sample.labels, sample.scores) == pytest.approx(found["auc_roc"])
    assert auc_roc(sample.labels, sample.scores) == found["auc_roc"]
    assert average_precision(sample.labels, sample.scores) == found["average_precision"]


@given(rows, budgets, st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_weights_repeat_users(described: list[Any], budget: Budget, copies: list[int]) -> None:
    """A user of weight w counts like w users with the same transactions."""
    sample = sample_of(described)
    assume(both_kinds(sample))
    measure = Measure(sample, budget)
    users = np.unique(sample.users)
    weights = np.array([copies[user] for user in users.tolist()])
    repeated = [
        (row[0], row[1], row[2] * 10 + copy, *row[3:])
        for row in described
        for copy in range(copies[row[2]])
    ]
    assume(repeated)
    again = sample_of(repeated)
    assume(both_kinds(again))
    # Days on which nobody is left do not count as days in the repeated sample.
    assume(set(again.days.tolist()) == set(sample.days.tolist()))
    expected = figures(Measure(again, budget))
    assert figures(measure, weights) == pytest.approx(expected, nan_ok=True)


def test_larger_samples_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(5000) < 0.02).astype(np.int8)
    scores = np.round(rng.normal(labels * 1.0, 1.0), 1)
    users = rng.integers(0, 300, 5000)
    weights = rng.integers(0, 4, 300)
    sample = Sample(scores, labels, users, rng.integers(0, 7, 5000), rng.random(5000))
    found = figures(Measure(sample, Budget()), weights)
    w = weights[users]
    assert found["auc_roc"] == pytest.approx(roc_auc_score(labels, scores, sample_weight=w))
    assert found["average_precision"] == pytest.approx(
        average_precision_score(labels, scores, sample_weight=w)
    )


def test_what_can_not_be_evaluated() -> None:
    good = sample_of([(0.5, 1, 0, 0, 1.0), (0.5, 0, 1, 0, 1.0)])
    for wrong, why in (
        ({"labels": np.zeros(2, np.int8)}, "none of the 2 .* is fraudulent"),
        ({"labels": np.ones(2, np.int8)}, "none of the 2 .* is genuine"),
        ({"scores": np.array([0.1, np.nan])}, "score 1 is nan"),
        ({"users": np.arange(3)}, "differ in length"),
        ({"labels": np.array([1, 0, -1], np.int8)}, "differ in length"),
    ):
        with pytest.raises(EvaluationError, match=why):
            Measure(good._replace(**wrong), Budget())
    with pytest.raises(EvaluationError, match="leave out what is unknown"):
        unknown = [(0.5, 1, 0, 0, 1.0), (0.5, 0, 1, 0, 1.0), (0.5, -1, 1, 0, 1.0)]
        Measure(sample_of(unknown), Budget())


def _random_sample(users: int, quality: float, seed: int = 1) -> Sample:
    rng = np.random.default_rng(seed)
    n = users * 8
    owner = rng.integers(0, users, n)
    labels = ((owner % 9 == 0) & (rng.random(n) < 0.5)).astype(np.int8)
    scores = labels * quality + rng.normal(size=n)
    return Sample(scores, labels, owner, rng.integers(0, 7, n), rng.random(n) * 50)


def test_intervals_hold_their_figures_and_shrink_with_more_users() -> None:
    widths = []
    for users in (60, 1500):
        found = intervals(bootstrap(Measure(_random_sample(users, 1.0), Budget(5, 5)), 200, 3))
        assert set(found) == set(METRICS)
        interval = found["auc_roc"]
        assert interval.low is not None
        assert interval.high is not None
        assert interval.value is not None
        assert interval.low <= interval.value <= interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 3


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = float(figures(Measure(_random_sample(20_000, 0.7, 99), Budget()))["auc_roc"])
    covered = 0
    for seed in range(100):
        sample = _random_sample(80, 0.7, seed)
        auc = intervals(bootstrap(Measure(sample, Budget()), 80, seed))["auc_roc"]
        assert auc.low is not None
        assert auc.high is not None
        covered += auc.low <= truth <= auc.high
    assert 85 <= covered <= 99


def test_the_same_seed_draws_the_same_users() -> None:
    measure = Measure(_random_sample(50, 1.0), Budget())
    one, two = bootstrap(measure, 20, 5), bootstrap(measure, 20, 5)
    assert one.replicates.tobytes() == two.replicates.tobytes()
    assert np.abs(difference(one, two).replicates).max() == 0.0
    assert one.replicates.tobytes() != bootstrap(measure, 20, 6).replicates.tobytes()


def test_means_differences_and_missing_figures() -> None:
    one = Bootstrapped(np.full(7, 1.0), np.tile(np.arange(5.0)[:, None], 7))
    two = Bootstrapped(np.full(7, 3.0), np.tile(np.arange(5.0)[:, None] + 2, 7))
    both = mean([one, two])
    assert both.values.tolist() == [2.0] * 7
    assert both.replicates[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    less = intervals(difference(one, two))["cost"]
    assert (less.value, less.low, less.high) == (-2.0, -2.0, -2.0)
    nothing = Bootstrapped(np.full(7, np.nan), np.full((4, 7), np.nan))
    missing = intervals(nothing)["auc_roc"]
    assert (missing.value, missing.low, missing.high) == (None, None, None)
    assert intervals(Bootstrapped(np.ones(7), np.empty((0, 7))))["auc_roc"].low is None
