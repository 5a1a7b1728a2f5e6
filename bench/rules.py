"""The default rules on batches of transactions: microseconds per row.

    python bench/rules.py

What is measured is `RuleSet.evaluate` alone, on columns that are there already: the cost of rules
in a decision, without reading the transaction and without writing the reasons of those that fire,
which only few transactions pay. Two in a hundred rows fire a rule. A figure is the median over
runs with the spread (fastest..slowest).
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dafu.features.catalogue import ALIASES
from dafu.rules import RuleSet, load_rules
from dafu.rules.batch import Column
from dafu.stages.names import RULE_NAMES

FILE = Path(__file__).resolve().parents[1] / "conf" / "rules.yaml"
RUNS = 30
ROWS_PER_RUN = 20_000
FIRING_SHARE = 0.02


def columns_of(rules: RuleSet, rows: int) -> dict[str, Column]:
    """One in every column, or the same word, except for amounts that fire a rule."""
    columns: dict[str, Column] = {}
    for name in rules.names:
        if RULE_NAMES[name].kind == "string":
            columns[name] = np.full(rows, "grocery", dtype=object)
        else:
            columns[name] = np.ones(rows)
    amounts = np.ones(rows)
    amounts[: round(rows * FIRING_SHARE)] = 20_000.0
    columns["amount"] = amounts
    return columns


def main() -> None:
    rules = load_rules(FILE, RULE_NAMES, ALIASES)
    table = Table(title=f"{len(rules.rules)} rules, microseconds per row: median (spread)")
    for title in ("rows", "evaluate"):
        table.add_column(title, justify="right")
    for rows in (1, 10, 100, 1000):
        columns = columns_of(rules, rows)
        repeats = max(1, ROWS_PER_RUN // rows // 20)
        took = []
        for _ in range(RUNS):
            begin = time.perf_counter()
            for _ in range(repeats):
                rules.evaluate(columns, rows)
            took.append((time.perf_counter() - begin) / (repeats * rows) * 1e6)
        median = statistics.median(took)
        table.add_row(str(rows), f"{median:.2f} ({min(took):.2f}..{max(took):.2f})")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
