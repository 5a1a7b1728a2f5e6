"""The console of a worker, put together from the worker's parts."""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec
from aiohttp import web

from dafu.agents.assembly import Agents
from dafu.schema import Label
from dafu.settings import Settings
from dafu.tables.inspect import describe_merchant, describe_user
from dafu.web.audit_topic import AuditTopic
from dafu.web.auth.auth import Auth
from dafu.web.console.decisions import DecisionPages
from dafu.web.console.entities import EntityPages
from dafu.web.console.framing import frame
from dafu.web.console.lists import ListPages
from dafu.web.console.models import ModelPages
from dafu.web.console.operations import OperationPages
from dafu.web.console.overview import Lately, OverviewPages
from dafu.web.console.pages import Pages, console_endpoints
from dafu.web.console.rings import RingPages
from dafu.web.console.rules import RulePages
from dafu.web.console.search import SearchPage
from dafu.web.console.signing import SigningPages
from dafu.web.control import ControlDesk
from dafu.web.decisions.assembly import Decisions
from dafu.web.endpoints import Call, Endpoint
from dafu.web.entities import Entities
from dafu.web.forwarding import Forwarder
from dafu.web.judging import PerformanceDesk
from dafu.web.rings import RingSource
from dafu.web.status import Reporter

__all__ = ["Parts", "add_console"]


class Parts(NamedTuple):
    """What of the worker's HTTP face the console is made of."""

    reporter: Reporter
    forwarder: Forwarder
    decisions: Decisions
    rings: RingSource | None
    desk: ControlDesk
    judging: PerformanceDesk
    auth: Auth
    audit: AuditTopic


def add_console(
    application: web.Application, agents: Agents, settings: Settings, parts: Parts
) -> list[Endpoint]:
    """Have an application answer in pages, and give the pages' endpoints."""
    frame(application)
    reporter, forwarder, feed = parts.reporter, parts.forwarder, parts.decisions.feed
    lately = Lately(feed)
    application.on_shutdown.append(lately.close)

    async def publish_label(call: Call, user_id: str, transaction_id: str, fraud: bool) -> None:
        label = Label(transaction_id, user_id, fraud, "analyst", time.time_ns() // 1_000_000)
        await parts.decisions.publisher.publish(
            settings.topics.labels, user_id.encode(), msgspec.json.encode(label)
        )
        details = {"user_id": user_id, "is_fraud": fraud}
        await parts.auth.audit.record(call, "label", transaction_id, details)

    users = Entities("user", agents.users.table, describe_user, reporter, forwarder)
    table = agents.merchants.table
    merchants = Entities("merchant", table, describe_merchant, reporter, forwarder)
    models = ModelPages(parts.desk, parts.judging, feed, reporter)
    return console_endpoints(
        Pages(
            decisions=DecisionPages(feed, publish_label),
            overview=OverviewPages(lately, reporter),
            entities=EntityPages(users, merchants, feed),
            rings=RingPages(parts.rings),
            rules=RulePages(parts.desk, lately, agents.merchants),
            models=models,
            lists=ListPages(parts.desk),
            operations=OperationPages(feed, parts.audit),
            signing=SigningPages(parts.auth),
            search=SearchPage(feed),
        )
    )
