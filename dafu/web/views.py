"""The worker's HTTP views, on Faust's own web server.

==========================  ================================================================
``/v1/users/{id}``          what is remembered of a user
``/v1/merchants/{id}``      what is remembered of a merchant
``/v1/rings``               the fraud rings that are open
``/v1/rings/{id}``          one of them; with ``.svg`` behind it, as a picture
``/v1/status``              the worker: counters, versions, partitions, lag
``/v1/features``            the feature catalogue
``/health/live``            200 while the worker runs
``/health/ready``           200 while it should get traffic, else 503 with the reasons
==========================  ================================================================

All are for GET and HEAD. A worker knows the entities of its own partitions only; for others it
answers 421 and says which worker to ask. There is no authentication: whoever can connect can
read, and therefore the settings bind the server to the loopback interface by default.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web
from msgspec import Struct

from dafu.agents.assembly import Agents
from dafu.agents.rings import RingsAgent
from dafu.columns import ByteColumn
from dafu.features.catalogue import ALIASES, CATALOGUE_HASH, FEATURES
from dafu.partitioner import partitions_for
from dafu.tables.inspect import describe_merchant, describe_user
from dafu.tables.table import PackedTable
from dafu.tables.working_set import PartitionRecords
from dafu.web.holders import held_here, holders
from dafu.web.problems import answer, problem, protect
from dafu.web.progress import REFRESH_SECONDS
from dafu.web.rings import ring_list, ring_picture, ring_view
from dafu.web.status import Reporter

__all__ = ["register_views"]

_Describe = Callable[[PartitionRecords, bytes], Struct | None]
_Page = Callable[..., Awaitable[web.Response]]
_SVG: Final = ".svg"


def register_views(app: Any, agents: Agents, *, max_stall_s: float) -> Reporter:
    """Add the views to the app's web server; call it once, before the app starts.

    Parameters
    ----------
    app : dafu.app.App
    agents : Agents
        Their tables, stages and counters are what the views read.
    max_stall_s : float
        The worker is not ready if a committed offset has not moved for longer than this, in
        seconds, while there was something to read.

    Returns
    -------
    Reporter
        What status and health are read from.
    """
    reporter = Reporter(app, agents, max_stall_s=max_stall_s)
    app.timer(REFRESH_SECONDS, traced=False)(reporter.monitor.refresh)
    protect(app.web.web_app)

    def page(path: str, name: str) -> Callable[[_Page], Any]:
        add: Callable[[_Page], Any] = app.page(path, name=name)
        return add

    @page("/v1/users/{entity}", name="user")
    async def user(_view: Any, _request: web.Request, entity: str) -> web.Response:
        return _entity(reporter, agents.users.table, "user", entity, describe_user)

    @page("/v1/merchants/{entity}", name="merchant")
    async def merchant(_view: Any, _request: web.Request, entity: str) -> web.Response:
        return _entity(reporter, agents.merchants.table, "merchant", entity, describe_merchant)

    if agents.rings is not None:
        _add_rings(page, reporter, agents.rings)

    @page("/v1/status", name="status")
    async def status(_view: Any, _request: web.Request) -> web.Response:
        return answer(await reporter.status())

    @page("/v1/features", name="features")
    async def features(_view: Any, _request: web.Request) -> web.Response:
        return answer({"hash": CATALOGUE_HASH, "features": FEATURES, "aliases": ALIASES})

    @page("/health/live", name="live")
    async def live(_view: Any, _request: web.Request) -> web.Response:
        return _health("live", reporter.dead())

    @page("/health/ready", name="ready")
    async def ready(_view: Any, _request: web.Request) -> web.Response:
        return _health("ready", reporter.not_ready())

    return reporter


def _add_rings(
    page: Callable[[str, str], Callable[[_Page], Any]], reporter: Reporter, agent: RingsAgent
) -> None:
    table, stage = agent.table, agent.stage

    @page("/v1/rings", "rings")
    async def rings(_view: Any, request: web.Request) -> web.Response:
        return ring_list(reporter, table, stage, request)

    @page("/v1/rings/{ring}", "ring")
    async def ring(_view: Any, _request: web.Request, ring: str) -> web.Response:
        if ring.endswith(_SVG):
            return ring_picture(reporter, table, stage, ring.removesuffix(_SVG))
        return ring_view(reporter, table, stage, ring)


def _health(what: str, reasons: list[str]) -> web.Response:
    if reasons:
        return problem(503, f"not {what}: {'; '.join(reasons)}", reasons=reasons)
    return answer({"status": what})


def _entity(
    reporter: Reporter, table: PackedTable, kind: str, entity: str, describe: _Describe
) -> web.Response:
    """An entity's state, or why it is not to be had here."""
    if reasons := reporter.recovering():
        return problem(
            503,
            f"the state is not complete: {'; '.join(reasons)}",
            headers={"Retry-After": "2"},
            reasons=reasons,
        )
    changelog = table.changelog_topic_name
    here = held_here(reporter.app, changelog)
    key = entity.encode()
    # Producers may use another partitioner than Kafka's default: look everywhere before guessing.
    for number in sorted(here.intersection(table.records.open_partitions())):
        view = describe(table.partition(number), key)
        if view is not None:
            return answer(view)
    workers = holders(reporter.app, changelog)
    if not workers:
        return problem(503, f"no worker has been assigned a partition of {changelog}")
    partition = int(partitions_for(ByteColumn.of([key]), max(workers) + 1)[0])
    if partition in here:
        return problem(404, f"{kind} {entity!r} was never seen", partition=partition)
    url = workers.get(partition)
    members: dict[str, Any] = {}
    if url is None:
        where = "which no worker is known to hold"
    else:
        where = f"which {url} holds"
        location = f"{url.rstrip('/')}/v1/{kind}s/{quote(entity, safe='')}"
        members = {"worker": url, "location": location}
    return problem(
        421,
        f"{kind} {entity!r} is not held by this worker: by Kafka's default partitioner it belongs "
        f"to partition {partition}, {where}",
        partition=partition,
        **members,
    )
