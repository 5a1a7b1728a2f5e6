"""What Prometheus scrapes from a worker, as text or as OpenMetrics, whichever it asks for."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from dafu.agents.assembly import Agents
from dafu.web.collector import WorkerCollector
from dafu.web.status import Reporter

__all__ = ["Exposer", "exposition", "metrics_response"]

logger = logging.getLogger(__name__)

COUNT_SECONDS: Final = 600.0
"""How old the sizes of tables may become before a scrape has them counted anew."""

COUNTING: Final = "dafu-count-state"
"""The name of the task that counts."""


class Exposer:
    """The metrics of one worker.

    Parameters
    ----------
    reporter : Reporter
    agents : Agents

    Attributes
    ----------
    registry : CollectorRegistry
        Of this worker alone; who counts something else registers a collector of it here.
    """

    def __init__(self, reporter: Reporter, agents: Agents) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(WorkerCollector(reporter, agents))
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._sizes = reporter.sizes
        self._counting: asyncio.Task[None] | None = None

    def count_state(self) -> None:
        """Have tables counted whose sizes are too old, beside the work; a later scrape shows them.

        Needs a running event loop.
        """
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count(), name=COUNTING)

    async def _count(self) -> None:
        for name, sizes in self._sizes.items():
            try:
                await sizes.status(COUNT_SECONDS)
            except Exception:
                logger.exception("can not count what is in the table %s", name)


def exposition(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """All metrics of a registry, and their content type.

    Parameters
    ----------
    registry : CollectorRegistry
    accept : str
        The request's `Accept`: OpenMetrics where it is asked for, else Prometheus' own text format.
    """
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def metrics_response(exposer: Exposer, request: web.Request) -> web.Response:
    """The answer to a scrape."""
    exposer.count_state()
    body, content_type = exposition(exposer.registry, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})
