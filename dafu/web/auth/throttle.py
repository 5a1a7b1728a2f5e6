"""How often somebody may try to sign in: failures cost time, and the more the longer.

Pure: the clock is an argument. Failures are counted by user and by client's address, so that
neither many addresses at one user nor one address at many users get far. A user who is held up by
somebody else's guesses still has his keys and his session.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Throttle"]


class Throttle:
    """Counts failures.

    Parameters
    ----------
    free : int
        Failures that cost nothing.
    first, most : float
        Seconds that the next one costs, and that any costs at most; each costs twice the last.
    forget : float
        Seconds without a failure after which all are forgotten.
    names : int
        How many names are remembered; of more, those that failed longest ago are forgotten.
    """

    def __init__(
        self,
        *,
        free: int = 5,
        first: float = 1.0,
        most: float = 300.0,
        forget: float = 900.0,
        names: int = 10_000,
    ) -> None:
        self._free, self._first, self._most = free, first, most
        self._forget, self._names = forget, names
        self._failures: OrderedDict[str, tuple[int, float, float]] = OrderedDict()
        # By name: how many in a row, when the last one was, and when the one before it was.

    def wait(self, name: str, now: float) -> float:
        """Seconds until a name may try again; 0 if it may now."""
        count, last, _ = self._failures.get(name, (0, now, now))
        if count <= self._free or now - last >= self._forget:
            return 0.0
        pause = min(self._first * 2.0 ** min(count - self._free - 1, _DOUBLINGS), self._most)
        return max(0.0, last + pause - now)

    def fail(self, name: str, now: float) -> None:
        """A name has failed."""
        count, last, _ = self._failures.pop(name, (0, now, now))
        self._failures[name] = (1 if now - last >= self._forget else count + 1, now, last)
        while len(self._failures) > self._names:
            self._failures.popitem(last=False)

    def succeed(self, name: str) -> None:
        """A name has signed in: its failures are forgotten."""
        self._failures.pop(name, None)

    def forgive(self, name: str) -> None:
        """The last failure of a name was none; those before it count on."""
        if name in self._failures:
            count, _, before = self._failures[name]
            self._failures[name] = (max(count - 1, 0), before, before)


_DOUBLINGS: Final = 30
