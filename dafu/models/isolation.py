"""The isolation forest as dafu serves it: anomaly score, risk, and the risk by feature group.

Liu, Ting and Zhou, "Isolation Forest" (ICDM 2008): what few random splits isolate is unusual. The
score of a row is 2^(-E[h] / c(psi)) with E[h] its mean path length over the trees and c(psi) the
mean path length of an unsuccessful search in a binary search tree of psi training rows (equations
1 and 2); it equals `-score_samples` of scikit-learn.

Knows neither scikit-learn nor files; `training` makes such a model and `package` stores it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from msgspec import Struct, to_builtins
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.models.calibration import RankCalibration, interpolate
from dafu.models.errors import ModelError
from dafu.models.forest import (
    FILLED_ARRAYS,
    Forest,
    PackedForest,
    pack,
    predict_sum,
    predict_sum_and_credits,
)
from dafu.models.model import (
    Arrays,
    Contributions,
    Manifest,
    ModelBase,
    Scores,
    base_fields,
    check_arrays,
    group_index,
    read_parameters,
    sum_by_group,
)
from dafu.models.numeric import exp2
from dafu.models.shapley import path_credits

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


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


class IsolationForestParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest says of an isolation forest; see `IsolationForestModel`."""

    feature_groups: tuple[str, ...]
    fill: tuple[float, ...]
    max_samples: int
    calibration: RankCalibration


@dataclass(frozen=True, kw_only=True)
class IsolationForestModel(ModelBase):
    """An isolation forest with everything that serving it needs.

    Attributes
    ----------
    feature_groups : tuple of F names
        The group of each feature, one of `groups`.
    fill : tuple of F floats
        What replaces a missing value (NaN), by feature: the median in training.
    forest : Forest
        Its `value` is a path length.
    max_samples : int
        Training rows per tree, psi.
    calibration : RankCalibration
        From anomaly score to risk.

    The thresholds are `raw` and `risk`, above which lies the share of training rows called
    contamination. The raw score is the anomaly score, above 0 and at most 1.

    Raises
    ------
    ModelError
        On construction, if the parts do not fit each other.
    """

    kind: ClassVar[str] = "isolation_forest"

    feature_groups: tuple[str, ...]
    fill: tuple[float, ...]
    forest: Forest
    max_samples: int
    calibration: RankCalibration

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = len(self.feature_names)
        for what, found in (
            ("feature groups", len(self.feature_groups)),
            ("fill values", len(self.fill)),
            ("columns in the forest", self.forest.n_features),
        ):
            if found != wanted:
                raise ModelError(f"model '{self.name}': {found} {what} for {wanted} feature names")
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

    def parameters(self) -> dict[str, Any]:
        """What the manifest holds besides `ModelBase`."""
        parameters: dict[str, Any] = to_builtins(
            IsolationForestParameters(
                self.feature_groups, self.fill, self.max_samples, self.calibration
            )
        )
        return parameters

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the forest."""
        return {name: getattr(self.forest, name) for name in FILLED_ARRAYS}

    @classmethod
    def assemble(cls, manifest: Manifest, arrays: Arrays) -> Self:
        """Build the model from its package; see `Packaged`."""
        p = read_parameters(manifest, IsolationForestParameters)
        check_arrays(cls.kind, arrays, FILLED_ARRAYS)
        return cls(
            **base_fields(manifest),
            feature_groups=p.feature_groups,
            fill=p.fill,
            forest=Forest(n_features=len(manifest.features), **arrays),
            max_samples=p.max_samples,
            calibration=p.calibration,
        )

    @cached_property
    def packed(self) -> PackedForest:
        """The forest in the kernel's layout."""
        return pack(self.forest, self._group_index, len(self.groups), self._fill)

    @cached_property
    def _group_index(self) -> I32:
        return group_index(self.name, self.feature_groups, self.groups)

    @cached_property
    def _fill(self) -> F64:
        return np.array(self.fill, dtype=np.float64)

    @cached_property
    def _normaliser(self) -> float:
        return average_path_length(self.max_samples)

    def anomaly(self, x: NDArray[Any], column_index: I32) -> F64:
        """Anomaly scores [n] alone, without attribution; the same bits as `score` gives."""
        total = predict_sum(self.packed, x, column_index)
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
        total, credits = predict_sum_and_credits(packed, x, column_index)
        n = len(total)
        scores = Scores(np.empty(n), np.empty(n), np.empty((n, packed.n_groups)))
        xs, ys = self.calibration.knots
        _anomaly(total, packed.n_trees, self._normaliser, scores.raw)
        _risks(
            scores.raw,
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

    def explain(self, x: NDArray[Any], column_index: I32) -> Contributions:
        """Path credits of the features, on the scale of the negative mean path length.

        Arguments as for `score`. The same attribution that `Scores.group_risk` is made of.
        """
        credits = path_credits(self.forest, x, column_index, self._fill)
        features = credits / -self.packed.n_trees
        groups = sum_by_group(features, self._group_index, len(self.groups))
        return Contributions(features, groups, -self.packed.expected)

    def explained_risk(self, contributions: Contributions) -> F64:
        """Risk had only one group shortened the path, [n, G]; 0 where it did not."""
        xs, ys = self.calibration.knots
        group_risk = np.empty(contributions.groups.shape)
        _group_risks(
            contributions.groups, 1, -contributions.expected, self._normaliser, xs, ys, group_risk
        )
        return group_risk


@kernel
def _anomaly(total: F64, n_trees: int, normaliser: float, out: F64) -> None:
    for i in range(total.shape[0]):
        out[i] = exp2(-(total[i] / n_trees) / normaliser)


@kernel
def _group_risks(
    credits: F64,
    n_trees: int,
    expected: float,
    normaliser: float,
    xs: F64,
    ys: F64,
    group_risk: F64,
) -> None:
    for i in range(credits.shape[0]):
        for g in range(credits.shape[1]):
            credit = credits[i, g] / n_trees
            group_risk[i, g] = 0.0
            if credit > 0.0:
                group_risk[i, g] = interpolate(exp2(-(expected - credit) / normaliser), xs, ys)


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
    _group_risks(credits, n_trees, expected, normaliser, xs, ys, group_risk)
