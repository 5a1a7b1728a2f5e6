"""Thresholds and figures of a model, on transactions that it has not learned from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dafu.evaluation.metrics import auc_roc, average_precision
from dafu.features.catalogue import DAY
from dafu.history import FRAUD, UNKNOWN
from dafu.models.errors import TrainingError
from dafu.models.thresholds import by_alert_budget, by_false_positive_rate
from dafu.training.plan import Plan

F64 = NDArray[np.float64]


def choose_thresholds(
    risk: F64, labels: NDArray[np.int8], times: NDArray[np.int64], plan: Plan
) -> dict[str, float]:
    """The thresholds that the plan asks for, by name, from risks [n] of a time.

    Raises
    ------
    TrainingError
        If none keeps to what is asked.
    """
    chosen: dict[str, float] = {}
    if plan.alerts_per_day is not None:
        days = max(1.0, float(times.max() - times.min()) / DAY)
        chosen["alerts_per_day"] = by_alert_budget(risk, int(plan.alerts_per_day * days))
    if plan.false_positive_rate is not None:
        known = labels != UNKNOWN
        if not known.any():
            raise TrainingError("a false-positive rate needs labels in the holdout")
        chosen["false_positive_rate"] = by_false_positive_rate(
            risk[known], labels[known], plan.false_positive_rate
        )
    for name, threshold in chosen.items():
        if not math.isfinite(threshold):
            raise TrainingError(
                f"no threshold keeps {name} to {getattr(plan, name)}: the highest risk is too "
                "common; ask for more"
            )
    return chosen


def measure(risk: F64, labels: NDArray[np.int8]) -> dict[str, float]:
    """Figures of risks [n] where labels [n] are known, by name; none of what can not be said."""
    known = labels != UNKNOWN
    fraud = labels[known] == FRAUD
    figures: dict[str, Any] = {
        "holdout_rows": float(len(fraud)),
        "holdout_frauds": float(fraud.sum()),
    }
    if 0 < fraud.sum() < len(fraud):
        figures["holdout_auc_roc"] = auc_roc(labels[known], risk[known])
        figures["holdout_average_precision"] = average_precision(labels[known], risk[known])
    return figures
