"""How long a broker may keep a fetch that it has nothing for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dafu.streaming.metadata import ask_once

__all__ = ["EMBEDDED_CLUSTER", "fetch_wait_ms"]

EMBEDDED_CLUSTER: Final = "dafu-embedded"
"""The cluster id of the embedded broker."""

LONG_MS: Final = 200
"""Apache Kafka answers as soon as there is something, so the wait only bounds how often it is asked
for nothing, and how long a partition waits that was left out of a request."""

SHORT_MS: Final = 5
"""The embedded broker sleeps through the wait, whatever comes meanwhile."""


async def fetch_wait_ms(configured: int | None, client_options: Mapping[str, Any]) -> int:
    """Milliseconds: what is configured, or else what suits the broker.

    Raises
    ------
    KafkaError
        If the broker can not be asked.
    """
    if configured is not None:
        return configured
    cluster = await ask_once([], client_options)
    return SHORT_MS if cluster["cluster_id"] == EMBEDDED_CLUSTER else LONG_MS
