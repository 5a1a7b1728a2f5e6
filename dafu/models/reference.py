"""How a model's features and scores were distributed in training, small enough to travel with it.

A reference of one figure holds the edges of about equally filled bins and how many training values
fell into each, missing ones in a bin of their own. `dafu.evaluation.drift` compares new values
with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.models.errors import ModelError

F64 = NDArray[np.float64]

BINS: Final = 20

SCORE: Final = "raw_score"
"""What the reference of a model's raw score is called."""


class DriftError(ModelError):
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


class ModelReference(Struct, frozen=True, forbid_unknown_fields=True):
    """How all that a model reads and says was distributed.

    Attributes
    ----------
    features : tuple of F Reference
        In the model's order, by its names.
    score : Reference
        Of the raw score.
    """

    features: tuple[Reference, ...]
    score: Reference


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
        tuple(bin_counts(edges, present).tolist()),
        len(values) - present.size,
    )


def references(names: Sequence[str], table: F64, bins: int = BINS) -> list[Reference]:
    """A reference for each column of a table [n, F]."""
    return [reference(name, table[:, k], bins) for k, name in enumerate(names)]


def bin_counts(edges: F64, present: F64) -> NDArray[np.int64]:
    """How many values fall into each bin of a reference with these edges."""
    return np.bincount(np.searchsorted(edges, present, side="left"), minlength=len(edges) + 1)
