"""Views of a user and a merchant against what the kernels said and against plain recounting."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from statistics import fmean, pstdev
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from xxhash import xxh64_intdigest

from dafu.features.catalogue import DAY, DISTINCT_WINDOWS, HOUR, INDEX, MINUTE, WINDOWS
from dafu.features.state import BUCKETS, RETAINED_MAX, RETAINED_MIN, SCHEMA_VERSION, USER_SLOTS
from dafu.rings.membership import encode_membership
from dafu.rings.records import Membership
from dafu.rules import compile_rules
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage
from dafu.tables.inspect import MerchantView, UserView, describe_merchant, describe_user
from dafu.tables.migrations import StateError
from dafu.tables.records import MemoryRecords
from dafu.tables.working_set import HEAD

START = 1_700_000_000_000  # 2023-11-14T22:13:20Z
THINGS = ("merchants", "devices", "ips", "countries")
Payment = dict[str, Any]


def new_pipeline() -> Pipeline:
    rules = compile_rules([], {}, {}, {})
    return Pipeline(UserStage(DAY), MerchantStage(rules, None, Thresholds()))


def payment(number: int, user: str, time: int, amount: float = 10.0, **more: Any) -> Payment:
    return {
        "transaction_id": f"t{number}",
        "user_id": user,
        "merchant_id": "shop",
        "amount": amount,
        "timestamp": time,
        **more,
    }


def run(pipeline: Pipeline, payments: list[Payment]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Decide a batch; the feature row of each user's and each merchant's last payment in it."""
    keys = [p["user_id"].encode() for p in payments]
    _, output = pipeline.run(keys, [json.dumps(p).encode() for p in payments])
    assert len(output.decisions) == len(payments)
    users, merchants = {}, {}
    for p, row in zip(payments, output.features, strict=True):
        users[p["user_id"]] = merchants[p["merchant_id"]] = row
    return users, merchants


def user_view(pipeline: Pipeline, user: str, **options: Any) -> UserView:
    view = describe_user(pipeline.user_records, user.encode(), **options)
    assert view is not None
    return view


def merchant_view(pipeline: Pipeline, merchant: str, **options: Any) -> MerchantView:
    view = describe_merchant(pipeline.merchant_records, merchant.encode(), **options)
    assert view is not None
    return view


def traffic(seed: int, n: int, step: int) -> list[Payment]:
    """Payments of three users, one of them busy, in some disorder and with gaps in the data."""
    rng = random.Random(seed)
    now = START
    out = []
    for number in range(n):
        now += int(rng.expovariate(1.0) * step)
        late = rng.choice((0, 0, 0, MINUTE, HOUR, DAY))
        more: Payment = {"merchant_id": f"m{rng.choice((0, 0, 0, 1, number % 40))}"}
        for name in ("device_fingerprint", "ip_address", "country"):
            if rng.random() < 0.8:
                more[name] = f"{name}-{rng.randrange(12)}"
        if rng.random() < 0.7:
            more |= {"lat": rng.uniform(-80, 80), "long": rng.uniform(-180, 180)}
        user = rng.choice(("busy",) * 8 + ("calm", "odd/ü%"))
        amount = round(rng.lognormvariate(3, 2), 2)
        out.append(payment(number, user, now - late, amount, **more))
    return out


def approx(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=2e-6)


def assert_user_agrees(view: UserView, row: Any) -> None:
    for w in view.windows:
        assert w.count == row[INDEX[f"user_count_{w.window}"]]
        assert w.sum == approx(row[INDEX[f"user_amount_sum_{w.window}"]])
        assert w.mean == approx(row[INDEX[f"user_amount_mean_{w.window}"]])
        # A spread is the root of a difference, so it loses half of the digits.
        std = row[INDEX[f"user_amount_std_{w.window}"]]
        assert w.std == pytest.approx(std, rel=1e-6, abs=1e-6 * w.mean)
        if w.window in DISTINCT_WINDOWS:
            for thing in THINGS:
                kernel = row[INDEX[f"user_{thing}_{w.window}"]]
                assert getattr(w, thing) == pytest.approx(kernel, abs=0.006)
    assert [w.window for w in view.windows] == list(WINDOWS)
    assert view.windows[-1].approximate == bool(row[INDEX["user_windows_approximate"]])
    assert view.total_count == row[INDEX["user_total_count"]]


