"""The worker's app with a consumer that stops without a word once it has read something."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from dafu.streaming.transport import Consumer
from tests.integration.brisk import app

_getmany = Consumer.getmany


async def _silent_after_the_first_chunk(self: Any, timeout: float) -> AsyncIterator[Any]:
    if app.monitor.messages_received_total:
        await asyncio.sleep(3600)
    async for chunk in _getmany(self, timeout):
        yield chunk


Consumer.getmany = _silent_after_the_first_chunk  # type: ignore[method-assign]

__all__ = ["app"]
