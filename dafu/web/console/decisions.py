"""Pages of decisions: the latest as they are made, and one with its reasons and a label."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Literal
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from msgspec import Struct

from dafu.web.console.addresses import decision_url
from dafu.web.console.forms import read_form
from dafu.web.console.rendering import fragment, page
from dafu.web.console.shown import brief, matching, shown
from dafu.web.decisions.decision_endpoints import STREAM_SECONDS, feed_started
from dafu.web.decisions.feed import DecisionFeed, Subscription
from dafu.web.decisions.memory import Made
from dafu.web.endpoints import Call
from dafu.web.problems import problem

__all__ = ["DecisionPages", "LabelForm", "SaidQuery"]

ROWS: Final = 50
"""Decisions on a page that was just opened."""

ROWS_AT_ONCE: Final = 12
"""Decisions that are shown of those that came since the last time; the others are counted."""

PACE_SECONDS: Final = 1.0
"""How often a page that follows is told what came."""

SILENCE_SECONDS: Final = 15.0
"""After so long without news a comment is sent, so that nobody on the way thinks it is over."""

MOST_STREAMS: Final = 100
"""Pages that may follow at the same time, on this worker."""

Verdict = Literal["fraud", "genuine"]
Publish = Callable[[Call, str, str, bool], Awaitable[None]]
"""Publishes a label of (user, transaction): whether it is fraud."""


class SaidQuery(Struct, frozen=True):
    """What was just done, to be told once more."""

    said: Verdict | None = None


class LabelForm(Struct, frozen=True):
    """What an analyst says of a transaction."""

    verdict: Verdict


class News(Struct, frozen=True):
    """What a page that follows is told: rows, newest first, and counts of what matched."""

    rows: str
    shown: int
    matching: int
    review: int
    block: int
    per_second: int


class DecisionPages:
    """The pages of decisions.

    Parameters
    ----------
    feed : DecisionFeed
    publish : callable
        Publishes a label.
    """

    def __init__(self, feed: DecisionFeed, publish: Publish) -> None:
        self.feed = feed
        self._publish = publish
        self._streams = 0

    async def latest(self, call: Call) -> web.Response:
        """The latest decisions."""
        await feed_started(self.feed)
        found = await self.feed.search(ROWS, matching(call.query))
        stream = "/console/decisions/stream?" + urlencode(msgspec.to_builtins(call.query))
        return page(
            call,
            "decisions.html",
            title="Decisions",
            query=call.query,
            stream=stream,
            decisions=shown(call, found),
        )

    async def stream(self, call: Call) -> web.StreamResponse:
        """Decisions as they are made, as server-sent events."""
        await feed_started(self.feed)
        if self._streams >= MOST_STREAMS:
            why = f"{MOST_STREAMS} pages follow decisions here already"
            return problem(503, why, headers={"Retry-After": "30"})
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        await response.prepare(call.request)
        if call.request.method == "HEAD":
            return response
        self._streams += 1
        try:
            with self.feed.subscribe() as subscription:
                await _send(call, response, subscription)
        except ConnectionError:
            pass  # the reader has gone
        finally:
            self._streams -= 1
        return response

    async def one(self, call: Call) -> web.Response:
        """One decision."""
        user_id, transaction_id = call.path("user_id"), call.path("transaction_id")
        made = await self._find(user_id, transaction_id)
        if made is None:
            return _unknown(user_id, transaction_id)
        (found,) = shown(call, [made])
        explained = msgspec.structs.asdict(found.decision.explanations)
        said = call.query.said
        return page(
            call,
            "decision.html",
            title=f"Decision on {transaction_id}",
            decision=found.decision,
            made=found,
            said=said and f"The transaction is labelled as {said}.",
            label_url=f"{decision_url(user_id, transaction_id)}/label",
            explanations=[
                (n.removesuffix("_risk").replace("_", " "), v) for n, v in explained.items()
            ],
            versions=list(msgspec.structs.asdict(found.decision.versions).items()),
        )

    async def label(self, call: Call) -> web.Response:
        """Publish what an analyst says of a transaction."""
        form = await read_form(call.request, LabelForm)
        user_id, transaction_id = call.path("user_id"), call.path("transaction_id")
        if await self._find(user_id, transaction_id) is None:
            return _unknown(user_id, transaction_id)
        await self._publish(call, user_id, transaction_id, form.verdict == "fraud")
        raise web.HTTPSeeOther(f"{decision_url(user_id, transaction_id)}?said={form.verdict}")

    async def _find(self, user_id: str, transaction_id: str) -> Made | None:
        await feed_started(self.feed)
        return self.feed.find(user_id, transaction_id)


def _unknown(user_id: str, transaction_id: str) -> web.Response:
    return problem(
        404,
        f"no decision on {transaction_id!r} of user {user_id!r} is remembered; it may not have "
        "been made yet, or long ago",
    )


async def _send(call: Call, response: web.StreamResponse, subscription: Subscription) -> None:
    matches = matching(call.query)
    loop = asyncio.get_running_loop()
    end, quiet_since = loop.time() + STREAM_SECONDS, loop.time()
    await response.write(b"retry: 2000\n\n")
    while loop.time() < end:
        since, lost = loop.time(), subscription.lost
        batch = await _gather(subscription, PACE_SECONDS)
        if batch is None:
            return
        if not batch:
            if loop.time() - quiet_since > SILENCE_SECONDS:
                await response.write(b": nothing new\n\n")
                quiet_since = loop.time()
            continue
        seconds = max(loop.time() - since, 1e-3)
        total = len(batch) + subscription.lost - lost
        news = _news(call, [m for m in batch if matches(m)], round(total / seconds))
        await response.write(b"event: decisions\ndata: " + msgspec.json.encode(news) + b"\n\n")
        quiet_since = loop.time()


async def _gather(decisions: AsyncIterator[list[Made]], seconds: float) -> list[Made] | None:
    """What comes within some seconds; None if nothing will come any more."""
    found: list[Made] = []
    try:
        async with asyncio.timeout(seconds):
            async for batch in decisions:
                found += batch
    except TimeoutError:
        return found
    return None


def _news(call: Call, found: list[Made], per_second: int) -> News:
    newest = found[: -ROWS_AT_ONCE - 1 : -1]
    outcomes = Counter(brief(m.payload).decision for m in found)
    rows = fragment("parts.html", "decision_rows", decisions=shown(call, newest), fresh=True)
    return News(rows, len(newest), len(found), outcomes["review"], outcomes["block"], per_second)
