"""Views of the fraud rings that are open: a list, one as JSON, one as a picture.

All links have one partition, so that one worker knows all rings; others answer 421 and say which
one to ask.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from aiohttp import web

from dafu.rings.engine import RingEngine
from dafu.rings.picture import STYLE_SOURCE, draw
from dafu.rings.view import list_rings, show_ring
from dafu.stages.rings import RingStage
from dafu.tables.table import PackedTable
from dafu.web.holders import held_here, holders
from dafu.web.problems import answer, problem
from dafu.web.status import Reporter

__all__ = ["ring_list", "ring_picture", "ring_view"]

PARTITION: Final = 0
MOST: Final = 100
"""Rings in a list unless `limit` asks for more or fewer."""

_LARGEST_LIMIT: Final = 10_000


def ring_list(
    reporter: Reporter, table: PackedTable, stage: RingStage, request: web.Request
) -> web.Response:
    """The open rings, those with the highest score first.

    Parameters
    ----------
    reporter, table, stage
        Of the worker: its state, the rings' table, the rings' stage.
    request
        Of its query, `limit` (1..10,000, by default 100) and `min_score` (0..1) count.
    """
    engine = _engine(reporter, table, stage, "")
    if isinstance(engine, web.Response):
        return engine
    try:
        limit = int(request.query.get("limit", MOST))
        least = float(request.query.get("min_score", 0.0))
    except ValueError:
        return problem(400, "limit and min_score are numbers, as in ?limit=20&min_score=0.8")
    if not 1 <= limit <= _LARGEST_LIMIT or not 0.0 <= least <= 1.0:
        return problem(
            400, f"limit is 1 to {_LARGEST_LIMIT} and min_score 0 to 1, not {limit} and {least}"
        )
    return answer(list_rings(engine, limit, least))


def ring_view(
    reporter: Reporter, table: PackedTable, stage: RingStage, ring_id: str
) -> web.Response:
    """An open ring as it looks now, with members, evidence and reasons."""
    engine = _engine(reporter, table, stage, f"/{quote(ring_id, safe='')}")
    if isinstance(engine, web.Response):
        return engine
    ring = show_ring(engine, ring_id)
    return _unknown(ring_id) if ring is None else answer(ring)


def ring_picture(
    reporter: Reporter, table: PackedTable, stage: RingStage, ring_id: str
) -> web.Response:
    """An open ring as it looks now, as an SVG document that loads nothing and runs nothing."""
    engine = _engine(reporter, table, stage, f"/{quote(ring_id, safe='')}.svg")
    if isinstance(engine, web.Response):
        return engine
    ring = show_ring(engine, ring_id)
    if ring is None:
        return _unknown(ring_id)
    policy = f"default-src 'none'; style-src {STYLE_SOURCE}; frame-ancestors 'none'"
    return web.Response(
        body=draw(ring).encode(),
        content_type="image/svg+xml",
        charset="utf-8",
        headers={"Content-Security-Policy": policy},
    )


def _unknown(ring_id: str) -> web.Response:
    return problem(404, f"no ring {ring_id!r} is open; it may have ended or become part of another")


def _engine(
    reporter: Reporter, table: PackedTable, stage: RingStage, path: str
) -> RingEngine | web.Response:
    """What knows the rings, or why it is not to be had here."""
    if reasons := reporter.recovering():
        return problem(
            503,
            f"the state is not complete: {'; '.join(reasons)}",
            headers={"Retry-After": "2"},
            reasons=reasons,
        )
    changelog = table.changelog_topic_name
    if PARTITION not in held_here(reporter.app, changelog):
        url = holders(reporter.app, changelog).get(PARTITION)
        if url is None:
            return problem(503, f"no worker has been assigned partition {PARTITION} of {changelog}")
        location = f"{url.rstrip('/')}/v1/rings{path}"
        return problem(
            421,
            f"rings are not held by this worker, but by {url}",
            worker=url,
            location=location,
        )
    return stage.look(PARTITION, table.partition(PARTITION))
