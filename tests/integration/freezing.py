"""The worker's app with short timeouts that stops like a paused machine, once, at a chosen point.

`TEST_FREEZE` is "table:claim" or "table:batch": before it sends its first claim, or the
tenth batch, of that table's changelog. Its outputs are acknowledged by then, and it has
made sure that it was not frozen before.
"""

import os
import signal

from dafu.streaming.sender import BatchSender
from dafu.tables.ownership import NO_CLAIM, Append
from dafu.tables.table import PackedTable, Sending
from tests.integration.brisk import app

TABLE, _, POINT = os.environ.pop("TEST_FREEZE").partition(":")
BATCH = 10

append = PackedTable._append
batches = 0


def freezing_append(
    self: PackedTable, sender: BatchSender, partition: int, step: Append
) -> Sending:
    global batches
    claim = step.stamp == NO_CLAIM
    if self.name == TABLE:
        batches += not claim
        if (claim and POINT == "claim") or (batches == BATCH and POINT == "batch"):
            os.kill(os.getpid(), signal.SIGSTOP)
    return append(self, sender, partition, step)


PackedTable._append = freezing_append  # type: ignore[method-assign]

__all__ = ["app"]
