"""Pages of fraud rings: the open ones, and one with its picture, members and evidence."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from markupsafe import Markup
from msgspec import Meta, Struct

from dafu.rings.picture import draw
from dafu.rings.view import list_rings
from dafu.web.console.rendering import page
from dafu.web.endpoints import Call
from dafu.web.masking import mask
from dafu.web.problems import problem
from dafu.web.rings import RingSource

__all__ = ["RingPages", "RingsQuery"]


class RingsQuery(Struct, frozen=True):
    """Which rings, and how many of them."""

    min_score: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class RingPages:
    """The pages of rings.

    Parameters
    ----------
    source : RingSource or None
        None where nobody looks for rings.
    """

    def __init__(self, source: RingSource | None) -> None:
        self._source = source

    async def listed(self, call: Call) -> web.Response:
        """The rings that are open."""
        if self._source is None:
            return _nobody_looks()
        engine = await self._source.engine(call.request)
        if isinstance(engine, web.Response):
            return engine
        found = list_rings(engine, call.query.limit, call.query.min_score)
        return page(call, "rings.html", title="Fraud rings", found=found, query=call.query)

    async def one(self, call: Call) -> web.Response:
        """One ring."""
        if self._source is None:
            return _nobody_looks()
        found = await self._source.ring(call.request, call.path("ring_id"))
        if isinstance(found, web.Response):
            return found
        found = mask(found, call)
        picture = Markup(draw(found, styled=False))  # noqa: S704 - it escapes what it is given
        return page(call, "ring.html", title=f"Ring {found.ring_id}", ring=found, picture=picture)


def _nobody_looks() -> web.Response:
    return problem(404, "this worker does not look for fraud rings: see `rings.enabled`")
