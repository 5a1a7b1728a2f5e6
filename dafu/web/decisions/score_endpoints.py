"""`POST /v1/score` and its batch: a transaction in, its decision out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web

from dafu.schema import MAX_RECORD_BYTES, InvalidRecordError, Transaction, iso
from dafu.settings import Settings
from dafu.web.availability import incomplete
from dafu.web.decisions.asked import Asked
from dafu.web.decisions.documents import (
    MOST_ITEMS,
    Pending,
    ScoreBatch,
    Scored,
    ScoredBatch,
    ScoreQuery,
    fallback,
)
from dafu.web.decisions.feed import RejectedError
from dafu.web.decisions.scoring import BusyError, ConflictError, Scorer, UnavailableError
from dafu.web.endpoints import Call, Endpoint
from dafu.web.masking import mask
from dafu.web.principals import Permission
from dafu.web.problems import problem
from dafu.web.reading import explained
from dafu.web.status import Reporter

__all__ = ["read_asked", "refusal", "score_endpoints"]

_UNREADABLE: Final = {"empty": 400, "not_json": 400, "not_an_object": 400, "oversized": 413}
"""Status by reason of what is no transaction at all; other refusals are 422."""

_Kind = Literal["decision", "pending", "problem"]


class _Reply(NamedTuple):
    """An answer before it is known whether it stands alone or in a batch."""

    status: int
    kind: _Kind
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})

    def alone(self) -> web.Response:
        kind = "problem+json" if self.kind == "problem" else "json"
        return web.Response(
            body=self.body,
            status=self.status,
            content_type=f"application/{kind}",
            headers=self.headers,
        )

    def item(self) -> dict[str, Any]:
        return {"status": self.status, self.kind: msgspec.Raw(self.body)}


def refusal(exc: InvalidRecordError, within: str = "") -> web.Response:
    """Why a record is refused, with the field if one is to blame."""
    if exc.reason == "absurd_timestamp":  # its message begins with the field's name
        field = ".".join(part for part in (within, exc.detail.split(" ", 1)[0]) if part)
        return problem(422, exc.detail, field=field, reason=exc.reason)
    status = _UNREADABLE.get(exc.reason, 422)
    return explained(exc.detail, within, status, reason=exc.reason)


def read_asked(raw: bytes) -> Asked | web.Response:
    """A transaction, or why it is none."""
    try:
        return Asked.read(raw)
    except InvalidRecordError as exc:
        return refusal(exc)


class _Desk:
    """Answers for a scorer.

    Parameters
    ----------
    settings : Settings
    scorer : Scorer
    reporter : Reporter
    """

    def __init__(self, settings: Settings, scorer: Scorer, reporter: Reporter) -> None:
        self._timeout = settings.web.score_timeout_ms
        self._longest = settings.web.longest_wait_ms
        self._fallback = settings.web.score_fallback
        self._scorer = scorer
        self._reporter = reporter

    async def score(self, call: Call) -> web.Response:
        """One transaction."""
        begin = time.perf_counter()
        if response := incomplete(self._reporter):
            return response
        reply = await self._reply(call, call.body, begin)
        return reply.alone()

    async def score_batch(self, call: Call) -> web.Response:
        """Many, at the same time."""
        begin = time.perf_counter()
        if response := incomplete(self._reporter):
            return response
        raws = [bytes(raw) for raw in call.body.transactions]
        replies = await asyncio.gather(*(self._reply(call, raw, begin) for raw in raws))
        body = msgspec.json.encode({"results": [reply.item() for reply in replies]})
        return web.Response(body=body, content_type="application/json")

    async def _reply(self, call: Call, raw: bytes, begin: float) -> _Reply:
        asked = read_asked(raw)
        if isinstance(asked, web.Response):
            return _refused(asked)
        timeout = min(call.query.timeout_ms or self._timeout, self._longest)
        try:
            made = await self._scorer.score(asked, timeout / 1000)
        except ConflictError as exc:
            return _refused(problem(409, str(exc), field="transaction_id"))
        except RejectedError as exc:
            origin = exc.letter.origin
            return _refused(problem(422, origin.detail, reason=origin.reason))
        except (BusyError, UnavailableError) as exc:
            retry = {"Retry-After": "1"}
            return _refused(problem(503, str(exc), headers=retry))
        ms = round((time.perf_counter() - begin) * 1000, 3)
        if made is not None:
            return _Reply(200, "decision", _timed(mask(made.payload, call), ms))
        return self._undecided(asked, timeout, ms)

    def _undecided(self, asked: Asked, timeout: int, ms: float) -> _Reply:
        if self._fallback != "none":
            why = f"nobody had decided after {timeout} ms; the configured answer is given instead"
            at, merchant = iso(asked.timestamp), asked.transaction.merchant_id
            document = fallback(asked.key, merchant, at, self._fallback, ms, why)
            return _Reply(200, "decision", msgspec.json.encode(document))
        user, transaction = asked.key
        query = urlencode({"user_id": user, "timestamp": iso(asked.timestamp)})
        location = f"/v1/decisions/{quote(transaction, safe='')}?{query}"
        body = msgspec.json.encode(Pending(transaction, user, location))
        return _Reply(202, "pending", body, {"Location": location, "Retry-After": "1"})


def _refused(response: web.Response) -> _Reply:
    retry = {name: response.headers[name] for name in ("Retry-After",) if name in response.headers}
    body = response.body
    assert isinstance(body, bytes), "problems are made of bytes"
    return _Reply(response.status, "problem", body, retry)


def _timed(payload: bytes, ms: float) -> bytes:
    """A decision with the time it took, otherwise as it is on the topic."""
    return b'%b,"processing_time_ms":%b}' % (payload[:-1], msgspec.json.encode(ms))


def score_endpoints(settings: Settings, scorer: Scorer, reporter: Reporter) -> list[Endpoint]:
    """One transaction, or up to a thousand."""
    desk = _Desk(settings, scorer, reporter)
    refused = {
        400: "The body is no JSON object, or a parameter is not right.",
        409: "The id was used before for a transaction with another time, amount or merchant.",
        413: "It is too long.",
        415: "The body is not application/json.",
        422: "It is no valid transaction, or the engine set it aside.",
    }
    unavailable = {
        503: "The worker is not ready or has too much to do, or the broker has not acknowledged "
        "the transaction in time; to be tried again."
    }
    common: dict[str, Any] = {
        "method": "POST",
        "tag": "scoring",
        "permission": Permission.SCORE,
        "query": ScoreQuery,
    }
    return [
        Endpoint(
            path="/v1/score",
            name="score",
            summary="Have a transaction decided; 202 and where to look if that takes too long",
            handler=desk.score,
            body=Transaction,
            raw=True,
            max_bytes=MAX_RECORD_BYTES,
            returns=Scored,
            also={202: Pending},
            problems=refused | unavailable,
            **common,
        ),
        Endpoint(
            path="/v1/score/batch",
            name="score_batch",
            summary=f"Have up to {MOST_ITEMS:,} transactions decided, each by itself",
            handler=desk.score_batch,
            body=ScoreBatch,
            max_bytes=MOST_ITEMS * 4096,
            returns=ScoredBatch,
            problems={code: refused[code] for code in (400, 413, 415)} | unavailable,
            **common,
        ),
    ]
