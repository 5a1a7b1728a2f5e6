"""Which identifiers are told of, against a recomputation that knows no signatures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from xxhash import xxh64_intdigest

from dafu.features.sightings import MOST_A_DAY
from dafu.features.state import ANNOUNCED, USERS
from dafu.rings.hygiene import clean
from dafu.rings.records import Kind, Sighting, decode_sighting
from dafu.stages.batch import UserOutput
from dafu.tables.records import MemoryRecords
from tests.features.test_users import crash_and_run_again
from tests.oracle import DAY_MS, Payment, UserOracle
from tests.streams import LATE, START, STEPS, batches, run_users, states, to_json

WEEK_MS = 7 * DAY_MS
KINDS: tuple[Kind, ...] = ("device", "ip", "card", "email")
VALUES: dict[Kind, list[str | None]] = {
    "device": [None, "", "fp-1", "fp-2", "FP-1", "unknown", *(f"fp-{i}" for i in range(10, 15))],
    "ip": [None, "10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "0.0.0.0"],
    "card": [None, "4000 1234 5678 9010", "4000123456789010", "****9010"],
    "email": [None, "jane@x.org", "Jane+a@x.org", "no-reply@x.org", "j\u00fcrgen@x.org"],
}
SIZES = st.lists(st.integers(1, 20), max_size=10)
described = st.tuples(
    st.integers(0, 1),
    st.sampled_from((*STEPS, WEEK_MS // 2)),
    st.sampled_from(LATE),
    st.tuples(*(st.sampled_from(VALUES[kind]) for kind in KINDS)),
    st.sampled_from(("new", "new", "new", "repeat")),
)


def stream_of(
    rows: Sequence[tuple[int, int, int, tuple[str | None, ...], str]],
) -> list[Payment]:
    out: list[Payment] = []
    now = START
    for i, (user, step, late, values, kind) in enumerate(rows):
        if kind == "repeat" and out:
            out.append(out[-1])
            continue
        now += step
        out.append(
            payment(
                f"t{i}", max(now - late, START), f"u{user}", **dict(zip(KINDS, values, strict=True))
            )
        )
    return out


def payment(name: str, time: int, user: str = "u", **values: str | None) -> Payment:
    tx = Payment(transaction_id=name, user_id=user, merchant_id="m", amount=5.0, time=time)
    return replace(tx, **values)


STREAMS = st.lists(described, min_size=1, max_size=40).map(stream_of)


class Announcer:
    """What one user's transactions tell: pairs by name, in order of their last use."""

    def __init__(self) -> None:
        self.told: list[tuple[Kind, str, int]] = []
        self.day = 0
        self.count = 0
        self.capped = 0

    def new(self, tx: Payment) -> list[tuple[Kind, str]]:
        out = []
        for kind in KINDS:
            value = getattr(tx, kind)
            if not value:
                continue
            begins = xxh64_intdigest(value.encode()) % WEEK_MS
            pair = (kind, value, (tx.time + begins) // WEEK_MS)
            if pair in self.told:
                self.told.remove(pair)
            else:
                if tx.time // DAY_MS > self.day:
                    self.day, self.count = tx.time // DAY_MS, 0
                if self.count == MOST_A_DAY:
                    self.capped += 1
                    continue
                self.count += 1
                out.append((kind, value))
            self.told = [pair, *self.told][:ANNOUNCED]
        return out


def told(outputs: Sequence[UserOutput]) -> list[Sighting]:
    out = []
    for output in outputs:
        for key, value in zip(
            output.sightings.keys.present(), output.sightings.values.present(), strict=True
        ):
            sighting = decode_sighting(value)
            assert key == f"{sighting.kind}:{sighting.value}".encode()
            out.append(sighting)
    return out


def check(stream: Sequence[Payment], sizes: list[int]) -> tuple[list[Sighting], int]:
    """Compare what a stream tells with what it should; returns that, and how many were capped."""
    outputs = run_users(batches(stream, sizes), MemoryRecords())
    announcers: dict[str, Announcer] = defaultdict(Announcer)
    oracles: dict[str, UserOracle] = defaultdict(UserOracle)
    expected = []
    refused = 0
    for tx in stream:
        oracle = oracles[tx.user_id]
        if oracle.status(tx) != "new":
            continue
        features = oracle.add(tx)
        since = min(p.time for p in oracle.seen)
        for kind, value in announcers[tx.user_id].new(tx):
            name = clean(kind, value)
            if name is None:
                refused += 1
                continue
            expected.append((tx, kind, name, since, features))
    found = told(outputs)
    assert sum(o.refused for o in outputs) == refused
    capped = sum(o.capped for o in outputs)
    assert capped == sum(a.capped for a in announcers.values())
    assert len(found) == len(expected)
    for got, (tx, kind, name, since, features) in zip(found, expected, strict=True):
        assert (got.user_id, got.kind, got.value) == (tx.user_id, kind, name)
        assert (got.transaction_id, got.merchant_id) == (tx.transaction_id, tx.merchant_id)
        assert (got.facts.as_of, got.facts.since) == (tx.time, since)
        assert got.facts.transactions == features["user_count_30d"]
        assert got.facts.amount == pytest.approx(features["user_amount_sum_30d"], abs=0.01)
        assert (got.facts.frauds, got.facts.blocked_at) == (0, 0)
    return found, capped


@settings(max_examples=150, deadline=None)
@given(stream=STREAMS, sizes=SIZES)
def test_what_is_new_or_was_not_told_for_a_week_is_told(
    stream: list[Payment], sizes: list[int]
) -> None:
    check(stream, sizes)


@settings(max_examples=30, deadline=None)
@given(stream=STREAMS, sizes=SIZES, others=SIZES)
def test_cuts_into_batches_do_not_matter(
    stream: list[Payment], sizes: list[int], others: list[int]
) -> None:
    one, two = MemoryRecords(), MemoryRecords()
    first, second = run_users(batches(stream, sizes), one), run_users(batches(stream, others), two)
    assert told(first) == told(second)
    assert states(USERS, one.data) == states(USERS, two.data)


@settings(max_examples=30, deadline=None)
@given(
    stream=STREAMS, sizes=SIZES, crash=st.integers(0, 100), kept=st.integers(0, 99), others=SIZES
)
def test_a_crash_changes_no_state(
    stream: list[Payment], sizes: list[int], crash: int, kept: int, others: list[int]
) -> None:
    crash_and_run_again(stream, sizes, crash, kept, 1, others)


def test_a_habit_is_told_once_a_week() -> None:
    n = 6 * 7 * 8
    stream = [
        payment(f"t{i}", START + i * 4 * 3_600_000, device="fp-1", ip="10.0.0.1", email="a@b.cd")
        for i in range(n)
    ]
    found, capped = check(stream, [100] * 20)
    assert len(found) in range(3 * 8, 3 * 9 + 1)
    assert capped == 0


def test_one_who_makes_up_identifiers_is_told_of_up_to_a_number_a_day() -> None:
    first = START - START % DAY_MS
    stream = [payment(f"a{i}", first + i, device=f"fp-{i}") for i in range(100)]
    stream += [payment(f"b{i}", first + DAY_MS + i, device=f"fp-{i}") for i in range(100)]
    # One that arrives late counts on the latest day.
    stream += [payment("c", first + 50, device="fp-late")]
    stream += [payment("d", first + 2 * DAY_MS, device="fp-late")]
    found, capped = check(stream, [33] * 7)
    assert len(found) == 2 * MOST_A_DAY + 1
    assert capped == 2 * (100 - MOST_A_DAY) + 1
    assert found[-1].transaction_id == "d"


def test_what_names_nothing_is_remembered_as_well() -> None:
    stream = [payment(f"t{i}", START + i, device="unknown") for i in range(5)]
    (output,) = run_users(batches(stream, []), MemoryRecords())
    assert output.refused == 1
    assert told([output]) == []


def test_a_transaction_that_is_not_plain_is_told_of_like_any_other() -> None:
    stream = [payment("t\u00e9", START, "\u00fc", device="fp \u2022", email="j\u00fcrgen@x.org")]
    assert not to_json(stream[0]).isascii() or b"\\u" in to_json(stream[0])
    found, _ = check(stream, [])
    assert [(s.user_id, s.value) for s in found] == [
        ("\u00fc", "fp \u2022"),
        ("\u00fc", "j\u00fcrgen@x.org"),
    ]
