"""Decisions that were made: one, the latest that meet a filter, and a stream of those to come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from dafu.schema import Decision, InvalidRecordError, iso, timestamp_ms
from dafu.web.decisions.documents import (
    ById,
    DecisionFilter,
    DecisionList,
    DecisionQuery,
    Listed,
    StreamQuery,
)
from dafu.web.decisions.feed import DecisionFeed, Subscription
from dafu.web.decisions.memory import Made
from dafu.web.decisions.scoring import Scorer
from dafu.web.endpoints import Call, Endpoint
from dafu.web.masking import mask
from dafu.web.principals import Permission
from dafu.web.problems import RefusedError, answer, problem

__all__ = [
    "HEARTBEAT_SECONDS",
    "STREAM_SECONDS",
    "decision_endpoints",
    "listed",
    "matches",
    "feed_started",
]

START_SECONDS: Final = 5.0
"""The feed is not waited for any longer."""

FIND_SECONDS: Final = 5.0
"""Nor is a decision that has to be looked for in the log."""

HEARTBEAT_SECONDS: Final = 15.0
"""A stream without decisions says so often that it is alive."""

STREAM_SECONDS: Final = 600.0
"""After so long a reader has to ask again, with a credential that is still good."""

MOST_STREAMS: Final = 100


class _Rule(Struct, gc=False):
    id: str


class _Outline(Struct, gc=False):
    """What filters look at."""

    user_id: str
    merchant_id: str
    timestamp: str
    decision: str
    risk_score: float
    rules_fired: list[_Rule]


_outline = msgspec.json.Decoder(_Outline).decode


def matches(wanted: DecisionFilter) -> Callable[[Made], bool]:
    """A predicate on decisions."""
    since = getattr(wanted, "since", None)
    until = getattr(wanted, "until", None)

    def holds(made: Made) -> bool:
        try:
            found = _outline(made.payload)
        except msgspec.MsgspecError:
            return False  # something else that somebody wrote to the topic
        if wanted.user_id is not None and found.user_id != wanted.user_id:
            return False
        if wanted.merchant_id is not None and found.merchant_id != wanted.merchant_id:
            return False
        if wanted.decision is not None and found.decision != wanted.decision:
            return False
        if wanted.min_score is not None and found.risk_score < wanted.min_score:
            return False
        if wanted.rule is not None and all(rule.id != wanted.rule for rule in found.rules_fired):
            return False
        if since is None and until is None:
            return True
        at = datetime.fromisoformat(found.timestamp)
        return (since is None or at >= _utc(since)) and (until is None or at < _utc(until))

    return holds


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def listed(made: Made) -> Listed:
    """A decision with what its record says."""
    return Listed(
        made.decision,
        iso(made.timestamp),
        made.latency_ms,
        made.worker,
        made.partition,
        made.offset,
    )


async def feed_started(feed: DecisionFeed) -> None:
    """Return once decisions are followed.

    Raises
    ------
    RefusedError
        503, if that takes too long.
    """
    try:
        async with asyncio.timeout(START_SECONDS):
            await feed.started()
    except TimeoutError:
        raise RefusedError(
            problem(503, "the decisions can not be followed now", headers={"Retry-After": "2"})
        ) from None


class _Views:
    """Answers about decisions.

    Parameters
    ----------
    feed : DecisionFeed
    scorer : Scorer
        Knows where a decision may be.
    """

    def __init__(self, feed: DecisionFeed, scorer: Scorer) -> None:
        self._feed = feed
        self._scorer = scorer
        self._streams = 0

    async def one(self, call: Call) -> web.Response:
        """The decision of a transaction, as on the topic."""
        await feed_started(self._feed)
        transaction, user, moment = call.path("transaction_id"), call.query.user_id, None
        if call.query.timestamp is not None:
            try:
                moment = timestamp_ms(call.query.timestamp)
            except InvalidRecordError as exc:
                return problem(400, exc.detail, field="timestamp")
        made = None
        with suppress(TimeoutError):
            async with asyncio.timeout(FIND_SECONDS):
                made = await self._scorer.find(user, transaction, moment)
        if made is not None:
            return web.Response(body=mask(made.payload, call), content_type="application/json")
        return problem(
            404,
            f"no decision of the transaction {transaction!r} of {user!r} is known; it may not "
            "have been made yet, or too long ago",
        )

    async def latest(self, call: Call) -> web.Response:
        """The latest that meet a filter."""
        await feed_started(self._feed)
        query: DecisionQuery = call.query
        found = await self._feed.search(query.limit, matches(query), query.user_id)
        remembered, reach = self._feed.reach
        back_to = None if reach is None else iso(reach)
        document = DecisionList([listed(made) for made in found], remembered, back_to)
        return answer(mask(document, call))

    async def stream(self, call: Call) -> web.StreamResponse:
        """Those to come, as server-sent events."""
        await feed_started(self._feed)
        if self._streams >= MOST_STREAMS:
            return problem(
                503, f"{MOST_STREAMS} streams are open already", headers={"Retry-After": "30"}
            )
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        self._streams += 1
        try:
            with self._feed.subscribe() as subscription:
                await response.prepare(call.request)
                if call.request.method == "HEAD":
                    return response
                await response.write(b"retry: 2000\n\n")
                async with (
                    asyncio.timeout(STREAM_SECONDS),
                    aclosing(_events(subscription, matches(call.query), call)) as events,
                ):
                    async for event in events:
                        await response.write(event)
        except (ConnectionError, TimeoutError):
            pass  # the reader has gone, or is to ask again
        finally:
            self._streams -= 1
        return response


async def _events(
    subscription: Subscription, wanted: Callable[[Made], bool], call: Call
) -> AsyncGenerator[bytes, None]:
    """Events until the subscription ends; comments while nothing happens."""
    lost = 0
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                batch = await anext(subscription)
        except TimeoutError:
            yield b": nothing new\n\n"
            continue
        except StopAsyncIteration:
            return
        if subscription.lost > lost:
            yield b'event: lost\ndata: {"decisions":%d}\n\n' % (subscription.lost - lost)
            lost = subscription.lost
        chosen = [made for made in batch if wanted(made)]
        if chosen:
            yield b"".join(_event(made, call) for made in chosen)


def _event(made: Made, call: Call) -> bytes:
    document = msgspec.json.encode(mask(listed(made), call))
    return b"id: %d-%d\nevent: decision\ndata: %b\n\n" % (made.partition, made.offset, document)


def decision_endpoints(feed: DecisionFeed, scorer: Scorer) -> list[Endpoint]:
    """Views of decisions."""
    views = _Views(feed, scorer)
    common: dict[str, Any] = {"method": "GET", "tag": "decisions", "permission": Permission.READ}
    unavailable = {503: "The decisions can not be followed now; to be tried again."}
    return [
        Endpoint(
            path="/v1/decisions",
            name="list_decisions",
            summary="The latest decisions, newest first, as far as the worker remembers",
            handler=views.latest,
            query=DecisionQuery,
            returns=DecisionList,
            problems=unavailable,
            **common,
        ),
        Endpoint(
            path="/v1/decisions/stream",
            name="stream_decisions",
            summary="Decisions as they are made, as server-sent events",
            handler=views.stream,
            query=StreamQuery,
            media="text/event-stream",
            problems=unavailable,
            **common,
        ),
        Endpoint(
            path="/v1/decisions/{transaction_id}",
            name="get_decision",
            summary="The decision of a transaction",
            handler=views.one,
            query=ById,
            returns=Decision,
            problems={404: "None is known."} | unavailable,
            **common,
        ),
    ]
