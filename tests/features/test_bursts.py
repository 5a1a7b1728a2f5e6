"""Bursts at merchants against their naive telling, and what is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.bursts import (
    BURST,
    BURST_WINDOW_MS,
    CLOSED,
    GROWN,
    HIGH,
    HOLD,
    NEWCOMERS,
    OPEN,
    OPENED,
    SMALL,
)
from dafu.features.catalogue import MERCHANT_INDEX
from dafu.features.state import MERCHANTS
from dafu.tables.records import MemoryRecords
from tests.bursts import DAY, HOUR, LENGTHS, MINUTE, PATTERNS, BurstOracle
from tests.oracle import Payment
from tests.streams import START, copy, states, step_merchant_kernel

EVENTS = {"opened": OPENED, "grown": GROWN, "closed": CLOSED}
Row = tuple[int, float, str]
"""Time from START, amount, user."""


def payments(rows: Iterable[Row]) -> list[Payment]:
    return [
        Payment(
            transaction_id=f"t{i}", user_id=user, merchant_id="shop", amount=amount, time=START + at
        )
        for i, (at, amount, user) in enumerate(rows)
    ]


def run(rows: Iterable[Row], sizes: Iterable[int] = ()) -> np.ndarray:
    stream = payments(rows)
    bursts = np.zeros(len(stream), BURST)
    features, _ = step_merchant_kernel(stream, sizes, MemoryRecords(), bursts=bursts)
    for name in ("users", "score"):
        column = features[:, MERCHANT_INDEX[f"merchant_burst_{name}"]]
        assert np.array_equal(column, bursts[name].astype(np.float64))
    return bursts


def history(days: int, a_day: int, seed: int = 0, users: int = 30) -> list[Row]:
    """Regular customers who buy for 5 to 80, by day."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(8 * HOUR, 20 * HOUR, (days, a_day)), axis=1)
    times += np.arange(days)[:, None] * DAY
    return [
        (int(at), float(np.round(rng.lognormal(3.2, 0.6), 2)), f"c{rng.integers(users)}")
        for at in times.ravel()
    ]


def burst(
    at: int, amounts: Iterable[float], gap: int = 20_000, who: str = "x", first: int = 0
) -> list[Row]:
    """One payment of a user each, `gap` apart."""
    return [(at + i * gap, amount, f"{who}{first + i}") for i, amount in enumerate(amounts)]


def check(rows: list[Row], sizes: Iterable[int] = ()) -> np.ndarray:
    """The kernel's findings, which must be the oracle's."""
    bursts = run(rows, sizes)
    oracle = BurstOracle()
    latest = 0
    for i, (at, amount, user) in enumerate(rows):
        timely = at > latest - HOUR
        latest = max(latest, at)
        found, told = oracle.add(START + at, amount, user)
        got = bursts[i]
        assert got["pattern"] == PATTERNS[found.pattern], i
        for name in ("users", "window", "count", "first"):
            assert got[name] == getattr(found, name), (i, name)
        for name in ("score", "expected", "amount", "excess", "beyond", "alike", "fresh"):
            assert got[name] == pytest.approx(getattr(found, name), rel=1e-9, abs=1e-9), (i, name)
        if told is None:
            assert got["event"] == 0, i
            member = oracle.episode is not None and found.score >= HOLD and timely
            assert (got["since"] != 0) == member, i
            continue
        assert (got["event"], got["since"]) == (EVENTS[told.event], told.since), i
        for name in ("first", "last", "users", "count", "amount", "score"):
            told_of = getattr(told, name)
            assert got[f"episode_{name}"] == pytest.approx(told_of, rel=1e-9), (i, name)
        assert got["number"] == told.number
    return bursts


