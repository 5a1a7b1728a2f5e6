"""Prequential backtests: train each model on each fold as if at that time, and test what followed.

A function of the history, the folds and the seeds. It knows no files and no clock but the one
that it is given to time trainings with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.evaluation.contenders import (
    Data,
    check_contender,
    check_libraries,
    make_contender,
)
from dafu.evaluation.intervals import (
    Bootstrapped,
    Interval,
    bootstrap,
    difference,
    intervals,
    mean,
)
from dafu.evaluation.metrics import LOWER_IS_BETTER, METRICS, Budget, Measure, Sample
from dafu.evaluation.protocol import Fold, Split, folds_before, prequential, split
from dafu.history import UNKNOWN, History
from dafu.training.settings import Parameters

I64 = NDArray[np.int64]
Metrics = dict[str, Interval]
Clock = Callable[[], float]


class ModelFold(Struct, frozen=True):
    """One model on one fold; seconds of training and of scoring the test."""

    metrics: Metrics
    fit_seconds: float
    score_seconds: float


class FoldResult(Struct, frozen=True):
    """One fold: its days, what was in it, and how each model did."""

    fold: Fold
    description: str
    train_rows: int
    train_frauds: int
    test_rows: int
    test_frauds: int
    left_out: int
    models: dict[str, ModelFold]


class Searched(Struct, frozen=True):
    """What a search chose: parameters, the metric they reached, the folds it looked at."""

    parameters: dict[str, Any]
    metric: str
    value: float
    trials: int
    folds: list[str]


class Backtest(Struct, frozen=True):
    """Results by fold, latest first, and their means.

    `differences` says how far each model's mean is above that of the first one named.
    """

    folds: list[FoldResult]
    means: dict[str, Metrics]
    differences: dict[str, Metrics]
    searched: dict[str, Searched]


def run_backtest(
    data: Data,
    latest: Fold,
    n_folds: int,
    models: Sequence[str],
    *,
    budget: Budget,
    replicates: int,
    seed: int,
    clock: Clock,
    parameters: Mapping[str, Parameters] | None = None,
    searched: Mapping[str, Searched] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Backtest:
    """Compare models on a fold and those before it.

    Parameters
    ----------
    latest
        The latest fold; each of the `n_folds` is a test's length earlier than the one after it.
    models
        Names in `dafu.evaluation.contenders.CONTENDERS`.
    replicates, seed
        Of the bootstrap; the seed is also that of the models. Fold k draws with seed + k, for
        all models the same users.
    clock
        Seconds, for timing.
    parameters
        Of models, where they are not the defaults.
    searched
        Where parameters come from, for the record.

    Raises
    ------
    ContenderError, ProtocolError, EvaluationError, TrainingError
        If a model is not there, or the data does not fill a fold.
    """
    parameters = parameters or {}
    for name in models:
        check_contender(name)
    folds = prequential(latest, n_folds)
    splits = [_labelled(fold, data.history) for fold in folds]  # all, before any training
    results: list[FoldResult] = []
    drawn: dict[str, list[Bootstrapped]] = {name: [] for name in models}
    for k, (fold, part) in enumerate(zip(folds, splits, strict=True)):
        by_model: dict[str, ModelFold] = {}
        for name in models:
            if on_step is not None:
                on_step(f"{name}: {fold.describe()}")
            sample, fit, score = _trained(data, part, name, parameters.get(name, {}), seed, clock)
            figures = bootstrap(Measure(sample, budget), replicates, seed + k)
            drawn[name].append(figures)
            by_model[name] = ModelFold(intervals(figures), fit, score)
        labels = data.history.labels
        results.append(
            FoldResult(
                fold,
                fold.describe(),
                len(part.train),
                int((labels[part.train] == 1).sum()),
                len(part.test),
                int((labels[part.test] == 1).sum()),
                part.left_out,
                by_model,
            )
        )
    means = {name: mean(figures) for name, figures in drawn.items()}
    first = means[models[0]]
    return Backtest(
        results,
        {name: intervals(m) for name, m in means.items()},
        {name: intervals(difference(means[name], first)) for name in models[1:]},
        dict(searched or {}),
    )


def search(
    data: Data,
    earliest: Fold,
    name: str,
    *,
    trials: int,
    n_folds: int,
    metric: str,
    budget: Budget,
    seed: int,
    on_trial: Callable[[int, float], None] | None = None,
) -> Searched | None:
    """Search a model's parameters with Optuna, on folds whose labels are known before `earliest`.

    Parameters
    ----------
    earliest
        The earliest of the folds that are to be evaluated.
    n_folds
        Folds to search on; their mean counts.
    metric
        One of `dafu.evaluation.metrics.METRICS`.
    on_trial
        Called with the number of trials done and the best value so far.

    Returns
    -------
    Searched, or None if the model has no parameters to search.
    """
    kind = check_contender(name)
    if kind.space is None:
        return None
    check_libraries("a search", ("optuna",), "train")
    import optuna

    space = kind.space
    folds = folds_before(earliest, n_folds)
    parts = [_labelled(fold, data.history) for fold in folds]
    position = METRICS.index(metric)

    def objective(trial: Any) -> float:
        chosen = space(trial)
        values = [
            Measure(_trained(data, part, name, chosen, seed, _no_clock)[0], budget)()[position]
            for part in parts
        ]
        return float(np.mean(values))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize" if metric in LOWER_IS_BETTER else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
    )

    def told(study: Any, trial: Any) -> None:
        if on_trial is not None:
            on_trial(trial.number + 1, study.best_value)

    study.optimize(objective, n_trials=trials, callbacks=[told])
    best = space(optuna.trial.FixedTrial(study.best_params))
    return Searched(
        best, metric, float(study.best_value), trials, [fold.describe() for fold in folds]
    )


def _no_clock() -> float:
    return 0.0


def _labelled(fold: Fold, history: History) -> Split:
    """A fold's split, without test transactions whose labels are unknown."""
    part = split(fold, history.times, history.users, history.labels)
    known = history.labels[part.test] != UNKNOWN
    return part._replace(test=part.test[known], test_days=part.test_days[known])


def _trained(
    data: Data, part: Split, name: str, parameters: Parameters, seed: int, clock: Clock
) -> tuple[Sample, float, float]:
    """Train on a fold and score its test; seconds of both."""
    contender = make_contender(name, parameters, seed)
    begin = clock()
    contender.fit(data, part.train)
    trained = clock()
    scores = contender.score(data, part.test)
    done = clock()
    h = data.history
    sample = Sample(
        scores, h.labels[part.test], h.users[part.test], part.test_days, h.amounts[part.test]
    )
    return sample, trained - begin, done - trained
