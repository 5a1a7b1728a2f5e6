"""Alerts count by what had been published when they came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hdrh", reason="needs the bench extra")
pytest.importorskip("psutil", reason="needs the bench extra")
pytest.importorskip("networkx", reason="needs the train extra")

from bench.alerts import Told, World, evaluate
from dafu.rings.records import Facts, Member, RingAlert, RingEvent
from dafu.rings.truth import KnownGroup, Truth

BEGAN = 1_000_000
MEMBERS = ["a", "b", "c"]
TIMES = [50, 60, 70, 80, 90]


def _world() -> World:
    ring = KnownGroup(
        "r", "device_farm", True, MEMBERS, 5, 5, 50, 90,
        reached="tx", reached_at=70, times=TIMES,
    )  # fmt: skip
    times = np.array(TIMES, np.int64)
    return World(Path(), [b""] * 5, [b""] * 5, times, Truth(3, [ring]))


def _alert(time: int, members: list[str], event: RingEvent = "opened") -> RingAlert:
    return RingAlert(
        alert_id="ring-1:1", ring_id="ring-1", event=event, kind="accounts", time=time, score=0.9,
        size=len(members), identifiers=1, transactions=3, amount=1.0, frauds=0, blocked=0,
        first_seen=50, last_seen=time, reasons=[], parts={},
        members=[Member(name, 50, Facts(time, 0)) for name in members], evidence=[], edges=[],
    )  # fmt: skip


@pytest.mark.parametrize(("at", "more"), [(2_000, 0), (3_999, 1), (4_000, 2), (60_000, 2)])
def test_what_was_published_meanwhile_counts(at: int, more: int) -> None:
    # One payment a second: the third, with which the ring is reached, is due at 2000 ms.
    told = [Told(_alert(70, MEMBERS), BEGAN + at)]
    figures, took = evaluate(told, _world(), BEGAN, rate=1.0)
    assert (figures.noticed, figures.delay_median) == (1, more)
    assert took.tolist() == [at - 2_000]


def test_only_alerts_that_open_a_ring_are_timed() -> None:
    told = [Told(_alert(60, MEMBERS[:2]), BEGAN), Told(_alert(70, MEMBERS, "grown"), BEGAN + 2_000)]
    figures, took = evaluate(told, _world(), BEGAN, rate=1.0)
    assert (figures.noticed, figures.delay_median) == (1, 0)
    assert took.tolist() == [-1_000]
