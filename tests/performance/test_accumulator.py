"""Decisions and labels in any order, beside a recomputation from all of them at once."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from dafu.performance import Performance
from dafu.performance.accumulator import EARLY, PerformanceError, decision_time
from dafu.schema import CandidateScore, Decision, InvalidRecordError, Label
from tests.performance.records import DAY, START, decision, label

HORIZON = 20
THRESHOLD = 0.5


def when(time: int, period: str) -> str:
    day = datetime.fromtimestamp(time // 1000, UTC).date()
    return (day - timedelta(days=day.weekday() if period == "week" else 0)).isoformat()


def naive(
    decisions: list[Decision],
    labels: list[Label],
    amounts: dict[tuple[str, str], float],
    as_of: int,
    maturity: int,
    period: str,
) -> dict[tuple[str, str, str | None, str | None], dict[str, Any]]:
    """Every figure from its definition, by role, model, version and period."""
    made = {(d.user_id, d.transaction_id): d for d in reversed(decisions)}
    latest = max((decision_time(d) for d in decisions), default=0)
    answers: dict[tuple[str, str, str | None, str | None], list[Any]] = defaultdict(list)
    for key, d in made.items():
        time = decision_time(d)
        if time <= latest - HORIZON * DAY or time > as_of:
            continue
        known = [
            one
            for one in labels
            if (one.user_id, one.transaction_id) == key and time - EARLY < one.observed_at <= as_of  # type: ignore[operator]
        ]
        verdict = max((k.observed_at, k.is_fraud) for k in known)[1] if known else None
        told = [one.amount for one in known if one.amount is not None]
        amount = amounts.get(key, max(told, default=None))
        fact = (time, verdict, amount, d.versions.rules)
        own = ("champion", d.model_used, d.versions.model)
        sayings = [(own, d.decision != "approve", d.risk_score)]
        sayings += [
            ((c.role, c.model, c.version), c.risk_score >= THRESHOLD, c.risk_score)
            for c in d.candidates
        ]
        for group, alert, risk in sayings:
            for span in (when(time, period), None):
                answers[(*group, span)].append((alert, risk, *fact))
    found = {}
    for group_key, of_all in answers.items():
        mature = [a for a in of_all if as_of - a[2] >= maturity]
        young = [a for a in of_all if as_of - a[2] < maturity]
        frauds = [a for a in mature if a[3]]
        tp = [a for a in frauds if a[0]]
        fp = [a for a in mature if a[0] and not a[3]]
        values = [a[4] for a in frauds if a[4] is not None]
        hit_values = [a[4] for a in tp if a[4] is not None]
        both = 0 < len(frauds) < len(mature)
        y, s = [bool(a[3]) for a in mature], [a[1] for a in mature]
        found[group_key] = {
            "decisions": len(of_all),
            "alerts": sum(a[0] for a in of_all),
            "rules": tuple(sorted({a[5] for a in of_all})),
            "mature": len(mature),
            "immature": len(young),
            "immature_frauds": sum(bool(a[3]) for a in young),
            "labelled": sum(a[3] is not None for a in mature),
            "frauds": len(frauds),
            "true_positives": len(tp),
            "false_positives": len(fp),
            "false_negatives": len(frauds) - len(tp),
            "true_negatives": sum(not a[0] and not a[3] for a in mature),
            "precision": len(tp) / (len(tp) + len(fp)) if tp or fp else None,
            "recall": len(tp) / len(frauds) if frauds else None,
            "fraud_value": math.fsum(values) if values else None,
            "frauds_without_amount": len(frauds) - len(values),
            "value_detected": math.fsum(hit_values) / math.fsum(values) if sum(values) else None,
            "average_precision": average_precision_score(y, s) if both else None,
            "auc_roc": roc_auc_score(y, s) if both else None,
        }
    return found


IDS = [(f"u{k % 2}", f"t{k // 2}") for k in range(12)]
times = st.integers(0, 40 * 24).map(lambda hour: START + hour * DAY // 24)
risks = st.sampled_from((0.0, 0.2, 0.5, 0.50001, 1.0))


@st.composite
def histories(draw: Any) -> tuple[list[Decision], list[Label], dict[tuple[str, str], float]]:
    decisions, labels, amounts = [], [], {}
    for user, transaction in draw(st.lists(st.sampled_from(IDS), unique=True)):
        time = draw(times)
        decisions.append(
            decision(
                transaction,
                time,
                draw(st.sampled_from(("approve", "review", "block"))),
                draw(risks),
                user=user,
                model=draw(st.sampled_from(("v1", "v2", None))),
                rules=draw(st.sampled_from(("r1", "r2"))),
                candidates=[
                    CandidateScore(role, "m", "c", draw(risks))
                    for role in draw(st.sampled_from(((), ("shadow",), ("challenger", "shadow"))))
                ],
            )
        )
        if draw(st.booleans()):
            amounts[user, transaction] = draw(st.sampled_from((0.0, 1.5, 100.0)))
    for user, transaction in draw(st.lists(st.sampled_from(IDS), max_size=20)):
        amount = draw(st.none() | st.sampled_from((2.0, 3.0)))
        labels.append(
            label(transaction, draw(times), draw(st.booleans()), user=user, amount=amount)
        )
    return decisions, labels, amounts


@settings(max_examples=300, deadline=None)
@given(
    histories(),
    st.data(),
    st.integers(0, 60 * 24),
    st.integers(0, 10),
    st.sampled_from(("day", "week")),
)
def test_any_order_gives_what_recomputing_gives(
    history: Any, data: Any, hour: int, maturity: int, period: Any
) -> None:
    decisions, labels, amounts = history
    time_of = {(d.user_id, d.transaction_id): decision_time(d) for d in decisions}
    arrivals: list[Any] = [*decisions, *labels, *amounts.items()]
    if arrivals:
        arrivals += data.draw(st.lists(st.sampled_from(arrivals), max_size=10))  # comes twice
    performance = Performance(HORIZON)
    for arrival in data.draw(st.permutations(arrivals)):
        if isinstance(arrival, Decision):
            performance.take_decision(arrival)
        elif isinstance(arrival, Label):
            performance.take_label(arrival)
        else:
            (user, transaction), amount = arrival
            performance.take_amount(user, transaction, time_of[user, transaction], amount)
    as_of = START + hour * DAY // 24
    report = performance.report(
        as_of, maturity_days=maturity, period=period, candidate_threshold=THRESHOLD
    )
    expected = naive(decisions, labels, amounts, as_of, maturity * DAY, period)
    rows = [*report.rows, *report.totals]
    assert {(r.role, r.model, r.version, r.period) for r in rows} == set(expected)
    for row in rows:
        wanted = expected[row.role, row.model, row.version, row.period]
        assert row.reviewed is not None
        assert row.blocked is not None
        assert row.reviewed + row.blocked == wanted.pop("alerts")
        for name, value in wanted.items():
            found = getattr(row, name)
            if isinstance(value, float):
                assert found == pytest.approx(value, abs=1e-12), name
            else:
                assert found == value, name
    latest = max(time_of.values(), default=0)
    alive = {key for key, time in time_of.items() if time > latest - HORIZON * DAY}
    assert performance.counts.decisions == len(alive)


def test_what_is_not_mature_is_counted_apart() -> None:
    performance = Performance()
    for k, outcome in enumerate(("block", "approve", "approve")):
        performance.take_decision(decision(f"t{k}", START, outcome, 0.9 - k / 10))
    performance.take_label(label("t0", START + DAY))
    (early,) = performance.report(START + 7 * DAY - 1).totals
    assert (early.mature, early.immature, early.immature_frauds) == (0, 3, 1)
    assert (early.frauds, early.precision, early.recall, early.auc_roc) == (0, None, None, None)
    (late,) = performance.report(START + 7 * DAY).totals
    assert (late.mature, late.immature, late.immature_frauds, late.labelled) == (3, 0, 0, 1)
    assert (late.precision, late.recall, late.auc_roc, late.average_precision) == (1, 1, 1, 1)


def test_a_report_knows_no_later_labels() -> None:
    performance = Performance()
    performance.take_decision(decision("t", START, "block"))
    performance.take_label(label("t", START + 30 * DAY, False))
    performance.take_label(label("t", START + 20 * DAY))
    performance.take_label(label("t", START + 40 * DAY))
    frauds = [
        performance.report(START + days * DAY).totals[0].frauds for days in (10, 20, 29, 30, 39, 40)
    ]
    assert frauds == [0, 1, 1, 0, 0, 1]
    assert performance.report(START - 1).totals == ()


def test_a_label_waits_for_its_decision() -> None:
    performance = Performance()
    performance.take_label(label("t", START + DAY))
    performance.take_label(label("t", START + DAY, user="another"))
    assert performance.counts == (0, 0, 2)
    performance.take_decision(decision("t", START))
    performance.take_decision(decision("t", START))
    assert performance.counts == (1, 1, 1)
    assert performance.report(START + 10 * DAY).totals[0].false_negatives == 1


def test_of_labels_observed_at_once_fraud_holds() -> None:
    for verdicts in ((True, False), (False, True)):
        performance = Performance()
        performance.take_decision(decision("t", START))
        for fraud in verdicts:
            performance.take_label(label("t", START + DAY, fraud))
        assert performance.report(START + 10 * DAY).totals[0].frauds == 1


def test_memory_ends_at_the_horizon() -> None:
    performance = Performance(horizon_days=2)
    held = []
    for hour in range(24 * 30):
        time = START + hour * DAY // 24
        performance.take_decision(decision(f"t{hour}", time))
        performance.take_label(label(f"unknown{hour}", time))
        performance.take_amount("u", f"never{hour}", time, 1.0)
        held.append(len(performance._entries))
    # Two days, one until it is swept, one that a label may be early; three entries an hour.
    assert max(held) <= 3 * 24 * 4 + 3
    assert performance.counts.decisions == 48
    assert performance.report(START + 40 * DAY).totals[0].decisions == 48


def test_candidates_without_a_threshold_are_only_ranked() -> None:
    performance = Performance()
    for k, risk in enumerate((0.2, 0.9)):
        candidate = CandidateScore("shadow", "trees", "c1", risk)
        performance.take_decision(decision(f"t{k}", START, "block", candidates=[candidate]))
    performance.take_label(label("t1", START, amount=3.0))
    champion, shadow = performance.report(START + 8 * DAY).totals
    assert (champion.role, champion.precision, champion.value_detected) == ("champion", 0.5, 1.0)
    assert (shadow.role, shadow.model, shadow.version) == ("shadow", "trees", "c1")
    assert (shadow.reviewed, shadow.true_positives, shadow.precision) == (None, None, None)
    assert (shadow.value_detected, shadow.fraud_value) == (None, 3.0)
    assert (shadow.auc_roc, shadow.average_precision) == (1.0, 1.0)


@pytest.mark.parametrize("horizon", [0, -1, math.inf, math.nan])
def test_horizons_that_make_no_sense(horizon: float) -> None:
    with pytest.raises(PerformanceError, match="a horizon of"):
        Performance(horizon)


def test_a_negative_maturity() -> None:
    with pytest.raises(PerformanceError, match="a maturity of -1 days"):
        Performance().report(START, maturity_days=-1)


def test_a_decision_without_a_time() -> None:
    broken = decision("t", START)
    with pytest.raises(InvalidRecordError, match="'soon' of a decision is no time"):
        Performance().take_decision(Decision(**{**_fields(broken), "timestamp": "soon"}))


def _fields(one: Decision) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


@pytest.mark.parametrize("label_first", [True, False])
@pytest.mark.parametrize(("hours_before", "counts"), [(12, True), (24, False)])
def test_clocks_may_differ_by_a_day(label_first: bool, hours_before: int, counts: bool) -> None:
    """A label of the horizon's edge, observed before its transaction, arriving first or last."""
    performance = Performance(horizon_days=2)
    early = label("t", START + DAY // 24 - hours_before * DAY // 24)
    if label_first:
        performance.take_label(early)
    performance.take_decision(decision("t", START + DAY // 24))
    performance.take_decision(decision("latest", START + 2 * DAY))
    if not label_first:
        performance.take_label(early)
    assert performance.report(START + 20 * DAY).totals[0].frauds == int(counts)
