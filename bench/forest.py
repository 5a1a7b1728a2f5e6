"""Isolation forest per row: dafu's kernel against scikit-learn, alone and in a batch of 500.

    python bench/forest.py

The bias first: scikit-learn's `score_samples` validates its input and serves many purposes, the
kernel does one thing. 100 trees of 256 samples, 30 lognormal features, one thread each. A figure is
the median over runs with the spread (fastest..slowest); the runs of both alternate, so that a busy
machine hits both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import IsolationForest

from dafu.models.training import train_isolation_forest

FEATURES = 30
RUNS = 9
ROWS_PER_RUN = 5_000


def per_row_us(call: Callable[[], Any], rows: int, budget: int) -> float:
    repeats = max(1, budget // rows)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / (repeats * rows) * 1e6


def main() -> None:
    x = np.random.default_rng(0).lognormal(0.0, 1.0, (20_000, FEATURES))
    names = [f"f{i}" for i in range(FEATURES)]
    groups = [("amount", "behavior", "merchant")[i % 3] for i in range(FEATURES)]
    model = train_isolation_forest(x, names, groups, seed=0)
    reference = IsolationForest(n_estimators=100, max_samples=256, random_state=0)
    reference.fit(x.astype(np.float32))
    columns = np.arange(FEATURES, dtype=np.int32)

    table = Table(title="microseconds per row: median (fastest..slowest)")
    for title in ("rows", "scikit-learn", "score only", "with group risks", "ratio"):
        table.add_column(title, justify="right")
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
        shown = {
            name: f"{statistics.median(t):.2f} ({min(t):.2f}..{max(t):.2f})"
            for name, t in took.items()
        }
        ratio = statistics.median(took["sklearn"]) / statistics.median(took["full"])
        table.add_row(str(rows), shown["sklearn"], shown["plain"], shown["full"], f"{ratio:.0f}x")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
