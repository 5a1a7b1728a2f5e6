"""What is hidden from callers who need not see it, and what stays."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from dafu.features.catalogue import ALIASES, FEATURES, INDEX
from dafu.rings.picture import draw
from dafu.rings.records import KINDS, Edge, Evidence, Facts, Member, RingAlert
from dafu.rules import Rule, compile_rules
from dafu.rules.explain import explain
from dafu.stages.names import RULE_NAMES
from dafu.stages.reasons import ring_reason
from dafu.stages.texts import TEXTS
from dafu.web.endpoints import Call
from dafu.web.masking import FIELDS, HARMLESS, MASKER, Masker, mask, mask_payload
from dafu.web.principals import ROLES, Principal

MASK = Masker(lambda: b"s" * 32)
SECRETS = (
    "fp_12 with 3 users",
    "198.51.100.7",
    "2001:db8::7",
    "ada@example.com",
    "4111111111111111",
    "Mozilla/5.0 (X11; Linux)",
    "dev-1",
)
values = st.sampled_from(SECRETS) | st.text(min_size=3, max_size=40)


def call(role: Any) -> Call:
    app = web.Application()
    app[MASKER] = MASK
    request: Any = SimpleNamespace(config_dict=app)
    return Call(request, Principal("p", "key", role, ROLES[role]))


def ring(value: str = "dev-1", kind: Any = "device") -> RingAlert:
    facts = Facts(as_of=1, since=0)
    noun = {"device": "device", "ip": "IP address", "card": "card", "email": "e-mail address"}[kind]
    return RingAlert(
        alert_id="r:1",
        ring_id="r",
        event="opened",
        kind="accounts",
        time=1,
        score=0.9,
        size=2,
        identifiers=1,
        transactions=3,
        amount=10.5,
        frauds=0,
        blocked=1,
        first_seen=0,
        last_seen=1,
        reasons=["1 of 2 users had transactions blocked", f"2 users share {noun} {value}"],
        parts={"blocked": 0.5},
        members=[Member("u1", 0, facts), Member("u2", 0, facts)],
        evidence=[Evidence(kind, value, 0.5, 2, 2)],
        edges=[Edge("u1", f"{kind}:{value}", 0, 1), Edge("u2", f"{kind}:{value}", 0, 1)],
    )


@given(values, values)
def test_equal_values_look_equal_and_others_do_not(a: str, b: str) -> None:
    assert (MASK.value(a) == MASK.value(b)) == (a == b)
    assert MASK.value(MASK.value(a)) == MASK.value(a)
    assert Masker(lambda: b"t" * 32).value(a) != MASK.value(a)
    assert a not in MASK.value(a) or set(a) <= set("masked-0123456789abcdef")


@pytest.mark.parametrize("kind", KINDS)
@given(value=values.filter(lambda v: v.strip() == v and "\n" not in v))
def test_a_ring_tells_who_shares_what_and_not_what_it_is(kind: Any, value: str) -> None:
    shown, hidden = ring(value, kind), mask(ring(value, kind), call("viewer"))
    alias = MASK.value(value)
    assert hidden.evidence == [Evidence(kind, alias, 0.5, 2, 2)]
    assert {edge.identifier for edge in hidden.edges} == {f"{kind}:{alias}"}
    assert hidden.reasons[0] == shown.reasons[0]
    assert hidden.reasons[1].endswith(f" {alias}")
    assert hidden.members == shown.members
    assert mask(shown, call("analyst")) is shown
    if value in SECRETS:
        assert value not in msgspec.json.encode(hidden).decode()
        assert value not in draw(hidden)
        assert alias[:10] in draw(hidden)


@pytest.mark.parametrize("role", list(ROLES))
def test_who_has_the_permission_sees_all(role: Any) -> None:
    document = {"ip_address": "198.51.100.7", "device": "d", "amount": 1}
    shown = mask(document, call(role))
    assert (shown == document) == (role in ("analyst", "admin"))
    assert shown["amount"] == 1
    raw = json.dumps(document).encode()
    assert (mask(raw, call(role)) == raw) == (role in ("analyst", "admin"))


@given(values.filter(lambda v: '"' not in v and "\\" not in v), st.integers(1, 30))
def test_reasons_of_rings_hide_what_is_shared(value: str, sharers: int) -> None:
    features = np.zeros(len(FEATURES))
    features[[INDEX[n] for n in ("ring_size", "ring_sharers", "ring_blocked")]] = (40, sharers, 4)
    reason = ring_reason("r", f"device {value}", features)
    hidden = MASK.document({"reasons": [{"source": reason.source, "text": reason.text}]})
    text = hidden["reasons"][0]["text"]
    assert text == reason.text.replace(f"device {value} with", f"device {MASK.value(value)} with")


RULES = {
    "ip_address in ['198.51.100.7', '10.0.0.1'] and amount > 5": {"ip_address": "198.51.100.7"},
    "device_fingerprint == 'my dev' and country == 'DE'": {"device_fingerprint": "my dev"},
    "email != card_id": {"email": "ada@example.com", "card_id": "4111 1111 1111 1111"},
    "user_agent == 'x y' and not (email == 'q')": {"user_agent": "x y", "email": "q q"},
}


@pytest.mark.parametrize("condition", RULES)
def test_reasons_of_rules_hide_values_and_keep_the_rest(condition: str) -> None:
    rule = Rule(id="r", condition=condition, risk_score=0.8, action="review")
    rules = compile_rules([rule], {}, RULE_NAMES, ALIASES)
    row = {"amount": 12400.0, "country": "DE", **RULES[condition]}
    (trace,) = explain(rules, row).rules
    assert trace.fired
    text = MASK.sentence(trace.text)
    for value in RULES[condition].values():
        assert value in trace.text
        assert value not in text
        assert MASK.value(value) in text
    steps = json.dumps(MASK.document(msgspec.to_builtins(trace)))
    assert not [value for value in RULES[condition].values() if value in steps]
    if "country" in condition:
        assert 'country "DE"' in text
    if "amount" in condition:
        assert "amount 12,400 > 5" in text


def test_reasons_that_a_rules_author_wrote() -> None:
    for text, expected in {
        'Ada\'s phone "dev-1" again': f'Ada\'s phone "{MASK.value("dev-1")}" again',
        "from 198.51.100.7, twice": f"from {MASK.value('198.51.100.7')}, twice",
        "from 2001:db8::7/64": f"from {MASK.value('2001:db8::7/64')}",
        "mail to ada@example.com.": None,
        "card 4111 1111 1111 1111 used": f"card {MASK.value('4111 1111 1111 1111')} used",
        "attributes.phone 4930123456 > 1": f"attributes.phone {MASK.value('4930123456')} > 1",
        "at 07:40:09 on 2025-01-08T07:40:09.384Z": "at 07:40:09 on 2025-01-08T07:40:09.384Z",
        "amount 12,400 > 10,000 and user_count_1h 14 > 10": (
            "amount 12,400 > 10,000 and user_count_1h 14 > 10"
        ),
        "a new device, a new country, 1,507 km from home": (
            "a new device, a new country, 1,507 km from home"
        ),
        "raised most by new_device 1, user_countries_1d 2": (
            "raised most by new_device 1, user_countries_1d 2"
        ),
        'cut "dev-1': f'cut "{MASK.value("dev-1")}"',
    }.items():
        hidden = MASK.sentence(text)
        if expected is None:
            assert "ada" not in hidden
        else:
            assert hidden == expected
        assert MASK.sentence(hidden) == hidden


def test_every_text_of_a_transaction_is_hidden_or_harmless() -> None:
    """A field that is added is one or the other, by somebody's decision."""
    assert {str(name) for name in TEXTS} <= FIELDS | HARMLESS


