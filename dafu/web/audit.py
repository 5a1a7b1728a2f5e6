"""Who changed what, who signed in, and whom it was refused to: the topic `audit`.

One partition, one order. Entries are kept there before an answer says that something was done; what
merely happened, as a sign-in, is written behind the answer. An entry that can not be written goes
to the log as a whole, so that it is not lost. No secret is ever part of one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from dafu.web.endpoints import Call
from dafu.web.principals import Principal

__all__ = ["Audit", "AuditEntry", "Publish"]

logger = logging.getLogger(__name__)

WRITE_SECONDS: Final = 10.0
MOST_WAITING: Final = 1000
"""Entries that are written behind answers; of more, only the log gets to know."""

Outcome = Literal["done", "refused", "failed"]
Publish = Callable[[bytes, bytes], Awaitable[Any]]
"""Writes a key and a value to the topic, and returns once the broker has them."""


class AuditEntry(Struct, frozen=True):
    """One thing that somebody did, or tried to.

    `at` is ISO 8601 in UTC; `who`, `role` and `kind` are the caller's, empty if nobody knows;
    `address` is where the request came from, `worker` who wrote this.
    """

    at: str
    who: str
    role: str
    kind: str
    action: str
    target: str
    outcome: Outcome
    details: dict[str, Any]
    address: str
    worker: str


class Audit:
    """Writes entries.

    Parameters
    ----------
    publish : callable
    worker : str
        Its name.
    address_of : callable
        Where a request came from.
    clock : callable
        Epoch seconds.
    """

    def __init__(
        self,
        publish: Publish,
        *,
        worker: str,
        address_of: Callable[[web.BaseRequest], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.written = self.failed = 0
        self._publish = publish
        self._worker = worker
        self.address_of = address_of
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def record(
        self,
        call: Call,
        action: str,
        target: str,
        details: Mapping[str, Any] | None = None,
        *,
        outcome: Outcome = "done",
    ) -> None:
        """Write what a caller did, and return once it is kept.

        Parameters
        ----------
        call : Call
        action : str
            As in `label`, `rules.put`, `models.deploy`.
        target : str
            What it was done to.
        details : mapping, optional
            Of plain data, without anything secret.
        """
        entry = self._entry(call.request, call.principal, action, target, details, outcome)
        await self._write(entry)

    def note(
        self,
        request: web.BaseRequest,
        principal: Principal | None,
        action: str,
        target: str,
        details: Mapping[str, Any] | None = None,
        *,
        outcome: Outcome = "done",
        who: str = "",
    ) -> None:
        """Write what happened, behind the answer; `who` names somebody who is not known."""
        entry = self._entry(request, principal, action, target, details, outcome)
        if who and not entry.who:
            entry = msgspec.structs.replace(entry, who=who)
        if len(self._tasks) >= MOST_WAITING:
            self._lose(entry, "too many wait")
            return
        task = asyncio.get_running_loop().create_task(self._write(entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until everything noted so far is written or lost."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _entry(
        self,
        request: web.BaseRequest,
        principal: Principal | None,
        action: str,
        target: str,
        details: Mapping[str, Any] | None,
        outcome: Outcome,
    ) -> AuditEntry:
        at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        return AuditEntry(
            at=at.replace("+00:00", "Z"),
            who="" if principal is None else principal.name,
            role="" if principal is None else principal.role,
            kind="" if principal is None else principal.kind,
            action=action,
            target=target,
            outcome=outcome,
            details=dict(details or {}),
            address=self.address_of(request),
            worker=self._worker,
        )

    async def _write(self, entry: AuditEntry) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._publish(entry.who.encode(), msgspec.json.encode(entry))
            self.written += 1
        except Exception as exc:  # whatever it is, the entry must not be lost
            self._lose(entry, str(exc) or type(exc).__name__)

    def _lose(self, entry: AuditEntry, why: str) -> None:
        self.failed += 1
        logger.error(
            "an entry of the audit log could not be written (%s): %s",
            why,
            msgspec.json.encode(entry).decode(),
        )
