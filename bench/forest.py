"""Tree ensembles per row: dafu's kernels against the libraries that train, alone and in batches.

Knows the kernels and the libraries they are compared with; no worker and no broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import xgboost
from numpy.typing import NDArray

from bench.results import Cell, Figure, Section, Table, figure
from dafu.models.isolation import IsolationForestModel
from dafu.models.trainers import (
    Description,
    IsolationForestTrainer,
    RandomForestTrainer,
    XGBoostTrainer,
)

METHOD: Final = """\
30 lognormal features, one thread each. Isolation forest: 100 trees of 256 samples, scikit-learn.
Boosted trees: 100 of depth 6, XGBoost. Random forest: 100 to depth 20, scikit-learn. Trained on
20,000 rows, 7 in 100 of them labelled as fraud. "score only" is the library's own score, "with
group risks" what a decision needs: score, calibration and the contribution of each group of
features. "explained" is what transactions that people look at get on top: exact Shapley values of
all features (for the isolation forest: path credits). The runs take turns, so that a busy machine
hits all of them."""
BIASES: Final = [
    "The libraries validate their input and serve many purposes, the kernels do one thing. "
    "XGBoost is given a matrix to copy, as a service that scores arriving rows would.",
]
FEATURES: Final = 30
ROWS: Final = 20_000
RUNS: Final = 9
ROWS_PER_RUN: Final = 5_000
_Call = tuple[Callable[[], Any], int]


def per_row_us(call: Callable[[], Any], rows: int, budget: int) -> float:
    """Microseconds a row of a call that scores `rows`, over about `budget` rows."""
    repeats = max(1, budget // rows)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / (repeats * rows) * 1e6


def take_turns(calls: dict[str, _Call], rows: int) -> dict[str, list[float]]:
    """Microseconds a row of each call in each run."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for call, _ in calls.values():
        call()
    for _ in range(RUNS):
        for name, (call, budget) in calls.items():
            took[name].append(per_row_us(call, rows, budget))
    return took


def _ratio(took: dict[str, list[float]], above: str, below: str) -> Figure:
    return figure([a / b for a, b in zip(took[above], took[below], strict=True)], 1)


def measure() -> Section:
    """Time a single row and a batch of 500 for each kind."""
    rng = np.random.default_rng(0)
    x = rng.lognormal(0.0, 1.0, (ROWS, FEATURES))
    y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(0.0, 1.0, ROWS) > 8.0).astype(int)
    description = Description(
        tuple(f"f{i}" for i in range(FEATURES)),
        tuple(("amount", "behavior", "merchant")[i % 3] for i in range(FEATURES)),
    )
    columns = np.arange(FEATURES, dtype=np.int32)
    scores: list[list[Cell]] = []
    explanations: list[list[Cell]] = []
    for title, trainer in (
        ("isolation forest", IsolationForestTrainer(0)),
        ("boosted trees", XGBoostTrainer(0, n_estimators=100, max_depth=6)),
        ("random forest", RandomForestTrainer(0, n_estimators=100, max_depth=20)),
    ):
        model: Any = trainer.fit(x, y).export(description)
        library: Any = trainer.score
        isolation = isinstance(model, IsolationForestModel)
        plain = model.anomaly if isolation else model.raw
        for rows in (1, 500):
            batch = x[:rows].copy()
            took = take_turns(
                {
                    "library": (partial(library, batch), rows * 10),
                    "plain": (partial(plain, batch, columns), ROWS_PER_RUN),
                    "full": (partial(model.score, batch, columns), ROWS_PER_RUN),
                },
                rows,
            )
            scores.append(
                [
                    title,
                    str(rows),
                    *[figure(t, 2) for t in took.values()],
                    _ratio(took, "library", "full"),
                ]
            )
        for rows in (1, 20):
            batch = x[:rows].copy()
            calls: dict[str, _Call] = {"ours": (partial(model.explain, batch, columns), 20)}
            if isinstance(trainer, XGBoostTrainer):
                calls["theirs"] = (partial(_contributions, trainer, batch), 20)
            took = take_turns(calls, rows)
            theirs: Cell = figure(took["theirs"]) if "theirs" in took else "-"
            explanations.append([title, str(rows), theirs, figure(took["ours"])])
    titles = ["model", "rows", "library", "score only", "with group risks", "library to that"]
    tables = [
        Table(f"Microseconds a row, {RUNS} runs", titles, scores),
        Table(
            f"Explained: microseconds a row, {RUNS} runs",
            ["model", "rows", "library", "explained"],
            explanations,
        ),
    ]
    return Section("forest", "Tree ensembles", METHOD, BIASES, tables)


def _contributions(trainer: XGBoostTrainer, x: NDArray[Any]) -> Any:
    return trainer.booster.predict(xgboost.DMatrix(x), pred_contribs=True)
