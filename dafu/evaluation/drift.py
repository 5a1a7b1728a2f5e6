"""Whether figures are still distributed as in training: PSI and KS against a reference histogram.

The reference travels with a model (`dafu.models.reference`): for each figure the edges of about
equally filled bins and how many training values fell into each, missing ones in a bin of their own.
What is compared with it is counted into the same bins.

* PSI, the population stability index, is the sum of (q - p) ln(q / p) over the bins, with p the
  reference's shares and q the new ones: the symmetrised Kullback-Leibler divergence (Siddiqi,
  "Credit Risk Scorecards", 2006, chapter 8). By custom below 0.1 is stable, above 0.25 a shift.
* KS is the largest difference between the two distribution functions of the values that are not
  missing (Kolmogorov and Smirnov). Seen at the edges only, it is at most the true one, and less by
  no more than the largest share of a bin on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.models.reference import (
    BINS,
    DriftError,
    ModelReference,
    Reference,
    bin_counts,
    reference,
    references,
)

__all__ = [
    "BINS",
    "SHIFTED",
    "STABLE",
    "Drift",
    "DriftError",
    "Reference",
    "Verdict",
    "drift",
    "drifts",
    "model_drifts",
    "psi",
    "psi_by_chance",
    "reference",
    "references",
    "verdict",
]

F64 = NDArray[np.float64]
Verdict = Literal["stable", "watch", "shifted"]

STABLE: Final = 0.1
SHIFTED: Final = 0.25
"""Customary limits of the PSI."""

_PSEUDO_COUNT: Final = 0.5
"""Added to every bin's count, so that an empty bin is rare and not impossible."""


class Drift(NamedTuple):
    """One figure against its reference; `ks` is NaN where one side has no values.

    `missing` and `missing_before` are shares of all values.
    """

    name: str
    psi: float
    ks: float
    missing: float
    missing_before: float


def drift(before: Reference, values: F64) -> Drift:
    """Compare new values [n >= 1], NaN for missing, with their reference."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise DriftError(f"drift of {before.name}: there are no values to compare")
    present = values[~np.isnan(values)]
    now = bin_counts(np.array(before.edges), present)
    then = np.array(before.counts)
    missing = len(values) - present.size
    return Drift(
        before.name,
        psi(np.append(then, before.missing), np.append(now, missing)),
        _ks(then, now),
        missing / len(values),
        before.missing / (sum(before.counts) + before.missing),
    )


def drifts(before: Sequence[Reference], table: F64) -> list[Drift]:
    """Compare the columns of a table [n, F] with a reference each."""
    if table.ndim != 2 or table.shape[1] != len(before):
        raise DriftError(f"a table of shape {table.shape} for {len(before)} references")
    return [drift(one, table[:, k]) for k, one in enumerate(before)]


def model_drifts(before: ModelReference, features: F64, scores: F64) -> list[Drift]:
    """Compare a model's features [n, F], in its order, and raw scores [n] with its reference.

    Returns
    -------
    list of F + 1 Drift
        The last one is of the score.
    """
    return [*drifts(before.features, features), drift(before.score, scores)]


def verdict(found: Drift) -> Verdict:
    """In a word: stable below a PSI of 0.1, shifted from 0.25 on, to be watched in between."""
    if found.psi < STABLE:
        return "stable"
    return "watch" if found.psi < SHIFTED else "shifted"


def psi_by_chance(before: Reference, n: int) -> float:
    """About what PSI to expect of n values that are distributed as before.

    The PSI of B bins is then about (1 / n + 1 / m) times a chi-square variable of B - 1 degrees
    of freedom, m values being in the reference (Yurdakul, "Statistical properties of the
    population stability index", 2018).
    """
    bins = sum(count > 0 for count in (*before.counts, before.missing))
    return (bins - 1) * (1.0 / n + 1.0 / (sum(before.counts) + before.missing))


def psi(then: NDArray[np.int64], now: NDArray[np.int64]) -> float:
    """Population stability index of two histograms [B] over the same bins.

    Half a count is added to every bin that either side has anything in.

    >>> psi(np.array([50, 50]), np.array([50, 50]))
    0.0
    """
    used = (then > 0) | (now > 0)
    p, q = then[used] + _PSEUDO_COUNT, now[used] + _PSEUDO_COUNT
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _ks(then: NDArray[np.int64], now: NDArray[np.int64]) -> float:
    if not then.sum() or not now.sum():
        return float("nan")
    return float(np.abs(np.cumsum(then) / then.sum() - np.cumsum(now) / now.sum()).max())
