"""Labels in both stages against their definitions, whatever the cuts and the crash."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.catalogue import FEATURES
from dafu.features.state import MERCHANT_LABELS, MERCHANTS, USER_LABELS, USERS
from dafu.rules import compile_rules
from dafu.stages.batch import FORWARD, LABEL_MAGIC
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.tables.records import MemoryRecords
from dafu.tables.slotted import LABELS
from tests.features.test_users import crash_and_run_again
from tests.oracle import (
    DAY_MS,
    MerchantOracle,
    Payment,
    UserOracle,
    Verdict,
    assert_features,
)
from tests.streams import (
    START,
    batches,
    choices,
    cuts,
    forwarded,
    header,
    payments,
    run_users,
    states,
    to_json,
    user_stage,
    verdicts,
    with_verdicts,
)

NAMES = [f.name for f in FEATURES]
SIZES = st.lists(st.integers(1, 20), max_size=10)
STREAMS = st.builds(
    with_verdicts,
    st.lists(choices, min_size=1, max_size=40).map(payments),
    st.lists(verdicts, max_size=25),
)


def pipeline() -> Pipeline:
    merchants = MerchantStage(compile_rules([], {}, {}, {}), None, Thresholds())
    return Pipeline(user_stage(), merchants)


def features_of(
    stream: Sequence[Payment | Verdict], sizes: list[int], both: Pipeline
) -> np.ndarray:
    """float64 [payments, F] of a stream that has no repeats."""
    rows = []
    for a, b in cuts(len(stream), sizes):
        records = stream[a:b]
        keys = [p.user_id.encode() for p in records]
        first, second = both.run(keys, [to_json(p) for p in records], [START] * len(records))
        assert not first.rejected and not second.rejected
        rows.append(second.features)
    return np.vstack(rows)


def expected(stream: list[Payment | Verdict]) -> list[dict[str, float | None]]:
    """What the definitions say of a stream that has no repeats."""
    users: dict[str, UserOracle] = defaultdict(UserOracle)
    merchants: dict[str, MerchantOracle] = defaultdict(MerchantOracle)
    early: dict[str, list[Verdict]] = defaultdict(list)
    seen: dict[str, Payment] = {}
    out = []
    for p in stream:
        if isinstance(p, Verdict):
            users[p.user_id].label(p)
            if (payment := seen.get(p.transaction_id)) is not None:
                merchants[payment.merchant_id].label(p)
            else:
                early[p.transaction_id].append(p)
            continue
        seen[p.transaction_id] = p
        out.append(users[p.user_id].add(p) | merchants[p.merchant_id].add(p))
        for verdict in early.pop(p.transaction_id, []):
            merchants[p.merchant_id].label(verdict)
    return out


def without_repeats(stream: list[Payment | Verdict]) -> list[Payment | Verdict]:
    """The first of each transaction, and all labels."""
    ids: set[str] = set()
    out: list[Payment | Verdict] = []
    for p in stream:
        if isinstance(p, Payment):
            if p.transaction_id in ids:
                continue
            ids.add(p.transaction_id)
        out.append(p)
    return out


@settings(max_examples=100, deadline=None)
@given(stream=STREAMS.map(without_repeats), sizes=SIZES)
def test_features_are_what_the_catalogue_says(
    stream: list[Payment | Verdict], sizes: list[int]
) -> None:
    for row, wanted in zip(features_of(stream, sizes, pipeline()), expected(stream), strict=True):
        assert_features(NAMES, row, wanted, "row")


@settings(max_examples=50, deadline=None)
@given(stream=STREAMS.map(without_repeats), sizes=SIZES, others=SIZES)
def test_cuts_into_batches_do_not_matter(
    stream: list[Payment | Verdict], sizes: list[int], others: list[int]
) -> None:
    one, two = pipeline(), pipeline()
    np.testing.assert_array_equal(features_of(stream, sizes, one), features_of(stream, others, two))
    for layout, a, b in (
        (USERS, one.user_records, two.user_records),
        (MERCHANTS, one.merchant_records, two.merchant_records),
    ):
        assert states(layout, a.data) == states(layout, b.data)


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
    stream: list[Payment | Verdict],
    sizes: list[int],
    crash: int,
    kept: int,
    back: int,
    others: list[int],
) -> None:
    crash_and_run_again(stream, sizes, crash, kept, back, others)


def paid(name: str, days: float, merchant: str = "m", user: str = "u") -> Payment:
    time = START + round(days * DAY_MS)
    return Payment(transaction_id=name, user_id=user, merchant_id=merchant, amount=10.0, time=time)


def told(name: str, days: float, fraud: bool = True, user: str = "u") -> Verdict:
    observed = START + round(days * DAY_MS)
    return Verdict(transaction_id=name, user_id=user, fraud=fraud, observed=observed)


def column(stream: Sequence[Payment | Verdict], name: str) -> list[float]:
    values: list[float] = features_of(stream, [3, 1], pipeline())[:, NAMES.index(name)].tolist()
    return values


def test_a_fraud_at_a_merchant_is_known_to_its_other_users() -> None:
    stream: list[Payment | Verdict] = [
        paid("a", 0),
        paid("b", 8, user="v"),
        told("a", 8),
        paid("c", 9, user="v"),
    ]
    assert column(stream, "merchant_known_frauds") == [0.0, 0.0, 1.0]
    assert column(stream, "merchant_fraud_share_7d")[2] == 1.0
    assert column(stream, "user_known_frauds") == [0.0, 0.0, 0.0]


def test_a_correction_corrects_and_what_is_outdated_does_not() -> None:
    stream: list[Payment | Verdict] = [
        paid("a", 0),
        told("a", 2),
        paid("b", 3),
        told("a", 4, fraud=False),
        paid("c", 5),
    ]
    stream += [told("a", 3), paid("d", 6), told("a", 7), paid("e", 8)]
    for who in ("user", "merchant"):
        assert column(stream, f"{who}_known_frauds") == [0.0, 1.0, 0.0, 0.0, 1.0]


def test_a_label_waits_for_its_transaction_and_is_no_news_to_it() -> None:
    stream: list[Payment | Verdict] = [told("a", 1), paid("a", 0), paid("b", 1)]
    for who in ("user", "merchant"):
        assert column(stream, f"{who}_known_frauds") == [0.0, 1.0]


def test_a_label_that_says_where_and_when_needs_no_memory_of_the_user() -> None:
    label = Verdict(
        transaction_id="old",
        user_id="stranger",
        fraud=True,
        observed=START + 9 * DAY_MS,
        merchant_id="m",
        time=START + DAY_MS,
    )
    assert column([paid("a", 0), label, paid("b", 9)], "merchant_known_frauds") == [0.0, 1.0]
    # A merchant that nobody has paid has no state to note it in.
    both = pipeline()
    first, second = both.run([b"stranger"], [to_json(label)])
    assert not first.rejected
    assert [r.reason for r in second.rejected] == ["unknown_merchant"]


@pytest.mark.parametrize("labels", [USER_LABELS, MERCHANT_LABELS])
def test_more_labels_than_fit_keep_frauds_and_say_so(labels: np.dtype[np.void]) -> None:
    most = labels["transaction"].shape[0]
    who = "user" if labels is USER_LABELS else "merchant"
    # One user of one merchant has more frauds than users keep; of many users, the merchant has.
    users = ["u"] * (most + 3) if who == "user" else [f"u{i}" for i in range(most + 3)]
    stream: list[Payment | Verdict] = []
    for i, user in enumerate(users):
        stream += [paid(f"f{i}", i / 1000, user=user)]
    stream += [paid("g", 0.5, user="u")]
    stream += [told("g", 1, fraud=False)]
    stream += [told(f"f{i}", 2 + i / 1000, user=user) for i, user in enumerate(users[:most])]
    stream += [paid("before", 9)]
    at_most = (
        column(stream, f"{who}_known_frauds")[-1],
        column(stream, f"{who}_windows_approximate")[-1],
    )
    assert at_most == (most, 0.0)
    stream += [told(f"f{i}", 3, user=users[i]) for i in range(most, most + 3)]
    stream += [paid("after", 9)]
    over = (
        column(stream, f"{who}_known_frauds")[-1],
        column(stream, f"{who}_windows_approximate")[-1],
    )
    assert over == (most, 1.0)


def test_counts_of_delayed_windows_beyond_the_retained_are_close() -> None:
    rng = np.random.default_rng(3)
    days = np.sort(rng.random(3000) * 40)
    stream: list[Payment | Verdict] = [paid(f"t{i}", d) for i, d in enumerate(days.tolist())]
    rows = features_of(stream, [500] * 10, pipeline())
    at = len(days) - 1
    for who in ("user", "merchant"):
        for w, length in (("1d", 1), ("7d", 7), ("30d", 30)):
            ages = days[at] - days[:at]
            exact = ((ages >= 7) & (ages < 7 + length)).sum()
            got = rows[at, NAMES.index(f"{who}_delayed_count_{w}")]
            # Half a bucket of 3.5 hours, at both edges, at 75 transactions a day.
            assert abs(got - exact) <= 2 * 75 * 3.5 / 24 / 2 + 1, (who, w)
        assert rows[at, NAMES.index(f"{who}_windows_approximate")] == 1.0


def test_a_label_goes_to_the_merchants_partition_with_nothing_but_its_header() -> None:
    outputs = run_users(batches([paid("a", 0), told("a", 1)], [2]), MemoryRecords())
    sent = forwarded(outputs)
    head = header(sent[1][1])
    assert head["magic"] == LABEL_MAGIC
    assert len(sent[1][1]) == FORWARD.itemsize
    hashes = outputs[0].forward_hashes.tolist()
    assert hashes[0] == hashes[1] >= 0
    assert outputs[0].labels == 1


def test_users_without_labels_have_no_record_of_them() -> None:
    both = pipeline()
    features_of([paid("a", 0), paid("b", 1, user="v"), told("a", 1)], [], both)
    assert [key[2:] for key in both.user_records.data if key.startswith(LABELS)] == [b"u"]
    assert [key[2:] for key in both.merchant_records.data if key.startswith(LABELS)] == [b"m"]
