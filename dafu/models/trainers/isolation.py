"""Isolation forests with scikit-learn: no labels needed.

Liu, Ting and Zhou, "Isolation Forest" (ICDM 2008).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from dafu.models.calibration import Calibration, RankCalibration, fit_rank
from dafu.models.errors import TrainingError
from dafu.models.forest import Forest
from dafu.models.isolation import IsolationForestModel, average_path_length
from dafu.models.trainers.base import F32, F64, Description, fitted, library, rows32


@dataclass
class IsolationForestTrainer:
    """An isolation forest, calibrated to the ranks of its training rows.

    Attributes
    ----------
    seed : int
        Same seed, data and library: same model, bit for bit.
    contamination : float
        Share of the training rows, within 0..0.5, above whose score the thresholds are put.
    n_estimators, max_samples : int
        Trees, and rows per tree (psi); no more than there are. 100 and 256 are the paper's.
    """

    seed: int
    contamination: float = 0.01
    n_estimators: int = 100
    max_samples: int = 256
    forest: Any = field(default=None, init=False, repr=False)
    fill: F64 = field(default_factory=lambda: np.empty(0), init=False, repr=False)
    scores: F64 = field(default_factory=lambda: np.empty(0), init=False, repr=False)

    def fit(self, x: NDArray[Any], y: NDArray[Any] | None = None) -> Self:  # noqa: ARG002
        """Learn from rows [n, F]; labels play no part.

        What is missing (NaN) is filled with the feature's median, 0 for a feature that is always
        missing; the same values fill it in serving.

        Raises
        ------
        TrainingError
            If scikit-learn is not installed, or data or parameters do not allow a training.
        """
        with library("scikit-learn"):
            from sklearn.ensemble import IsolationForest
        if not 0.0 < self.contamination <= 0.5:
            raise TrainingError(
                f"contamination is {self.contamination}; it must be above 0 and at most 0.5"
            )
        if self.n_estimators < 1 or self.max_samples < 2:
            raise TrainingError(
                f"n_estimators is {self.n_estimators} (at least 1), max_samples "
                f"{self.max_samples} (at least 2)"
            )
        rows32(x)
        self.fill = _medians(np.asarray(x, dtype=np.float64))
        filled = self._filled(x)
        self.forest = IsolationForest(
            n_estimators=self.n_estimators,
            max_samples=min(self.max_samples, len(filled)),
            contamination="auto",
            random_state=self.seed,
        ).fit(filled)
        self.scores = self.score(x)
        return self

    def _filled(self, x: NDArray[Any]) -> F32:
        with np.errstate(over="ignore"):
            return np.where(np.isnan(x), self.fill, x).astype(np.float32)

    def score(self, x: NDArray[Any]) -> F64:
        """scikit-learn's anomaly scores [n] of rows [n, F], missing values filled."""
        return -cast(F64, fitted(self.forest).score_samples(self._filled(x)))

    def export(
        self,
        description: Description,
        *,
        calibration: Calibration | None = None,
        thresholds: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> IsolationForestModel:
        """Make the serving model; thresholds and metrics are added to those of the training.

        Raises
        ------
        TrainingError
            If a calibration is given that is none of ranks.
        """
        forest = forest_from_sklearn(fitted(self.forest))
        calibration = calibration or fit_rank(self.scores)
        if not isinstance(calibration, RankCalibration):
            raise TrainingError("an isolation forest is calibrated to ranks, with fit_rank")
        threshold = float(np.quantile(self.scores, 1.0 - self.contamination))
        return IsolationForestModel(
            **description.arguments(IsolationForestModel.kind, self.seed),
            feature_groups=description.feature_groups,
            fill=tuple(float(v) for v in self.fill),
            forest=forest,
            max_samples=int(self.forest.max_samples_),
            calibration=calibration,
            thresholds={
                "raw": threshold,
                "risk": float(calibration.risk(np.array([threshold]))[0]),
                **(thresholds or {}),
            },
            metrics={
                "training_rows": float(len(self.scores)),
                "contamination": self.contamination,
                "raw_mean": float(self.scores.mean()),
                "raw_max": float(self.scores.max()),
                **(metrics or {}),
            },
        )


def forest_from_sklearn(trained: Any) -> Forest:
    """Flatten a fitted `sklearn.ensemble.IsolationForest`; `value` is the path length.

    Only forests whose trees see every feature (`max_features=1.0`) are taken.
    """
    names = ("feature", "threshold", "left", "right", "value")
    parts: dict[str, list[NDArray[Any]]] = {n: [] for n in names}
    roots: list[int] = []
    offset = 0
    for estimator, seen in zip(trained.estimators_, trained.estimators_features_, strict=True):
        if len(seen) != trained.n_features_in_:
            raise TrainingError(
                f"a tree was trained on {len(seen)} of {trained.n_features_in_} features; "
                "train with max_features=1.0"
            )
        tree = estimator.tree_
        leaf = tree.children_left < 0
        parts["feature"].append(np.where(leaf, -1, tree.feature))
        parts["threshold"].append(np.where(leaf, 0.0, tree.threshold))
        parts["left"].append(np.where(leaf, -1, tree.children_left + offset))
        parts["right"].append(np.where(leaf, -1, tree.children_right + offset))
        parts["value"].append(_path_lengths(tree))
        roots.append(offset)
        offset += tree.node_count
    flat = {n: np.concatenate(parts[n]) for n in names}
    return Forest(
        feature=flat["feature"].astype(np.int32),
        threshold=flat["threshold"].astype(np.float64),
        left=flat["left"].astype(np.int32),
        right=flat["right"].astype(np.int32),
        value=flat["value"].astype(np.float64),
        roots=np.array(roots, dtype=np.int32),
        n_features=int(trained.n_features_in_),
    )


def _path_lengths(tree: Any) -> F64:
    """Expected path length of the training rows that reach each node.

    At a leaf of n rows it is depth + c(n); scikit-learn counts the root's depth as 1.
    """
    rows = tree.n_node_samples
    depth = tree.compute_node_depths() - 1.0
    value: F64 = depth + np.array([average_path_length(int(n)) for n in rows])
    # Children come after their parent, so going backwards meets them first.
    for node in range(tree.node_count - 1, -1, -1):
        left, right = tree.children_left[node], tree.children_right[node]
        if left >= 0:
            both = rows[left] + rows[right]
            value[node] = (rows[left] * value[left] + rows[right] * value[right]) / both
    return value


def _medians(x: F64) -> F64:
    fill = np.zeros(x.shape[1])
    for j in range(x.shape[1]):
        present = x[~np.isnan(x[:, j]), j]
        if len(present):
            fill[j] = np.median(present)
    return fill
