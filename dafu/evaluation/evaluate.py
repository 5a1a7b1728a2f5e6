"""One model's scores on labelled transactions: figures, alerts, calibration, features.

Two ways to learn: a `supervised` model's risk is read as a probability of fraud, an
`unsupervised` one's as a rank. Two ways to alert: `classic` takes the share of transactions with
the highest raw scores, the contamination; `risk` takes those whose risk reaches a threshold, as
decisions are made. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.evaluation.description import DataDescription
from dafu.evaluation.intervals import Interval, bootstrap, intervals
from dafu.evaluation.metrics import (
    Budget,
    EvaluationError,
    Measure,
    Sample,
    average_precision,
)
from dafu.evaluation.thresholds import Confusion, by_contamination, confusion
from dafu.features.catalogue import DAY

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

Learning = Literal["supervised", "unsupervised"]
Detection = Literal["classic", "risk"]

BINS: Final = 10
IMPORTANCE_ROWS: Final = 20_000


class Labelled(NamedTuple):
    """Transactions with labels and what a model says of them.

    Attributes
    ----------
    labels : int8 [n]
        1 fraud, 0 genuine.
    users, times : int64 [n]
        Numbers of users, epoch milliseconds.
    amounts : float64 [n]
    raw, risk : float64 [n]
        The model's own score and its risk; the same array where there is only one.
    """

    labels: NDArray[np.int8]
    users: I64
    times: I64
    amounts: F64
    raw: F64
    risk: F64


class Rules(Struct, frozen=True):
    """How scores are read and alerts are chosen; see the module."""

    learning: Learning
    detection: Detection
    contamination: float = 0.01
    threshold: float = 0.7


class Bin(NamedTuple):
    """Transactions with similar risk: their number, mean risk and share of fraud."""

    rows: int
    risk: float
    fraud: float


class Evaluation(Struct, frozen=True):
    """Everything that a report says.

    Attributes
    ----------
    title : str
        What was evaluated.
    rules : Rules
    threshold : float
        Scores at or above it are alerts: raw scores in classic detection, else risks.
    confusion : Confusion
    at_threshold : dict of float
        Precision, recall, F1 and false positive rate of the alerts.
    metrics : dict of Interval
    calibration : list of Bin
    calibration_error, brier : float or None
        Expected calibration error, and the mean squared distance of risk and label (Brier,
        Monthly Weather Review 78(1), 1950); None where the risk is a rank.
    importances : dict of float
        By feature, largest first; empty where features are not known.
    data, versions, config
        What it was made from.
    """

    title: str
    rules: Rules
    threshold: float
    confusion: Confusion
    at_threshold: dict[str, float]
    metrics: dict[str, Interval]
    calibration: list[Bin]
    calibration_error: float | None
    brier: float | None
    importances: dict[str, float]
    data: DataDescription
    versions: dict[str, str]
    config: dict[str, Any]


def scores_of(rows: Labelled, detection: Detection) -> F64:
    """The scores that alerts are chosen by."""
    return rows.raw if detection == "classic" else rows.risk


def evaluate(
    title: str,
    rows: Labelled,
    rules: Rules,
    *,
    budget: Budget,
    replicates: int,
    seed: int,
    data: DataDescription,
    versions: dict[str, str],
    config: dict[str, Any],
    importances: dict[str, float] | None = None,
) -> Evaluation:
    """Evaluate the scores that `rules` asks for.

    Raises
    ------
    EvaluationError
        If scores are not finite, labels are of one kind, or risks are no probabilities although
        the model is supervised.
    """
    scores = scores_of(rows, rules.detection)
    sample = Sample(scores, rows.labels, rows.users, rows.times // DAY, rows.amounts)
    figures = bootstrap(Measure(sample, budget), replicates, seed)
    error = brier = None
    if rules.learning == "supervised":
        _check_probabilities(rows.risk)
        brier = float(np.mean((rows.risk - rows.labels) ** 2))
    bins = calibration_bins(rows.labels, rows.risk, rules.learning)
    if rules.learning == "supervised":
        error = calibration_error(bins)
    threshold = rules.threshold
    if rules.detection == "classic":
        threshold = by_contamination(scores, rules.contamination)
    counts = confusion(rows.labels, scores, threshold)
    return Evaluation(
        title,
        rules,
        threshold,
        counts,
        {
            "precision": counts.precision,
            "recall": counts.recall,
            "f1": counts.f1,
            "false_positive_rate": counts.false_positive_rate,
        },
        intervals(figures),
        bins,
        error,
        brier,
        importances or {},
        data,
        versions,
        config,
    )


def calibration_bins(labels: NDArray[np.int8], risks: F64, learning: Learning) -> list[Bin]:
    """Group transactions by risk [n]: by tenths of 0..1, or tenths of the rows if it is a rank.

    Empty groups are left out.
    """
    if learning == "supervised":
        number = np.minimum((risks * BINS).astype(np.int64), BINS - 1)
    else:
        rank = np.empty(len(risks), dtype=np.int64)
        rank[np.argsort(risks, kind="stable")] = np.arange(len(risks))
        number = rank * BINS // max(len(risks), 1)
    rows = np.bincount(number, minlength=BINS)
    totals = np.bincount(number, weights=risks, minlength=BINS)
    frauds = np.bincount(number, weights=labels == 1, minlength=BINS)
    return [
        Bin(int(rows[k]), float(totals[k] / rows[k]), float(frauds[k] / rows[k]))
        for k in range(BINS)
        if rows[k]
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error (Naeini, Cooper and Hauskrecht, AAAI 2015) of groups.

    >>> calibration_error([Bin(3, 0.25, 0.5), Bin(1, 0.75, 0.5)])
    0.25
    """
    total = sum(b.rows for b in bins)
    return sum(b.rows * abs(b.risk - b.fraud) for b in bins) / total


def permutation_importances(
    score: Callable[[F64], F64],
    x: F64,
    labels: NDArray[np.int8],
    columns: dict[str, int],
    seed: int,
    on_feature: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """What average precision loses when one feature's values are shuffled, largest first.

    Breiman, "Random Forests", Machine Learning 45(1), 2001, section 10. Of features that say the
    same, each alone may lose little. Of more than IMPORTANCE_ROWS rows a random part is taken.

    Parameters
    ----------
    score : function
        Scores [n] of features [n, F].
    x : float64 [n, F]
    labels : int8 [n]
        1 fraud, 0 genuine.
    columns : dict
        Columns to shuffle, by name.
    on_feature
        Called with the number of features done and of all.
    """
    rng = np.random.default_rng(seed)
    if len(x) > IMPORTANCE_ROWS:
        part = np.sort(rng.choice(len(x), IMPORTANCE_ROWS, replace=False))
        x, labels = x[part], labels[part]
    whole = average_precision(labels, score(x))
    losses: dict[str, float] = {}
    shuffled = x.copy()
    order = rng.permutation(len(x))
    for done, (name, column) in enumerate(columns.items(), 1):
        shuffled[:, column] = x[order, column]
        losses[name] = whole - average_precision(labels, score(shuffled))
        shuffled[:, column] = x[:, column]
        if on_feature is not None:
            on_feature(done, len(columns))
    return dict(sorted(losses.items(), key=lambda item: (-item[1], item[0])))


def _check_probabilities(risks: F64) -> None:
    if risks.min() < 0.0 or risks.max() > 1.0:
        raise EvaluationError(
            f"scores go from {risks.min():.6g} to {risks.max():.6g}, which are no probabilities; "
            "evaluate them as those of an unsupervised model"
        )
