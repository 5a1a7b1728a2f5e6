"""The isolation forest as dafu serves it: anomaly score, risk, and the risk by feature group.

Liu, Ting and Zhou, "Isolation Forest" (ICDM 2008): what few random splits isolate is unusual. The
score of a row is 2^(-E[h] / c(psi)) with E[h] its mean path length over the trees and c(psi) the
mean path length of an unsuccessful search in a binary search tree of psi training rows (equations
1 and 2); it equals `-score_samples` of scikit-learn.

Knows neither scikit-learn nor files; `training` makes such a model and `package` stores it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.models.calibration import Calibration, interpolate
from dafu.models.errors import ModelError
from dafu.models.forest import (
    Forest,
    PackedForest,
    pack,
    predict_sum,
    predict_sum_and_credits,
)
from dafu.models.numeric import exp2

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

GROUPS: Final = ("amount", "behavior", "merchant")
"""The feature groups, in the order of the columns of `Scores.group_risk`."""


class Scores(NamedTuple):
    """What a model says of n rows.

    Attributes
    ----------
    anomaly : float64 [n]
        The anomaly score, above 0 and at most 1; higher is more unusual.
    risk : float64 [n]
        Its calibration, 0..1: a rank, not a probability.
    group_risk : float64 [n, G]
        The risk had only this group's splits left the average path; 0 where they made the path
        no shorter than average.
    """

    anomaly: F64
    risk: F64
    group_risk: F64


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from: what it was trained on, by which code, with which seed."""

    data: str = ""
    code: str = ""
    seed: int = 0


def average_path_length(n: int) -> float:
    """Mean path length c(n) of an unsuccessful search among n rows (Liu et al. 2008, equation 1).

    >>> average_path_length(2)
    1.0
    >>> round(average_path_length(256), 6)
    10.244771
    """
    if n <= 1:
        return 0.0
    if n == 2:
        return 1.0
    return 2.0 * (math.log(n - 1.0) + float(np.euler_gamma)) - 2.0 * (n - 1.0) / n