def test_lists_views_and_nested_documents() -> None:
    document = {
        "transactions": [{"device": "0a1b", "ip": None, "merchant": "m"}],
        "known": {"devices": 3, "ips": 2},
        "ring": {"shared": "device fp_12", "sharers": 3},
        "entries": [{"kind": "email", "value": "a@b.c"}, {"kind": "merchant", "value": "m"}],
        "identifiers": ["card:4111", "odd"],
        "explanations": {"network_risk": 0.5},
    }
    hidden = MASK.document(document)
    assert hidden["transactions"] == [{"device": MASK.value("0a1b"), "ip": None, "merchant": "m"}]
    assert hidden["known"] == document["known"]
    assert hidden["ring"] == {"shared": f"device {MASK.value('fp_12')}", "sharers": 3}
    assert hidden["entries"][0] == {"kind": "email", "value": MASK.value("a@b.c")}
    assert hidden["entries"][1] == document["entries"][1]  # type: ignore[index]
    assert hidden["identifiers"] == [f"card:{MASK.value('4111')}", MASK.value("odd")]
    assert hidden["explanations"] == document["explanations"]


def test_payloads_show_plain_fields_alone() -> None:
    payload = {
        "transaction_id": "t",
        "amount": 12.5,
        "country": "DE",
        "ip_address": "198.51.100.7",
        "phone": 4930123456,
        "loyalty": ["gold", {"since": 2020, "ok": True}],
        "user_id": {"not": "plain"},
    }
    shown = json.loads(mask_payload(json.dumps(payload).encode(), call("engineer")))
    assert {name: shown[name] for name in ("transaction_id", "amount", "country")} == {
        "transaction_id": "t",
        "amount": 12.5,
        "country": "DE",
    }
    assert shown["ip_address"] == MASK.value("198.51.100.7")
    assert shown["phone"] == MASK.value("4930123456")
    assert shown["loyalty"] == [
        MASK.value("gold"),
        {"since": MASK.value("2020"), "ok": True},
    ]
    assert shown["user_id"] == {"not": MASK.value("plain")}
    for raw in (
        b"ada@example.com",
        b'{"email": "ada@example.com"',
        b'["ada@example.com"]',
        b"\xff",
    ):
        hidden = mask_payload(raw, call("viewer"))
        assert b"ada" not in hidden
        assert str(len(raw)).encode() in hidden
        assert mask_payload(raw, call("admin")) == raw
