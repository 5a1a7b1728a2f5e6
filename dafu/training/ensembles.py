"""Training an ensemble: boosted trees for the fraud that is known, a forest for what is unusual."""

from __future__ import annotations

from dataclasses import replace

from dafu.features.catalogue import INDEX
from dafu.features.selections import BEHAVIOR
from dafu.history import History
from dafu.models.ensemble import EnsembleModel
from dafu.models.model import Model
from dafu.models.trainers import IsolationForestTrainer, XGBoostTrainer
from dafu.models.trainers.ensemble import stacked_ensemble
from dafu.training.periods import Periods
from dafu.training.plan import Plan
from dafu.training.rows import describe, table
from dafu.training.settings import SHIPPED_FOREST, xgboost_arguments


def train_ensemble(history: History, periods: Periods, plan: Plan, data: str) -> EnsembleModel:
    """Boosted trees and an isolation forest, weighed on rows that neither has learned from.

    The weights are those of a logistic regression on labels, so the risk is a probability. The
    score of a sequence model, if the plan names one, is a feature of the boosted trees.
    """
    names, labels = plan.row_features, history.labels
    arguments = xgboost_arguments(len(periods.learn), {})
    boosted = XGBoostTrainer(plan.seed, **arguments).fit(
        table(history, names, periods.learn), labels[periods.learn]
    )
    forest = IsolationForestTrainer(plan.seed, plan.contamination, **SHIPPED_FOREST).fit(
        table(history, BEHAVIOR, periods.learn)
    )
    members: list[Model] = [
        boosted.export(describe(names, data, plan.requires)),
        forest.export(describe(BEHAVIOR, data, {})),
    ]
    together = (*names, *(name for name in BEHAVIOR if name not in names))
    model = stacked_ensemble(
        members,
        history.features[periods.calibrate],
        labels[periods.calibrate],
        INDEX,
        describe(together, data, plan.requires),
        seed=plan.seed,
    )
    return replace(model, metrics={"training_rows": float(len(periods.learn))})
