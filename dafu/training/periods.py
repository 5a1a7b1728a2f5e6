"""Which transactions serve for what: time goes from learning to calibrating to measuring."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.features.catalogue import DAY
from dafu.history import FRAUD, GENUINE, UNKNOWN, History
from dafu.models.errors import TrainingError
from dafu.training.plan import SEQUENCE_MODELS, Plan

I64 = NDArray[np.int64]

WARM_UP_SHARE: Final = 1 / 3
"""Leading share of the transactions that only fills windows and is not trained on."""


class Periods(NamedTuple):
    """Rows of a history, each ascending and none in two of them.

    Attributes
    ----------
    learn, calibrate, measure : int64 [...]
    """

    learn: I64
    calibrate: I64
    measure: I64


def split_periods(history: History, plan: Plan) -> Periods:
    """Cut a history by time.

    After the warm-up comes what is learned from, then, for a model that learns from labels, the
    days in which these become known, then the holdout. Where risk is to be calibrated to labels,
    the first half of the holdout does that; the rest, or all of it, chooses thresholds and
    measures.

    Raises
    ------
    TrainingError
        If the rows or their labels do not suffice.
    """
    if not len(history):
        raise TrainingError("there are no transactions to train on")
    rows = np.arange(int(len(history) * WARM_UP_SHARE), len(history))
    none = rows[:0]
    if plan.held_out == 0.0:
        return Periods(rows, none, none)
    times = history.times[rows]
    begin = np.quantile(times, 1.0 - plan.held_out)
    calibrated = plan.supervised and plan.model not in SEQUENCE_MODELS
    middle = np.quantile(times, 1.0 - plan.held_out / 2.0) if calibrated else begin
    gap = plan.delay_days * DAY if plan.supervised else 0
    periods = Periods(
        rows[times < begin - gap],
        rows[(times >= begin) & (times < middle)],
        rows[times >= middle],
    )
    if not plan.supervised:
        return periods
    labels = history.labels
    periods = Periods(*(part[labels[part] != UNKNOWN] for part in periods))
    wanted = {"learn from": periods.learn, "measure on": periods.measure}
    if calibrated:
        wanted["calibrate on"] = periods.calibrate
    for what, part in wanted.items():
        frauds = int((labels[part] == FRAUD).sum())
        genuine = int((labels[part] == GENUINE).sum())
        if not frauds or not genuine:
            raise TrainingError(
                f"{frauds + genuine:,} labelled transactions to {what}, {frauds:,} of them fraud; "
                "it takes both. Train on a longer time, or change the holdout or the delay"
            )
    return periods
