"""Views of rings over HTTP: what is answered, by whom, and under which headers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from faust.types import TP

from dafu.rings.picture import STYLE_SOURCE
from dafu.rings.view import RingSummary
from dafu.stages.rings import RingStage
from dafu.web.endpoints import install
from dafu.web.forwarding import FORWARDED, Forwarder
from dafu.web.problems import protect
from dafu.web.rings import RingSource, ring_endpoints
from tests.stages.test_ring_pipeline import USERS, farm, history, run, stages
from tests.web.conftest import OTHER
from tests.web.gates import OneGate

CHANGELOG = "views-rings-changelog"


class Site(NamedTuple):
    """The views behind a server, and what the consumer group agreed on."""

    client: TestClient[Any, Any]
    group: dict[str, list[int]]
    reasons: list[str]

    async def get(self, path: str, **headers: str) -> tuple[web.Response, Any]:
        response = await self.client.get(path, headers=headers)
        kind = response.content_type
        body = await (response.json() if kind.endswith("json") else response.text())
        return response, body  # type: ignore[return-value]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A worker that has found one ring, and was started again since: state is in the table."""
    pipeline = stages()
    run(pipeline, history())
    run(pipeline, farm(0, 0.0))
    group, reasons = {"http://me": [0]}, list[str]()
    assignor = SimpleNamespace(
        assigned_actives=lambda: {TP(CHANGELOG, n) for n in group.get("http://me", [])},
        tables_metadata=lambda: {url: {CHANGELOG: numbers} for url, numbers in group.items()},
        external_topics_metadata=dict,
    )
    reporter: Any = SimpleNamespace(
        app=SimpleNamespace(assignor=assignor, conf=SimpleNamespace(canonical_url="http://me")),
        recovering=lambda: reasons,
    )
    table: Any = SimpleNamespace(
        changelog_topic_name=CHANGELOG, partition=lambda _: pipeline.ring_records
    )
    agent: Any = SimpleNamespace(table=table, stage=RingStage())
    app = web.Application()
    forwarder = Forwarder(reporter.app)
    app.on_cleanup.append(forwarder.close)
    install(app, ring_endpoints(RingSource(agent, reporter, forwarder)), OneGate())
    protect(app)
    async with TestClient(TestServer(app), headers={"X-API-Key": "admin"}) as client:
        yield Site(client, group, reasons)


async def test_a_ring_is_listed_shown_and_drawn(site: Site) -> None:
    _, listed = await site.get("/v1/rings")
    assert listed["open"] == 1
    (ring,) = listed["rings"]
    assert set(ring) == set(RingSummary.__struct_fields__)
    response, shown = await site.get(f"/v1/rings/{ring['ring_id']}")
    assert response.status == 200
    assert {member["user_id"] for member in shown["members"]} == set(USERS)
    assert {item["value"] for item in shown["evidence"]} == {"dev-1", "198.18.0.9"}
    response, svg = await site.get(f"/v1/rings/{ring['ring_id']}.svg")
    assert (response.status, response.content_type) == (200, "image/svg+xml")
    assert all(user in "".join(ET.fromstring(svg).itertext()) for user in USERS)


async def test_a_picture_may_use_its_own_style_and_nothing_else(site: Site) -> None:
    _, listed = await site.get("/v1/rings")
    response, _ = await site.get(f"/v1/rings/{listed['rings'][0]['ring_id']}.svg")
    policy = response.headers["Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src {STYLE_SOURCE}; frame-ancestors 'none'"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    response, _ = await site.get("/v1/rings")
    assert "style-src" not in response.headers["Content-Security-Policy"]


async def test_queries_choose_and_are_checked(site: Site) -> None:
    _, listed = await site.get("/v1/rings?min_score=1")
    assert (listed["open"], listed["rings"]) == (1, [])
    for query in ("limit=0", "limit=x", "min_score=2", "min_score=nan", "limit=99999"):
        response, document = await site.get(f"/v1/rings?{query}")
        assert (response.status, response.content_type) == (400, "application/problem+json")
        assert document["field"] == query.partition("=")[0]


async def test_rings_that_are_not_open(site: Site) -> None:
    for path in ("/v1/rings/ring-none", "/v1/rings/ring-none.svg"):
        response, document = await site.get(path)
        assert response.status == 404
        assert "no ring 'ring-none' is open" in document["detail"]


async def test_others_ask_the_one_who_knows(site: Site) -> None:
    site.group.clear()
    site.group[OTHER] = [0]
    for path in ("/v1/rings", "/v1/rings/r1", "/v1/rings/r1.svg"):
        response, document = await site.get(path)
        assert (response.status, document["worker"]) == (503, OTHER)
        response, document = await site.get(path, **{FORWARDED: "http://you"})
        assert (response.status, document["worker"]) == (421, OTHER)
    site.group.clear()
    response, document = await site.get("/v1/rings")
    assert response.status == 503
    assert "no worker is known to hold partition 0" in document["detail"]


async def test_nothing_is_said_while_the_state_is_incomplete(site: Site) -> None:
    site.reasons.append("the tables are being recovered from their changelogs")
    response, document = await site.get("/v1/rings")
    assert response.status == 503
    assert response.headers["Retry-After"] == "2"
    assert "being recovered" in document["detail"]
