"""Counting: each transaction once, latencies close to the truth, labels against decisions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dafu.demo.tally import Latencies, Tally
from dafu.schema import Decision, Explanations, Versions, encode_decision


def decision(name: str, kind: str = "approve") -> bytes:
    return encode_decision(
        Decision(
            transaction_id=name,
            user_id="u",
            merchant_id="m",
            timestamp="2020-01-01T00:00:00.000Z",
            decision=kind,  # type: ignore[arg-type]
            risk_score=0.25,
            risk_level="low",
            is_fraud=False,
            confidence=0.75,
            model_used="rules",
            scores={"rules": 0.25},
            explanations=Explanations(0.25, 0.0, 0.0, 0.0),
            reasons=[],
            rules_fired=[],
            versions=Versions("r", None, None, "f", "t"),
            degraded=True,
        )
    )


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_quantiles_are_close(values: list[float], q: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = np.quantile(values, q, method="inverted_cdf")
    assert len(latencies) == len(values)
    assert abs(latencies.quantile(q) / exact - 1.0) <= 0.0251


def test_there_is_no_quantile_of_nothing() -> None:
    assert np.isnan(Latencies().quantile(0.5))


def test_each_transaction_counts_once() -> None:
    tally = Tally()
    tally.publish(["h"], [None], 0.0, live=False)
    tally.publish(["a", "b", "c", "d"], [None, "stolen_card", None, None], 1.0, live=True)
    assert (tally.published, tally.live_published, tally.open) == (5, 4, 5)
    tally.decide(decision("h", "block"), 3.0, 1.5)
    tally.decide(decision("b", "review"), 4.0, 1.02)
    tally.decide(decision("b", "review"), 4.0, 1.03)
    tally.decide(decision("a"), None, 1.04)
    tally.dead_letters.append("c")
    assert (tally.decided, tally.live_decided, tally.repeats, tally.open) == (3, 2, 1, 1)
    assert tally.by_decision == {"review": 1, "approve": 1}
    assert tally.outcomes == {("review", "stolen_card"): 1, ("approve", None): 1}
    assert [(s.decision.transaction_id, s.scenario) for s in tally.samples] == [
        ("b", "stolen_card")
    ]
    assert (len(tally.seen_by_consumer), len(tally.told_by_worker)) == (2, 1)
    assert abs(tally.seen_by_consumer.quantile(1.0) - 40.0) < 1.0
