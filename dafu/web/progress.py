"""How far the worker is with its partitions, and whether it still gets on.

The fault that stream processors are known for is a consumer that stops without a word: it looks
healthy and decides nothing. What gives it away is a committed offset that does not move while
there is something to read. `Progress` is the arithmetic of that, on times given to it;
`ProgressMonitor` feeds it from the worker's consumer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from faust.types import TP
from msgspec import Struct

__all__ = ["Offsets", "PartitionProgress", "Progress", "ProgressMonitor"]

logger = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 2.0
_TIMEOUT_SECONDS: Final = 5.0


class Offsets(Struct, frozen=True):
    """Where a partition stands.

    `committed` is the offset the group would start from again, `end` the one that the next record
    gets. `drained` says that nothing is left to do, whatever lies between the two: the records of
    transactional producers are followed by markers that no consumer ever gets to see.
    """

    committed: int
    end: int
    drained: bool


class PartitionProgress(Struct, frozen=True):
    """`lag` in records; `committed_age_s` is how long the committed offset has not moved although
    there was something to do, 0 if there was nothing."""

    topic: str
    partition: int
    committed: int
    end: int
    lag: int
    committed_age_s: float


class Progress:
    """Remembers when each partition last got on. Pure: the time comes as an argument."""

    def __init__(self) -> None:
        self._committed: dict[TP, int] = {}
        self._moved: dict[TP, float] = {}
        self.partitions: list[PartitionProgress] = []

    def observe(self, now: float, offsets: Mapping[TP, Offsets]) -> None:
        """Take note of where all assigned partitions stand.

        Parameters
        ----------
        now : float
            Seconds on a clock that only moves forward.
        offsets : mapping
            Partitions that are not in it are forgotten.
        """
        moved: dict[TP, float] = {}
        partitions = []
        for tp, at in sorted(offsets.items()):
            stands = self._committed.get(tp) == at.committed and not at.drained
            moved[tp] = self._moved.get(tp, now) if stands else now
            lag = 0 if at.drained else max(at.end - at.committed, 0)
            partitions.append(
                PartitionProgress(
                    tp.topic, tp.partition, at.committed, at.end, lag, round(now - moved[tp], 3)
                )
            )
        self._moved = moved
        self._committed = {tp: at.committed for tp, at in offsets.items()}
        self.partitions = partitions

    def stalled(self, bound_s: float) -> list[PartitionProgress]:
        """Partitions with something to do that have not got on for longer than the bound."""
        return [p for p in self.partitions if p.lag > 0 and p.committed_age_s > bound_s]


class ProgressMonitor:
    """Looks at the consumer's offsets every now and then.

    Parameters
    ----------
    app : faust.App
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.progress = Progress()
        self.error: str | None = None
        self._checked: float | None = None
        self._first_try: float | None = None

    @property
    def silent_s(self) -> float:
        """Seconds without an answer: since the last one, or else since the first attempt."""
        since = self._first_try if self._checked is None else self._checked
        return 0.0 if since is None else time.monotonic() - since

    @property
    def age_s(self) -> float | None:
        """Seconds since the offsets were last read, None if they never were."""
        return None if self._checked is None else time.monotonic() - self._checked

    async def refresh(self) -> None:
        """Read the offsets. What goes wrong is kept in `error` and shows in the age."""
        if self._first_try is None:
            self._first_try = time.monotonic()
        try:
            offsets = await asyncio.wait_for(self._read(), _TIMEOUT_SECONDS)
        except Exception as exc:  # whatever it is, the worker decides on; readiness will say so
            self.error = f"{type(exc).__name__}: {exc}".rstrip(": ")
            logger.warning("Can not read the offsets of the broker: %s", self.error)
            return
        self.error = None
        self._checked = time.monotonic()
        self.progress.observe(self._checked, offsets)

    async def _read(self) -> dict[TP, Offsets]:
        consumer = self.app.consumer
        changelogs = self.app.tables.changelog_topics
        assigned = {tp for tp in consumer.assignment() if tp.topic not in changelogs}
        if not assigned:
            return {}
        ends = {TP(*tp): end for tp, end in (await consumer.reported_ends(*assigned)).items()}
        committed = {tp: consumer._committed_offset[tp] for tp in assigned}
        if fresh := [tp for tp in assigned if committed[tp] is None]:
            # Never committed: the group starts at the first record that is still there.
            starts = await consumer.earliest_offsets(*fresh)
            committed.update({TP(*tp): start for tp, start in starts.items()})
        return {
            tp: Offsets(
                committed[tp], ends[tp], await self._is_drained(tp, committed[tp], ends[tp])
            )
            for tp in assigned
        }

    async def _is_drained(self, tp: TP, committed: int, end: int) -> bool:
        if committed >= end:
            return True
        if committed <= self.app.consumer.last_delivered(tp):
            return False
        return bool((await self.app.consumer.position(tp)) >= end)
