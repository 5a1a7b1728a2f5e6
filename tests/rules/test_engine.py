"""Hit policy, risk, groups, shadow rules, reasons, versions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.rules import (
    APPROVE,
    BLOCK,
    NONE,
    REVIEW,
    Rule,
    RuleColumnError,
    RuleSetError,
    compile_rules,
    explain,
)
from dafu.rules.syntax import unparse
from tests.rules.strategies import conditions, rows
from tests.rules.vocabulary import ALIASES, NAMES, columns_of, ruleset


def rule(rule_id: str, condition: str = "amount > 1", action: Any = "review", **more: Any) -> Rule:
    fields: dict[str, Any] = {"risk_score": 0.5, **more}
    return Rule(id=rule_id, condition=condition, action=action, **fields)


def outcome(*rules: Rule, **row: Any) -> int:
    return int(ruleset(*rules).evaluate(columns_of([row]), 1).outcome[0])


ACTIONS = {
    "approve": APPROVE,
    "flag_for_review": REVIEW,
    "additional_verification": REVIEW,
    "location_verification": REVIEW,
    "review": REVIEW,
    "block": BLOCK,
    "decline": BLOCK,
}


@pytest.mark.parametrize(("action", "expected"), ACTIONS.items())
def test_actions_map_to_outcomes(action: str, expected: int) -> None:
    assert outcome(rule("a", action=action), amount=2) == expected
    assert outcome(rule("a", action=action), amount=1) == NONE


def test_priority_decides_and_on_a_tie_the_stricter_outcome() -> None:
    approve, review, block = (rule(a, action=a) for a in ("approve", "review", "block"))
    assert outcome(approve, review, block, amount=2) == BLOCK
    assert outcome(block, approve, review, amount=2) == BLOCK
    assert outcome(review, approve, amount=2) == REVIEW
    vouched = rule("vouched", action="approve", priority=10)
    assert outcome(vouched, block, amount=2) == APPROVE
    assert outcome(vouched, rule("b", action="block", priority=11), amount=2) == BLOCK
    assert outcome(rule("low", action="block", priority=-5), review, amount=2) == REVIEW


def test_risk_is_the_largest_of_the_fired_and_approval_adds_none() -> None:
    rules = ruleset(
        rule("a", "amount > 1", risk_score=0.3),
        rule("b", "amount > 2", risk_score=0.7),
        rule("c", "amount > 3", "approve", risk_score=0.9),
    )
    columns = columns_of([{"amount": a} for a in (1, 2, 3, 4)])
    evaluation = rules.evaluate(columns, 4)
    assert evaluation.risk.tolist() == [0.0, 0.3, 0.7, 0.7]
    assert evaluation.fired.sum(axis=0).tolist() == [0, 1, 2, 3]
    assert evaluation.counts() == [("a", "live", 3), ("b", "live", 2), ("c", "live", 1)]
    assert evaluation.rows_with_hits().tolist() == [1, 2, 3]
    assert evaluation.hits(0) == []
    assert [h.rule_id for h in evaluation.hits(3)] == ["a", "b", "c"]


def test_group_risk_counts_the_rules_that_read_the_group() -> None:
    rules = ruleset(
        rule("amount", "amount > 1", risk_score=0.2),
        rule("both", "amount > 1 and user_count_1h > 1", risk_score=0.4),
        rule("merchant", "merchant_count_1h > 1", risk_score=0.6),
        rule("ring", "ring_size > 2", risk_score=0.7),
        rule("none", "category == 'x'", risk_score=0.8),
    )
    row = {"ring_size": 3, "amount": 2, "user_count_1h": 2, "merchant_count_1h": 2, "category": "x"}
    other = {**row, "user_count_1h": 1, "ring_size": 0}
    evaluation = rules.evaluate(columns_of([row, other]), 2)
    risk = {group: values.tolist() for group, values in evaluation.group_risk.items()}
    assert risk == {
        "amount": [0.4, 0.2],
        "behavior": [0.4, 0.0],
        "merchant": [0.6, 0.6],
        "network": [0.7, 0.0],
    }
    assert evaluation.risk.tolist() == [0.8, 0.8]


_scores = st.floats(0, 1, allow_nan=False)
_specs = st.tuples(conditions, st.sampled_from(list(ACTIONS)), _scores, st.integers(-2, 2))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(_specs, max_size=4),
    st.lists(st.tuples(st.integers(0, 4), _specs), max_size=4),
    st.lists(rows, min_size=1, max_size=4),
)
def test_shadow_rules_change_nothing(
    live: list[Any], shadow: list[Any], batch: list[dict[str, Any]]
) -> None:
    def make(name: str, spec: Any, mode: str) -> Rule:
        condition, action, score, priority = spec
        return rule(name, unparse(condition), action, risk_score=score, priority=priority,
                    mode=mode)  # fmt: skip

    alone = [make(f"l{i}", spec, "live") for i, spec in enumerate(live)]
    mixed = list(alone)
    for i, (at, spec) in enumerate(shadow):
        mixed.insert(at, make(f"s{i}", spec, "shadow"))
    n, columns = len(batch), columns_of(batch)
    expected, actual = (ruleset(*r).evaluate(columns, n) for r in (alone, mixed))
    assert actual.risk.tobytes() == expected.risk.tobytes()
    assert actual.outcome.tobytes() == expected.outcome.tobytes()
    for group, values in expected.group_risk.items():
        assert actual.group_risk[group].tobytes() == values.tobytes()
    for i in range(n):
        assert [h for h in actual.hits(i) if h.mode == "live"] == expected.hits(i)
    # They are evaluated all the same: as live rules they fire on the same rows.
    promoted = ruleset(*(Rule(**{f: getattr(r, f) for f in r.__struct_fields__} | {"mode": "live"})
                         for r in mixed)).evaluate(columns, n)  # fmt: skip
    assert (promoted.fired == actual.fired).all()
    rows = actual.fired.sum(axis=1).tolist()
    counted = [(r.id, r.mode, n) for r, n in zip(mixed, rows, strict=True) if n]
    assert sorted(actual.counts()) == sorted(counted)


@settings(max_examples=200, deadline=None)
@given(st.lists(_specs, min_size=1, max_size=6), rows)
def test_outcome_and_risk_follow_the_stated_policy(specs: list[Any], row: dict[str, Any]) -> None:
    rules = [
        rule(f"r{i}", unparse(c), a, risk_score=s, priority=p)
        for i, (c, a, s, p) in enumerate(specs)
    ]
    evaluation = ruleset(*rules).evaluate(columns_of([row]), 1)
    fired = [r for r, f in zip(rules, evaluation.fired[:, 0], strict=True) if f]
    best = max(((r.priority, ACTIONS[r.action]) for r in fired), default=(0, NONE))
    assert evaluation.outcome[0] == best[1]
    assert evaluation.risk[0] == max(
        (r.risk_score for r in fired if r.action != "approve"), default=0.0
    )


def test_rules_that_are_off_are_checked_but_not_evaluated() -> None:
    rules = ruleset(rule("on"), rule("off", "km_from_home > 1", mode="off"))
    assert rules.names == {"amount"}
    assert len(rules.rules) == 2
    evaluation = rules.evaluate({"amount": np.array([2.0])}, 1)
    assert evaluation.fired.tolist() == [[True], [False]]
    with pytest.raises(RuleSetError, match="unknown name"):
        ruleset(rule("off", "nonsense > 1", mode="off"))


def test_names_are_the_columns_with_aliases_resolved() -> None:
    rules = ruleset(rule("a", "transactions_per_hour > attributes.limit", reason="{category}"))
    assert rules.names == {"user_count_1h", "attributes.limit", "category"}


def test_columns_are_checked_before_anything_runs() -> None:
    rules = ruleset(rule("a", "amount > 1 and attributes.x > 1"))
    with pytest.raises(RuleColumnError, match="absent: amount"):
        rules.evaluate({}, 1)
    with pytest.raises(RuleColumnError, match="amount has 2 rows instead of 1"):
        rules.evaluate({"amount": np.ones(2)}, 1)
    assert not rules.evaluate({"amount": np.array([2.0])}, 1).fired.any()


def test_columns_of_other_types_are_read_or_missing() -> None:
    rules = ruleset(rule("a", "amount > 1"), rule("b", "category == 'x'"), rule("c", "is_known"))
    columns: dict[str, Any] = {
        "amount": np.array([2, None, "x"], dtype=object),
        "category": np.array(["x", "y", "x"]),
        "is_known": np.array([True, False, True]),
    }
    fired = rules.evaluate(columns, 3).fired
    assert fired.tolist() == [[True, False, False], [True, False, True], [True, False, True]]
    assert rules.evaluate({k: v[:0] for k, v in columns.items()}, 0).fired.shape == (3, 0)


def test_an_empty_rule_set_says_nothing() -> None:
    evaluation = ruleset().evaluate({}, 3)
    assert evaluation.risk.tolist() == [0.0] * 3
    assert evaluation.outcome.tolist() == [NONE] * 3
    assert evaluation.rows_with_hits().size == 0


@pytest.mark.parametrize(
    ("condition", "row", "text"),
    [
        (
            "amount > 10_000 and transactions_per_hour > 10",
            {"amount": 12400, "user_count_1h": 14},
            "amount 12,400 > 10,000 and user_count_1h 14 > 10",
        ),
        ("amount > 9 or user_count_1h > 1", {"amount": 5, "user_count_1h": 2},
         "user_count_1h 2 > 1"),
        ("amount > 1 and (new_device or user_count_1h > 1)",
         {"amount": 5, "new_device": 1, "user_count_1h": 2},
         "amount 5 > 1 and (new_device true or user_count_1h 2 > 1)"),
        ("distance_from_home > 1000km", {"km_from_home": 1234.5678},
         "km_from_home 1,234.57 km > 1,000 km"),
        ("seconds_since_last < 5min", {"seconds_since_last": 0.25},
         "seconds_since_last 0.25 s < 300 s"),
        ("amount > 2 * user_amount_mean_30d", {"amount": 5, "user_amount_mean_30d": 1.5},
         "amount 5 > 2 * user_amount_mean_30d 1.5 (= 3)"),
        ("not (amount > 1 and new_device)", {"amount": 5, "new_device": 0},
         "not (new_device false)"),
        ("not (amount > 9 or new_device)", {"amount": 5},
         "not (amount 5 > 9 or new_device missing)"),
        ("category in ['a', 'b']", {"category": "b"}, 'category "b" in ["a", "b"]'),
        ("category == 'a\\nb'", {"category": "a\nb"}, 'category "a\\nb" == "a\\nb"'),
        ("is_missing(amount)", {}, "is_missing(amount missing)"),
        ("amount > 10_000", {"amount": 10000.0001}, "amount 10000.0001 > 10000.0"),
        ("account_age_days < 36h", {"account_age_days": 1 / 3},
         "account_age_days 0.333333 d < 1.5 d"),
        ("attributes.tier == 'gold'", {"attributes.tier": "gold"},
         'attributes.tier "gold" == "gold"'),
    ],
)  # fmt: skip
def test_reasons_name_the_values_that_fired(condition: str, row: dict[str, Any], text: str) -> None:
    evaluation = ruleset(rule("a", condition)).evaluate(columns_of([row]), 1)
    assert evaluation.hits(0)[0].text == text


def test_a_reason_of_its_own_comes_first() -> None:
    rules = ruleset(rule("a", "amount > 1", "decline", reason="{{High}} {amount} in {country}"))
    (hit,) = rules.evaluate(columns_of([{"amount": 1234567.891}]), 1).hits(0)
    assert hit.text == "{High} 1,234,567.89 in missing: amount 1,234,567.89 > 1"
    assert hit.action == "block"


@pytest.mark.parametrize("reason", ["{amount:.2f}", "{amont}", "{", "{amount!r}", "{0}", "{}"])
def test_templates_hold_only_names(reason: str) -> None:
    with pytest.raises(RuleSetError, match="reason"):
        ruleset(rule("a", reason=reason))


def test_version_is_of_content_not_of_spelling() -> None:
    def version(*rules: Rule, **lists: list[Any]) -> str:
        return compile_rules(rules, lists, NAMES, ALIASES).version

    base = version(rule("a", "user_count_1h>10"), rule("b"), big=[1, 2])
    assert len(base) == 12
    assert int(base, 16) >= 0
    same = version(rule("a", "(transactions_per_hour  > 10)"), rule("b"), big=[2, 1, 1])
    assert same == base
    others = {
        version(rule("b"), rule("a", "user_count_1h > 10"), big=[1, 2]),
        version(rule("a", "user_count_1h > 11"), rule("b"), big=[1, 2]),
        version(rule("a", "user_count_1h > 10"), rule("b", risk_score=0.4), big=[1, 2]),
        version(rule("a", "user_count_1h > 10"), rule("b", mode="shadow"), big=[1, 2]),
        version(rule("a", "user_count_1h > 10"), rule("b"), big=[1, 3]),
        version(rule("a", "user_count_1h > 10"), rule("b")),
    }
    assert len(others | {base}) == 7


def test_all_errors_of_a_set_are_reported() -> None:
    with pytest.raises(RuleSetError) as caught:
        ruleset(
            rule("a", "amont > 1"),
            rule("a", "amount > 1"),
            rule("b"),
            rule("b"),
            rule("c", risk_score=float("nan")),
            rule("d", risk_score=1.5),
            countries=["DE", False],
            mixed=["a", 1],
            amount=[1],
        )
    said = [str(e) for e in caught.value.errors]
    assert len(said) == 8  # the id of a rule with an error is taken all the same
    for part in ("NO and YES", "either texts or numbers", "taken", "did you mean amount",
                 "two rules with this id", ">= 0.0", "<= 1.0"):  # fmt: skip
        assert any(part in text for text in said), part


def test_explain_shows_every_part_of_every_rule() -> None:
    rules = ruleset(
        rule("a", "amount > 2 * user_amount_mean_30d and (new_device or user_count_1h > 1)"),
        rule("b", "category == 'x'", mode="off"),
    )
    explanation = explain(rules, {"amount": 5, "user_count_1h": 2, "category": "x"})
    first, second = explanation.rules
    assert not first.fired
    assert second.fired
    assert second.mode == "off"
    assert [(s.text, s.value, s.holds) for s in first.root.steps] == [
        ("amount > 2 * user_amount_mean_30d", "false", False),
        ("new_device or user_count_1h > 1", "true", True),
    ]
    text = str(explanation)
    assert "a (flag_for_review, 0.5): did not fire" in text
    assert "[ ] new_device  missing" in text
    assert "2 * user_amount_mean_30d  missing" in text
    assert "b (flag_for_review, 0.5, off): FIRED" in text
