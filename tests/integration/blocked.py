"""The worker's app with an event loop that blocks; TEST_BLOCK says how.

`sleep` lets other threads run, `lock` holds the interpreter lock meanwhile, `consumer` blocks the
consumer's thread.
"""

import ctypes
import os
import time
from typing import Any

from tests.integration.brisk import app

HOW = os.environ.get("TEST_BLOCK", "sleep")


@app.timer(1.0)  # type: ignore[untyped-decorator]
async def _block(_app: Any) -> None:
    if HOW == "lock":
        ctypes.PyDLL(None).sleep(3600)
    elif HOW == "consumer":
        app.consumer._thread.thread_loop.call_soon_threadsafe(time.sleep, 3600)
    else:
        time.sleep(3600)


__all__ = ["app"]