@dataclass(frozen=True)
class IsolationForestModel:
    """An isolation forest with everything that serving it needs.

    Attributes
    ----------
    name : str
        What decisions call it.
    feature_names : tuple of F names
        The features it reads, in the order of the forest's columns.
    feature_groups : tuple of F names
        The group of each feature, one of `groups`.
    groups : tuple of G names
        The columns of `group_risk`.
    fill : tuple of F floats
        What replaces a missing value (NaN), by feature: the median in training.
    forest : Forest
        Its `value` is a path length.
    max_samples : int
        Training rows per tree, psi.
    calibration : Calibration
        From anomaly score to risk.
    catalogue_hash : str
        The feature catalogue it was trained with.
    thresholds, metrics : dict
        For people and for the configuration: `anomaly` and `risk` above which lies the share of
        training rows called contamination, and figures of the training run.
    provenance : Provenance
        What it was made from.
    version : str
        Hash of the package's content; empty until the model has been packaged.

    Raises
    ------
    ModelError
        On construction, if the parts do not fit each other.
    """

    name: str
    feature_names: tuple[str, ...]
    feature_groups: tuple[str, ...]
    fill: tuple[float, ...]
    forest: Forest
    max_samples: int
    calibration: Calibration
    groups: tuple[str, ...] = GROUPS
    catalogue_hash: str = ""
    thresholds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    version: str = ""

    def __post_init__(self) -> None:
        wanted = len(self.feature_names)
        for what, found in (
            ("feature groups", len(self.feature_groups)),
            ("fill values", len(self.fill)),
            ("columns in the forest", self.forest.n_features),
        ):
            if found != wanted:
                raise ModelError(f"model '{self.name}': {found} {what} for {wanted} feature names")
        if wanted == 0:
            raise ModelError(f"model '{self.name}' has no features")
        for what, names in (("feature", self.feature_names), ("group", self.groups)):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ModelError(f"model '{self.name}': {what} {twice[0]!r} is listed twice")
        unknown = sorted(set(self.feature_groups) - set(self.groups))
        if unknown:
            raise ModelError(
                f"model '{self.name}': group {unknown[0]!r} is none of {', '.join(self.groups)}"
            )
        if not all(math.isfinite(v) for v in self.fill):
            raise ModelError(f"model '{self.name}': every fill value must be finite")
        if self.max_samples < 2:
            raise ModelError(
                f"model '{self.name}': max_samples is {self.max_samples}; below 2 no path has "
                "a length"
            )
        if np.any(self.forest.value < 0):
            raise ModelError(f"model '{self.name}': a path length in the forest is negative")
        _ = self.packed

    @cached_property
    def packed(self) -> PackedForest:
        """The forest in the kernel's layout."""
        group_index = np.array([self.groups.index(g) for g in self.feature_groups], dtype=np.int32)
        return pack(self.forest, group_index, len(self.groups))

    @cached_property
    def _fill(self) -> F64:
        return np.array(self.fill, dtype=np.float64)

    @cached_property
    def _knots(self) -> tuple[F64, F64]:
        return np.array(self.calibration.scores), np.array(self.calibration.risks)

    @cached_property
    def _normaliser(self) -> float:
        return average_path_length(self.max_samples)

    def column_index(self, columns: dict[str, int]) -> I32:
        """Where this model's features are in a matrix with these columns.

        Parameters
        ----------
        columns
            Column by feature name, such as `dafu.features.catalogue.INDEX`.

        Raises
        ------
        ModelError
            Naming the features that the matrix lacks.
        """
        missing = [n for n in self.feature_names if n not in columns]
        if missing:
            raise ModelError(
                f"model '{self.name}' needs features that are not computed: {', '.join(missing)}; "
                "retrain it with the present feature catalogue"
            )
        return np.array([columns[n] for n in self.feature_names], dtype=np.int32)

    def anomaly(self, x: NDArray[Any], column_index: I32) -> F64:
        """Anomaly scores [n] alone, without attribution; the same bits as `score` gives."""
        total = predict_sum(self.packed, x, column_index, self._fill)
        out = np.empty(len(total))
        _anomaly(total, self.packed.n_trees, self._normaliser, out)
        return out

    def score(self, x: NDArray[Any], column_index: I32) -> Scores:
        """Score rows of the full feature matrix.

        Parameters
        ----------
        x : float64 or float32 [n, F_full]
            The full feature matrix, NaN for missing.
        column_index : int32 [F]
            Column of each feature of this model in `x`; see `column_index`.

        Raises
        ------
        ModelError
            If the shapes do not fit.
        """
        packed = self.packed
        total, credits = predict_sum_and_credits(packed, x, column_index, self._fill)
        n = len(total)
        scores = Scores(np.empty(n), np.empty(n), np.empty((n, packed.n_groups)))
        xs, ys = self._knots
        _anomaly(total, packed.n_trees, self._normaliser, scores.anomaly)
        _risks(
            scores.anomaly,
            credits,
            packed.n_trees,
            packed.expected,
            self._normaliser,
            xs,
            ys,
            scores.risk,
            scores.group_risk,
        )
        return scores


@kernel
def _anomaly(total: F64, n_trees: int, normaliser: float, out: F64) -> None:
    for i in range(total.shape[0]):
        out[i] = exp2(-(total[i] / n_trees) / normaliser)


@kernel
def _risks(
    anomaly: F64,
    credits: F64,
    n_trees: int,
    expected: float,
    normaliser: float,
    xs: F64,
    ys: F64,
    risk: F64,
    group_risk: F64,
) -> None:
    for i in range(anomaly.shape[0]):
        risk[i] = interpolate(anomaly[i], xs, ys)
        for g in range(credits.shape[1]):
            credit = credits[i, g] / n_trees
            group_risk[i, g] = 0.0
            if credit > 0.0:
                group_risk[i, g] = interpolate(exp2(-(expected - credit) / normaliser), xs, ys)
