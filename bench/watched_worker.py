"""The worker of dafu, which also says by how long its event loop kept a clock waiting.

A task asks to be woken every few milliseconds; what it is woken late, the loop stood still for.
The longest time of each second goes to standard output, with the second on the monotonic clock
(which processes share).
"""

# Faust has no types that mypy could follow.
# mypy: disable-error-code="misc, untyped-decorator"

from __future__ import annotations

import asyncio
import time
from typing import Final

from dafu.app import app

__all__ = ["app"]

STOOD: Final = "bench loop stood still"
_TICK_S: Final = 0.005


@app.task
async def _watch() -> None:
    longest, said = 0.0, time.monotonic()
    while True:
        began = time.monotonic()
        await asyncio.sleep(_TICK_S)
        now = time.monotonic()
        longest = max(longest, now - began - _TICK_S)
        if now - said >= 1.0:
            print(f"{STOOD} {longest * 1000:.1f} ms at {now:.3f}", flush=True)
            longest, said = 0.0, now
