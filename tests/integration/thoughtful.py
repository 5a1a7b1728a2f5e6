"""The worker's app with agents that think about each batch for a while."""

import asyncio
from collections.abc import Sequence
from typing import Any

from dafu.agents.shell import StageAgent
from dafu.streaming.records import RecordBatch
from tests.integration.brisk import app

_process = StageAgent.process


async def _process_late(self: Any, chunks: Sequence[RecordBatch]) -> None:
    await asyncio.sleep(1.0)
    await _process(self, chunks)


StageAgent.process = _process_late  # type: ignore[method-assign]

__all__ = ["app"]
