"""Views of the fraud rings that are open: a list, one as JSON, one as a picture.

All links have one partition, so that one worker knows all rings; others ask that one.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from aiohttp import web
from msgspec import Meta, Struct

from dafu.agents.rings import RingsAgent
from dafu.rings.engine import RingEngine
from dafu.rings.picture import STYLE_SOURCE, draw
from dafu.rings.records import RingAlert
from dafu.rings.view import RingList, list_rings, show_ring
from dafu.web.availability import incomplete
from dafu.web.endpoints import Call, Endpoint
from dafu.web.forwarding import Forwarder, held_here
from dafu.web.masking import mask
from dafu.web.principals import Permission
from dafu.web.problems import answer, problem
from dafu.web.status import Reporter

__all__ = ["RingSource", "picture", "ring_endpoints"]

PARTITION: Final = 0
_SVG: Final = ".svg"


class RingQuery(Struct, frozen=True):
    """How many rings, and which."""

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100
    min_score: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0


class RingSource:
    """Where the rings are known: here or at another worker.

    Parameters
    ----------
    agent : RingsAgent
    reporter, forwarder
        Of the worker.
    """

    def __init__(self, agent: RingsAgent, reporter: Reporter, forwarder: Forwarder) -> None:
        self.agent = agent
        self.reporter = reporter
        self.forwarder = forwarder

    async def engine(self, request: web.Request) -> RingEngine | web.Response:
        """What knows the rings, or the response of who does, or why there is none."""
        if response := incomplete(self.reporter):
            return response
        table = self.agent.table
        changelog = table.changelog_topic_name
        if PARTITION not in held_here(self.reporter.app, changelog):
            return await self.forwarder.forward(request, changelog, PARTITION)
        return self.agent.stage.look(PARTITION, table.partition(PARTITION))

    async def ring(self, request: web.Request, ring_id: str) -> RingAlert | web.Response:
        """An open ring as it looks now, with members, evidence and reasons; likewise."""
        engine = await self.engine(request)
        if isinstance(engine, web.Response):
            return engine
        return show_ring(engine, ring_id) or problem(
            404, f"no ring {ring_id!r} is open; it may have ended or become part of another"
        )


def ring_endpoints(source: RingSource) -> list[Endpoint]:
    """A list of the open rings, and one of them, as a document or as a picture."""

    async def rings(call: Call) -> web.Response:
        engine = await source.engine(call.request)
        if isinstance(engine, web.Response):
            return engine
        return answer(list_rings(engine, call.query.limit, call.query.min_score))

    async def ring(call: Call) -> web.Response:
        name = call.path("ring_id")
        found = await source.ring(call.request, name.removesuffix(_SVG))
        if isinstance(found, web.Response):
            return found
        found = mask(found, call)
        return picture(found) if name.endswith(_SVG) else answer(found)

    common: dict[str, Any] = {"method": "GET", "tag": "rings", "permission": Permission.READ}
    elsewhere = {
        421: "Another worker holds the rings, and this request came from one that does not.",
        503: "The state is being recovered, or whoever holds it does not answer.",
    }
    return [
        Endpoint(
            path="/v1/rings",
            name="list_rings",
            summary="The fraud rings that are open, those with the highest score first",
            handler=rings,
            query=RingQuery,
            returns=RingList,
            problems=elsewhere,
            **common,
        ),
        Endpoint(
            path="/v1/rings/{ring_id}",
            name="get_ring",
            summary="An open ring as it looks now; with `.svg` behind its id, as a picture",
            handler=ring,
            returns=RingAlert,
            problems={404: "No such ring is open.", **elsewhere},
            **common,
        ),
    ]


def picture(ring: RingAlert) -> web.Response:
    """A ring as an SVG document that loads nothing and runs nothing."""
    policy = f"default-src 'none'; style-src {STYLE_SOURCE}; frame-ancestors 'none'"
    return web.Response(
        body=draw(ring).encode(),
        content_type="image/svg+xml",
        charset="utf-8",
        headers={"Content-Security-Policy": policy},
    )
