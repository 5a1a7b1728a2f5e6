"""User features against their definitions, whatever the cut into batches and the crash."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.catalogue import USER_FEATURES, USER_INDEX
from dafu.features.state import BUCKETS, RETAINED_MAX, RETAINED_MIN, USERS
from dafu.stages.batch import UserOutput
from dafu.tables.records import MemoryRecords
from dafu.tables.slotted import ARCHIVE
from dafu.tables.working_set import CHUNK, HEAD
from tests.oracle import DAY_MS, MS, Payment, UserOracle, assert_features
from tests.streams import (
    START,
    Event,
    alone,
    batches,
    choices,
    copy,
    forwarded,
    header,
    payments,
    run_users,
    states,
    to_json,
    user_stage,
)

NAMES = [f.name for f in USER_FEATURES]
STREAMS = st.lists(choices, min_size=1, max_size=50).map(payments)
SIZES = st.lists(st.integers(1, 20), max_size=10)


def features_of(stream: list[Payment], sizes: list[int]) -> np.ndarray:
    """float64 [n, F]: one row a payment, all of which have to be new."""
    sent = forwarded(run_users(batches(stream, sizes), MemoryRecords()))
    assert sorted(sent) == list(range(len(stream)))
    return np.array([header(sent[i][1])["features"] for i in range(len(stream))])


def stream_of(times: np.ndarray, **fields: Any) -> list[Payment]:
    """Payments of one user at the given times; a field is a value or a list of values."""
    out = []
    for i, time in enumerate(times.tolist()):
        own = {k: v[i] if isinstance(v, list) else v for k, v in fields.items()}
        base = {"user_id": "u", "merchant_id": "m", "amount": 1.0}
        out.append(Payment(**{**base, "transaction_id": f"t{i}", "time": time, **own}))
    return out


@settings(max_examples=60, deadline=None)
@given(stream=STREAMS, sizes=SIZES)
def test_features_are_what_the_catalogue_says(stream: list[Payment], sizes: list[int]) -> None:
    outputs = run_users(batches(stream, sizes), MemoryRecords())
    sent = forwarded(outputs)
    oracles: dict[str, UserOracle] = defaultdict(UserOracle)
    statuses = []
    for offset, tx in enumerate(stream):
        oracle = oracles[tx.user_id]
        statuses.append(oracle.status(tx))
        if statuses[-1] != "new":
            assert offset not in sent
            continue
        key, value = sent.pop(offset)
        head = header(value)
        assert key == tx.merchant_id.encode()
        assert value[head.nbytes :] == to_json(tx)
        assert (head["source"], head["time"], head["amount"]) == (3, tx.time, tx.amount)
        assert_features(NAMES, head["features"], oracle.add(tx), f"offset {offset}")
    assert not sent
    assert sum(o.duplicates for o in outputs) == statuses.count("duplicate")
    reasons = [r.reason for o in outputs for r in o.rejected]
    assert reasons == ["conflicting_duplicate"] * statuses.count("conflict")


@settings(max_examples=40, deadline=None)
@given(stream=STREAMS, sizes=SIZES, others=SIZES)
def test_cuts_into_batches_do_not_matter(
    stream: list[Payment], sizes: list[int], others: list[int]
) -> None:
    one, two = MemoryRecords(), MemoryRecords()
    assert forwarded(run_users(batches(stream, sizes), one)) == forwarded(
        run_users(batches(stream, others), two)
    )
    assert states(USERS, one.data) == states(USERS, two.data)


def crash_and_run_again(
    stream: Sequence[Event],
    sizes: list[int],
    crash: int,
    kept: int,
    back: int,
    others: list[int],
) -> None:
    """Crash in batch `crash` when `kept` of its changes are written, and start again from `back`
    batches before: with the same cuts, and with others."""
    inputs = batches(stream, sizes)
    crash %= len(inputs)
    records = MemoryRecords()
    outputs: list[UserOutput] = []
    stage = user_stage()
    at_crash = records
    for i, batch in enumerate(inputs):
        output = stage.run(batch, alone(records))
        if i == crash:
            at_crash = copy(records, output.only_changes[: kept % (len(output.only_changes) + 1)])
        records.write(output.only_changes)
        outputs.append(output)
    whole = forwarded(outputs)
    published = forwarded(outputs[: crash + 1])
    start = max(crash - back, 0)
    offset = int(inputs[start].offsets[0])

    again = copy(at_crash)
    repeated = forwarded(run_users(inputs[start:], again))
    assert repeated == {o: whole[o] for o in repeated}
    assert whole.keys() == published.keys() | repeated.keys()
    assert again.data == records.data

    recut = copy(at_crash)
    repeated = forwarded(run_users(batches(stream[offset:], others, offset), recut))
    assert repeated == {o: whole[o] for o in repeated}
    assert whole.keys() == published.keys() | repeated.keys()
    assert states(USERS, recut.data) == states(USERS, records.data)


@settings(max_examples=60, deadline=None)
@given(
    stream=STREAMS,
    sizes=SIZES,
    crash=st.integers(0, 100),
    kept=st.integers(0, 1000),
    back=st.integers(0, 3),
    others=SIZES,
)
def test_a_crash_changes_no_answer_and_no_state(
    stream: list[Payment], sizes: list[int], crash: int, kept: int, back: int, others: list[int]
) -> None:
    crash_and_run_again(stream, sizes, crash, kept, back, others)


@pytest.fixture(scope="module")
def busy() -> list[Payment]:
    """Two users with 1,500 payments out of order in ten days, then one a day for sixty."""
    rng = np.random.default_rng(5)
    times = START + np.sort(rng.integers(0, 10 * DAY_MS, 1500))
    times = times - rng.choice([0, 0, 0, 1000, 3 * DAY_MS], times.size)
    quiet = START + (10 + np.arange(60)) * DAY_MS
    times = np.concatenate((times, quiet))
    n = times.size
    return stream_of(
        times,
        user_id=[f"u{k}" for k in rng.integers(0, 2, n)],
        merchant_id=[f"m{k}" for k in rng.integers(0, 60, n)],
        ip=[f"i{k}" for k in rng.integers(0, 40, n)],
        amount=rng.integers(1, 10_000, n).astype(float).tolist(),
    )


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.sampled_from((1, 7, 60, 300, 900)), max_size=20),
    crash=st.integers(0, 100),
    kept=st.integers(0, 1000),
    back=st.integers(0, 2),
    others=st.lists(st.integers(100, 900), max_size=10),
)
def test_a_crash_does_not_count_archived_transactions_twice(
    busy: list[Payment], sizes: list[int], crash: int, kept: int, back: int, others: list[int]
) -> None:
    crash_and_run_again(busy, sizes, crash, kept, back, others)


def test_a_crash_between_archive_and_head_is_among_those_tested(busy: list[Payment]) -> None:
    records = MemoryRecords()
    stage = user_stage()
    found = 0
    for batch in batches(busy, [300] * 6):
        output = stage.run(batch, alone(records))
        kinds = [key[:1] for key, _ in output.only_changes]
        for k in (k for k, kind in enumerate(kinds) if kind == ARCHIVE):
            found += 1
            crashed = copy(records, output.only_changes[: k + 1])
            again = stage.run(batch, alone(crashed))
            mine = output.only_changes[k][0][2:]
            heads = [key for key, _ in output.only_changes[k + 1 :] if key == HEAD + mine]
            assert heads, "an archive comes before its head"
            known = forwarded([output])
            assert forwarded([again]).items() <= known.items()
            features = [header(v)["features"] for v in again.forward_values.present()]
            assert max(f[USER_INDEX["user_windows_approximate"]] for f in features) == 1.0
        records.write(output.only_changes)
    assert found >= 6


def expected_window(times: np.ndarray, i: int, evicted: int, length: int, exact: bool) -> Any:
    """Which of payments 0..i are in the window at i, `evicted` of them being in the archive."""
    since = times[i] - length
    if exact:
        return (times[: i + 1] > since) & (times[: i + 1] <= times[i])
    bucket = length // BUCKETS
    inside = times[: i + 1] > since
    inside[:evicted] = times[:evicted] // bucket >= since // bucket
    return inside


def test_beyond_the_retained_windows_are_estimates_within_bounds_and_say_so() -> None:
    rng = np.random.default_rng(7)
    n = 2500
    gaps = rng.choice([0, 20, 1000, 30_000, 600_000, 5_000_000], n)
    times = START + np.cumsum(gaps)
    amounts = rng.integers(0, 100_000, n) / 100
    merchants = [f"m{k}" for k in rng.integers(0, 120, n)]
    rows = features_of(stream_of(times, amount=amounts.tolist(), merchant_id=merchants), [700])

    evicted = flagged = beyond = 0
    worst = 0.0
    for i in range(n):
        if i - evicted >= RETAINED_MAX:
            evicted += RETAINED_MAX - RETAINED_MIN
        last_evicted = times[evicted - 1] if evicted else -1
        flag = rows[i, USER_INDEX["user_windows_approximate"]]
        assert flag == float(last_evicted > times[i] - MS["30d"])
        flagged += int(flag)
        for w, length in MS.items():
            exact = last_evicted <= times[i] - length
            true = expected_window(times, i, 0, length, True)
            inside = expected_window(times, i, evicted, length, exact)
            assert exact or true.sum() > RETAINED_MIN, "256 in the window are always exact"
            at = rows[i, USER_INDEX[f"user_count_{w}"] :][:4]
            window = amounts[: i + 1][inside]
            assert at[0] == window.size
            assert at[1:].tolist() == pytest.approx(
                [window.sum(), window.mean(), window.std()], rel=1e-9, abs=1e-6
            )
            longer = times[: i + 1] > times[i] - length - length // BUCKETS
            assert true.sum() <= at[0] <= longer.sum()
            beyond += not exact
            if f"user_merchants_{w}" in USER_INDEX:
                count = rows[i, USER_INDEX[f"user_merchants_{w}"]]
                distinct = len({m for m, in_it in zip(merchants, true, strict=False) if in_it})
                if exact:
                    assert count == distinct
                else:
                    worst = max(worst, abs(count - distinct) / distinct)
    assert flagged > 1000
    assert beyond > 1000
    assert 0.0 < worst < 0.2, f"120 merchants in 128 slots: off by {worst:.3f}"


def test_forgotten_payments_leave_no_record_and_no_error() -> None:
    rng = np.random.default_rng(11)
    n = 400
    latest = START + np.arange(n) * DAY_MS // 2
    times = latest - rng.choice([0, 1, DAY_MS, 7 * DAY_MS], n)
    stream = stream_of(times, merchant_id=[f"m{k}" for k in rng.integers(0, 9, n)])
    records = MemoryRecords()
    oracle = UserOracle()
    deleted = 0
    for output in run_users(batches(stream, [1] * n), records):
        for value in output.forward_values.present():
            head = header(value)
            tx = stream[int(head["offset"])]
            assert_features(NAMES, head["features"], oracle.add(tx), tx.transaction_id)
        chunks = [k for k, v in output.only_changes if k.startswith(CHUNK) and v is None]
        deleted += len(chunks)
    assert deleted >= (n - 120) // USERS.chunk, "chunks older than 44 days are deleted"
    _, packed, *_ = states(USERS, records.data)[b"u"]
    oldest = np.frombuffer(packed, USERS.event, USERS.chunk)
    assert oldest["time"].max() > times[:-1].max() - 44 * DAY_MS
    held = [k for k in records.data if k.startswith(CHUNK)]
    assert len(held) <= (44 + 7) * 2 // USERS.chunk + 2


def test_a_payment_later_than_the_promise_is_flagged() -> None:
    times = START + np.concatenate((np.arange(40) * 1000, [60 * DAY_MS, 61 * DAY_MS, DAY_MS]))
    rows = features_of(stream_of(times), [])
    flags = rows[:, USER_INDEX["user_windows_approximate"]]
    assert flags[:-1].tolist() == [0.0] * 42
    assert flags[-1] == 1.0, "its window reaches into what was forgotten"


def test_the_time_since_the_last_payment_outlives_its_event() -> None:
    times = START + np.array([*range(16), 60 * DAY_MS, 60 * DAY_MS, 55 * DAY_MS])
    rows = features_of(stream_of(times), [1] * 19)
    late = rows[-1]
    assert late[USER_INDEX["user_windows_approximate"]] == 0.0
    assert late[USER_INDEX["seconds_since_last"]] == (55 * DAY_MS - 15) / 1000


def test_missing_merchant_coordinates_give_no_distance() -> None:
    rows = features_of(stream_of(np.array([START]), lat=50.0, long=8.0), [])
    assert np.isnan(rows[0, USER_INDEX["km_to_merchant"]])
