"""Whether figures are still distributed as in training: PSI and KS against a reference histogram.

The reference is small enough to travel with a model: for each figure the edges of about equally
filled bins and how many training values fell into each, missing ones in a bin of their own. What
is compared with it is counted into the same bins.

* PSI, the population stability index, is the sum of (q - p) ln(q / p) over the bins, with p the
  reference's shares and q the new ones: the symmetrised Kullback-Leibler divergence (Siddiqi,
  "Credit Risk Scorecards", 2006, chapter 8). By custom below 0.1 is stable, above 0.25 a shift.
* KS is the largest difference between the two distribution functions of the values that are not
  missing (Kolmogorov and Smirnov). Seen at the edges only, it is at most the true one, and less by
  no more than the largest share of a bin on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.errors import DafuError

F64 = NDArray[np.float64]

BINS: Final = 20
STABLE: Final = 0.1
SHIFTED: Final = 0.25
"""Customary limits of the PSI."""

_PSEUDO_COUNT: Final = 0.5
"""Added to every bin's count, so that an empty bin is rare and not impossible."""


class DriftError(DafuError):
    """A reference that can not be made, or that does not fit what is compared with it."""


class Reference(Struct, frozen=True, forbid_unknown_fields=True):
    """How one figure was distributed in training.

    Attributes
    ----------
    name : str
    edges : tuple of E floats
        Strictly ascending; bin k holds the values above edge k - 1 and up to edge k, the first
        and the last bin are open.
    counts : tuple of E + 1 ints
        Values by bin.
    missing : int
        How many had no value.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    missing: int = 0

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.edges) + 1:
            raise DriftError(
                f"reference of {self.name}: {len(self.counts)} counts for {len(self.edges)} edges; "
                "there must be one more"
            )
        if any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)) or not all(
            np.isfinite(self.edges)
        ):
            raise DriftError(f"reference of {self.name}: its edges must be finite and ascend")
        if min(*self.counts, self.missing) < 0 or sum(self.counts) + self.missing == 0:
            raise DriftError(f"reference of {self.name}: its counts must tell of some values")


class Drift(NamedTuple):
    """One figure against its reference; `ks` is NaN where one side has no values.

    `missing` and `missing_before` are shares of all values.
    """

    name: str
    psi: float
    ks: float
    missing: float
    missing_before: float


def reference(name: str, values: F64, bins: int = BINS) -> Reference:
    """Summarise training values [n >= 1], NaN for missing, in at most so many bins.

    Edges are quantiles that occur among the values, so that few distinct ones get a bin each.

    Examples
    --------
    >>> reference("x", np.array([1.0, 1.0, 2.0, 3.0, np.nan]), bins=4)
    Reference(name='x', edges=(1.0, 2.0), counts=(2, 1, 1), missing=1)
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise DriftError(f"reference of {name}: there are no values")
    if np.isinf(values).any():
        raise DriftError(f"reference of {name}: a value is infinite")
    present = np.sort(values[~np.isnan(values)])
    edges = np.empty(0)
    if present.size:
        at = np.ceil(np.arange(1, bins) / bins * present.size).astype(np.int64) - 1
        edges = np.unique(present[np.maximum(at, 0)])
        edges = edges[edges < present[-1]]
    return Reference(
        name,
        tuple(edges.tolist()),
        tuple(_counts(edges, present).tolist()),
        len(values) - present.size,
    )


def references(names: Sequence[str], table: F64, bins: int = BINS) -> list[Reference]:
    """A reference for each column of a table [n, F]."""
    return [reference(name, table[:, k], bins) for k, name in enumerate(names)]


def drift(before: Reference, values: F64) -> Drift:
    """Compare new values [n >= 1], NaN for missing, with their reference."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise DriftError(f"drift of {before.name}: there are no values to compare")
    present = values[~np.isnan(values)]
    now = _counts(np.array(before.edges), present)
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


def _counts(edges: F64, present: F64) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, present, side="left"), minlength=len(edges) + 1)
