"""Gradient boosting with XGBoost.

Chen and Guestrin, "XGBoost: A scalable tree boosting system" (KDD 2016).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
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

SETTINGS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "tree_method": "hist",
        "max_bin": 4096,
        "subsample": 0.8,
        "colsample_bytree": 0.8,
        "min_child_weight": 0.3,
    }
)
"""XGBoost's parameters where its own defaults do not suit rare fraud.

Fraud lies in the tails: 256 bins put all of a tail into one, and cost a good deal of average
precision. A leaf's weight is the sum of p (1 - p), which is small where fraud is rare: with the
library's 1.0 no leaf could hold a few frauds alone."""


@dataclass
class XGBoostTrainer:
    """Boosted trees with the objective binary:logistic.

    Attributes
    ----------
    seed : int
        Same seed, data and library: same model, bit for bit.
    n_estimators, max_depth, learning_rate
        The most important ones.
    fraud_weight : float or "balanced"
        XGBoost's scale_pos_weight.
    early_stopping_rounds : int or None
        Stop when the average precision on the validation rows of `fit` has not risen for so many
        rounds, and keep the trees up to the best.
    parameters : mapping
        Any other of XGBoost's parameters, or other values than those of `SETTINGS`. Categorical
        features, linear boosters and DART are not served.
    """

    seed: int
    n_estimators: int = 100
    max_depth: int = 4
    learning_rate: float = 0.1
    fraud_weight: Weight = 1.0
    early_stopping_rounds: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    booster: Any = field(default=None, init=False, repr=False)

    def fit(
        self,
        x: NDArray[Any],
        y: NDArray[Any] | None,
        *,
        weights: NDArray[Any] | None = None,
        validation: tuple[NDArray[Any], NDArray[Any]] | None = None,
    ) -> Self:
        """Learn from rows [n, F], NaN for missing, and labels [n]; see `Trainer`.

        `weights` [n] are of rows; `validation` are rows and labels for early stopping.
        """
        with library("XGBoost"):
            import xgboost
        rows = rows32(x)
        target = labels(y, len(rows))
        stopping = self.early_stopping_rounds if validation is not None else None
        watched = []
        if validation is not None:
            seen = rows32(validation[0])
            watched = [(xgboost.DMatrix(seen, labels(validation[1], len(seen))), "validation")]
        parameters = {
            "objective": "binary:logistic",
            "eval_metric": "aucpr",
            **SETTINGS,
            "max_depth": self.max_depth,
            "eta": self.learning_rate,
            "scale_pos_weight": positive_weight(self.fraud_weight, target),
            "seed": self.seed,
            "nthread": 1,
            **self.parameters,
        }
        try:
            booster = xgboost.train(
                parameters,
                xgboost.DMatrix(rows, target, weight=weights),
                num_boost_round=self.n_estimators,
                evals=watched,
                early_stopping_rounds=stopping,
                verbose_eval=False,
            )
        except (xgboost.core.XGBoostError, ValueError, TypeError) as exc:
            raise TrainingError(f"XGBoost refuses to train: {exc}") from exc
        self.booster = booster[: booster.best_iteration + 1] if stopping else booster
        return self

    def score(self, x: NDArray[Any]) -> F64:
        """XGBoost's probabilities [n] of rows [n, F]."""
        booster = fitted(self.booster)
        import xgboost

        with np.errstate(over="ignore"):
            rows = xgboost.DMatrix(np.asarray(x, dtype=np.float32))
        return np.asarray(booster.predict(rows), dtype=np.float64)

    def export(
        self,
        description: Description,
        *,
        calibration: Calibration | None = None,
        thresholds: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> BoostedTreesModel:
        """Make the serving model; without a calibration, risk is the probability."""
        forest, base = forest_from_xgboost(fitted(self.booster))
        return BoostedTreesModel(
            **description.arguments(BoostedTreesModel.kind, self.seed),
            feature_groups=description.feature_groups,
            forest=forest,
            base=base,
            calibration=calibration or IDENTITY,
            thresholds=dict(thresholds or {}),
            metrics=dict(metrics or {}),
        )


def forest_from_xgboost(booster: Any) -> tuple[Forest, float]:
    """The trees of a binary `xgboost.Booster`, and its log-odds before the first of them.

    Raises
    ------
    TrainingError
        If it is of a kind that is not served.
    """
    learner = json.loads(booster.save_raw("json"))["learner"]
    name = learner["gradient_booster"]["name"]
    objective = learner["objective"]["name"]
    if name != "gbtree" or objective not in ("binary:logistic", "binary:logitraw"):
        raise TrainingError(
            f"XGBoost trained {name} with the objective {objective}; only gbtree with "
            "binary:logistic is served"
        )
    shape = learner["learner_model_param"]
    trees = []
    for tree in learner["gradient_booster"]["model"]["trees"]:
        if any(tree["split_type"]):
            raise TrainingError("XGBoost trained on categories, which are not served; encode them")
        condition = np.array(tree["split_conditions"], dtype=np.float32)
        trees.append(
            Tree(
                feature=np.array(tree["split_indices"]),
                # x < t holds exactly if x is at most the float32 before t.
                threshold=np.nextafter(condition, np.float32(-np.inf)),
                left=np.array(tree["left_children"]),
                right=np.array(tree["right_children"]),
                value=condition,
                cover=np.array(tree["sum_hessian"]),
                missing_right=np.array(tree["default_left"]) == 0,
            )
        )
    # A list in text since XGBoost 3.1, a number before.
    base = float(shape["base_score"].strip("[]"))
    if objective == "binary:logistic":
        base = math.log(base / (1.0 - base))
    return flatten(trees, int(shape["num_feature"])), base
