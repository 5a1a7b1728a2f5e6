"""The topic `audit` itself: written by the worker's sender, read from its end."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Meta, Struct

from dafu.columns import ByteColumn
from dafu.settings import Settings
from dafu.streaming.offsets import end_offsets
from dafu.web.audit import AuditEntry
from dafu.web.endpoints import Call, Endpoint
from dafu.web.principals import Permission
from dafu.web.problems import answer, problem

__all__ = ["AuditPage", "AuditTopic", "audit_endpoints"]

_READ_SECONDS: Final = 10.0
_SCANNED: Final = 10_000
"""Entries that one request goes through, at most."""

_LONGEST: Final = 200
_Word = Annotated[str, Meta(min_length=1, max_length=_LONGEST)]


class AuditQuery(Struct, frozen=True):
    """Which entries: the latest ones, of somebody, of an action, before an offset."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    who: _Word | None = None
    action: _Word | None = None
    before: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class KeptEntry(Struct, frozen=True):
    """An entry and its offset in the topic."""

    offset: int
    entry: AuditEntry


class AuditPage(Struct, frozen=True):
    """Entries, newest first; `before` asks for those that come before them, null for none."""

    entries: list[KeptEntry]
    before: int | None


class AuditTopic:
    """Writes and reads the topic.

    Parameters
    ----------
    app : dafu.app.App
    settings : Settings
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._name = settings.topics.audit
        self._topic = app.bytes_topic(self._name)
        self._one = asyncio.Lock()

    async def publish(self, key: bytes, value: bytes) -> None:
        """Write a record, and return once the broker has it.

        Raises
        ------
        Exception
            Whatever keeps it from being written.
        """
        if not self._app.started:
            raise RuntimeError("the worker has not started")
        await self._topic.maybe_declare()
        columns = ByteColumn.of([key]), ByteColumn.of([value])
        await self._app.batch_sender().send(self._name, *columns, partition=0)

    async def read(self, query: AuditQuery) -> AuditPage:
        """The entries that a query asks for; requests wait for one another.

        Raises
        ------
        KafkaError, OSError, TimeoutError
            If the broker does not answer.
        """
        async with self._one, asyncio.timeout(_READ_SECONDS):
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._settings.bootstrap_servers,
                **self._settings.security.client_options(),
                enable_auto_commit=False,
                fetch_max_wait_ms=50,
            )
            await consumer.start()
            try:
                if self._name not in await consumer.topics():
                    return AuditPage([], None)
                return await _page(consumer, TopicPartition(self._name, 0), query)
            finally:
                await consumer.stop()


async def _page(consumer: AIOKafkaConsumer, tp: TopicPartition, query: AuditQuery) -> AuditPage:
    end = (await end_offsets(consumer, [tp]))[tp]
    begin = (await consumer.beginning_offsets([tp]))[tp]
    if query.before is not None:
        end = min(end, query.before)
    asked_for_all = query.who is None and query.action is None
    scanned = query.limit if asked_for_all else _SCANNED
    start = max(begin, end - scanned)
    found: list[KeptEntry] = []
    if start < end:
        consumer.assign([tp])
        consumer.seek(tp, start)
        while await consumer.position(tp) < end:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += [kept for r in records if r.offset < end and (kept := _kept(r, query))]
    cut = found[-query.limit :]
    reached = cut[0].offset if len(cut) < len(found) else start
    return AuditPage(cut[::-1], reached if reached > begin else None)


def _kept(record: Any, query: AuditQuery) -> KeptEntry | None:
    try:
        entry = msgspec.json.decode(record.value or b"", type=AuditEntry)
    except msgspec.DecodeError:
        return None  # somebody else wrote it
    if query.who not in (None, entry.who) or query.action not in (None, entry.action):
        return None
    return KeptEntry(record.offset, entry)


def audit_endpoints(topic: AuditTopic) -> list[Endpoint]:
    """`/v1/audit`."""

    async def entries(call: Call) -> web.Response:
        try:
            return answer(await topic.read(call.query))
        except (KafkaError, OSError, TimeoutError) as exc:
            why = str(exc) or type(exc).__name__
            headers = {"Retry-After": "5"}
            return problem(503, f"the topic can not be read now: {why}", headers=headers)

    return [
        Endpoint(
            method="GET",
            path="/v1/audit",
            name="list_audit",
            summary="Who changed what, who signed in, and whom it was refused to; newest first",
            tag="access",
            permission=Permission.AUDIT,
            handler=entries,
            query=AuditQuery,
            returns=AuditPage,
            problems={503: "The broker does not answer."},
        )
    ]
