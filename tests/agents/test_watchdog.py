"""When a worker counts as standing still, and how it is ended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Hashable

import pytest

from dafu.agents import watchdog as module
from dafu.agents.watchdog import LoopWatch, Situation, Stall, StallError, Watchdog


def working(oldest_s: float) -> Situation:
    return Situation(None, None, oldest_s, "t[0] has 5 records to go")


def waiting(step: Hashable) -> Situation:
    return Situation("the tables are being recovered", step, 1000.0, "t[0] has 5 records to go")


def stood(*seen: tuple[float, Situation]) -> list[float]:
    stall = Stall()
    return [stall.observe(now, situation) for now, situation in seen]


def test_lag_ages_and_progress_ends_it() -> None:
    assert stood(
        (10.0, working(0.0)), (12.0, working(2.0)), (14.0, working(4.0)), (16.0, working(0.0))
    ) == [0.0, 2.0, 4.0, 0.0]


def test_a_recovery_may_take_as_long_as_it_gets_on() -> None:
    assert stood(*((t, waiting(t)) for t in (0.0, 100.0, 200.0))) == [0.0, 0.0, 0.0]


def test_a_recovery_that_stands_still_does_not() -> None:
    seen = [(t, waiting("same")) for t in (0.0, 100.0, 200.0)]
    assert stood(*seen) == [0.0, 100.0, 200.0]


def test_after_a_long_recovery_the_time_starts_anew() -> None:
    """No offset was committed meanwhile, and could not have been."""
    assert stood(
        (0.0, waiting(1)), (500.0, waiting(2)), (502.0, working(502.0)), (505.0, working(505.0))
    ) == [0.0, 0.0, 0.0, 3.0]


def test_a_rebalance_in_between_starts_the_time_anew() -> None:
    assert stood(
        (0.0, working(100.0)), (1.0, waiting(1)), (3.0, waiting(1)), (4.0, working(104.0))
    ) == [100.0, 0.0, 2.0, 0.0]


def test_the_watchdog_names_what_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("dafu.agents.watchdog.time.monotonic", lambda: now)
    situation = working(0.0)
    dog = Watchdog(60.0, lambda: situation)
    for now, oldest in ((2.0, 0.0), (30.0, 28.0), (62.0, 60.0)):  # noqa: B007
        situation = working(oldest)
        dog.check()
    situation = working(62.0)
    with pytest.raises(StallError, match=r"no progress for 62 s \(t\[0\] has 5 records to go\)"):
        dog.check()
    now, situation = 100.0, waiting(1)
    dog.check()
    now = 170.0
    with pytest.raises(StallError, match="being recovered"):
        dog.check()


def test_zero_switches_it_off() -> None:
    def never() -> Situation:
        raise AssertionError("asked")

    Watchdog(0.0, never).check()
    before = threading.active_count()
    LoopWatch(0.0, lambda: {}).start()
    assert threading.active_count() == before


async def test_a_loop_that_turns_is_left_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(module, "exit_now", ended.append)
    closed = asyncio.new_event_loop()
    closed.close()
    loops = {"main": asyncio.get_running_loop(), "closed": closed}
    watch = LoopWatch(1.5, lambda: loops)
    watch.start()
    try:
        for _ in range(20):
            await asyncio.sleep(0.1)
        assert ended == []
        time.sleep(4)
        assert ended
        assert "the main event loop has not turned" in ended[0]
        assert "test_watchdog.py" in ended[0], "says where it is"
    finally:
        watch.stop()


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )


def test_the_deadline_ends_a_process_that_does_not_stop() -> None:
    ended = run(
        """
        import logging, time
        from dafu.agents.watchdog import stop_within
        logging.basicConfig()
        stop_within(0.2)
        time.sleep(50)
        """
    )
    assert ended.returncode == 1
    assert "has not stopped within 0.2 s" in ended.stderr


def test_the_deadline_does_not_keep_a_process_from_ending() -> None:
    began = time.monotonic()
    ended = run("from dafu.agents.watchdog import stop_within; stop_within(50)")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert time.monotonic() - began < 30


def test_the_end_comes_even_if_nobody_can_log() -> None:
    ended = run(
        """
        import logging, time
        from dafu.agents.watchdog import exit_now
        logging.basicConfig()
        import threading
        def hold():
            logging.getLogger().handlers[0].acquire()
            time.sleep(50)
        threading.Thread(target=hold, daemon=True).start()
        time.sleep(0.2)
        exit_now("unheard")
        """
    )
    assert ended.returncode == 1
