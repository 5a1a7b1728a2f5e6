"""Classifiers made of trees: gradient boosting and random forests, served by the forest kernel.

Both give the probability of fraud that the library would give, and a risk calibrated from it.
They differ in what the trees add up to: log-odds, or probabilities to be averaged. A missing value
goes where the library sends it. Rows are float32, in serving as in training.

Knows no library; `trainers` makes such models and `package` stores them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from msgspec import Struct, to_builtins
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.models.calibration import IDENTITY, Calibration
from dafu.models.errors import ModelError
from dafu.models.forest import (
    ARRAYS,
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
from dafu.models.numeric import sigmoid
from dafu.models.shapley import ShapleyForest, prepare_shapley, shapley_values

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


class TreesParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest says of a random forest."""

    feature_groups: tuple[str, ...]
    calibration: Calibration


class BoostedTreesParameters(TreesParameters, frozen=True, forbid_unknown_fields=True):
    """What the manifest says of boosted trees."""

    base: float


@dataclass(frozen=True, kw_only=True)
class TreesModel(ModelBase, ABC):
    """What boosted trees and random forests share.

    Attributes
    ----------
    feature_groups : tuple of F names
        The group of each feature, one of `groups`.
    forest : Forest
        With covers and directions of missing values.
    calibration : Calibration
        From the library's probability to risk.

    Raises
    ------
    ModelError
        On construction, if the parts do not fit each other.
    """

    feature_groups: tuple[str, ...]
    forest: Forest
    calibration: Calibration = IDENTITY

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = len(self.feature_names)
        for what, found in (
            ("feature groups", len(self.feature_groups)),
            ("columns in the forest", self.forest.n_features),
        ):
            if found != wanted:
                raise ModelError(f"model '{self.name}': {found} {what} for {wanted} feature names")
        for what in ("missing_right", "cover"):
            if getattr(self.forest, what) is None:
                raise ModelError(f"model '{self.name}': its forest lacks the array '{what}'")
        _ = self.packed

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the forest."""
        return {name: getattr(self.forest, name) for name in ARRAYS}

    @cached_property
    def packed(self) -> PackedForest:
        """The forest in the kernel's layout."""
        return pack(self.forest, self._group_index, len(self.groups))

    @cached_property
    def _group_index(self) -> I32:
        return group_index(self.name, self.feature_groups, self.groups)

    @cached_property
    def _shapley(self) -> ShapleyForest:
        return prepare_shapley(self.forest)

    @property
    @abstractmethod
    def _start(self) -> float:
        """What is added to the sum over the trees."""

    @property
    @abstractmethod
    def _scale(self) -> float:
        """What that is multiplied by."""

    _logistic: ClassVar[bool]

    def raw(self, x: NDArray[Any], column_index: I32) -> F64:
        """Probabilities [n] alone, without risk and attribution; the same bits as `score` gives."""
        out = np.empty(len(x))
        total = predict_sum(self.packed, x, column_index)
        _probabilities(total, self._start, self._scale, self._logistic, out)
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
        raw, by_group = np.empty(len(total)), np.empty(credits.shape)
        _probabilities(total, self._start, self._scale, self._logistic, raw)
        _group_probabilities(
            credits,
            packed.expected * packed.n_trees,
            self._start,
            self._scale,
            self._logistic,
            by_group,
        )
        group_risk = self.calibration.risk(by_group)
        group_risk[credits >= 0.0] = 0.0
        return Scores(raw, self.calibration.risk(raw), group_risk)

    def explain(self, x: NDArray[Any], column_index: I32) -> Contributions:
        """Exact path-dependent Shapley values of the features, and their sums by group.

        Arguments as for `score`. On the scale of log-odds (boosting) or probability (forest).
        """
        features = shapley_values(self._shapley, x, column_index) * self._scale
        return Contributions(
            features,
            sum_by_group(features, self._group_index, len(self.groups)),
            (self._start + self._shapley.expected) * self._scale,
        )

    def explained_risk(self, contributions: Contributions) -> F64:
        """Risk had only one group moved the score from its average, [n, G]; 0 if it lowered it."""
        by_group = np.empty(contributions.groups.shape)
        _group_probabilities(
            -contributions.groups, contributions.expected, 0.0, 1.0, self._logistic, by_group
        )
        risk = self.calibration.risk(by_group)
        risk[contributions.groups <= 0.0] = 0.0
        return risk


