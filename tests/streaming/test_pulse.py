"""Jumps of the clock, with a clock of the test's own."""

from __future__ import annotations

import pytest

from dafu.streaming.pulse import FrozenError, Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_beats_in_time_are_no_reason_to_stop(clock: Clock) -> None:
    pulse = Pulse(10.0, clock)
    pulse.check()  # nothing beats before the consumer has started
    clock.now += 1000.0
    pulse.check()
    for _ in range(20):
        pulse.beat()
        pulse.check()
        clock.now += 10.0


@pytest.mark.parametrize("first", ["beat", "check"])
def test_a_jump_is_noticed_whoever_looks_first(clock: Clock, first: str) -> None:
    pulse = Pulse(10.0, clock)
    pulse.beat()
    clock.now += 10.5
    if first == "beat":
        pulse.beat()
    clock.now += 0.4
    with pytest.raises(FrozenError, match=r"stood still for 1[01] s, .* lasts 10 s"):
        pulse.check()
    clock.now += 1.0
    pulse.beat()
    with pytest.raises(FrozenError):
        pulse.check()


def test_only_the_group_can_dispel_the_doubt(clock: Clock) -> None:
    pulse = Pulse(10.0, clock)
    pulse.beat()
    clock.now += 60.0
    pulse.confirm()
    pulse.check()
    clock.now += 60.0
    pulse.beat()
    pulse.confirm()
    pulse.check()
    clock.now += 60.0
    with pytest.raises(FrozenError):
        pulse.check()