def assert_merchant_agrees(view: MerchantView, row: Any) -> None:
    for w in view.windows:
        assert w.count == row[INDEX[f"merchant_count_{w.window}"]]
        assert w.mean == approx(row[INDEX[f"merchant_amount_mean_{w.window}"]])
        kernel = row[INDEX[f"merchant_users_{w.window}"]]
        assert w.users == pytest.approx(kernel, abs=0.006)
    assert view.windows[-1].approximate == bool(row[INDEX["merchant_windows_approximate"]])


@pytest.mark.parametrize(("seed", "step"), [(1, 20_000), (2, 5 * MINUTE), (3, HOUR), (4, 2 * DAY)])
def test_windows_are_those_of_the_last_transaction(seed: int, step: int) -> None:
    pipeline = new_pipeline()
    payments = traffic(seed, 900, step)
    approximate: set[tuple[str, bool]] = set()
    at = 0
    for size in (1, 2, 30, 200, 67, 300, 300):
        users, merchants = run(pipeline, payments[at : at + size])
        at += size
        for user, row in users.items():
            view = user_view(pipeline, user)
            assert_user_agrees(view, row)
            approximate.update((w.window, w.approximate) for w in view.windows)
        for merchant, row in merchants.items():
            assert_merchant_agrees(merchant_view(pipeline, merchant), row)
    assert at == len(payments)
    assert ("30d", False) in approximate
    # The test is worth something only if the archive came into play, and forgetting did.
    assert (("30d", True) in approximate) == (step < 2 * DAY)
    assert user_view(pipeline, "busy").state.archived == (step < 2 * DAY)


def test_exact_windows_against_a_recount() -> None:
    pipeline = new_pipeline()
    payments = traffic(5, 250, 10 * MINUTE)
    run(pipeline, payments)
    by_user, by_merchant = defaultdict(list), defaultdict(list)
    for p in payments:
        by_user[p["user_id"]].append(p)
        by_merchant[p["merchant_id"]].append(p)
    for user, own in by_user.items():
        view = user_view(pipeline, user)
        assert view.as_of == iso(own[-1]["timestamp"])
        for w in view.windows:
            inside = within(own, w.window)
            assert not w.approximate
            assert_amounts(w, inside)
            assert w.merchants == len({p["merchant_id"] for p in inside})
            for thing, field in (
                ("devices", "device_fingerprint"),
                ("ips", "ip_address"),
                ("countries", "country"),
            ):
                assert getattr(w, thing) == len({p[field] for p in inside if field in p})
    for merchant, own in by_merchant.items():
        for v in merchant_view(pipeline, merchant).windows:
            inside = within(own, v.window)
            assert_amounts(v, inside)
            assert v.users == len({p["user_id"] for p in inside})


def within(payments: list[Payment], window: str) -> list[Payment]:
    end = payments[-1]["timestamp"]
    return [p for p in payments if end - WINDOWS[window] < p["timestamp"] <= end]


def assert_amounts(window: Any, payments: list[Payment]) -> None:
    amounts = [p["amount"] for p in payments]
    assert window.count == len(amounts)
    assert window.sum == approx(math.fsum(amounts))
    assert window.mean == approx(fmean(amounts))
    assert window.std == pytest.approx(pstdev(amounts), rel=1e-6, abs=1e-6)


def iso(ms: int) -> str:
    assert START <= ms < START + 3 * DAY
    seconds = ms // 1000 - START // 1000 + 22 * 3600 + 13 * 60 + 20
    day, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"2023-11-{14 + day}T{clock}.{ms % 1000:03}Z"