@dataclass(frozen=True, kw_only=True)
class BoostedTreesModel(TreesModel):
    """Gradient-boosted trees for a binary target, of XGBoost or LightGBM.

    The raw score is sigmoid(base + sum of the leaves reached).

    Attributes
    ----------
    base : float
        Log-odds before the first tree.
    """

    kind: ClassVar[str] = "boosted_trees"
    _logistic: ClassVar[bool] = True

    base: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.base):
            raise ModelError(f"model '{self.name}': base is {self.base}, it must be finite")

    @property
    def _start(self) -> float:
        return self.base

    @property
    def _scale(self) -> float:
        return 1.0

    def parameters(self) -> dict[str, Any]:
        """What the manifest holds besides `ModelBase`."""
        parameters: dict[str, Any] = to_builtins(
            BoostedTreesParameters(self.feature_groups, self.calibration, self.base)
        )
        return parameters

    @classmethod
    def assemble(cls, manifest: Manifest, arrays: Arrays) -> Self:
        """Build the model from its package; see `Packaged`."""
        p = read_parameters(manifest, BoostedTreesParameters)
        check_arrays(cls.kind, arrays, ARRAYS)
        return cls(
            **base_fields(manifest),
            feature_groups=p.feature_groups,
            forest=Forest(n_features=len(manifest.features), **arrays),
            calibration=p.calibration,
            base=p.base,
        )


@dataclass(frozen=True, kw_only=True)
class RandomForestModel(TreesModel):
    """A random forest classifier for a binary target, of scikit-learn.

    The raw score is the mean over the trees of the share of fraud in the leaf reached.
    """

    kind: ClassVar[str] = "random_forest"
    _logistic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.any((self.forest.value < 0) | (self.forest.value > 1)):
            raise ModelError(f"model '{self.name}': a probability in the forest is not within 0..1")

    @property
    def _start(self) -> float:
        return 0.0

    @property
    def _scale(self) -> float:
        return 1.0 / self.forest.n_trees

    def parameters(self) -> dict[str, Any]:
        """What the manifest holds besides `ModelBase`."""
        parameters: dict[str, Any] = to_builtins(
            TreesParameters(self.feature_groups, self.calibration)
        )
        return parameters

    @classmethod
    def assemble(cls, manifest: Manifest, arrays: Arrays) -> Self:
        """Build the model from its package; see `Packaged`."""
        p = read_parameters(manifest, TreesParameters)
        check_arrays(cls.kind, arrays, ARRAYS)
        return cls(
            **base_fields(manifest),
            feature_groups=p.feature_groups,
            forest=Forest(n_features=len(manifest.features), **arrays),
            calibration=p.calibration,
        )


@kernel
def _probability(total: float, start: float, scale: float, logistic: bool) -> float:
    value = (start + total) * scale
    return sigmoid(value) if logistic else min(max(value, 0.0), 1.0)


@kernel
def _probabilities(total: F64, start: float, scale: float, logistic: bool, out: F64) -> None:
    for i in range(total.shape[0]):
        out[i] = _probability(total[i], start, scale, logistic)


@kernel
def _group_probabilities(
    credits: F64, expected: float, start: float, scale: float, logistic: bool, out: F64
) -> None:
    """Probability had only one group's splits moved the sum from `expected`; credits lower it."""
    for i in range(credits.shape[0]):
        for g in range(credits.shape[1]):
            out[i, g] = _probability(expected - credits[i, g], start, scale, logistic)