bits = st.lists(
    st.tuples(
        st.sampled_from([0, 5_000, MINUTE, 5 * MINUTE, HOUR, 6 * HOUR, DAY]),  # before it begins
        st.integers(1, 45),  # payments
        st.sampled_from([1, 7]),  # of so many users, or of as many as payments
        st.sampled_from([0, 1_000, 20_000, 3 * MINUTE, 30 * MINUTE]),  # apart
        st.sampled_from([0.0, 0.5, 1.0, 6.0, 25.0, 80.0, 150.0]),
        st.sampled_from([0.0, 0.01, 0.5]),  # how much amounts differ
        st.sampled_from(["x", "c", "y"]),
        st.sampled_from([0, 0, 0, 50 * MINUTE, 2 * HOUR]),  # how late every fifth one is
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(1, 30), (3, 10), (4, 30), (40, 1)]),
    bits,
    st.lists(st.integers(1, 40), max_size=6),
    st.integers(0, 9),
)
def test_the_kernel_finds_what_the_definition_says(
    past: tuple[int, int], described: list[tuple[Any, ...]], sizes: list[int], seed: int
) -> None:
    rows = history(*past, seed)
    at = rows[-1][0]
    for wait, n, few, gap, amount, differ, who, late in described:
        at += wait
        for i in range(n):
            user = f"{who}{i if few == 1 else i % few}"
            paid = round(amount * (1 + differ * ((i * 7 % 11) / 10 - 0.5)), 2)
            rows.append((at + i * gap - (late if i % 5 == 4 else 0), paid, user))
        at += n * gap
    retained = rows[:256]
    assert run(retained, sizes).tobytes() == check(retained).tobytes()


def events(bursts: np.ndarray) -> list[int]:
    return [e for e in bursts["event"].tolist() if e]


NOON = 40 * DAY + 12 * HOUR


def test_card_testing_opens_grows_and_closes_once() -> None:
    rows = history(40, 5)
    probes = [1.0 + i % 3 * 0.5 for i in range(40)]
    rows += burst(NOON, probes)
    rows += [(NOON + DAY, 25.0, "c1"), (NOON + DAY + HOUR, 25.0, "c2")]
    found = check(rows)
    assert events(found) == [OPENED, GROWN, GROWN, CLOSED]
    first = len(rows) - 42
    opened = found[first + 7]
    assert opened["event"] == OPENED and opened["pattern"] == SMALL and opened["users"] == 8
    assert (found["score"][first + 8 : first + 40] >= OPEN).all()
    assert found["episode_users"][found["event"] == GROWN].tolist() == [16, 32]
    closed = found[-2]
    assert closed["event"] == CLOSED
    assert (closed["episode_users"], closed["episode_count"]) == (40, 40)
    assert closed["episode_amount"] == pytest.approx(sum(probes))
    assert closed["episode_last"] == START + NOON + 39 * 20_000
    assert (found["score"][:first] == 0).all()


def test_the_next_campaign_is_another_episode_and_found_as_soon() -> None:
    rows = history(40, 5)
    for day in range(4):
        rows += burst(NOON + day * DAY, [1.2] * 30, who=f"x{day}-")
        rows += [(NOON + day * DAY + 8 * HOUR + i, 25.0, f"c{i}") for i in range(3)]
    found = check(rows)
    assert events(found) == [OPENED, GROWN, CLOSED] * 4
    assert len(set(found["since"][found["event"] > 0].tolist())) == 4
    assert found["episode_users"][found["event"] == OPENED].tolist() == [8] * 4


def test_a_merchant_in_collusion_charges_high_amounts_that_hardly_differ() -> None:
    rows = history(40, 5) + burst(NOON, [180.0 + i % 4 for i in range(20)], gap=4 * MINUTE)
    found = check(rows)
    assert events(found) == [OPENED, GROWN]
    assert set(found["pattern"][-12:].tolist()) == {HIGH}


def test_newcomers_far_beyond_the_busiest_hour_of_a_month() -> None:
    usual = [20.0 + i * 13 % 40 for i in range(70)]
    rows = history(40, 5) + burst(NOON, usual, gap=30_000)
    found = check(rows)
    assert events(found) == [OPENED, GROWN]
    last = found[-1]
    assert last["pattern"] == NEWCOMERS and last["window"] == HOUR and last["users"] == 70


def test_a_slow_campaign_over_hours_is_found_as_well() -> None:
    rows = history(40, 5) + burst(NOON, [1.0] * 20, gap=17 * MINUTE)
    found = check(rows)
    assert OPENED in events(found)
    assert found["window"][found["event"] == OPENED].tolist() == [6 * HOUR]


