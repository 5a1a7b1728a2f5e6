"""The default rules on batches of transactions: microseconds per row.

Knows the rule engine and the default rules; no worker and no broker.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import numpy as np

from bench.results import Cell, Section, Table, figure
from dafu.features.catalogue import ALIASES
from dafu.rules import RuleSet, load_rules
from dafu.rules.batch import Column
from dafu.stages.names import RULE_NAMES

METHOD: Final = """\
`RuleSet.evaluate` alone, on columns that are there already: the cost of rules in a decision,
without reading the transaction and without writing the reasons of those that fire, which only
few transactions pay. Two in a hundred rows fire a rule."""
BIASES: Final = ["Every row holds the same values but for those that fire: branches predict well."]
FILE: Final = Path(__file__).resolve().parents[1] / "conf" / "rules.yaml"
RUNS: Final = 30
ROWS_PER_RUN: Final = 20_000
FIRING_SHARE: Final = 0.02


def columns_of(rules: RuleSet, rows: int) -> dict[str, Column]:
    """One in every column, the same word, or false, except for amounts that fire a rule."""
    columns: dict[str, Column] = {}
    for name in rules.names:
        if RULE_NAMES[name].kind == "string":
            columns[name] = np.full(rows, "grocery", dtype=object)
        else:
            columns[name] = np.full(rows, float(RULE_NAMES[name].kind == "number"))
    amounts = np.ones(rows)
    amounts[: round(rows * FIRING_SHARE)] = 20_000.0
    columns["amount"] = amounts
    return columns


def measure() -> Section:
    """Time batches of several sizes."""
    rules = load_rules(FILE, RULE_NAMES, ALIASES)
    lines: list[list[Cell]] = []
    for rows in (1, 10, 100, 1000):
        columns = columns_of(rules, rows)
        repeats = max(1, ROWS_PER_RUN // rows // 20)
        took = []
        for _ in range(RUNS):
            begin = time.perf_counter()
            for _ in range(repeats):
                rules.evaluate(columns, rows)
            took.append((time.perf_counter() - begin) / (repeats * rows) * 1e6)
        lines.append([str(rows), figure(took, 2)])
    title = f"{len(rules.rules)} rules, microseconds a row, {RUNS} runs"
    table = Table(title, ["rows", "evaluate"], lines)
    return Section("rules", "Rule engine", METHOD, BIASES, [table])
