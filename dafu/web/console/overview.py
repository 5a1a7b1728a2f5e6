"""The overview: throughput, latency and risk of all workers over the last minutes."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, Final, Literal

from aiohttp import web
from msgspec import Struct

from dafu.stages.decide import DECISIONS
from dafu.web.console.charts import Chart, Line, Stack, bars, lines, stacked
from dafu.web.console.rendering import fragment_response, page
from dafu.web.console.series import Bin, Series
from dafu.web.decisions.decision_endpoints import feed_started
from dafu.web.decisions.feed import DecisionFeed
from dafu.web.decisions.memory import CAPACITY
from dafu.web.endpoints import Call
from dafu.web.status import Reporter

__all__ = ["Lately", "OverviewPages", "OverviewQuery"]

KEEP_SECONDS: Final = 600.0
"""How long after the last look decisions go on being counted."""

_LOOK_SECONDS: Final = 5.0
_SLICE: Final = 500
"""Decisions that are counted before others have their turn."""
_POINTS: Final = 60


class OverviewQuery(Struct, frozen=True):
    """How many minutes back."""

    minutes: Literal[1, 5, 15] = 5


class Lately:
    """Counts what all workers decide, while somebody looks.

    Parameters
    ----------
    feed : DecisionFeed
    """

    def __init__(self, feed: DecisionFeed) -> None:
        self._feed = feed
        self._series = Series()
        self._task: asyncio.Task[None] | None = None
        self._asked = 0.0
        self._filled = asyncio.Event()

    async def series(self) -> Series:
        """What was counted; begins with what is remembered of the time before."""
        await feed_started(self._feed)
        self._asked = time.monotonic()
        if self._task is None or self._task.done():
            self._series, self._filled = Series(), asyncio.Event()
            self._task = asyncio.create_task(self._follow(), name="console series")
        await self._filled.wait()
        return self._series

    async def _follow(self) -> None:
        with self._feed.subscribe() as subscription:
            remembered = await self._feed.search(CAPACITY, lambda _: True)
            for start in range(0, len(remembered), _SLICE):
                self._series.add(remembered[start : start + _SLICE])
                await asyncio.sleep(0)
            self._filled.set()
            while time.monotonic() - self._asked < KEEP_SECONDS:
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        self._series.add(await anext(subscription))
                except TimeoutError:
                    continue  # nothing was decided
                except StopAsyncIteration:
                    return

    async def close(self, _: Any = None) -> None:
        """Stop counting."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class OverviewPages:
    """The overview and its charts alone.

    Parameters
    ----------
    lately : Lately
    reporter : Reporter
        Of the worker; its own state is told beside the charts.
    """

    def __init__(self, lately: Lately, reporter: Reporter) -> None:
        self._lately = lately
        self._reporter = reporter

    async def overview(self, call: Call) -> web.Response:
        """The page."""
        return page(
            call,
            "overview.html",
            title="Overview",
            minutes=call.query.minutes,
            **await self._figures(call.query.minutes),
        )

    async def figures(self, call: Call) -> web.Response:
        """What changes of it, to be put in its place."""
        figures = await self._figures(call.query.minutes)
        return fragment_response("charts.html", "figures", **figures)

    async def _figures(self, minutes: int) -> dict[str, Any]:
        series = await self._lately.series()
        # The second that is on is not complete, and would look like a collapse.
        end, seconds = int(time.time()) - 1, minutes * 60
        width = max(1, seconds // _POINTS)
        found = series.bins(end, seconds, width)
        status = await self._reporter.status()
        return {
            "charts": _charts(found, series.risks(end + 1, seconds), width),
            "total": sum(b.decisions for b in found),
            "shares": [
                (name, sum(b.outcomes[i] for b in found)) for i, name in enumerate(DECISIONS)
            ],
            "span": minutes,
            "state": status,
            "lag": sum(p.lag for p in status.consumer.partitions),
        }


def _charts(found: list[Bin], risks: list[int], width: int) -> list[Chart]:
    labels = [f"{datetime.fromtimestamp(b.begin, UTC):%H:%M:%S}" for b in found]
    layers = [
        Stack(name, f"fill-{name}", [b.outcomes[i] / width for b in found])
        for i, name in enumerate(DECISIONS)
    ]
    latencies = [
        Line("p50", "stroke-p50", [b.p50 for b in found]),
        Line("p99", "stroke-p99", [b.p99 for b in found]),
    ]
    risk = [
        Line("mean risk", "stroke-mean", [b.risk for b in found]),
        Line("share of high risk", "stroke-share", [b.high_risk for b in found]),
    ]
    steps = [f"{k / len(risks):.2f}" for k in range(len(risks))]
    return [
        stacked("throughput", "Throughput", "decisions per second", labels, layers),
        lines("latency", "Latency", "milliseconds from record to decision", labels, latencies),
        lines("risk", "Risk", "risk from 0 to 1", labels, risk),
        bars("risks", "Decisions by risk", "decisions", steps, risks, "fill-risk"),
    ]
