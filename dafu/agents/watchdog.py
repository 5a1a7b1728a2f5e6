"""A worker that can not go on ends itself, so that its supervisor can start it again.

Nothing is lost by that: what is not committed is read again, and the fences in the state know it.
Three things are looked after:

* `Watchdog`: lag and no progress. The worker crashes in order, and leaves its consumer group.
* `LoopWatch`: an event loop that does not turn can not even do that. A thread ends the process,
  and where a thread can not run either, because something holds the interpreter lock, the C level
  of `faulthandler` does.
* `stop_within`: a stop that takes too long, for example because the broker is away.

This module knows neither Kafka nor tables: what progress is, it is told.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Final, NoReturn

from msgspec import Struct

from dafu.errors import DafuError

__all__ = ["LoopWatch", "Situation", "Stall", "StallError", "Watchdog", "exit_now", "stop_within"]

logger = logging.getLogger(__name__)

CHECK_SECONDS: Final = 2.0
_BACKSTOP_SECONDS: Final = 5.0
"""How much later than the thread the C level of `faulthandler` steps in."""
_FLUSH_SECONDS: Final = 1.0


class StallError(DafuError):
    """The worker has something to do and does not get on."""


class Situation(Struct, frozen=True):
    """What the worker is at.

    `waiting_for` says why it does not process anything now, if so (a rebalance, a recovery), and
    `step` anything that changes while that gets on. `oldest_s` is how long the committed offset of
    some partition has not moved although there was lag, and `what` says which.
    """

    waiting_for: str | None
    step: Hashable
    oldest_s: float
    what: str


class Stall:
    """How long the worker has not got on. Pure: the time comes as an argument."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._step: Hashable = None
        self._waited = False

    def observe(self, now: float, situation: Situation) -> float:
        """Seconds without progress, in order to what the worker is at.

        Parameters
        ----------
        now : float
            Seconds on a clock that only moves forward.
        situation : Situation
        """
        waits = situation.waiting_for is not None
        if waits != self._waited or (waits and situation.step != self._step):
            self._since = now
        self._waited, self._step = waits, situation.step
        # After a long recovery, the committed offsets have stood still for long: that is no fault.
        stood = now - self._since
        return stood if waits else min(stood, situation.oldest_s)


class Watchdog:
    """Looks every two seconds whether the worker gets on.

    Parameters
    ----------
    bound_s : float
        How long it may not get on, in seconds; 0 switches the watchdog off.
    look : callable
        Gives the situation.
    """

    def __init__(self, bound_s: float, look: Callable[[], Situation]) -> None:
        self.bound_s = bound_s
        self._look = look
        self._stall = Stall()

    def check(self) -> None:
        """Raise if the worker has not got on for too long.

        Raises
        ------
        StallError
        """
        if not self.bound_s:
            return
        situation = self._look()
        stood = self._stall.observe(time.monotonic(), situation)
        if stood > self.bound_s:
            what = situation.waiting_for or situation.what
            raise StallError(
                f"no progress for {stood:.0f} s ({what}): this worker ends itself, so that its "
                "supervisor starts it again (DAFU_WATCHDOG sets the time, 0 never)"
            )


class LoopWatch:
    """A thread that ends the process when an event loop has not turned for too long.

    Parameters
    ----------
    bound_s : float
        In seconds; 0 switches it off.
    loops : callable
        Gives the loops to watch, by name; those that are closed do not count.
    """

    def __init__(
        self, bound_s: float, loops: Callable[[], Mapping[str, asyncio.AbstractEventLoop]]
    ) -> None:
        self.bound_s = bound_s
        self._loops = loops
        self._asked: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop-watch", daemon=True)

    def start(self) -> None:
        """Start the thread; it lives as long as the process, unless it is stopped."""
        if self.bound_s:
            self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        interval = min(1.0, self.bound_s / 4)
        try:
            while not self._stop.wait(interval):
                # Unless it is postponed, it comes: when this thread does not get to run.
                faulthandler.dump_traceback_later(
                    self.bound_s + _BACKSTOP_SECONDS, exit=True, file=2
                )
                for name, loop in self._loops().items():
                    self._look_at(name, loop)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _look_at(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        asked = self._asked.get(name)
        if asked is not None and not loop.is_closed():
            stood = time.monotonic() - asked
            if stood > self.bound_s:
                exit_now(
                    f"the {name} event loop has not turned for {stood:.0f} s: this worker ends "
                    "itself, so that its supervisor starts it again (DAFU_WATCHDOG sets the time, "
                    f"0 never). All threads:\n{''.join(_stacks())}"
                )
            return
        self._asked[name] = time.monotonic()
        try:
            loop.call_soon_threadsafe(self._asked.pop, name, None)
        except RuntimeError:  # closed meanwhile
            self._asked.pop(name, None)


def stop_within(seconds: float) -> None:
    """End the process with status 1 if it still runs after so many seconds."""
    message = (
        f"the worker has not stopped within {seconds:g} s (DAFU_STOP_DEADLINE), perhaps because "
        "the broker does not answer, and ends now. What it has not committed is read again when "
        "it is started"
    )
    timer = threading.Timer(seconds, exit_now, [message])
    timer.daemon = True
    timer.name = "stop-deadline"
    timer.start()


def exit_now(message: str) -> NoReturn:
    """Log why, and end the process with status 1, whatever else it is in the middle of."""

    def say() -> None:
        logger.critical("%s", message)
        for handler in logging.getLogger().handlers:
            handler.flush()

    # In a thread of its own: whoever does not get on may hold a lock of the logging.
    speaker = threading.Thread(target=say, daemon=True)
    speaker.start()
    speaker.join(_FLUSH_SECONDS)
    os._exit(1)


def _stacks() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            yield f"thread {names.get(ident, ident)}:\n"
            yield from traceback.format_stack(frame)
