"""What conditions mean, and what is said about those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dafu.rules import (
    RuleError,
    RuleNameError,
    RuleSyntaxError,
    RuleTypeError,
    RuleUnitError,
)
from dafu.rules.functions import FUNCTIONS
from dafu.rules.lexer import MAX_SOURCE
from dafu.rules.parser import MAX_DEPTH
from tests.rules.vocabulary import NAMES, holds, vocabulary


@pytest.mark.parametrize(
    ("condition", "row", "expected"),
    [
        ("amount > 12_000", {"amount": 12_000.01}, True),
        ("amount > 1e3", {"amount": 1000.0}, False),
        ("amount == .5 or amount == 2", {"amount": 0.5}, True),
        ("transactions_per_hour > 10", {"user_count_1h": 11}, True),
        ("amount > 1 AND NOT category IN ['a']", {"amount": 2, "category": "b"}, True),
        ('category == "a\'b"', {"category": "a'b"}, True),
        ("category == 'a\\'b\\\\'", {"category": "a'b\\"}, True),
        ("category < 'b'", {"category": "a"}, True),
        ("amount + 2 * 3 == 7", {"amount": 1}, True),
        ("(amount + 2) * 3 == 9", {"amount": 1}, True),
        ("10 - 4 - 3 == 3", {}, True),
        ("-amount < -1", {"amount": 2}, True),
        ("7 % 4 == 3 and -7 % 4 == 1", {}, True),
        ("amount%4 == 3", {"amount": 7}, True),
        ("true or amount > 1 and false", {}, True),
        ("not true == false", {}, True),
        ("amount in [1, 2, -3]", {"amount": -3}, True),
        ("amount not in []", {"amount": 1}, True),
        ("amount in []", {"amount": 1}, False),
        ("new_device", {"new_device": 1}, True),
        ("new_device == true and new_device == 1", {"new_device": 1}, True),
        ("is_known", {"is_known": True}, True),
        ("not is_known and is_known == false", {"is_known": False}, True),
        ("round(2.5) == 2 and abs(-3) == 3 and sqrt(9) == 3", {}, True),
        ("max(amount, 3, 5) == 5 and min(amount, 3) == 1", {"amount": 1}, True),
        ("starts_with(lower(category), 'tra')", {"category": "TRAVEL"}, True),
        ("ends_with(category, 'x') or contains(category, 'av')", {"category": "travel"}, True),
        ("length(category) == 6", {"category": "travel"}, True),
        ("between(amount, 1, 2)", {"amount": 2}, True),
        ("if_else(amount > 1, 10, 20) == 10", {"amount": 2}, True),
        ("if_else(amount > 1, 'a', category) == 'z'", {"amount": 1, "category": "z"}, True),
    ],
)
def test_meaning(condition: str, row: dict[str, Any], expected: bool) -> None:
    assert holds(condition, row) is expected


@pytest.mark.parametrize(
    ("condition", "row", "expected"),
    [
        ("distance_from_home > 1000km", {"km_from_home": 1000.5}, True),
        ("distance_from_home > 1000 km", {"km_from_home": 999.5}, False),
        ("km_from_home == 1500m", {"km_from_home": 1.5}, True),
        ("km_from_home == 1mi", {"km_from_home": 1.609344}, True),
        ("seconds_since_last < 5min", {"seconds_since_last": 299}, True),
        ("seconds_since_last < 5min", {"seconds_since_last": 300}, False),
        ("account_age_days < 30d", {"account_age_days": 29.9}, True),
        ("account_age_days == 36h", {"account_age_days": 1.5}, True),
        ("account_age_days in [12h, 1d]", {"account_age_days": 0.5}, True),
        ("speed_kmh > 900kmh", {"speed_kmh": 901}, True),
        ("seconds_since_last > account_age_days", {"seconds_since_last": 86399,
                                                   "account_age_days": 1}, False),
        ("km_from_home / seconds_since_last > 3599kmh", {"km_from_home": 1,
                                                         "seconds_since_last": 1}, True),
        ("km_from_home / account_age_days > 41kmh", {"km_from_home": 1000,
                                                     "account_age_days": 1}, True),
        ("km_from_home / account_age_days > 42kmh", {"km_from_home": 1000,
                                                     "account_age_days": 1}, False),
        ("amount > 50% * user_amount_mean_30d", {"amount": 51, "user_amount_mean_30d": 100}, True),
        ("amount > 50% * user_amount_mean_30d", {"amount": 49, "user_amount_mean_30d": 100}, False),
        ("amount_to_user_mean_30d > 150%", {"amount_to_user_mean_30d": 1.6}, True),
        ("amount_to_user_mean_30d == 1 - 20%", {"amount_to_user_mean_30d": 0.8}, True),
        ("between(seconds_since_last, 1min, 2min)", {"seconds_since_last": 90}, True),
        ("max(50%, 1) == 1", {}, True),
        ("coalesce(seconds_since_last, 1h) == 3600", {}, True),
    ],
)  # fmt: skip
def test_units(condition: str, row: dict[str, Any], expected: bool) -> None:
    assert holds(condition, row) is expected


@pytest.mark.parametrize("op", ["==", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize(
    "sides",
    [
        "amount {} 1",
        "1 {} amount",
        "category {} 'a'",
        "'a' {} country",
        "attributes.x {} 1",
        "attributes.x {} 'a'",
        "attributes.x {} attributes.y",
    ],
)
def test_a_comparison_with_a_missing_value_is_false(op: str, sides: str) -> None:
    assert not holds(sides.format(op))
    assert holds(f"not ({sides.format(op)})")


@pytest.mark.parametrize(
    "condition",
    [
        "amount in [1]",
        "amount not in [1]",
        "amount not in []",
        "category in ['a']",
        "category not in ['a']",
        "attributes.x not in ['a']",
        "attributes.x not in []",
        "contains(category, 'a')",
        "between(amount, 0, 1)",
        "new_device",
        "is_known == false",
        "amount + 1 > 0",
        "max(amount, 1) > 0",
        "1 / 0 > 0",
        "1 / 0 < 0 or 1 % 0 < 1 or 1 % 0 >= 0",
        "log(0) < 0 or log(-1) < 0 or sqrt(-1) < 0",
        "length(category) >= 0",
        "lower(category) != 'x'",
    ],
)
def test_missing_makes_a_test_false(condition: str) -> None:
    assert not holds(condition)


def test_missing_is_handled_by_name() -> None:
    assert holds("is_missing(amount) and is_missing(category) and is_missing(attributes.x)")
    assert holds("is_missing(1 / 0) and is_missing(amount + 1) and is_missing(new_device)")
    assert holds("coalesce(amount, 7) == 7 and coalesce(category, 'x') == 'x'")
    assert holds("coalesce(new_device, true) and coalesce(attributes.x, 3) == 3")
    assert not holds("is_missing(amount)", {"amount": 0.0})


@pytest.mark.parametrize(
    ("value", "condition", "expected"),
    [
        ("vip", "attributes.x == 'vip'", True),
        (5, "attributes.x > 4", True),
        ("5", "attributes.x > 4", False),
        ("5", "is_missing(attributes.x + 0)", True),
        (True, "attributes.x", True),
        (1, "attributes.x", False),
        (True, "attributes.x == 1", False),
        (10**400, "attributes.x > 1 or is_missing(attributes.x)", True),
        ({"a": 1}, "is_missing(attributes.x)", True),
        ([1], "attributes.x in [1]", False),
        ("a", "attributes.x in ['a', 'b']", True),
        (2, "attributes.x not in [1]", True),
        ("a", "attributes.x not in []", True),
        (3, "attributes.x == attributes.y", False),
        ("b", "attributes.x > attributes.y", True),
    ],
)
def test_attributes_are_read_by_what_they_are_compared_with(
    value: object, condition: str, expected: bool
) -> None:
    assert holds(condition, {"attributes.x": value, "attributes.y": "a"}) is expected


def test_named_lists() -> None:
    lists: dict[str, list[Any]] = {"risky": ["a", "b"], "sizes": [1, 2.5], "nothing": []}
    assert holds("category in risky and category not in nothing", {"category": "b"}, **lists)
    assert holds("amount in sizes", {"amount": 2.5}, **lists)
    assert not holds("category in nothing", {"category": "b"}, **lists)
    many = [float(i) for i in range(100)]
    assert holds("amount in many and amount + 0.5 not in many", {"amount": 42}, many=many)


@pytest.mark.parametrize(
    ("condition", "error", "column", "says"),
    [
        ("amount = 5", RuleSyntaxError, 8, "=="),
        ("amount === 5", RuleSyntaxError, 10, "=="),
        ("amount > 5 && true", RuleSyntaxError, 12, "'and'"),
        ("amount > 10,000", RuleSyntaxError, 12, "10_000"),
        ("amount > 10k", RuleSyntaxError, 12, "unknown unit 'k'"),
        ("amount > 1e999", RuleSyntaxError, 10, "too large"),
        ("1 < amount < 5", RuleSyntaxError, 12, "between"),
        ("(amount > 5", RuleSyntaxError, 12, "column 1"),
        ("amount >", RuleSyntaxError, 9, "too early"),
        ("amount > 5 amount", RuleSyntaxError, 12, "operator is missing"),
        ("", RuleSyntaxError, 1, "empty"),
        ("category == 'a", RuleSyntaxError, 13, "not closed"),
        ("category == 'a\\q'", RuleSyntaxError, 15, "escape"),
        ("abs(1, 2) > 1", RuleSyntaxError, 1, "abs(x)"),
        ("category in [1, amount]", RuleSyntaxError, 17, "can not hold"),
        ("category in 5", RuleSyntaxError, 13, "needs a list"),
        ("amont > 5", RuleNameError, 1, "did you mean amount"),
        ("Amount > 5", RuleNameError, 1, "did you mean amount"),
        ("frobnicate(amount) > 5", RuleNameError, 1, "functions are"),
        ("lenght(category) > 5", RuleNameError, 1, "did you mean length"),
        ("min > 5", RuleNameError, 1, "is a function"),
        ("category in risk", RuleNameError, 13, "did you mean risky"),
        ("risky == 'a'", RuleNameError, 1, "is a list"),
        ("attributes.a.b == 1", RuleNameError, 1, "one level"),
        ("amount > 'high'", RuleTypeError, 1, "amount is a number, compared with text"),
        ("category == 5", RuleTypeError, 1, "quotes"),
        ("amount == true", RuleTypeError, 1, "amount is a number, compared with a condition"),
        ("new_device < true", RuleTypeError, 12, "no order"),
        ("amount", RuleTypeError, 1, "needs a condition"),
        ("amount and true", RuleTypeError, 1, "'and' needs a condition"),
        ("lower(amount) == 'a'", RuleTypeError, 7, "lower needs text"),
        ("category + 1 > 2", RuleTypeError, 1, "'+' needs a number"),
        ("(amount > 1) + 1 > 2", RuleTypeError, 9, "if_else"),
        ("'x' in category", RuleTypeError, 8, "contains(category"),
        ("amount in ['a']", RuleTypeError, 1, "list of texts"),
        ("category in [1]", RuleTypeError, 1, "list of numbers"),
        ("category in ['a', 1]", RuleTypeError, 13, "mixes"),
        ("[1] == 1", RuleTypeError, 1, "behind 'in'"),
        ("is_missing(amount > 1)", RuleTypeError, 19, "never missing"),
        ("coalesce(attributes.a, attributes.b) == 1", RuleTypeError, 10, "known type"),
        ("if_else(true, amount, 'a') == 1", RuleTypeError, 23, "needs a number"),
        ("km_from_home > 5min", RuleUnitError, 16, "distance in km"),
        ("seconds_since_last < 5m", RuleUnitError, 22, "minutes are written 'min'"),
        ("5min < km_from_home", RuleUnitError, 1, "duration"),
        ("user_count_1h > 5km", RuleUnitError, 17, "without a unit"),
        ("amount > 50%", RuleUnitError, 10, "percentage"),
        ("amount > 5km", RuleUnitError, 10, "money"),
        ("amount + km_from_home > 5", RuleUnitError, 10, "distance"),
        ("km_from_home > seconds_since_last", RuleUnitError, 16, "duration"),
        ("attributes.x > 5km", RuleUnitError, 16, "attribute without a unit"),
        ("km_from_home in [1km, 5min]", RuleUnitError, 23, "duration"),
        ("max(km_from_home, 5min) > 1", RuleUnitError, 19, "duration"),
    ],
)
def test_errors_say_what_and_where(
    condition: str, error: type[RuleError], column: int, says: str
) -> None:
    with pytest.raises(RuleError) as caught:
        vocabulary(risky=["a"]).compile(condition)
    assert type(caught.value) is error
    assert says in str(caught.value)
    assert caught.value.column == column


def test_an_error_is_shown_with_a_caret_under_the_fault() -> None:
    with pytest.raises(RuleTypeError) as caught:
        vocabulary().compile("amount > 5\n  and country > 7")
    caught.value.rule_id, caught.value.source = "x", "conf/rules.yaml"
    assert str(caught.value) == (
        "conf/rules.yaml, rule 'x', line 2, column 7: country is text, compared with a number\n"
        "      and country > 7\n"
        "          ^~~~~~~\n"
        "  put the value in quotes"
    )


@pytest.mark.parametrize(
    "condition",
    [
        "(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1),
        "not " * (MAX_DEPTH + 1) + "true",
        "-" * (MAX_DEPTH + 1) + "1 > 0",
        "1" + "+1" * (3 * MAX_DEPTH) + " > 0",
        "(" * 3000,
        "amount > 1" + " " * MAX_SOURCE,
    ],
)
def test_limits(condition: str) -> None:
    with pytest.raises(RuleSyntaxError, match=r"nested|characters"):
        vocabulary().compile(condition)


def test_a_long_chain_is_not_deep() -> None:
    assert holds("amount > 1" + " or amount > 1" * 200, {"amount": 2})


_FRAGMENTS = st.sampled_from(
    [*NAMES, *FUNCTIONS, "and", "or", "not", "in", "(", ")", "[", "]", ",", "==", "=", "<", "+",
     "-", "*", "/", "%", "5", "1e9", "5km", "50%", "'a'", '"', "\\", "attributes.x", "attributes.",
     "true", "NOT", " ", "\n", "risky", "!", "&", "\x00", "\u0661", "\u2265"]
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.one_of(st.lists(_FRAGMENTS, max_size=15).map(" ".join), st.text(max_size=60),
                 st.lists(_FRAGMENTS, max_size=15).map("".join)))  # fmt: skip
@example("1e308 * 10 * amount in [1]")
@example("5%")
@example("not in")
def test_random_text_compiles_or_is_refused(source: str) -> None:
    try:
        condition = vocabulary(risky=["a"]).compile(source)
    except RuleError as exc:
        assert exc.message in str(exc)
    else:
        assert holds(condition.text, risky=["a"]) == holds(source, risky=["a"])
