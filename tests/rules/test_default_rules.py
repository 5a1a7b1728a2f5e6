"""The rules that come with the project: they compile and fire when they should."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dafu.features.catalogue import ALIASES, FEATURES
from dafu.lists import COLUMNS
from dafu.rules import (
    APPROVE,
    BLOCK,
    NONE,
    REVIEW,
    Evaluation,
    Name,
    RuleSet,
    load_rules,
    parse_rules,
)
from dafu.rules.batch import Column
from tests.rules.vocabulary import objects

FILE = Path(__file__).resolve().parents[2] / "conf" / "rules.yaml"
TEXTS = ("category", "channel", "country", "device_fingerprint", "card_id")
NAMES = {
    **{f.name: Name("number", f.unit, f.group, f.definition) for f in FEATURES},
    "amount": Name("number", "currency", "amount"),
    **{t: Name("string") for t in TEXTS},
    **{column: Name("boolean") for column in COLUMNS.values()},
}
USUAL: dict[str, Any] = {
    "amount": 40.0,
    "user_total_count": 200.0,
    "user_count_30d": 30.0,
    "user_count_1h": 1.0,
    "user_count_5m": 1.0,
    "user_amount_mean_5m": 40.0,
    "user_amount_sum_1h": 40.0,
    "user_amount_sum_30d": 1500.0,
    "amount_to_user_mean_30d": 0.8,
    "amount_to_user_median_30d": 0.9,
    "amount_zscore_30d": -0.2,
    "user_devices_1d": 1.0,
    "user_ips_1h": 1.0,
    "user_merchants_1h": 1.0,
    "user_countries_1d": 1.0,
    "new_device": 0.0,
    "new_country": 0.0,
    "new_merchant": 0.0,
    "seconds_since_last": 80_000.0,
    "km_since_last": 5.0,
    "speed_kmh": 10.0,
    "km_from_home": 8.0,
    "km_to_merchant": 3.0,
    "is_night": 0.0,
    "account_age_days": 300.0,
    "ring_size": 0.0,
    "ring_risk": 0.0,
    "days_since_ring_joined": math.nan,
    "merchant_count_5m": 3.0,
    "merchant_users_5m": 3.0,
    "merchant_amount_mean_5m": 50.0,
    "merchant_amount_mean_30d": 50.0,
    "amount_to_merchant_mean_30d": 0.9,
    "merchant_age_days": 300.0,
    "merchant_burst_users": 0.0,
    "merchant_burst_score": 0.0,
    "category": "grocery",
    "channel": "in_store",
    "country": "DE",
}


@pytest.fixture(scope="module")
def rules() -> RuleSet:
    return load_rules(FILE, NAMES, ALIASES)


def columns_of(rules: RuleSet, rows: list[dict[str, Any]]) -> dict[str, Column]:
    return {
        name: objects([row.get(name) for row in rows])
        if NAMES[name].kind == "string"
        else np.array([row.get(name, np.nan) for row in rows], dtype=float)
        for name in rules.names
    }


def evaluate(rules: RuleSet, row: dict[str, Any]) -> Evaluation:
    return rules.evaluate(columns_of(rules, [row]), 1)


def test_two_are_in_shadow_and_nothing_is_off(rules: RuleSet) -> None:
    modes = [r.mode for r in rules.rules]
    assert modes.count("shadow") == 2
    assert modes.count("off") == 0


def test_usual_and_first_payments_pass(rules: RuleSet) -> None:
    first = {"amount": 60.0, "user_total_count": 1.0, "user_count_30d": 1.0, "user_count_1h": 1.0,
             "new_device": 1.0, "new_country": 1.0, "new_merchant": 1.0, "account_age_days": 0.0,
             "user_amount_sum_1h": 60.0, "user_amount_sum_30d": 60.0}  # fmt: skip
    nothing: dict[str, Any] = {}
    for row in (USUAL, first, nothing):
        evaluation = evaluate(rules, row)
        assert evaluation.hits(0) == []
        assert evaluation.outcome[0] == NONE


CASES: list[tuple[str, dict[str, Any], int]] = [
    ("on_deny_list", {"on_deny_list": 1}, BLOCK),
    ("on_deny_list", {"on_deny_list": 1, "on_allow_list": 1}, BLOCK),
    ("on_allow_list", {"on_allow_list": 1}, APPROVE),
    ("on_allow_list", {"on_allow_list": 1, "on_watch_list": 1}, APPROVE),
    ("on_allow_list", {"on_allow_list": 1, "user_count_5m": 12, "user_amount_mean_5m": 1}, APPROVE),
    ("on_watch_list", {"on_watch_list": 1}, REVIEW),
    ("on_watch_list", {"on_watch_list": 1, "user_count_5m": 12, "user_amount_mean_5m": 1}, BLOCK),
    ("amount_extreme", {"amount": 60_000, "amount_to_user_mean_30d": 50}, BLOCK),
    ("amount_extreme", {"amount": 60_000, "amount_to_user_mean_30d": np.nan}, BLOCK),
    ("card_testing_user", {"user_count_5m": 12, "user_amount_mean_5m": 1}, BLOCK),
    ("takeover_spree", {"new_device": 1, "new_country": 1, "amount": 1500,
                        "amount_to_user_median_30d": 30}, BLOCK),
    ("amount_threshold", {"amount": 10_001}, REVIEW),
    ("amount_far_above_usual", {"amount": 900, "amount_zscore_30d": 9,
                                "amount_to_user_median_30d": 20}, REVIEW),
    ("young_account_high_amount", {"account_age_days": 1, "amount": 3500}, REVIEW),
    ("velocity_hour", {"user_count_1h": 11}, REVIEW),
    ("spending_spree", {"user_amount_sum_1h": 6000, "user_amount_sum_30d": 8000,
                        "user_count_1h": 4}, REVIEW),
    ("many_devices", {"user_devices_1d": 4}, REVIEW),
    ("many_addresses", {"user_ips_1h": 6}, REVIEW),
    ("many_countries", {"user_countries_1d": 3}, REVIEW),
    ("impossible_travel", {"speed_kmh": 2000, "km_since_last": 400}, REVIEW),
    ("far_from_home", {"km_from_home": 1500, "new_device": 1, "amount": 400}, REVIEW),
    ("spree_far_from_home", {"km_from_home": 600, "user_merchants_1h": 3, "new_merchant": 1},
     REVIEW),
    ("new_device_high_amount", {"new_device": 1, "amount": 1200,
                                "amount_to_user_median_30d": 6}, REVIEW),
    ("new_country_cash_like", {"new_country": 1, "category": "gift_cards", "amount": 250}, REVIEW),
    ("night_new_merchant", {"is_night": 1, "new_merchant": 1, "amount": 1200,
                            "amount_to_user_median_30d": 11}, REVIEW),
    ("fraud_ring", {"ring_size": 3, "ring_risk": 0.71, "days_since_ring_joined": 2.9,
                    "new_merchant": 1, "amount_to_merchant_mean_30d": 2.1}, REVIEW),
    ("card_testing_merchant", {"merchant_count_5m": 8, "merchant_users_5m": 7, "amount": 1,
                               "merchant_amount_mean_5m": 1}, REVIEW),
    ("merchant_burst", {"merchant_burst_users": 12, "merchant_burst_score": 0.5}, REVIEW),
    ("amount_unusual_for_merchant", {"amount": 2500, "amount_to_merchant_mean_30d": 40}, REVIEW),
    ("dormant_account_returns", {"seconds_since_last": 26 * 86_400, "amount": 1100,
                                 "new_device": 1}, NONE),
    ("far_from_merchant", {"km_to_merchant": 300}, NONE),
]  # fmt: skip


@pytest.mark.parametrize(("rule_id", "change", "outcome"), CASES)
def test_each_rule_fires_on_its_case(
    rules: RuleSet, rule_id: str, change: dict[str, Any], outcome: int
) -> None:
    evaluation = evaluate(rules, {**USUAL, **change})
    assert rule_id in [h.rule_id for h in evaluation.hits(0)]
    assert evaluation.outcome[0] == outcome


def test_every_rule_has_a_case(rules: RuleSet) -> None:
    assert {r.id for r in rules.rules} - {c[0] for c in CASES} == {"blocked_identifier"}


def test_what_is_denied_is_not_allowed(rules: RuleSet) -> None:
    hits = evaluate(rules, {**USUAL, "on_deny_list": 1, "on_allow_list": 1}).hits(0)
    assert [h.rule_id for h in hits] == ["on_deny_list"]


def test_a_listed_device_is_blocked() -> None:
    text = FILE.read_text().replace("blocked_devices: []", "blocked_devices: [stolen]")

    listed = parse_rules(text, NAMES, ALIASES)
    evaluation = evaluate(listed, {**USUAL, "device_fingerprint": "stolen"})
    assert evaluation.outcome[0] == BLOCK
    assert 'device_fingerprint "stolen" in blocked_devices' in evaluation.hits(0)[0].text