def test_a_user_in_full() -> None:
    pipeline = new_pipeline()
    run(
        pipeline,
        [
            payment(0, "ann", START, 10.0, device_fingerprint="phone", lat=10.0, long=20.0),
            payment(1, "ann", START + DAY, 30.0, ip_address="10.0.0.1", country="FI"),
            payment(2, "ann", START + DAY // 2, 20.5, lat=12.0, long=20.0, merchant_id="kiosk"),
        ],
    )
    view = user_view(pipeline, "ann")
    assert view.user_id == "ann"
    assert view.total_count == 3
    assert (view.first_seen, view.last_seen) == (iso(START), iso(START + DAY))
    assert view.first_seen == "2023-11-14T22:13:20.000Z"
    assert view.as_of == iso(START + DAY // 2)
    assert view.account_age_days == 1.0
    assert view.home is not None and view.last_place is not None
    assert view.home.lat == pytest.approx(11.0, abs=0.01)
    assert (view.home.long, view.home.places) == (20.0, 2)
    assert view.last_place == type(view.last_place)(iso(START + DAY // 2), 12.0, 20.0)
    assert msgspec.to_builtins(view.known) == {
        "merchants": 2, "devices": 1, "ips": 1, "countries": 1,
    }  # fmt: skip
    newest, middle, oldest = view.transactions
    assert (newest.time, newest.amount) == (iso(START + DAY // 2), 20.5)
    assert newest.merchant == short("kiosk")
    assert newest.transaction == short("t2")
    assert (newest.device, newest.ip, newest.country) == (None, None, None)
    assert (middle.ip, middle.country) == (short("10.0.0.1"), short("FI"))
    assert (oldest.device, oldest.merchant) == (short("phone"), short("shop"))
    assert view.state.schema_version == SCHEMA_VERSION
    assert view.state.fence == 2
    assert view.state.retained_transactions == 3
    assert not view.state.archived
    assert view.state.records == 1
    assert view.state.bytes == stored_bytes(pipeline.user_records)


def test_a_merchant_in_full() -> None:
    pipeline = new_pipeline()
    run(pipeline, [payment(i, f"u{i % 2}", START + i * HOUR, 1.0 + i) for i in range(5)])
    view = merchant_view(pipeline, "shop", last=2)
    assert (view.merchant_id, view.total_count, view.known_users) == ("shop", 5, 2)
    assert (view.first_seen, view.last_seen) == (iso(START), iso(START + 4 * HOUR))
    assert view.age_days == round(4 / 24, 3)
    assert [(t.time, t.amount, t.user) for t in view.transactions] == [
        (iso(START + 4 * HOUR), 5.0, short("u0")),
        (iso(START + 3 * HOUR), 4.0, short("u1")),
    ]
    assert view.windows[2].sum == 5.0
    assert view.windows[3].sum == 15.0
    assert view.state.fence == 4


def short(text: str) -> str:
    return format(xxh64_intdigest(text.encode()), "016x")[:8]


def stored_bytes(records: MemoryRecords) -> int:
    return sum(len(key) + len(value) for key, value in records.data.items())


def test_all_records_of_an_entity_count_and_no_others() -> None:
    pipeline = new_pipeline()
    for at in range(0, 1200, 100):
        run(pipeline, [payment(i, "ann", START + i * MINUTE) for i in range(at, at + 100)])
    view = user_view(pipeline, "ann")
    assert view.state.archived
    assert RETAINED_MIN <= view.state.retained_transactions <= RETAINED_MAX
    assert view.state.bytes == stored_bytes(pipeline.user_records)
    assert view.state.records == len(pipeline.user_records.data)
    run(pipeline, [payment(2000, "anna", START)])
    assert user_view(pipeline, "ann").state == view.state


def test_archived_windows_are_flagged_and_close() -> None:
    pipeline = new_pipeline()
    payments = [payment(i, "ann", START + i * MINUTE, 10.0 + i % 7) for i in range(2000)]
    for at in range(0, 2000, 250):
        run(pipeline, payments[at : at + 250])
    view = user_view(pipeline, "ann")
    approximate = {w.window: w.approximate for w in view.windows}
    # A minute apart, 256 retained transactions reach back over four hours and not a day.
    assert approximate == {
        "1m": False, "5m": False, "1h": False, "1d": True, "7d": True, "30d": True,
    }  # fmt: skip
    day = view.windows[3]
    assert 1440 <= day.count <= 1440 * (1 + 1 / BUCKETS)
    assert view.windows[5].count == 2000
    assert view.windows[5].mean == approx(fmean(p["amount"] for p in payments))


def slot(text: str) -> int:
    """The hash slot of the archive in which an identifier is noted."""
    return int(xxh64_intdigest(text.encode()) % USER_SLOTS)


def test_estimates_of_distinct_things_are_the_kernels() -> None:
    pipeline = new_pipeline()
    shops = [f"s{i % 60}" for i in range(500)] + [f"t{i % 10}" for i in range(400)]
    taken = {slot(shop) for shop in shops}
    shops.append(next(name for i in range(1000) if slot(name := f"new{i}") not in taken))
    payments = [
        payment(i, "ann", START + i * MINUTE, merchant_id=shop) for i, shop in enumerate(shops)
    ]
    for at in range(0, len(payments), 53):
        users, _ = run(pipeline, payments[at : at + 53])
    week = user_view(pipeline, "ann").windows[4]
    assert week.approximate
    assert week.merchants != len(set(shops))
    assert week.merchants == pytest.approx(len(set(shops)), rel=0.15)
    assert_user_agrees(user_view(pipeline, "ann"), users["ann"])


def test_a_user_without_places_has_no_home() -> None:
    pipeline = new_pipeline()
    run(pipeline, [payment(0, "ann", START)])
    view = user_view(pipeline, "ann")
    assert view.home is None
    assert view.last_place is None


def test_the_ring_that_a_user_is_in() -> None:
    pipeline = new_pipeline()
    run(pipeline, [payment(0, "ann", START)])
    assert user_view(pipeline, "ann").ring is None
    told = Membership("ann", "ring-1", START + DAY, 4, 0.75, 2, 1, "device \u00fc", 3)
    later = replace(told, time=START + 2 * DAY, size=5)
    left = replace(told, time=START + 3 * DAY, size=0)
    for membership in (told, later):
        pipeline.run([b"ann"], [encode_membership(membership)])
    view = user_view(pipeline, "ann")
    assert msgspec.to_builtins(view.ring) == {
        "ring_id": "ring-1", "time": iso(START + 2 * DAY), "joined": iso(START + DAY),
        "size": 5, "risk": 0.75, "blocked": 2, "frauds": 1, "shared": "device \u00fc", "sharers": 3,
    }  # fmt: skip
    assert view.state.records == 3, "head, and the ring in both slots"
    assert view.state.bytes == stored_bytes(pipeline.user_records)
    pipeline.run([b"ann"], [encode_membership(left)])
    assert user_view(pipeline, "ann").ring is None


@pytest.mark.parametrize(("last", "listed"), [(0, 0), (1, 1), (20, 20), (100, 30)])
def test_lists_as_many_transactions_as_asked_for(last: int, listed: int) -> None:
    pipeline = new_pipeline()
    run(pipeline, [payment(i, "ann", START + i) for i in range(30)])
    assert len(user_view(pipeline, "ann", last=last).transactions) == listed
    assert len(user_view(pipeline, "ann").transactions) == 20


def test_strangers_are_none() -> None:
    pipeline = new_pipeline()
    run(pipeline, [payment(0, "ann", START)])
    for unknown in (b"", b"an", b"ann ", b"shop", b"\xff"):
        assert describe_user(pipeline.user_records, unknown) is None
    assert describe_merchant(pipeline.merchant_records, b"ann") is None


def test_reading_changes_nothing() -> None:
    pipeline = new_pipeline()
    run(pipeline, traffic(6, 500, MINUTE))
    before = dict(pipeline.user_records.data), dict(pipeline.merchant_records.data)
    for user in ("busy", "calm", "nobody"):
        describe_user(pipeline.user_records, user.encode())
    describe_merchant(pipeline.merchant_records, b"m0")
    assert before == (pipeline.user_records.data, pipeline.merchant_records.data)


def test_views_are_json() -> None:
    pipeline = new_pipeline()
    run(pipeline, traffic(7, 900, MINUTE))
    for view in (user_view(pipeline, "busy"), merchant_view(pipeline, "m0")):
        document = json.loads(msgspec.json.encode(view))
        assert list(document["windows"][0])[:2] == ["window", "count"]
        assert None not in [v for w in document["windows"] for v in w.values()]


def test_damage_is_reported_as_such() -> None:
    pipeline = new_pipeline()
    run(pipeline, [payment(0, "ann", START)])
    key = HEAD + b"ann"
    pipeline.user_records.data[key] = pipeline.user_records.data[key][:-1]
    with pytest.raises(StateError, match="missing or damaged"):
        describe_user(pipeline.user_records, b"ann")
