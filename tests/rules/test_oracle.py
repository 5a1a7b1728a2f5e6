"""The compiled language against an independent interpreter, on random conditions and rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dafu.rules import Rule, explain
from dafu.rules.parser import parse
from dafu.rules.syntax import Node, unparse
from tests.rules.oracle import truth
from tests.rules.strategies import conditions, rows
from tests.rules.vocabulary import NAMES, columns_of, ruleset

RUNS = settings(max_examples=400, deadline=None)


def _rule(condition: Node, rule_id: str = "r") -> Rule:
    return Rule(id=rule_id, condition=unparse(condition), risk_score=0.5, action="review")


@RUNS
@given(conditions)
def test_canonical_text_reads_back(condition: Node) -> None:
    assert parse(unparse(condition)) == condition


@RUNS
@given(conditions, st.lists(rows, min_size=1, max_size=6))
# A number in the unit of what it is compared with is not rounded.
@example(parse("km_from_home == 4195.144280544191km"), [{"km_from_home": 4195.144280544191}])
def test_engine_agrees_with_the_interpreter(condition: Node, batch: list[dict[str, Any]]) -> None:
    evaluation = ruleset(_rule(condition)).evaluate(columns_of(batch), len(batch))
    expected = [truth(parse(unparse(condition)), row) for row in batch]
    assert evaluation.fired[0].tolist() == expected, unparse(condition)


@RUNS
@given(st.lists(conditions, min_size=1, max_size=4), st.lists(rows, min_size=1, max_size=6))
def test_a_row_gets_the_same_answer_in_any_batch(
    many: list[Node], batch: list[dict[str, Any]]
) -> None:
    rules = ruleset(*(_rule(c, f"r{i}") for i, c in enumerate(many)))
    columns = columns_of(batch)
    # Column views of one matrix, as a caller has them, instead of arrays of their own.
    numeric = {k: np.asarray(columns[k]) for k, v in NAMES.items() if v.kind == "number"}
    matrix = np.column_stack(list(numeric.values()))
    strided = {**columns, **{k: matrix[:, j] for j, k in enumerate(numeric)}}
    n = len(batch)
    whole = rules.evaluate(strided, n)
    for i, row in enumerate(batch):
        alone = rules.evaluate(columns_of([row]), 1)
        assert alone.fired[:, 0].tobytes() == np.ascontiguousarray(whole.fired[:, i]).tobytes()
        assert alone.risk[0].tobytes() == whole.risk[i].tobytes()
        assert alone.outcome[0] == whole.outcome[i]
        assert alone.hits(0) == whole.hits(i)


@RUNS
@given(conditions, rows)
def test_every_hit_is_explained(condition: Node, row: dict[str, Any]) -> None:
    rules = ruleset(_rule(condition))
    evaluation = rules.evaluate(columns_of([row]), 1)
    hits = evaluation.hits(0)
    fired = bool(evaluation.fired[0, 0])
    assert len(hits) == fired
    trace = explain(rules, row).rules[0]
    assert trace.fired == trace.root.holds == fired
    assert trace.text == (hits[0].text if fired else "")
    assert not fired or (hits[0].text and hits[0].text.isprintable())
