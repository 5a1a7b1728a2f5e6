"""Training models of rows: trees and tails on the features of single transactions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dafu import __version__
from dafu.features.catalogue import CATALOGUE_HASH, FEATURES, INDEX
from dafu.history import History
from dafu.models.model import Model
from dafu.models.trainers import (
    Description,
    IsolationForestTrainer,
    RandomForestTrainer,
    TailsTrainer,
    XGBoostTrainer,
)
from dafu.models.trainers.calibration import fit_beta
from dafu.training.periods import Periods
from dafu.training.plan import Plan
from dafu.training.settings import SHIPPED_FOREST, forest_arguments, xgboost_arguments

F64 = NDArray[np.float64]


def describe(
    names: Sequence[str], data: str, requires: dict[str, str], name: str = ""
) -> Description:
    """What a model on these features of the catalogue says of itself."""
    return Description(
        tuple(names),
        tuple(FEATURES[INDEX[each]].group for each in names),
        name=name,
        catalogue_hash=CATALOGUE_HASH,
        data=data,
        code=f"dafu {__version__}",
        requires=requires,
    )


def table(history: History, names: Sequence[str], rows: NDArray[np.int64]) -> F64:
    """Features [rows, names] of the history."""
    picked: F64 = history.features[rows[:, None], np.array([INDEX[name] for name in names])]
    return picked


def train_unsupervised(history: History, periods: Periods, plan: Plan, data: str) -> Model:
    """An isolation forest or tails; labels play no part."""
    names = plan.row_features
    trainer: Any
    if plan.model == "tails":
        trainer = TailsTrainer(contamination=plan.contamination, seed=plan.seed)
    else:
        trainer = IsolationForestTrainer(plan.seed, plan.contamination, **SHIPPED_FOREST)
    trainer.fit(table(history, names, periods.learn))
    model: Model = trainer.export(describe(names, data, {}))
    return model


def train_supervised(history: History, periods: Periods, plan: Plan, data: str) -> Model:
    """Boosted trees or a random forest, calibrated to probabilities."""
    names = plan.row_features
    trainer: Any
    if plan.model == "random_forest":
        trainer = RandomForestTrainer(plan.seed, **forest_arguments({}))
    else:
        trainer = XGBoostTrainer(plan.seed, **xgboost_arguments(len(periods.learn), {}))
    trainer.fit(table(history, names, periods.learn), history.labels[periods.learn])
    later = trainer.score(table(history, names, periods.calibrate))
    model: Model = trainer.export(
        describe(names, data, plan.requires),
        calibration=fit_beta(later, history.labels[periods.calibrate]),
        metrics={"training_rows": float(len(periods.learn))},
    )
    return model
