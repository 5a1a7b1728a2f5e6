"""Random forests with scikit-learn.

Breiman, "Random forests" (Machine Learning 45, 2001).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dafu.models.calibration import IDENTITY, Calibration
from dafu.models.errors import TrainingError
from dafu.models.forest import Forest
from dafu.models.trainers.base import F64, Description, fitted, labels, library, rows32
from dafu.models.trainers.flatten import Tree, flatten
from dafu.models.trees import RandomForestModel


@dataclass
class RandomForestTrainer:
    """A random forest classifier.

    Attributes
    ----------
    seed : int
        Same seed, data and library: same model, bit for bit.
    n_estimators, max_depth, min_samples_leaf
        The most important ones. Deep trees are large: a package of 100 trees to depth 20 may have
        tens of megabytes.
    class_weight : "balanced", "balanced_subsample" or None
        Both classes weigh the same over all rows, or over the rows that each tree sees. Distorts
        probabilities: calibrate the model (`trainers.calibration`).
    parameters : mapping
        Any other of `sklearn.ensemble.RandomForestClassifier`.
    """

    seed: int
    n_estimators: int = 100
    max_depth: int | None = 20
    min_samples_leaf: int = 1
    class_weight: Literal["balanced", "balanced_subsample"] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    forest: Any = field(default=None, init=False, repr=False)

    def fit(
        self, x: NDArray[Any], y: NDArray[Any] | None, *, weights: NDArray[Any] | None = None
    ) -> Self:
        """Learn from rows [n, F], NaN for missing, and labels [n]; see `Trainer`."""
        with library("scikit-learn"):
            from sklearn.ensemble import RandomForestClassifier
        rows = rows32(x)
        target = labels(y, len(rows))
        try:
            self.forest = RandomForestClassifier(
                n_estimators=self.n_estimators,
                max_depth=self.max_depth,
                min_samples_leaf=self.min_samples_leaf,
                class_weight=self.class_weight,
                random_state=self.seed,
                **self.parameters,
            ).fit(rows, target, sample_weight=weights)
        except (ValueError, TypeError) as exc:
            raise TrainingError(f"scikit-learn refuses to train: {exc}") from exc
        return self

    def score(self, x: NDArray[Any]) -> F64:
        """scikit-learn's probabilities [n] of rows [n, F]."""
        return np.asarray(fitted(self.forest).predict_proba(x)[:, 1], dtype=np.float64)

    def export(
        self,
        description: Description,
        *,
        calibration: Calibration | None = None,
        thresholds: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> RandomForestModel:
        """Make the serving model; without a calibration, risk is the probability."""
        return RandomForestModel(
            **description.arguments(RandomForestModel.kind, self.seed),
            feature_groups=description.feature_groups,
            forest=forest_from_classifier(fitted(self.forest)),
            calibration=calibration or IDENTITY,
            thresholds=dict(thresholds or {}),
            metrics=dict(metrics or {}),
        )


def forest_from_classifier(trained: Any) -> Forest:
    """The trees of a binary `sklearn.ensemble.RandomForestClassifier` (or of extra trees).

    A leaf's value is its share of fraud, by weight.
    """
    trees = []
    for estimator in trained.estimators_:
        tree = estimator.tree_
        by_class = tree.value[:, 0, :]
        trees.append(
            Tree(
                feature=tree.feature,
                # Infinite where a split tells missing values from all others.
                threshold=np.minimum(tree.threshold, float(np.finfo(np.float32).max)),
                left=tree.children_left,
                right=tree.children_right,
                value=by_class[:, 1] / by_class.sum(axis=1),
                cover=tree.weighted_n_node_samples,
                missing_right=tree.missing_go_to_left == 0,
            )
        )
    return flatten(trees, int(trained.n_features_in_))
