"""Isolation forest per row: dafu's kernel against scikit-learn, alone and in a batch of 500.

Knows the kernel and the library it is compared with; no worker and no broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from sklearn.ensemble import IsolationForest

from bench.results import Cell, Section, Table, figure
from dafu.models.training import train_isolation_forest

METHOD: Final = """\
100 trees of 256 samples, 30 lognormal features, one thread each. "score only" is the anomaly
score, "with group risks" what a decision needs: score, calibration and the contribution of each
group of features. The runs take turns, so that a busy machine hits all of them."""
BIASES: Final = [
    "scikit-learn's `score_samples` validates its input and serves many purposes, the kernel does "
    "one thing.",
]
FEATURES: Final = 30
RUNS: Final = 9
ROWS_PER_RUN: Final = 5_000


def per_row_us(call: Callable[[], Any], rows: int, budget: int) -> float:
    """Microseconds a row of a call that scores `rows`, over about `budget` rows."""
    repeats = max(1, budget // rows)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / (repeats * rows) * 1e6


def measure() -> Section:
    """Time a single row and a batch of 500."""
    x = np.random.default_rng(0).lognormal(0.0, 1.0, (20_000, FEATURES))
    names = [f"f{i}" for i in range(FEATURES)]
    groups = [("amount", "behavior", "merchant")[i % 3] for i in range(FEATURES)]
    model = train_isolation_forest(x, names, groups, seed=0)
    reference = IsolationForest(n_estimators=100, max_samples=256, random_state=0)
    reference.fit(x.astype(np.float32))
    columns = np.arange(FEATURES, dtype=np.int32)

    lines: list[list[Cell]] = []
    for rows in (1, 500):
        batch = x[:rows].copy()
        calls: dict[str, tuple[Callable[[], Any], int]] = {
            "sklearn": (partial(reference.score_samples, batch), rows * 10),
            "plain": (partial(model.anomaly, batch, columns), ROWS_PER_RUN),
            "full": (partial(model.score, batch, columns), ROWS_PER_RUN),
        }
        took: dict[str, list[float]] = {name: [] for name in calls}
        for call, _ in calls.values():
            call()
        for _ in range(RUNS):
            for name, (call, budget) in calls.items():
                took[name].append(per_row_us(call, rows, budget))
        ratios = [a / b for a, b in zip(took["sklearn"], took["full"], strict=True)]
        lines.append([str(rows), *[figure(t, 2) for t in took.values()], figure(ratios)])
    titles = ["rows", "scikit-learn", "score only", "with group risks", "scikit-learn to that"]
    table = Table(f"Microseconds a row, {RUNS} runs", titles, lines)
    return Section("forest", "Isolation forest", METHOD, BIASES, [table])
