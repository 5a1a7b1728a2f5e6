"""Merchant features against their definitions, the kernel driven through its working set."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.catalogue import MERCHANT_FEATURES, MERCHANT_INDEX
from dafu.features.state import APPLIED, BUCKETS, FENCED, MERCHANTS, RETAINED_MAX, RETAINED_MIN
from dafu.tables.records import MemoryRecords
from dafu.tables.working_set import CHUNK
from tests.oracle import DAY_MS, MS, MerchantOracle, Payment, assert_features
from tests.streams import AMOUNTS, LATE, START, STEPS, states, step_merchant_kernel

NAMES = [f.name for f in MERCHANT_FEATURES]
SIZES = st.lists(st.integers(1, 20), max_size=10)


def payments(described: list[tuple[Any, ...]]) -> list[Payment]:
    """A stream in which each merchant has a time of its own, and none is more than a week late."""
    now: dict[int, int] = {}
    out = []
    for i, (merchant, user, amount, step, late) in enumerate(described):
        now[merchant] = now.get(merchant, START) + step
        out.append(
            Payment(
                transaction_id=f"t{i}",
                user_id=f"u{user}",
                merchant_id=f"m{merchant}",
                amount=amount,
                time=max(now[merchant] - late, START),
            )
        )
    return out


STREAMS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 5),
        st.sampled_from(AMOUNTS),
        st.sampled_from(STEPS),
        st.sampled_from(LATE),
    ),
    min_size=1,
    max_size=60,
).map(payments)


def dense(n: int, users: int, gaps: list[int], seed: int) -> list[Payment]:
    """One merchant's payments in order of time."""
    rng = np.random.default_rng(seed)
    times = START + np.cumsum(rng.choice(gaps, n))
    who = rng.integers(0, users, n)
    amounts = rng.integers(0, 100_000, n) / 100
    return [
        Payment(
            transaction_id=f"t{i}",
            user_id=f"u{who[i]}",
            merchant_id="m",
            amount=float(amounts[i]),
            time=int(times[i]),
        )
        for i in range(n)
    ]


@settings(max_examples=80, deadline=None)
@given(stream=STREAMS, sizes=SIZES, others=SIZES)
def test_features_are_what_the_catalogue_says_whatever_the_cut(
    stream: list[Payment], sizes: list[int], others: list[int]
) -> None:
    one, two = MemoryRecords(), MemoryRecords()
    features, status = step_merchant_kernel(stream, sizes, one)
    assert set(status.tolist()) == {APPLIED}
    oracles: dict[str, MerchantOracle] = defaultdict(MerchantOracle)
    for tx, row in zip(stream, features, strict=True):
        assert_features(NAMES, row, oracles[tx.merchant_id].add(tx), tx.transaction_id)
    recut, _ = step_merchant_kernel(stream, others, two)
    assert recut.tobytes() == features.tobytes()
    assert states(MERCHANTS, one.data) == states(MERCHANTS, two.data)


@settings(max_examples=30, deadline=None)
@given(stream=STREAMS, sizes=SIZES, start=st.integers(0, 60))
def test_what_was_applied_is_fenced(stream: list[Payment], sizes: list[int], start: int) -> None:
    records = MemoryRecords()
    step_merchant_kernel(stream, sizes, records)
    before = dict(records.data)
    start %= len(stream)
    _, status = step_merchant_kernel(stream[start:], sizes, records, start)
    assert set(status.tolist()) == {FENCED}
    assert records.data == before


def test_cuts_do_not_matter_beyond_the_retained() -> None:
    stream = dense(2000, 300, [0, 1000, 60_000, DAY_MS], 3)
    one, two = MemoryRecords(), MemoryRecords()
    features, _ = step_merchant_kernel(stream, [2000], one)
    recut, _ = step_merchant_kernel(stream, [1, 130, 7, 900, 64, 32, 31, 1], two)
    assert recut.tobytes() == features.tobytes()
    assert states(MERCHANTS, one.data) == states(MERCHANTS, two.data)


