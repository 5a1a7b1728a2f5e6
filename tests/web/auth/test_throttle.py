"""How long somebody has to wait after failing, against a plain recount of all failures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dafu.web.auth.throttle import Throttle

FREE, FIRST, MOST, FORGET = 3, 1.0, 20.0, 100.0


def throttle(names: int = 100) -> Throttle:
    return Throttle(free=FREE, first=FIRST, most=MOST, forget=FORGET, names=names)


def expected_wait(failures: list[float], now: float) -> float:
    """All failures in a row, none more than FORGET after the one before."""
    row: list[float] = []
    for at in failures:
        row = [at] if row and at - row[-1] >= FORGET else [*row, at]
    if len(row) <= FREE or now - row[-1] >= FORGET:
        return 0.0
    pause = min(FIRST * 2.0 ** (len(row) - FREE - 1), MOST)
    return max(0.0, row[-1] + pause - now)


@given(
    st.lists(st.floats(0.0, 150.0), max_size=20),
    st.floats(0.0, 150.0),
)
def test_waits_are_those_of_a_recount(gaps: list[float], after: float) -> None:
    tested, now, failures = throttle(), 0.0, []
    for gap in gaps:
        now += gap
        tested.fail("ann", now)
        failures.append(now)
    assert tested.wait("ann", now + after) == expected_wait(failures, now + after)
    assert tested.wait("bob", now + after) == 0.0


def test_waits_double_and_end() -> None:
    tested = throttle()
    waits = []
    for _ in range(9):
        tested.fail("ann", 0.0)
        waits.append(tested.wait("ann", 0.0))
    assert waits == [0, 0, 0, 1, 2, 4, 8, 16, 20]


def test_a_success_forgets_and_forgiving_takes_one_back() -> None:
    tested = throttle()
    for _ in range(FREE + 1):
        tested.fail("ann", 0.0)
    tested.forgive("ann")
    assert tested.wait("ann", 0.0) == 0.0
    tested.fail("ann", 0.0)
    assert tested.wait("ann", 0.0) == FIRST
    tested.succeed("ann")
    tested.fail("ann", 0.0)
    assert tested.wait("ann", 0.0) == 0.0
    tested.forgive("nobody")
    assert tested.wait("nobody", 0.0) == 0.0


def test_it_stays_small() -> None:
    tested = throttle(names=10)
    for number in range(1000):
        tested.fail(f"u{number}", float(number))
    assert len(tested._failures) == 10
