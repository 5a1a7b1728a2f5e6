"""Figures of how well scores tell fraud: by rank, by card, by alert and by money.

All of them take weights by user, with which the bootstrap in `dafu.evaluation.intervals` draws
users again: a weight of two counts a user's transactions as those of two users. What depends on
scores alone is sorted once, in `Measure`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.errors import DafuError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

METRICS: Final = (
    "auc_roc",
    "average_precision",
    "card_precision",
    "alert_precision",
    "alert_recall",
    "value_detected",
    "cost",
)
"""Names of what `Measure` gives, in its order."""

LOWER_IS_BETTER: Final = frozenset({"cost"})


class EvaluationError(DafuError):
    """Scores and labels that can not be evaluated together."""


class Budget(Struct, frozen=True):
    """What a team can look at, and what it costs.

    Attributes
    ----------
    cards : int
        Cards a day for the card precision (the k of "card precision@k").
    alerts : int
        Transactions a day that are reviewed.
    review_cost : float
        Of one alert, in units of the amounts.
    loss_share : float
        Share of a fraudulent amount that is lost if it is not alerted.
    """

    cards: int = 100
    alerts: int = 100
    review_cost: float = 5.0
    loss_share: float = 1.0


class Sample(NamedTuple):
    """Scored transactions with known labels.

    Attributes
    ----------
    scores : float64 [n]
        Higher is more suspicious.
    labels : int8 [n]
        1 fraud, 0 genuine.
    users : int64 [n]
        Cards or users, by any numbers.
    days : int64 [n]
        The day of each, by any numbers.
    amounts : float64 [n]
    """

    scores: F64
    labels: NDArray[np.int8]
    users: I64
    days: I64
    amounts: F64


class _Cards(NamedTuple):
    """Cards of one day, most suspicious first."""

    cards: I64
    fraudulent: NDArray[np.bool_]


class Measure:
    """Computes the metrics of a sample, with any weights of its users.

    Attributes
    ----------
    n_users : int
        Distinct users, which weights count for.

    Raises
    ------
    EvaluationError
        If the sample's parts do not fit, or it lacks fraud, or genuine transactions.
    """

    def __init__(self, sample: Sample, budget: Budget) -> None:
        _check(sample)
        self.budget = budget
        names, users = np.unique(sample.users, return_inverse=True)
        self.n_users = len(names)
        self._users = users
        fraud = sample.labels == 1
        self._ranking = _Ranking(sample.scores, fraud)
        self._days = [np.flatnonzero(sample.days == day) for day in np.unique(sample.days)]
        self._cards = [_cards(sample.scores[rows], fraud[rows], users[rows]) for rows in self._days]
        # Each day's transactions, most suspicious first; of equal ones the first.
        self._alerts = [
            rows[np.argsort(-sample.scores[rows], kind="stable")] for rows in self._days
        ]
        self._fraud = fraud
        self._fraud_amounts = np.where(fraud, sample.amounts, 0.0)

    def __call__(self, user_weights: I64 | None = None) -> F64:
        """The metrics, float64 [len(METRICS)] in the order of METRICS.

        Parameters
        ----------
        user_weights : int64 [n_users]
            How many times each user counts, in ascending order of their numbers; once if omitted.
            Where no fraud, or nothing else, is left, what can not be told is NaN.
        """
        if user_weights is None:
            user_weights = np.ones(self.n_users, dtype=np.int64)
        weights = user_weights[self._users]
        auc, ap = self._ranking.auc_and_average_precision(weights)
        return np.array([auc, ap, self._card_precision(user_weights), *self._of_alerts(weights)])

    def _card_precision(self, user_weights: I64) -> float:
        """Share of fraudulent ones among the most suspicious cards, mean over days.

        A card is as suspicious as its most suspicious transaction of the day, and fraudulent if
        any of them is. What was found fraudulent leaves the following days. A day with fewer
        cards than the budget counts as if the others were genuine, as in the handbook.
        """
        k = self.budget.cards
        left = user_weights.copy()
        shares = []
        for cards, fraudulent in self._cards:
            copies = left[cards]
            before = np.cumsum(copies) - copies
            taken = np.clip(k - before, 0, copies)
            found = taken * fraudulent
            shares.append(found.sum() / k)
            left[cards] -= found
        return float(np.mean(shares))

    def _of_alerts(self, weights: I64) -> tuple[float, float, float, float]:
        """Precision, recall, share of the fraud's value, and cost of the daily alerts."""
        budget = self.budget
        alerts = hits = 0
        value = 0.0
        for order in self._alerts:
            copies = weights[order]
            before = np.cumsum(copies) - copies
            taken = np.clip(budget.alerts - before, 0, copies)
            alerts += int(taken.sum())
            hits += int(taken[self._fraud[order]].sum())
            value += float(taken @ self._fraud_amounts[order])
        frauds = int(weights[self._fraud].sum())
        total = float(weights @ self._fraud_amounts)
        missing = np.nan
        return (
            hits / alerts if alerts else missing,
            hits / frauds if frauds else missing,
            value / total if total > 0.0 else missing,
            alerts * budget.review_cost + (total - value) * budget.loss_share,
        )