@pytest.mark.parametrize(("users", "bound"), [(100, 0.1), (500, 0.15), (1000, 0.2), (1500, 0.2)])
def test_beyond_the_retained_windows_are_estimates_within_bounds_and_say_so(
    users: int, bound: float
) -> None:
    n = 6000
    stream = dense(n, users, [0, 20, 1000, 5000, 60_000, 600_000], users)
    times = np.array([p.time for p in stream])
    amounts = np.array([p.amount for p in stream])
    who = np.array([int(p.user_id[1:]) for p in stream])
    rows, _ = step_merchant_kernel(stream, [1000] * 5, MemoryRecords())

    evicted = beyond = 0
    worst = 0.0
    for i in range(n):
        if i - evicted >= RETAINED_MAX:
            evicted += RETAINED_MAX - RETAINED_MIN
        last_evicted = times[evicted - 1] if evicted else -1
        flag = rows[i, MERCHANT_INDEX["merchant_windows_approximate"]]
        assert flag == float(last_evicted > times[i] - MS["30d"])
        if i % 5 and i > 1000:
            continue
        for w, length in MS.items():
            exact = last_evicted <= times[i] - length
            true = times[: i + 1] > times[i] - length
            count = rows[i, MERCHANT_INDEX[f"merchant_count_{w}"]]
            distinct = np.unique(who[: i + 1][true]).size
            estimate = rows[i, MERCHANT_INDEX[f"merchant_users_{w}"]]
            if exact:
                assert (count, estimate) == (true.sum(), distinct)
                continue
            beyond += 1
            assert true.sum() > RETAINED_MIN, "256 in the window are always exact"
            longer = times[: i + 1] > times[i] - length - length // BUCKETS
            assert true.sum() <= count <= longer.sum()
            bucket = length // BUCKETS
            inside = true.copy()
            inside[:evicted] = times[:evicted] // bucket >= (times[i] - length) // bucket
            assert count == inside.sum()
            mean = rows[i, MERCHANT_INDEX[f"merchant_amount_mean_{w}"]]
            assert mean == pytest.approx(amounts[: i + 1][inside].mean(), rel=1e-9)
            worst = max(worst, abs(estimate - distinct) / distinct)
    assert beyond > 1000
    assert 0.0 < worst < bound, f"distinct users off by {worst:.3f}"


def test_forgotten_payments_leave_no_record_and_no_error() -> None:
    rng = np.random.default_rng(2)
    n = 600
    latest = START + np.arange(n) * DAY_MS // 3
    late = rng.choice([0, 1, DAY_MS, 7 * DAY_MS], n)
    stream = [
        Payment(
            transaction_id=f"t{i}",
            user_id=f"u{rng.integers(0, 50)}",
            merchant_id="m",
            amount=float(rng.integers(1, 100)),
            time=int(latest[i] - late[i]),
        )
        for i in range(n)
    ]
    records = MemoryRecords()
    features, _ = step_merchant_kernel(stream, [1] * n, records)
    oracle = MerchantOracle()
    for tx, row in zip(stream, features, strict=True):
        assert_features(NAMES, row, oracle.add(tx), tx.transaction_id)
    held = [k for k in records.data if k.startswith(CHUNK)]
    assert len(held) <= (44 + 7) * 3 // MERCHANTS.chunk + 2


def test_the_time_since_the_last_payment_outlives_its_event() -> None:
    times = [*range(32), 60 * DAY_MS, 60 * DAY_MS, 55 * DAY_MS]
    stream = [
        Payment(transaction_id=str(i), user_id="u", merchant_id="m", amount=1.0, time=START + t)
        for i, t in enumerate(times)
    ]
    rows, _ = step_merchant_kernel(stream, [], MemoryRecords())
    assert rows[-1, MERCHANT_INDEX["merchant_seconds_since_last"]] == (55 * DAY_MS - 31) / 1000
