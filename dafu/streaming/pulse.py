"""Whether this process stood still for so long that its group may have given it up.

A worker that was stopped (SIGSTOP, a paused virtual machine, a suspended laptop) knows nothing of
it, but its clock jumped. Until the group confirms that the worker still belongs to it, it had
better not write. This only narrows the time in which it might: what makes late writes harmless is
`dafu.tables.ownership`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dafu.errors import DafuError

__all__ = ["FrozenError", "Pulse"]


class FrozenError(DafuError):
    """This process stood still for longer than its session with the group lasts."""


class Pulse:
    """Notices jumps of the clock between one beat and the next.

    Parameters
    ----------
    limit : float
        Seconds without a beat after which the group may have given this worker up.
    clock : callable
        Seconds that only move forward, also while the process is stopped.

    Notes
    -----
    For use from several threads; they exchange single numbers only.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._last: float | None = None
        self._stood_still = 0.0

    def beat(self) -> None:
        """To be called several times within the limit."""
        now = self._clock()
        if self._last is not None and now - self._last > self.limit:
            self._stood_still = now - self._last
        self._last = now

    def confirm(self) -> None:
        """The group has just answered this worker as one of its members."""
        self._last = self._clock()
        self._stood_still = 0.0

    def check(self) -> None:
        """Make sure that this worker has not been given up unawares.

        Raises
        ------
        FrozenError
            If it stood still for longer than the limit and has had no confirmation since.
        """
        if self._last is not None:
            self.beat()
        if self._stood_still:
            raise FrozenError(
                f"this worker stood still for {self._stood_still:.0f} s, its session with the "
                f"consumer group lasts {self.limit:.0f} s: its partitions may belong to another "
                "worker by now. It stops before it writes anything; start it again"
            )
