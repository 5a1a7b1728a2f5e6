"""Memberships in rings against their definitions, whatever the cuts and the crash."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.catalogue import USER_FEATURES, USER_INDEX
from dafu.features.state import USERS
from dafu.rings.records import Activity, decode_inbox
from dafu.stages.batch import UserOutput
from dafu.stages.forwarded import ring_texts
from dafu.tables.records import MemoryRecords
from dafu.tables.slotted import RING
from tests.features.test_users import crash_and_run_again
from tests.oracle import DAY_MS, MS, Enrolment, Payment, UserOracle, Verdict, assert_features
from tests.streams import (
    START,
    Event,
    batches,
    choices,
    enrolments,
    forwarded,
    header,
    mixed,
    payments,
    run_users,
    states,
    verdicts,
    with_verdicts,
)

NAMES = [f.name for f in USER_FEATURES]
SIZES = st.lists(st.integers(1, 20), max_size=10)
STREAMS = st.builds(
    mixed,
    st.builds(
        with_verdicts,
        st.lists(choices, min_size=1, max_size=30).map(payments),
        st.lists(verdicts, max_size=6),
    ),
    st.lists(st.tuples(st.floats(0, 1), enrolments), max_size=12),
)


def activities(outputs: Sequence[UserOutput]) -> list[Activity]:
    """What was told of members; every one is keyed by its user."""
    out = []
    for output in outputs:
        for key, value in zip(
            output.activities.keys.present(), output.activities.values.present(), strict=True
        ):
            told = decode_inbox(value)
            assert isinstance(told, Activity)
            assert key == told.user_id.encode()
            out.append(told)
    return out


class Expected:
    """What a stream should give: features by offset, texts by offset, and what is told."""

    def __init__(self, stream: Sequence[Event]) -> None:
        self.features: dict[int, dict[str, float | None]] = {}
        self.texts: dict[int, tuple[str, str]] = {}
        self.told: list[dict[str, Any]] = []
        oracles: dict[str, UserOracle] = defaultdict(UserOracle)
        for offset, event in enumerate(stream):
            self._apply(offset, event, oracles[event.user_id])

    def _apply(self, offset: int, event: Event, oracle: UserOracle) -> None:
        if isinstance(event, Enrolment):
            if oracle.enrol(event):
                self._tell(oracle, event.user_id)
        elif isinstance(event, Verdict):
            oracle.label(event)
            if oracle.ring() is not None:
                self._tell(oracle, event.user_id)
        elif oracle.status(event) == "new":
            self.features[offset] = oracle.add(event)
            ring = oracle.ring()
            self.texts[offset] = ("", "") if ring is None else (ring.ring_id, cut(ring.shared))
            if ring is not None:
                self._tell(oracle, event.user_id, event)

    def _tell(self, oracle: UserOracle, user: str, payment: Payment | None = None) -> None:
        if not oracle.seen:
            return
        time = payment.time if payment else max(p.time for p in oracle.seen)
        inside = [p.amount for p in oracle.seen if time - MS["30d"] < p.time <= time]
        self.told.append(
            {
                "user": user,
                "transaction": payment.transaction_id if payment else "",
                "as_of": time,
                "since": min(p.time for p in oracle.seen),
                "transactions": len(inside),
                "amount": sum(inside),
                # A payment's own label, which came before it, is no news to it.
                "frauds": self._frauds(oracle, time, payment),
            }
        )

    def _frauds(self, oracle: UserOracle, time: int, payment: Payment | None) -> int:
        frauds = {t for t, verdict in oracle.verdicts.items() if verdict.fraud}
        return sum(
            p.transaction_id in frauds and 0 <= time - p.time < 37 * DAY_MS
            for p in oracle.seen
            if p is not payment
        )


def cut(text: str) -> str:
    while len(text.encode()) > 64:
        text = text[:-1]
    return text


@settings(max_examples=100, deadline=None)
@given(stream=STREAMS, sizes=SIZES)
def test_features_texts_and_news_are_what_the_definitions_say(
    stream: list[Event], sizes: list[int]
) -> None:
    outputs = run_users(batches(stream, sizes), MemoryRecords())
    expected = Expected(stream)
    sent = {o: v for o, (_, v) in forwarded(outputs).items()}
    for offset, wanted in expected.features.items():
        value = sent[offset]
        assert_features(NAMES, header(value)["features"], wanted, f"offset {offset}")
        assert ring_texts(value, header(value)) == expected.texts[offset]
    told = activities(outputs)
    assert len(told) == len(expected.told)
    for got, want in zip(told, expected.told, strict=True):
        assert (got.user_id, got.transaction_id) == (want["user"], want["transaction"])
        facts = got.facts
        assert (facts.as_of, facts.since) == (want["as_of"], want["since"])
        assert (facts.transactions, facts.frauds) == (want["transactions"], want["frauds"])
        assert facts.amount == pytest.approx(want["amount"], rel=1e-9, abs=0.0051)
        assert facts.blocked_at == 0
    brought = sum(isinstance(event, Enrolment) for event in stream)
    assert sum(o.memberships for o in outputs) == brought


@settings(max_examples=40, deadline=None)
@given(stream=STREAMS, sizes=SIZES, others=SIZES)
def test_cuts_into_batches_do_not_matter(
    stream: list[Event], sizes: list[int], others: list[int]
) -> None:
    one, two = MemoryRecords(), MemoryRecords()
    first, second = run_users(batches(stream, sizes), one), run_users(batches(stream, others), two)
    assert forwarded(first) == forwarded(second)
    assert activities(first) == activities(second)
    assert states(USERS, one.data) == states(USERS, two.data)


@settings(max_examples=40, deadline=None)
@given(
    stream=STREAMS,
    sizes=SIZES,
    crash=st.integers(0, 100),
    kept=st.integers(0, 1000),
    back=st.integers(0, 3),
    others=SIZES,
)
def test_a_crash_changes_no_answer_and_no_state(
    stream: list[Event], sizes: list[int], crash: int, kept: int, back: int, others: list[int]
) -> None:
    crash_and_run_again(stream, sizes, crash, kept, back, others)


@settings(max_examples=30, deadline=None)
@given(stream=STREAMS, sizes=SIZES, again=st.lists(st.floats(0, 1), max_size=6))
def test_a_repeated_membership_says_nothing_new(
    stream: list[Event], sizes: list[int], again: list[float]
) -> None:
    """Each is brought once more, right behind itself, as after a crash of who writes them."""
    twice: list[Event] = []
    for event in stream:
        twice += [event, event] if isinstance(event, Enrolment) else [event]
    once = run_users(batches(stream, sizes), MemoryRecords())
    more = run_users(batches(twice, sizes), MemoryRecords())
    assert activities(once) == activities(more)
    rows = [
        [header(v)["features"].tobytes() for _, v in sorted(forwarded(o).values(), key=repr)]
        for o in (once, more)
    ]
    assert sorted(rows[0]) == sorted(rows[1])


def paid(name: str, days: float, amount: float = 10.0) -> Payment:
    time = START + round(days * DAY_MS)
    return Payment(transaction_id=name, user_id="u", merchant_id="m", amount=amount, time=time)


def joins(days: float, size: int = 3, ring: str = "r", **more: Any) -> Enrolment:
    time = START + round(days * DAY_MS)
    return Enrolment(user_id="u", ring_id=ring, time=time, size=size, **more)


def column(stream: Sequence[Event], name: str) -> list[float]:
    sent = forwarded(run_users(batches(stream, [1] * len(stream)), MemoryRecords()))
    return [float(header(sent[o][1])["features"][USER_INDEX[name]]) for o in sorted(sent)]


def test_a_ring_that_grows_is_joined_once_and_one_that_was_left_anew() -> None:
    stream: list[Event] = [paid("a", 0), joins(1), paid("b", 2), joins(3, size=9), paid("c", 4)]
    stream += [joins(5, size=0), paid("d", 6), joins(7), paid("e", 8), joins(9, ring="q")]
    stream += [paid("f", 9.5), joins(2, size=77), paid("g", 10)]
    assert column(stream, "ring_size") == [0, 3, 9, 0, 3, 3, 3]
    days = column(stream, "days_since_ring_joined")
    assert days[1:3] + days[4:] == [1.0, 3.0, 1.0, 0.5, 1.0]
    assert np.isnan(days[0]) and np.isnan(days[3])
    told = activities(run_users(batches(stream, [4, 3]), MemoryRecords()))
    assert [t.transaction_id for t in told] == ["", "b", "c", "", "e", "", "f", "g"]


def test_who_was_never_in_a_ring_has_no_record_and_labels_tell_nobody() -> None:
    records = MemoryRecords()
    label = Verdict(transaction_id="a", user_id="u", fraud=True, observed=START)
    outputs = run_users(batches([paid("a", 0), label], []), records)
    assert not [key for key in records.data if key.startswith(RING)]
    assert activities(outputs) == []


def test_what_is_told_of_a_busy_member_includes_what_is_archived() -> None:
    n = 900
    stream: list[Event] = [paid(f"t{i}", i / 100, float(i)) for i in range(n)]
    stream += [joins(10)]
    (told,) = activities(run_users(batches(stream, [200] * 5), MemoryRecords()))
    assert told.facts.transactions == n
    assert told.facts.amount == n * (n - 1) / 2


def test_memberships_are_read_strictly() -> None:
    good = {"user_id": "u", "ring_id": "r", "time": START, "size": 3, "risk": 0.5}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"size": -1}, "invalid_field"),
        ({"sharers": 2**31}, "invalid_field"),
        ({"risk": 1.5}, "invalid_field"),
        ({"time": START // 1000}, "absurd_timestamp"),
        ({"user_id": ""}, "invalid_field"),
    ]
    values = [msgspec.json.encode({"ring": {**good, **changes}}) for changes, _ in bad]
    values.append(msgspec.json.encode({"ring": good, "label": 1}))
    batch = batches([joins(0)] * len(values), [])[0]
    batch = msgspec.structs.replace(
        batch, values=type(batch.values).of(values), keys=type(batch.keys).of([b"u"] * len(values))
    )
    (output,) = run_users([batch], MemoryRecords())
    assert [r.reason for r in output.rejected] == [*(why for _, why in bad), "invalid_field"]
    assert output.memberships == 0
