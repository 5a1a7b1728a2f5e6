"""Alerts of bursts out of stage two: a function of the log, whatever cuts, repeats and crashes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.catalogue import ALIASES, INDEX
from dafu.features.state import MERCHANTS
from dafu.rings.records import RingAlert, decode_alert
from dafu.rules import RuleSet, compile_rules, load_rules
from dafu.schema import decode_decision
from dafu.stages.batch import InputBatch, MerchantOutput
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import RULE_NAMES
from dafu.tables.inspect import Burst, describe_merchant
from dafu.tables.records import MemoryRecords
from tests.bursts import DAY, HOUR, MINUTE
from tests.oracle import Payment
from tests.streams import START, alone, batches, copy, cuts, run_users, states

RULES = Path(__file__).resolve().parents[2] / "conf" / "rules.yaml"
Log = list[tuple[bytes, bytes]]
"""Keys and values downstream."""


def story() -> list[Payment]:
    """Two shops with regular customers; cards are tried at one of them, twice."""
    rng = np.random.default_rng(8)
    rows: list[tuple[int, str, float, str]] = []
    for shop in ("grocer", "baker"):
        for day in range(6):
            times = np.sort(rng.integers(9 * HOUR, 18 * HOUR, 6)) + day * DAY
            rows += [
                (int(at), shop, float(np.round(rng.lognormal(3.2, 0.5), 2)), f"c{rng.integers(9)}")
                for at in times
            ]
    for day, n in ((4, 35), (5, 12)):
        at = day * DAY + 20 * HOUR
        rows += [(at + i * 30_000, "grocer", 1.0 + i % 2 / 10, f"v{day}-{i}") for i in range(n)]
        rows += [(at + i * MINUTE, "baker", 22.0, f"c{i}") for i in range(5)]
    rows.append((7 * DAY, "grocer", 25.0, "c1"))
    return [
        Payment(
            transaction_id=f"t{i}", user_id=user, merchant_id=shop, amount=amount, time=START + at
        )
        for i, (at, shop, amount, user) in enumerate(sorted(rows))
    ]


def stage(rules: RuleSet | None = None) -> MerchantStage:
    return MerchantStage(rules or compile_rules([], {}, {}, {}), None, Thresholds())


@pytest.fixture(scope="module")
def log() -> Log:
    """What stage one makes of the story, in one partition."""
    (output,) = run_users(batches(story(), []), MemoryRecords())
    return list(zip(output.forward_keys.present(), output.forward_values.present(), strict=True))


def inputs(log: Log, sizes: Iterable[int], first: int = 0) -> list[InputBatch]:
    out = []
    for a, b in cuts(len(log), sizes):
        keys, values = zip(*log[a:b], strict=True)
        out.append(InputBatch.of(0, keys, values, first + a, [START] * (b - a)))
    return out


def published(outputs: Sequence[MerchantOutput]) -> Log:
    return [
        pair
        for output in outputs
        for pair in zip(output.alerts.keys.present(), output.alerts.values.present(), strict=True)
    ]


def run(work: Sequence[InputBatch], records: MemoryRecords) -> list[MerchantOutput]:
    outputs, two = [], stage()
    for batch in work:
        outputs.append(two.run(batch, alone(records)))
        records.write(outputs[-1].only_changes)
    return outputs


def told(log: Log) -> list[RingAlert]:
    return [decode_alert(value) for _, value in log]


def test_who_tries_cards_is_told_of_while_it_happens(log: Log) -> None:
    found = published(run(inputs(log, []), MemoryRecords()))
    alerts = told(found)
    assert [(a.event, a.size) for a in alerts] == [
        ("opened", 8),
        ("grown", 16),
        ("grown", 32),
        ("closed", 35),
        ("opened", 8),
        ("closed", 12),
    ]
    opening = START + 4 * DAY + 20 * HOUR + 7 * 30_000
    assert alerts[0].ring_id == f"grocer@{opening}"
    assert [a.alert_id for a in alerts[:4]] == [f"grocer@{opening}/{n}" for n in (1, 2, 3, 4)]
    assert alerts[4].ring_id != alerts[0].ring_id
    assert [key for key, _ in found] == [a.ring_id.encode() for a in alerts]
    assert {(a.kind, a.merchant_id) for a in alerts} == {("merchant", "grocer")}
    assert alerts[0].time == opening
    assert alerts[0].members[0].user_id == "v4-7"
    assert alerts[0].members[0].facts.transactions == 1
    assert alerts[3].amount == pytest.approx(35 + 17 * 0.1)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), max_size=8),
    crash=st.integers(0, 100),
    kept=st.integers(0, 1000),
    again=st.lists(st.integers(1, 60), max_size=8),
)
def test_alerts_are_the_same_bytes_whatever_cuts_and_crashes(
    log: Log, sizes: list[int], crash: int, kept: int, again: list[int]
) -> None:
    whole_records = MemoryRecords()
    whole = published(run(inputs(log, []), whole_records))
    work, records = inputs(log, sizes), MemoryRecords()
    assert published(run(work, records)) == whole
    assert states(MERCHANTS, records.data) == states(MERCHANTS, whole_records.data)

    crash %= len(work)
    records = MemoryRecords()
    before = run(work[:crash], records)
    output = stage().run(work[crash], alone(records))
    crashed = copy(records, output.only_changes[: kept % (len(output.only_changes) + 1)])
    start = int(work[crash].offsets[0])
    after = published(run(inputs(log[start:], again, start), crashed))
    assert all(pair in whole for pair in after), "a repeat is the same bytes"
    assert set(published([*before, output])) | set(after) == set(whole), "none lost"
    assert states(MERCHANTS, crashed.data) == states(MERCHANTS, whole_records.data)


def test_transactions_within_a_burst_are_reviewed_by_rule(log: Log) -> None:
    rules = load_rules(RULES, RULE_NAMES, ALIASES)
    output = stage(rules).run(inputs(log, [])[0], alone(MemoryRecords()))
    scores = output.features[:, INDEX["merchant_burst_score"]]
    assert (scores >= 0.5).sum() > 25
    for value, score in zip(output.decisions.present(), scores.tolist(), strict=True):
        decision = decode_decision(value)
        fired = [r for r in decision.reasons if r.source == "rule:merchant_burst"]
        assert bool(fired) == (score >= 0.5)
        if fired:
            assert decision.decision != "approve"
            assert "users pay alike" in fired[0].text


def test_a_burst_that_is_on_is_among_what_is_remembered_of_the_merchant(log: Log) -> None:
    records = MemoryRecords()
    seen: dict[str, tuple[Burst, RingAlert]] = {}
    for batch in inputs(log, [1] * len(log)):
        (output,) = run([batch], records)
        view = describe_merchant(records, b"grocer")
        for alert in told(published([output])):
            assert view is not None
            if alert.event == "closed":
                assert view.burst is None
                continue
            assert view.burst is not None
            seen[alert.alert_id] = view.burst, alert
    assert len(seen) == 4
    for burst, alert in seen.values():
        assert (burst.ring_id, burst.users) == (alert.ring_id, alert.size)
        assert burst.transactions == alert.transactions
        assert burst.amount == pytest.approx(alert.amount)
        assert burst.score == pytest.approx(alert.score, abs=1e-6)
    baker = describe_merchant(records, b"baker")
    assert baker is not None and baker.burst is None


def test_an_alert_is_plain_json(log: Log) -> None:
    (value, *_) = (v for _, v in published(run(inputs(log, []), MemoryRecords())))
    document = msgspec.json.decode(value)
    assert document["reasons"][0] == (
        "8 users paid small amounts within 5 minutes, where 1.0 would be many"
    )
