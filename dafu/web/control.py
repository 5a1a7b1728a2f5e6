"""Changes of models, rules and lists over HTTP: events on `control`, and what became of them.

Whoever asks is answered by the worker whose control agent holds the registry: it publishes the
event, waits until its own agent has dealt with it, and says what holds then. So a change that was
answered with 200 is in the log, in front of every transaction that is published afterwards.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any, Final

from aiohttp import web

from dafu.agents.control import ControlAgent
from dafu.columns import ByteColumn
from dafu.partitioner import partitions_for
from dafu.registry import CONTROL_KEY, Event, Registry, encode_event
from dafu.streaming.sender import SendError
from dafu.tables.table import PackedTable
from dafu.web.audit import Audit, Outcome
from dafu.web.availability import incomplete
from dafu.web.endpoints import Call
from dafu.web.forwarding import Forwarder, held_here, holders
from dafu.web.problems import answer, problem
from dafu.web.status import Reporter

__all__ = ["CHANGE_PROBLEMS", "ControlDesk"]

SECONDS: Final = 15.0
"""An event that nobody has dealt with by then is answered with 202."""

READ_PROBLEMS: Final = {
    421: "Another worker holds the registry, and this request came from one that does not.",
    503: "The state is being recovered, or whoever holds it does not answer.",
}
CHANGE_PROBLEMS: Final = {
    **READ_PROBLEMS,
    409: "What is asked for can not be, as things stand; nothing has changed.",
    422: "What is asked for is not sound; nothing has changed.",
}
_STATUS: Final = {"impossible_control_event": 409}


class ControlDesk:
    """Takes requests about models, rules and lists.

    Parameters
    ----------
    agent : ControlAgent
    topic : str
        The name of the topic `control`.
    reporter, forwarder, audit
        Of the worker.
    """

    def __init__(
        self,
        agent: ControlAgent,
        topic: str,
        reporter: Reporter,
        forwarder: Forwarder,
        audit: Audit,
    ) -> None:
        self.agent = agent
        self._audit = audit
        self._topic = topic
        self._reporter = reporter
        self._forwarder = forwarder

    async def here(self, request: web.Request) -> int | web.Response:
        """The partition of the registry if it is held here, else the response of who holds it."""
        if response := incomplete(self._reporter):
            return response
        app, changelog = self._reporter.app, self.agent.table.changelog_topic_name
        workers = holders(app, changelog)
        if not workers:
            return problem(503, f"no worker has been assigned a partition of {changelog}")
        partition = int(partitions_for(ByteColumn.of([CONTROL_KEY]), max(workers) + 1)[0])
        if partition not in held_here(app, changelog):
            return await self._forwarder.forward(request, changelog, partition)
        return partition

    async def registry(self, request: web.Request) -> Registry | web.Response:
        """What holds now, or the response of who knows."""
        partition = await self.here(request)
        if isinstance(partition, web.Response):
            return partition
        return self.agent.registry(partition)

    async def instead(self, request: web.Request, table: PackedTable) -> web.Response | None:
        """The answer of a worker that holds some of a table, None if this one does or none is."""
        app, changelog = self._reporter.app, table.changelog_topic_name
        workers = holders(app, changelog)
        if not workers or held_here(app, changelog):
            return None
        return await self._forwarder.forward(request, changelog, min(workers))

    async def ask(self, call: Call, event: Event, target: str) -> web.Response | None:
        """Publish an event and wait for what becomes of it; None once it was carried out.

        Only where `here` gave a partition. What came of it is written to the audit log, with the
        event but for what may be long; `target` says what it is about.
        """
        refused = await self._publish(event)
        details = {"event_id": event.event_id, "why": event.why}
        outcome: Outcome = "done"
        if refused is not None:
            outcome = "failed" if refused.status == 503 else "refused"
            details["status"] = str(refused.status)
        await self._audit.record(call, f"control.{event.action}", target, details, outcome=outcome)
        return refused

    async def _publish(self, event: Event) -> web.Response | None:
        sender = self.agent.sender()
        try:
            written = await sender.send(
                self._topic, ByteColumn.of([CONTROL_KEY]), ByteColumn.of([encode_event(event)])
            )
        except SendError as exc:
            return problem(503, f"the event could not be published: {exc}")
        ((_, at),) = written.items()
        try:
            async with asyncio.timeout(SECONDS):
                rejected = await self.agent.outcomes.get(at.last)
        except TimeoutError:
            return answer(
                {
                    "event_id": event.event_id,
                    "detail": "published, and nobody has dealt with it yet",
                },
                status=202,
            )
        if rejected is None:
            return None
        status = _STATUS.get(rejected.reason, 422)
        return problem(status, rejected.detail, reason=rejected.reason)


def signed(call: Call, why: str) -> dict[str, Any]:
    """The fields that every event has: a new id, who asks, why, and when."""
    return {
        "event_id": str(uuid.uuid4()),
        "by": call.who,
        "why": why,
        "at": time.time_ns() // 1_000_000,
    }