def test_customers_beside_a_burst_have_no_part_in_it() -> None:
    rows = history(40, 5)
    probes = burst(NOON, [1.0] * 30)
    beside = [(at + 1_000, 25.0, f"c{i}") for i, (at, _, _) in enumerate(probes[::3])]
    mixed = rows + sorted(probes + beside)
    found = check(mixed)
    own = np.array([user.startswith("c") for _, _, user in mixed])
    assert (found["score"][own] == 0).all()
    assert OPENED in events(found)


def quiet(rows: list[Row], most: float = HOLD) -> None:
    found = run(rows)
    assert events(found) == []
    assert found["score"].max() < most


@pytest.mark.parametrize("seed", range(3))
def test_rush_hours_and_salary_days_are_no_bursts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = history(30, 8, seed, users=200)
    for day in (31, 32, 38):  # eight times a usual day, within two hours, of whom half are new
        times = np.sort(rng.integers(0, 2 * HOUR, 64)) + day * DAY + 12 * HOUR
        rows += [
            (int(at), float(np.round(rng.lognormal(3.2, 0.6), 2)), f"c{rng.integers(400)}")
            for at in times
        ]
    quiet(rows)


def test_a_subscription_charges_everybody_the_same_on_the_first() -> None:
    rows: list[Row] = []
    for month in range(4):
        rows += [(month * 31 * DAY + i * 5_000, 9.99, f"s{i}") for i in range(700)]
        rows += [
            (month * 31 * DAY + day * DAY + k * HOUR, 9.99, f"n{month}-{day}-{k}")
            for day in range(1, 30)
            for k in range(9, 21)
        ]
    quiet(rows)


def test_a_popular_new_shop_is_none() -> None:
    rng = np.random.default_rng(4)
    rows = [
        (int(at), float(np.round(rng.lognormal(3.2, 0.7), 2)), f"u{rng.integers(2000)}")
        for day in range(20)
        for at in np.sort(rng.integers(9 * HOUR, 20 * HOUR, 10 + 20 * day)) + day * DAY
    ]
    quiet(rows)


def test_a_sale_to_customers_of_old_is_none() -> None:
    rng = np.random.default_rng(5)
    rows = history(40, 5, users=60)
    for i in range(60):  # two in three know the shop; prices are down by two thirds
        user = f"c{i}" if i % 3 else f"x{i}"
        amount = float(np.round(rng.lognormal(3.2, 0.6) / 3, 2))
        rows.append((NOON + i * 2 * MINUTE, amount, user))
    quiet(rows, OPEN)


def test_late_ones_neither_open_nor_prolong_an_episode() -> None:
    rows = history(40, 5) + burst(NOON, [1.0] * 7)
    rows.append((NOON + 3 * HOUR, 25.0, "c1"))
    found = check(rows + burst(NOON + 5 * MINUTE, [1.0] * 20, first=7))
    assert found["score"].max() >= OPEN
    assert events(found) == []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 260), st.lists(st.integers(1, 60), max_size=6))
def test_what_was_applied_is_fenced_and_the_rest_goes_on(cut: int, sizes: list[int]) -> None:
    rows = history(40, 5) + burst(NOON, [1.0] * 40, gap=60_000)
    rows += [(NOON + DAY + i * HOUR, 20.0, f"c{i}") for i in range(30)]
    stream = payments(rows)
    whole, records = np.zeros(len(rows), BURST), MemoryRecords()
    step_merchant_kernel(stream, [64] * 5, records, bursts=whole)
    half = MemoryRecords()
    step_merchant_kernel(stream[:cut], [13] * 20, half)
    again, crashed = np.zeros(len(rows), BURST), copy(half)
    step_merchant_kernel(stream, sizes, crashed, bursts=again)
    assert again[cut:].tobytes() == whole[cut:].tobytes()
    assert not again[:cut]["event"].any()
    assert states(MERCHANTS, crashed.data) == states(MERCHANTS, records.data)


def test_the_windows_are_those_of_the_definition() -> None:
    assert tuple(BURST_WINDOW_MS.tolist()) == LENGTHS
