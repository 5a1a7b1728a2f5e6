"""Pages for those who run it: dead letters, and who changed what."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from aiohttp import web
from aiokafka.errors import KafkaError
from msgspec import Meta, Struct

from dafu.streaming.dead_letters import Origin
from dafu.web.audit_topic import AuditQuery, AuditTopic
from dafu.web.console.rendering import page
from dafu.web.decisions.decision_endpoints import feed_started
from dafu.web.decisions.feed import DecisionFeed
from dafu.web.endpoints import Call
from dafu.web.masking import mask, mask_payload
from dafu.web.problems import problem

__all__ = ["AuditFilter", "LetterQuery", "OperationPages"]

_SHOWN_CHARACTERS: Final = 2000
_ENTRIES: Final = 100


class LetterQuery(Struct, frozen=True):
    """How many dead letters, and of which reason."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    reason: Annotated[str, Meta(max_length=100)] = ""


class AuditFilter(Struct, frozen=True):
    """Whose entries, of which action, and before which offset; empty for all."""

    who: Annotated[str, Meta(max_length=200)] = ""
    action: Annotated[str, Meta(max_length=200)] = ""
    before: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class Letter(NamedTuple):
    """A dead letter as it is shown: its payload as text, cut to what one can read."""

    origin: Origin
    timestamp: int
    key: str
    payload: str
    size: int


class OperationPages:
    """The pages of dead letters and of the audit log.

    Parameters
    ----------
    feed : DecisionFeed
    audit : AuditTopic
    """

    def __init__(self, feed: DecisionFeed, audit: AuditTopic) -> None:
        self._feed = feed
        self._audit = audit

    async def dead_letters(self, call: Call) -> web.Response:
        """Records that were set aside."""
        await feed_started(self._feed)
        query = call.query
        every = self._feed.dead_letters(10_000)
        found = [x for x in every if query.reason in ("", x.origin.reason)][: query.limit]
        letters = [
            Letter(
                mask(x.origin, call),
                x.timestamp,
                _text(x.key),
                _text(None if x.value is None else mask_payload(x.value, call)),
                len(x.value or b""),
            )
            for x in found
        ]
        return page(
            call,
            "dead-letters.html",
            title="Dead letters",
            letters=letters,
            reasons=sorted({x.origin.reason for x in every}),
            query=query,
            remembered=len(every),
        )

    async def audit(self, call: Call) -> web.Response:
        """Who changed what, the latest first."""
        wanted = call.query
        query = AuditQuery(_ENTRIES, wanted.who or None, wanted.action or None, wanted.before)
        try:
            found = await self._audit.read(query)
        except (KafkaError, OSError, TimeoutError) as exc:
            why = str(exc) or type(exc).__name__
            headers = {"Retry-After": "5"}
            return problem(503, f"the topic can not be read now: {why}", headers=headers)
        return page(call, "audit.html", title="Audit", found=found, query=wanted)


def _text(raw: bytes | None) -> str:
    if raw is None:
        return ""
    text = raw[: 4 * _SHOWN_CHARACTERS].decode("utf-8", "replace")
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " ..."
