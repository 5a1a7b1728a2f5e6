"""What stage two tells of transactions in doubt, and says of rings; facts of odd features."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dafu.features.catalogue import ALIASES, FEATURES, INDEX
from dafu.rings.hygiene import clean
from dafu.rings.records import KINDS, Facts, decode_inbox, decode_sighting, encode
from dafu.rules import parse_rules
from dafu.schema import decode_decision
from dafu.stages.batch import InputBatch, MerchantOutput, Messages
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import RULE_NAMES
from dafu.stages.network import facts_of, told_facts
from dafu.stages.scan import HASHED_FIELDS
from dafu.stages.sightings import IDENTIFIERS
from dafu.tables.records import MemoryRecords
from tests.oracle import Enrolment, Payment
from tests.streams import (
    START,
    Event,
    alone,
    batches,
    choices,
    cuts,
    enrolments,
    mixed,
    payments,
    run_users,
    to_json,
)

RULES = parse_rules(
    """
version: 1
rules:
  - {id: large, condition: amount > 100, action: block, risk_score: 0.95}
  - {id: middle, condition: amount > 50, action: review, risk_score: 0.5}
  - {id: ring, condition: ring_size >= 3 and ring_risk > 0.7, action: review, risk_score: 0.8}
""",
    RULE_NAMES,
    ALIASES,
)
SIZES = st.lists(st.integers(1, 20), max_size=8)


def identified(stream: list[Payment]) -> list[Event]:
    """The same payments, with cards and addresses as well, some of which name nothing."""
    cards, mails = (None, "4000123456789010", "****9010"), (None, "a@b.cd", "no-reply@b.cd", "")
    return [replace(p, card=cards[i % 3], email=mails[i % 4]) for i, p in enumerate(stream)]


STREAMS = st.builds(
    mixed,
    st.lists(choices, min_size=1, max_size=30).map(payments).map(identified),
    st.lists(st.tuples(st.floats(0, 1), enrolments), max_size=6),
)


def decided(stream: list[Event], sizes: list[int]) -> list[MerchantOutput]:
    """Both stages, the second in batches of its own sizes."""
    log = [
        pair
        for output in run_users(batches(stream, []), MemoryRecords())
        for pair in zip(output.forward_keys.present(), output.forward_values.present(), strict=True)
    ]
    stage, records = MerchantStage(RULES, None, Thresholds()), MemoryRecords()
    outputs = []
    for a, b in cuts(len(log), sizes):
        keys, values = zip(*log[a:b], strict=True)
        outputs.append(stage.run(InputBatch.of(0, keys, values, a), alone(records)))
        records.write(outputs[-1].only_changes)
    return outputs


def flat(messages: list[Messages]) -> list[tuple[bytes, bytes]]:
    return [
        pair for m in messages for pair in zip(m.keys.present(), m.values.present(), strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(stream=STREAMS, sizes=SIZES)
def test_transactions_in_doubt_are_told_of_and_no_others(
    stream: list[Event], sizes: list[int]
) -> None:
    outputs = decided(stream, sizes)
    by_id = {p.transaction_id: p for p in reversed(stream) if isinstance(p, Payment)}
    rows = np.vstack([o.features for o in outputs]) if outputs else np.empty((0, len(FEATURES)))
    decisions = [decode_decision(d) for o in outputs for d in o.decisions.present()]
    sightings, news = [], []
    for decision, features in zip(decisions, rows, strict=True):
        ring = features[INDEX["ring_size"]]
        by_ring = [r for r in decision.reasons if r.source.startswith("ring:")]
        assert len(by_ring) == int(ring > 0 and decision.risk_level != "low")
        assert decision.explanations.network_risk == (
            0.8 if ring >= 3 and features[INDEX["ring_risk"]] > 0.7 else 0.0
        )
        blocked = decision.decision == "block"
        if not blocked and (decision.decision != "review" or ring > 0):
            continue
        tx = by_id[decision.transaction_id]
        facts = Facts(
            tx.time,
            tx.time - round(features[INDEX["account_age_days"]] * 86_400_000),
            int(features[INDEX["user_count_30d"]]),
            round(float(features[INDEX["user_amount_sum_30d"]]), 2),
            0,
            blocked_at=tx.time if blocked else 0,
            reviewed_at=0 if blocked else tx.time,
        )
        for kind in KINDS:
            value = clean(kind, getattr(tx, kind))
            if value is not None:
                sightings.append((kind, value, tx.user_id, tx.transaction_id, facts))
        if ring > 0:
            news.append((tx.user_id, tx.transaction_id, facts))
    told = flat([o.sightings for o in outputs])
    found = [decode_sighting(value) for _, value in told]
    assert [(s.kind, s.value, s.user_id, s.transaction_id, s.facts) for s in found] == sightings
    assert [key for key, _ in told] == [f"{s.kind}:{s.value}".encode() for s in found]
    told = flat([o.activities for o in outputs])
    actives = [decode_inbox(value) for _, value in told]
    assert [(a.user_id, a.transaction_id, a.facts) for a in actives] == news
    assert [key.decode() for key, _ in told] == [a.user_id for a in actives]


@settings(max_examples=25, deadline=None)
@given(stream=STREAMS, sizes=SIZES, others=SIZES)
def test_cuts_into_batches_do_not_matter(
    stream: list[Event], sizes: list[int], others: list[int]
) -> None:
    one, two = decided(stream, sizes), decided(stream, others)
    for what in ("sightings", "activities"):
        assert flat([getattr(o, what) for o in one]) == flat([getattr(o, what) for o in two])


def in_ring(amount: float, **more: Any) -> list[str]:
    """Reasons of the ring for a payment of this amount by a member."""
    enrolment = Enrolment(user_id="u", ring_id="r7", time=START, size=7, **more)
    tx = Payment(transaction_id="t", user_id="u", merchant_id="m", amount=amount, time=START)
    (output,) = decided([enrolment, tx], [])
    (decision,) = (decode_decision(d) for d in output.decisions.present())
    return [f"{r.source} {r.text}" for r in decision.reasons if r.source.startswith("ring:")]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"shared": "device fp_12", "sharers": 6, "blocked": 4},
            "shares device fp_12 with 6 users, 4 of them blocked",
        ),
        (
            {"shared": "device \u00fc", "sharers": 1, "blocked": 2, "frauds": 1},
            "shares device \u00fc with 1 user in a ring of 7, 2 of its other users blocked, "
            "1 of its other users with a known fraud",
        ),
        ({"frauds": 3}, "in a ring of 7 users, 3 of the others with a known fraud"),
    ],
)
def test_a_ring_is_said_in_words_where_there_is_doubt(more: dict[str, Any], text: str) -> None:
    assert in_ring(60.0, **more) == [f"ring:r7 {text}"]
    assert in_ring(1.0, **more) == []


def test_a_long_id_and_text_are_cut_between_characters() -> None:
    enrolment = Enrolment(
        user_id="u", ring_id="r" * 39 + "\u00fc", time=START, size=2, shared="\u20ac" * 30
    )
    tx = Payment(transaction_id="t", user_id="u", merchant_id="m", amount=60.0, time=START)
    (output,) = decided([enrolment, tx], [])
    (decision,) = (decode_decision(d) for d in output.decisions.present())
    ring = decision.reasons[-1]
    assert ring.source == "ring:" + "r" * 39
    assert ring.text == "shares " + "\u20ac" * 21 + " with 0 users in a ring of 2"


def test_what_is_no_number_is_no_fact_and_can_be_sent() -> None:
    odd = np.full((4, len(FEATURES)), [[np.nan], [np.inf], [-np.inf], [-5.0]])
    times = np.array([START] * 4)
    assert told_facts(facts_of(odd, times)) == [Facts(START, START)] * 4
    huge = facts_of(np.full((1, len(FEATURES)), 2.0**53), times[:1])
    (large,) = told_facts(huge, blocked=True)
    assert (large.since, large.blocked_at) == (0, START)
    assert json.loads(encode(large))["transactions"] == 2**53
    assert json.loads(encode(large))["amount"] == 2**50 / 100
    beyond = facts_of(np.full((1, len(FEATURES)), 1e300), times[:1])
    assert told_facts(beyond) == [Facts(START, START)]


def test_identifiers_are_the_last_hashes_in_the_order_of_their_kinds() -> None:
    assert HASHED_FIELDS[-len(KINDS) :] == tuple(IDENTIFIERS[kind] for kind in KINDS)


def test_the_json_of_a_member_is_what_came() -> None:
    enrolment = Enrolment(user_id="u", ring_id="r", time=START, size=2, shared="ip 10.0.0.1")
    tx = Payment(transaction_id="t", user_id="u", merchant_id="m", amount=60.0, time=START)
    other = replace(tx, user_id="v", transaction_id="t\u00e9")
    (output,) = run_users(
        batches([enrolment, tx, other, replace(other, user_id="u")], []), MemoryRecords()
    )
    sent = output.forward_values.present()
    assert [value.endswith(to_json(p)) for value, p in zip(sent, [tx, other], strict=False)] == [
        True,
        True,
    ]
    (decided_output,) = decided([enrolment, tx, other, replace(other, user_id="u")], [])
    ids = [decode_decision(d).transaction_id for d in decided_output.decisions.present()]
    assert ids == ["t", "t\u00e9", "t\u00e9"]
