"""What is remembered of a user or a merchant, by whichever worker remembers it."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from msgspec import Struct

from dafu.agents.assembly import Agents
from dafu.columns import ByteColumn
from dafu.partitioner import partitions_for
from dafu.tables.inspect import MerchantView, UserView, describe_merchant, describe_user
from dafu.tables.table import PackedTable
from dafu.tables.working_set import PartitionRecords
from dafu.web.availability import incomplete
from dafu.web.endpoints import Call, Endpoint
from dafu.web.forwarding import Forwarder, held_here, holders
from dafu.web.masking import mask
from dafu.web.principals import Permission
from dafu.web.problems import answer, problem
from dafu.web.status import Reporter

__all__ = ["Entities", "entity_endpoints"]

_Describe = Callable[[PartitionRecords, bytes], Struct | None]


class Entities:
    """Finds what is remembered of users or of merchants.

    Parameters
    ----------
    kind : str
        "user" or "merchant"; for messages.
    table : PackedTable
    describe : callable
        Partition and key to a view, None for an entity that the partition does not know.
    reporter, forwarder
        Of the worker.
    """

    def __init__(
        self,
        kind: str,
        table: PackedTable,
        describe: _Describe,
        reporter: Reporter,
        forwarder: Forwarder,
    ) -> None:
        self.kind = kind
        self.table = table
        self.describe = describe
        self.reporter = reporter
        self.forwarder = forwarder

    async def find(self, request: web.Request, entity: str) -> Struct | web.Response:
        """The view of an entity, or the response of who holds it, or why there is none."""
        if response := incomplete(self.reporter):
            return response
        app, changelog = self.reporter.app, self.table.changelog_topic_name
        here = held_here(app, changelog)
        key = entity.encode()
        # Producers may use another partitioner than Kafka's default: look everywhere here before
        # asking where that puts the key.
        for number in sorted(here.intersection(self.table.records.open_partitions())):
            view = self.describe(self.table.partition(number), key)
            if view is not None:
                return view
        workers = holders(app, changelog)
        if not workers:
            return problem(503, f"no worker has been assigned a partition of {changelog}")
        partition = int(partitions_for(ByteColumn.of([key]), max(workers) + 1)[0])
        if partition in here:
            return problem(404, f"{self.kind} {entity!r} was never seen", partition=partition)
        return await self.forwarder.forward(request, changelog, partition)


def entity_endpoints(agents: Agents, reporter: Reporter, forwarder: Forwarder) -> list[Endpoint]:
    """Views of users and merchants."""
    users = Entities("user", agents.users.table, describe_user, reporter, forwarder)
    merchants = Entities("merchant", agents.merchants.table, describe_merchant, reporter, forwarder)
    return [
        _endpoint(users, UserView, "what is remembered of a user"),
        _endpoint(merchants, MerchantView, "what is remembered of a merchant"),
    ]


def _endpoint(entities: Entities, view: type[Struct], summary: str) -> Endpoint:
    name = f"{entities.kind}_id"

    async def show(call: Call) -> web.Response:
        found = await entities.find(call.request, call.path(name))
        return found if isinstance(found, web.Response) else answer(mask(found, call))

    return Endpoint(
        method="GET",
        path=f"/v1/{entities.kind}s/{{{name}}}",
        name=f"get_{entities.kind}",
        summary=summary[0].upper() + summary[1:],
        tag="inspection",
        permission=Permission.READ,
        handler=show,
        returns=view,
        problems={
            404: f"The {entities.kind} was never seen.",
            421: "Another worker holds it, and this request came from one that does not.",
            503: "The state is being recovered, or whoever holds it does not answer.",
        },
    )
