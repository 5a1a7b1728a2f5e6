"""Gradient boosting with LightGBM, which comes with the extra of its name.

Ke et al., "LightGBM: A highly efficient gradient boosting decision tree" (NIPS 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from dafu.models.calibration import IDENTITY, Calibration
from dafu.models.errors import TrainingError
from dafu.models.forest import Forest
from dafu.models.trainers.base import (
    F64,
    Description,
    Weight,
    fitted,
    labels,
    library,
    positive_weight,
    rows32,
)
from dafu.models.trainers.flatten import Tree, flatten
from dafu.models.trees import BoostedTreesModel

OBJECTIVE: Final = "binary sigmoid:1"


@dataclass
class LightGBMTrainer:
    """Boosted trees with the objective binary.

    Rows are cast to float32 before they are learned from and before they are scored, so that
    LightGBM decides on what the serving kernel sees.

    Attributes
    ----------
    seed : int
        Same seed, data and library: same model, bit for bit.
    n_estimators, num_leaves, learning_rate
        The most important ones.
    fraud_weight : float or "balanced"
        LightGBM's scale_pos_weight.
    parameters : mapping
        Any other of LightGBM's parameters. Categorical features, linear trees, random forests and
        zero_as_missing are not served.
    """

    seed: int
    n_estimators: int = 100
    num_leaves: int = 31
    learning_rate: float = 0.1
    fraud_weight: Weight = 1.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    booster: Any = field(default=None, init=False, repr=False)

    def fit(
        self, x: NDArray[Any], y: NDArray[Any] | None, *, weights: NDArray[Any] | None = None
    ) -> Self:
        """Learn from rows [n, F], NaN for missing, and labels [n]; see `Trainer`."""
        with library("LightGBM", "lightgbm"):
            import lightgbm
        rows = rows32(x)
        target = labels(y, len(rows))
        parameters = {
            "objective": "binary",
            "num_leaves": self.num_leaves,
            "learning_rate": self.learning_rate,
            "scale_pos_weight": positive_weight(self.fraud_weight, target),
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbose": -1,
            **self.parameters,
        }
        try:
            self.booster = lightgbm.train(
                parameters,
                lightgbm.Dataset(rows, target, weight=weights),
                num_boost_round=self.n_estimators,
            )
        except (lightgbm.basic.LightGBMError, ValueError, TypeError) as exc:
            raise TrainingError(f"LightGBM refuses to train: {exc}") from exc
        return self

    def score(self, x: NDArray[Any]) -> F64:
        """LightGBM's probabilities [n] of rows [n, F]."""
        with np.errstate(over="ignore"):
            rows = np.asarray(x, dtype=np.float32)
        return np.asarray(fitted(self.booster).predict(rows, num_threads=1), dtype=np.float64)

    def export(
        self,
        description: Description,
        *,
        calibration: Calibration | None = None,
        thresholds: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> BoostedTreesModel:
        """Make the serving model; without a calibration, risk is the probability."""
        return BoostedTreesModel(
            **description.arguments(BoostedTreesModel.kind, self.seed),
            feature_groups=description.feature_groups,
            forest=forest_from_lightgbm(fitted(self.booster)),
            base=0.0,  # LightGBM keeps it in the leaves of the first tree
            calibration=calibration or IDENTITY,
            thresholds=dict(thresholds or {}),
            metrics=dict(metrics or {}),
        )


def forest_from_lightgbm(booster: Any) -> Forest:
    """The trees of a binary `lightgbm.Booster`.

    Raises
    ------
    TrainingError
        If it is of a kind that is not served.
    """
    model = booster.dump_model()
    if model["objective"] != OBJECTIVE or model["average_output"]:
        raise TrainingError(
            f"LightGBM trained with the objective '{model['objective']}'"
            f"{', averaging' if model['average_output'] else ''}; only '{OBJECTIVE}' is served"
        )
    trees = [_tree(each["tree_structure"]) for each in model["tree_info"]]
    return flatten(trees, int(model["max_feature_idx"]) + 1)


def _tree(root: dict[str, Any]) -> Tree:
    nodes = [root]
    children: list[tuple[int, int]] = []
    for node in nodes:  # grows while it is gone over: breadth first
        if "split_index" in node:
            children.append((len(nodes), len(nodes) + 1))
            nodes += [node["left_child"], node["right_child"]]
        else:
            children.append((-1, -1))
    left, right = np.array(children).T
    missing_right = np.zeros(len(nodes), dtype=np.bool_)
    for i, node in enumerate(nodes):
        if left[i] < 0:
            continue
        if node["decision_type"] != "<=":
            raise TrainingError("LightGBM trained on categories, which are not served; encode them")
        if node["missing_type"] == "NaN":
            missing_right[i] = not node["default_left"]
        elif node["missing_type"] == "None":  # the feature had no missing value: taken for 0
            missing_right[i] = node["threshold"] < 0.0
        else:
            raise TrainingError("LightGBM trained with zero_as_missing, which is not served")
    if any("leaf_coeff" in node for node in nodes):
        raise TrainingError("LightGBM trained linear trees, which are not served")
    # A tree that found no split has a leaf without a count.
    cover = [node.get("internal_count", node.get("leaf_count", 1)) for node in nodes]
    return Tree(
        feature=np.array([node.get("split_feature", -1) for node in nodes]),
        threshold=np.array([node.get("threshold", 0.0) for node in nodes], dtype=np.float64),
        left=left,
        right=right,
        value=np.array([node.get("leaf_value", 0.0) for node in nodes]),
        cover=np.array(cover, dtype=np.float64),
        missing_right=missing_right,
    )
