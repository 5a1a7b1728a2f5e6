"""Rules tried on one transaction: features of a first one, unless they are given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dafu.schema import InvalidRecordError
from dafu.stages.names import compile_document
from dafu.trial import try_rules

PAYMENT: dict[str, Any] = {
    "transaction_id": "t", "user_id": "u", "merchant_id": "m", "amount": 50,
    "timestamp": 1_767_225_600_000, "country": "DE", "tier": "gold",
}  # fmt: skip


def fires(condition: str, more: dict[str, Any] | None = None, **features: Any) -> bool:
    rule = {"id": "r", "condition": condition, "risk_score": 0.5, "action": "review", "mode": "off"}
    rules = compile_document({"version": 1, "rules": [rule]})
    raw = json.dumps({**PAYMENT, **(more or {})}).encode()
    (trace,) = try_rules(rules, raw, features).rules
    return trace.fired


def test_fields_features_attributes_and_lists_are_there() -> None:
    assert fires("amount == 50 and country == 'DE' and attributes.tier == 'gold'")
    assert fires("is_missing(new_device) and new_merchant and user_total_count == 1")
    assert not fires("on_deny_list or on_watch_list or on_allow_list")
    assert fires("on_deny_list", {"on_deny_list": True})
    assert fires("transactions_per_hour == 14", {"transactions_per_hour": 14})
    assert fires("user_count_1h == 15", {"transactions_per_hour": 14}, transactions_per_hour=15)
    assert fires("on_watch_list", on_watch_list=True)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b"{", "not_json"),
        (b"[]", "not_an_object"),
        (b'{"transaction_id": "t"}', "missing_field"),
        (json.dumps(PAYMENT).encode()[:-1] + b', "x": "\xff"}', "not_json"),
    ],
)
def test_what_would_not_be_decided_is_not_tried(raw: bytes, reason: str) -> None:
    rules = compile_document({"version": 1, "rules": []})
    with pytest.raises(InvalidRecordError) as refused:
        try_rules(rules, raw)
    assert refused.value.reason == reason
