"""A worker of dafu that reads both of its input topics and does nothing: what fetching costs.

It prints its own CPU time from the first record until it has read BENCH_RECORDS of them. Settings
and environment are those of `dafu.app`.
"""

# Faust has no types that mypy could follow.
# mypy: disable-error-code="misc, untyped-decorator"

from __future__ import annotations

import os
import time
from typing import Any, Final

from dafu.app import App, settings

READ: Final = "bench read"
_WANTED: Final = int(os.environ["BENCH_RECORDS"])

app = App(settings)


class _Count:
    records = 0
    began = 0.0


async def _idle(stream: Any) -> None:
    async for event in stream.noack().events():
        _Count.began = _Count.began or time.process_time()
        _Count.records += len(event.value)
        await stream.ack(event)
        if _Count.records >= _WANTED:
            used = time.process_time() - _Count.began
            print(f"{READ} {_Count.records} records in {used:.6f} s of CPU", flush=True)


for _name in (settings.topics.transactions, settings.topics.transactions_by_merchant):
    app.agent(app.bytes_topic(_name), name=_name)(_idle)
