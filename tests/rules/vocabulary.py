"""Names for the tests, of every kind and unit, and columns that fit them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dafu.rules import Name, Rule, RuleSet, Vocabulary, compile_rules
from dafu.rules.batch import Column

NAMES: dict[str, Name] = {
    "amount": Name("number", "currency", "amount", "amount of the payment"),
    "user_amount_mean_30d": Name("number", "currency", "amount"),
    "amount_to_user_mean_30d": Name("number", "ratio", "amount"),
    "user_count_1h": Name("number", "transactions", "behavior"),
    "merchant_count_1h": Name("number", "transactions", "merchant"),
    "seconds_since_last": Name("number", "s", "behavior"),
    "account_age_days": Name("number", "d", "behavior"),
    "km_from_home": Name("number", "km", "behavior"),
    "speed_kmh": Name("number", "km/h", "behavior"),
    "ring_size": Name("number", "users", "network"),
    "new_device": Name("number", "0/1", "behavior"),
    "is_known": Name("boolean"),
    "category": Name("string"),
    "country": Name("string"),
}
ALIASES = {"transactions_per_hour": "user_count_1h", "distance_from_home": "km_from_home"}


def vocabulary(**lists: list[Any]) -> Vocabulary:
    return Vocabulary(NAMES, ALIASES, lists)


def ruleset(*rules: Rule, **lists: list[Any]) -> RuleSet:
    return compile_rules(rules, lists, NAMES, ALIASES)


def columns_of(rows: list[dict[str, Any]]) -> dict[str, Column]:
    """Columns with every name, missing where a row does not give a value."""
    columns: dict[str, Column] = {}
    for name, known in NAMES.items():
        values = [row.get(name) for row in rows]
        if known.kind == "number":
            columns[name] = np.array([np.nan if v is None else v for v in values], dtype=float)
        else:
            columns[name] = objects(values)
    for name in sorted({k for row in rows for k in row if k.startswith("attributes.")}):
        columns[name] = objects([row.get(name) for row in rows])
    return columns


def objects(values: list[Any]) -> Column:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def holds(condition: str, row: dict[str, Any] | None = None, **lists: list[Any]) -> bool:
    """Whether a condition holds on one row."""
    rule = Rule(id="r", condition=condition, risk_score=0.5, action="review")
    evaluation = ruleset(rule, **lists).evaluate(columns_of([row or {}]), 1)
    return bool(evaluation.fired[0, 0])