class _Ranking:
    """Scores sorted once, equal ones together."""

    def __init__(self, scores: F64, fraud: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        descending = scores[self._order]
        self._starts = np.flatnonzero(np.r_[True, descending[1:] != descending[:-1]])
        self._fraud = fraud[self._order]

    def auc_and_average_precision(self, weights: I64) -> tuple[float, float]:
        """Area under the ROC curve, and average precision as scikit-learn defines it.

        The first is the chance that a fraud's score is above a genuine one's, equal ones counting
        half (Hanley and McNeil, Radiology 143(1), 1982); the second is the sum over thresholds of
        precision times the increase of recall.
        """
        ordered = weights[self._order]
        every = np.add.reduceat(ordered, self._starts)
        frauds = np.add.reduceat(np.where(self._fraud, ordered, 0), self._starts)
        genuine = every - frauds
        n_frauds, n_genuine = int(frauds.sum()), int(genuine.sum())
        if n_frauds == 0 or n_genuine == 0:
            return np.nan, np.nan
        below = n_genuine - np.cumsum(genuine)
        auc = float(frauds @ (below + genuine / 2)) / (n_frauds * n_genuine)
        seen = np.cumsum(every)
        precision = np.cumsum(frauds) / np.maximum(seen, 1)
        return auc, float(frauds @ precision) / n_frauds


def auc_roc(labels: NDArray[np.int8], scores: F64) -> float:
    """Area under the ROC curve of labels (1 fraud) and scores, NaN if there is only one class.

    >>> auc_roc(np.array([0, 1, 1], np.int8), np.array([0.1, 0.1, 0.9]))
    0.75
    """
    return _Ranking(scores, labels == 1).auc_and_average_precision(np.ones(len(scores), int))[0]


def average_precision(labels: NDArray[np.int8], scores: F64) -> float:
    """Average precision of labels (1 fraud) and scores, NaN if there is only one class.

    >>> average_precision(np.array([0, 1, 1], np.int8), np.array([0.5, 0.1, 0.9]))
    0.8333333333333333
    """
    return _Ranking(scores, labels == 1).auc_and_average_precision(np.ones(len(scores), int))[1]


def _cards(scores: F64, fraud: NDArray[np.bool_], users: I64) -> _Cards:
    """The cards of some transactions; of equally suspicious ones the lower number first."""
    order = np.lexsort((-scores, users))
    starts = np.flatnonzero(np.r_[True, np.diff(users[order]) != 0])
    cards = users[order][starts]
    highest = scores[order][starts]
    fraudulent = np.maximum.reduceat(fraud[order], starts)
    ranked = np.lexsort((cards, -highest))
    return _Cards(cards[ranked], fraudulent[ranked])


def _check(sample: Sample) -> None:
    n = len(sample.scores)
    if any(len(part) != n for part in sample):
        sizes = ", ".join(str(len(part)) for part in sample)
        raise EvaluationError(f"the parts of a sample differ in length: {sizes}")
    if not np.isfinite(sample.scores).all():
        at = int(np.flatnonzero(~np.isfinite(sample.scores))[0])
        raise EvaluationError(f"score {at} is {sample.scores[at]}: scores must be finite")
    for label, what in ((1, "fraudulent"), (0, "genuine")):
        if not (sample.labels == label).any():
            raise EvaluationError(
                f"none of the {n:,} transactions with labels is {what}; evaluation needs both kinds"
            )
    if not np.isin(sample.labels, (0, 1)).all():
        raise EvaluationError("labels must be 0 or 1; leave out what is unknown")
