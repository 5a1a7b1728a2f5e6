"""Orders that a chaos run gives to its workers: to die or to freeze at a named point.

What both sides know: the points, the order as a file, and who follows it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

import msgspec

POINTS: Final = (
    "read",  # a batch arrived, nothing is computed
    "computed",  # nothing is sent
    "output-acked",  # one of several batches of outputs is on its topic
    "outputs-acked",  # all outputs are, nothing is logged
    "changelog-sending",  # one of several batches of changes is about to go
    "changelog-part-acked",  # it is on the changelog
    "changelog-acked",  # all changes are logged, the local store is not written
    "stored",  # it is, the offset is not acknowledged
    "offset-acked",  # it is, and not committed
    "committed",
)
"""Places in the life of a batch, in their order."""
RECOVERING: Final = "recovering"
"""A piece of a changelog is about to be applied, before the worker decides anything."""
BREAKS: Final = ("ack-before-changelog", "no-fence")
"""`ack-before-changelog` acknowledges a batch's offset when its outputs are out and logs its
changes only when that may be committed; `no-fence` forgets all fences and marks at every load."""


class Fault(msgspec.Struct):
    """What to do to oneself, where, and after passing there how many times."""

    point: str
    action: str  # the name of a signal, SIGKILL or SIGSTOP
    after: int = 0


class FaultInjector:
    """Watches for orders in a directory and follows them."""

    def __init__(self, directory: Path) -> None:
        self._order = directory / "fault"
        self._fired = directory / "fired"
        self._fault: Fault | None = None

    def reached(self, point: str, where: str) -> None:
        """Note that execution is at a point, working on that topic or partition."""
        if self._order.exists():
            self._fault = msgspec.json.decode(self._order.read_bytes(), type=Fault)
            self._order.unlink()
        fault = self._fault
        if fault is None or fault.point != point:
            return
        fault.after -= 1
        if fault.after >= 0:
            return
        self._fault = None
        self._fired.write_text(where)
        os.kill(os.getpid(), signal.Signals[fault.action])
