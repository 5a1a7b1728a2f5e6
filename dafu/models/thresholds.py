"""Choosing the risk from which transactions are looked at or blocked, on labelled or plain scores.

A threshold t takes the rows whose score is **at least** t. Each function picks among the scores it
is given, `inf` standing for taking none, so that what it promises holds exactly on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dafu.models.errors import ModelError

F64 = NDArray[np.float64]


def by_alert_budget(scores: F64, budget: int) -> float:
    """The lowest threshold that takes at most `budget` of the scores [n].

    For scores of a day, `budget` is what analysts can look at in a day.

    Examples
    --------
    >>> by_alert_budget(np.array([0.1, 0.9, 0.5, 0.5]), 2)
    0.9
    """
    if budget < 0:
        raise ModelError(f"the alert budget is {budget}; it can not be negative")
    ordered = _descending(scores)
    if budget >= len(ordered):
        return float(ordered[-1])
    # Equal scores are taken together: go up to the next one that lies above the first left out.
    above = ordered[ordered > ordered[budget]]
    return float(above[-1]) if len(above) else float("inf")


def by_false_positive_rate(scores: F64, y: NDArray[Any], rate: float) -> float:
    """The lowest threshold that takes at most the share `rate` of the genuine rows.

    Parameters
    ----------
    scores : float64 [n]
    y : [n]
        1 for fraud, 0 for genuine.
    rate : float
        Within 0..1.

    Examples
    --------
    >>> by_false_positive_rate(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 0, 0, 1]), 0.34)
    0.3
    """
    if not 0.0 <= rate <= 1.0:
        raise ModelError(f"the false-positive rate is {rate}; it must be within 0..1")
    fraud = _labels(scores, y)
    candidates, genuine, _ = _cumulative(scores, fraud, np.ones(len(scores)))
    allowed = np.flatnonzero(genuine <= rate * np.count_nonzero(~fraud))
    return float(candidates[allowed[-1]]) if len(allowed) else float("inf")


def by_expected_cost(
    scores: F64, y: NDArray[Any], false_positive_cost: float, fraud_cost: float | F64
) -> float:
    """The threshold at which missed fraud and false alarms cost least; the highest if several do.

    Parameters
    ----------
    scores : float64 [n]
    y : [n]
        1 for fraud, 0 for genuine.
    false_positive_cost : float
        What taking a genuine row costs: an analyst's time, an annoyed customer.
    fraud_cost : float or float64 [n]
        What missing a fraudulent row costs; by row, for instance its amount.

    Examples
    --------
    >>> by_expected_cost(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 0, 1]), 1.0, 5.0)
    0.2
    """
    costs = np.broadcast_to(np.asarray(fraud_cost, dtype=np.float64), scores.shape)
    if not false_positive_cost >= 0 or not np.all(costs >= 0):
        raise ModelError("costs must be numbers, and not negative")
    fraud = _labels(scores, y)
    candidates, genuine, found = _cumulative(scores, fraud, costs)
    missed = float(costs[fraud].sum())
    cost = np.concatenate([[missed], genuine * false_positive_cost + (missed - found)])
    return float(np.concatenate([[np.inf], candidates])[int(np.argmin(cost))])


def _descending(scores: F64) -> F64:
    if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
        raise ModelError("a threshold needs finite scores of one dimension, at least one")
    return -np.sort(-scores)


def _labels(scores: F64, y: NDArray[Any]) -> NDArray[np.bool_]:
    y = np.asarray(y)
    if y.shape != scores.shape or not np.isin(y, (0, 1)).all():
        raise ModelError(f"labels of shape {y.shape} for scores {scores.shape}; each is 0 or 1")
    fraud: NDArray[np.bool_] = y == 1
    return fraud


def _cumulative(scores: F64, fraud: NDArray[np.bool_], costs: F64) -> tuple[F64, F64, F64]:
    """Distinct scores, descending; genuine rows and cost of fraud taken at each as threshold."""
    _descending(scores)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of its equals
    genuine = np.cumsum(~fraud[order])[last].astype(np.float64)
    found = np.cumsum(np.where(fraud, costs, 0.0)[order])[last]
    return ordered[last], genuine, found
