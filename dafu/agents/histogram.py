"""Histograms with fixed buckets, at the cost of a vectorised update a batch. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram"]


class Histogram:
    """Counts values by bucket, as Prometheus has them: a bound belongs to the bucket below it.

    Parameters
    ----------
    bounds : sequence of float
        Upper bounds of the buckets, strictly ascending. One more without a bound comes behind them.

    Attributes
    ----------
    counts : int64 [bounds + 1]
        Values by bucket.
    sum : float
        Of all values.

    Examples
    --------
    >>> histogram = Histogram([0.1, 1.0])
    >>> histogram.add_many(np.array([0.1, 0.2, 5.0]))
    >>> histogram.add(0.05)
    >>> histogram.counts.tolist(), round(histogram.sum, 9)
    ([2, 1, 1], 5.35)
    """

    __slots__ = ("_edges", "bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        if any(a >= b for a, b in pairwise(bounds)):
            raise ValueError(f"bounds must be strictly ascending, not {list(bounds)}")
        self.bounds = tuple(bounds)
        self.counts: NDArray[np.int64] = np.zeros(len(bounds) + 1, np.int64)
        self.sum = 0.0
        self._edges = np.array(bounds, np.float64)

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_many(self, values: NDArray[np.float64]) -> None:
        """Count n values, none of them NaN."""
        buckets = self._edges.searchsorted(values)
        self.counts += np.bincount(buckets, minlength=len(self.counts))
        self.sum += float(values.sum())

    def cumulative(self) -> list[int]:
        """How many values are not above each bound, and how many there are in all."""
        return list(accumulate(self.counts.tolist()))
