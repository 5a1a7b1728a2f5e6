"""How far figures would move with other users: percentile intervals of the bootstrap over users.

Transactions of one user go together, in fraud above all, so whole users are drawn with
replacement, not transactions (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
chapters 8 and 13). The same seed draws the same users, whatever scored them, so that differences
between models may be taken replicate by replicate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.evaluation.metrics import METRICS, Measure

F64 = NDArray[np.float64]


class Interval(Struct, frozen=True):
    """A figure and the bounds of its interval; None where there is no telling."""

    value: float | None
    low: float | None
    high: float | None


class Bootstrapped(Struct, frozen=True):
    """The metrics of one sample, and of its replicates.

    Attributes
    ----------
    values : float64 [M]
        In the order of `dafu.evaluation.metrics.METRICS`.
    replicates : float64 [R, M]
    """

    values: F64
    replicates: F64


def bootstrap(measure: Measure, replicates: int, seed: int) -> Bootstrapped:
    """Measure a sample, and as many times with its users drawn again."""
    rng = np.random.default_rng(seed)
    n = measure.n_users
    drawn = np.empty((replicates, len(METRICS)))
    for r in range(replicates):
        drawn[r] = measure(np.bincount(rng.integers(0, n, n), minlength=n))
    return Bootstrapped(measure(), drawn)


def mean(parts: Sequence[Bootstrapped]) -> Bootstrapped:
    """The mean over samples, replicate by replicate."""
    return Bootstrapped(
        np.mean([p.values for p in parts], axis=0),
        np.mean([p.replicates for p in parts], axis=0),
    )


def difference(one: Bootstrapped, other: Bootstrapped) -> Bootstrapped:
    """How far `one` is above `other`, both measured on the same samples with the same seed."""
    return Bootstrapped(one.values - other.values, one.replicates - other.replicates)


def intervals(figures: Bootstrapped, confidence: float = 0.95) -> dict[str, Interval]:
    """Percentile intervals by metric; replicates in which a figure has no value do not count."""
    found: dict[str, Interval] = {}
    tail = (1.0 - confidence) / 2.0
    for k, name in enumerate(METRICS):
        value = float(figures.values[k])
        column = figures.replicates[:, k]
        column = column[np.isfinite(column)]
        low = high = None
        if column.size:
            low, high = (float(v) for v in np.quantile(column, (tail, 1.0 - tail)))
        found[name] = Interval(value if np.isfinite(value) else None, low, high)
    return found
