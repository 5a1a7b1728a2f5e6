"""Counts by the second against a naive recount."""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.agents.shell import LATENCY
from dafu.stages.decide import DECISIONS
from dafu.streaming.records import encode_headers
from dafu.web.console.series import SECONDS, Series
from dafu.web.decisions.memory import Made

NOW = 1_700_000_000


def made(second: int, outcome: str, risk: float, latency: int | None, rules: list[Any]) -> Made:
    document = {"decision": outcome, "risk_score": risk, "rules_fired": rules}
    headers = b"\0" if latency is None else encode_headers([(LATENCY, b"%d" % latency)])
    return Made(msgspec.json.encode(document), 0, 0, (NOW + second) * 1000 + 7, headers)


def rule(name: str, mode: str) -> dict[str, Any]:
    return {"id": name, "action": "block", "risk_score": 0.5, "mode": mode}


DECIDED = st.builds(
    made,
    st.integers(0, 2 * SECONDS),
    st.sampled_from(DECISIONS),
    st.floats(0.0, 1.0),
    st.one_of(st.none(), st.integers(0, 200_000)),
    st.lists(
        st.sampled_from([rule("a", "live"), rule("a", "shadow"), rule("b", "live")]), max_size=2
    ),
)


@given(st.lists(st.lists(DECIDED, max_size=8), max_size=6), st.sampled_from([1, 5, 15]))
def test_bins_are_those_of_a_recount(batches: list[list[Made]], width: int) -> None:
    series = Series()
    kept: list[Made] = []
    for batch in batches:
        series.add(batch)
        if batch:
            kept += batch
            # What is too old when it comes is not counted, and what became too old is forgotten.
            latest = max(m.timestamp // 1000 for m in kept)
            kept = [m for m in kept if m.timestamp // 1000 > latest - SECONDS]
    assert series.latest == max((m.timestamp // 1000 for m in kept), default=-1)
    end = max(series.latest, NOW)
    for found in series.bins(end, 60 * width, width):
        assert found.begin % width == 0
        inside = [m for m in kept if found.begin <= m.timestamp // 1000 < found.begin + width]
        documents = [msgspec.json.decode(m.payload) for m in inside]
        by_outcome = Counter(d["decision"] for d in documents)
        assert found.outcomes == tuple(by_outcome[name] for name in DECISIONS)
        if documents:
            assert found.risk == pytest.approx(fmean(d["risk_score"] for d in documents))
        else:
            assert (found.risk, found.p50, found.p99, found.high_risk) == (None,) * 4
        told = sorted(m.latency_ms for m in inside if m.latency_ms is not None)
        if told:
            exact = max(told[math.ceil(0.99 * len(told)) - 1], 1)
            assert found.p99 is not None
            assert math.log2(found.p99 / min(exact, 2**17)) == pytest.approx(0.0, abs=1 / 8)
    total, rules = series.rules(end + 1, SECONDS)
    inside = [m for m in kept if end + 1 - SECONDS <= m.timestamp // 1000 <= end]
    assert total == len(inside) == sum(series.risks(end + 1, SECONDS))
    fired = Counter(
        (r["id"], r["mode"]) for m in inside for r in msgspec.json.decode(m.payload)["rules_fired"]
    )
    assert {(r.rule, r.mode): r.fired for r in rules} == fired


def test_a_second_that_is_taken_over_begins_anew() -> None:
    series = Series()
    series.add([made(0, "block", 0.9, 5, [rule("a", "live")])])
    series.add([made(SECONDS, "approve", 0.1, 5, [])])
    (found,) = series.bins(NOW + SECONDS, 1, 1)
    assert found.outcomes == (1, 0, 0)
    assert series.rules(NOW + SECONDS + 1, SECONDS) == (1, [])


def test_nothing_is_no_trouble() -> None:
    series = Series()
    series.add([])
    assert series.latest == -1
    assert [b.decisions for b in series.bins(NOW, 10, 5)] == [0, 0]
