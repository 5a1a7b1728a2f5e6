"""A request about what another worker holds, handed on to it over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientTimeout, web
from aiohttp.test_utils import TestClient, TestServer
from faust.types import TP

from dafu.web import audit, control, forwarding
from dafu.web.forwarding import FORWARDED, Forwarder
from tests.web.conftest import Worker

CHANGELOG = "users-changelog"


class Two:
    """A worker that holds partition 1, and one that does not and is asked."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.answer = web.Response(
            text='{"user_id":"a/b"}',
            content_type="application/json",
            headers={"Retry-After": "7", "X-Private": "stays there"},
        )
        self.bodies: list[bytes] = []
        self.thinks = 0.0
        holder = web.Application()
        holder.router.add_route("*", "/{rest:.*}", self._hold)
        self.holder = TestServer(holder)
        self.client: TestClient[Any, Any]

    async def _hold(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        self.bodies.append(await request.read())
        await asyncio.sleep(self.thinks)
        return self.answer

    async def start(self) -> None:
        await self.holder.start_server()
        url = str(self.holder.make_url("/"))
        app: Any = SimpleNamespace(
            conf=SimpleNamespace(canonical_url="http://me:6066"),
            assignor=SimpleNamespace(
                tables_metadata=lambda: {url: {CHANGELOG: [1]}}, external_topics_metadata=dict
            ),
        )
        asked, forwarder = web.Application(), Forwarder(app)

        async def forward(request: web.Request) -> web.Response:
            return await forwarder.forward(request, CHANGELOG, 1)

        asked.router.add_route("*", "/{rest:.*}", forward)
        asked.on_cleanup.append(forwarder.close)
        self.client = TestClient(TestServer(asked))
        await self.client.start_server()


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    pair = Two()
    await pair.start()
    try:
        yield pair
    finally:
        await pair.client.close()
        await pair.holder.close()


async def test_path_query_and_credentials_go_on_as_they_came(two: Two) -> None:
    response = await two.client.get(
        "/v1/users/a%2Fb?limit=3&q=%C3%BC",
        headers={"Authorization": "Bearer k", "Cookie": "s=1", "X-Other": "not this"},
    )
    assert (response.status, await response.json()) == (200, {"user_id": "a/b"})
    assert response.headers["Retry-After"] == "7"
    assert "X-Private" not in response.headers
    (request,) = two.seen
    assert request.raw_path == "/v1/users/a%2Fb?limit=3&q=%C3%BC"
    assert request.headers["Authorization"] == "Bearer k"
    assert request.headers["Cookie"] == "s=1"
    assert "X-Other" not in request.headers
    assert request.headers[FORWARDED] == "http://me:6066"


async def test_bodies_go_on_and_statuses_come_back(two: Two) -> None:
    two.answer = web.Response(status=409, text="taken")
    response = await two.client.post("/v1/score", data=b'{"a":1}')
    assert (response.status, await response.text()) == (409, "taken")
    assert two.bodies == [b'{"a":1}']


async def test_pages_come_back_with_their_policy_and_where_they_lead(two: Two) -> None:
    headers = {
        "Location": "/console/rules?done=large",
        "Content-Security-Policy": "default-src 'none'",
        "Referrer-Policy": "same-origin",
    }
    two.answer = web.Response(status=303, headers=headers)
    form = {"mode": "shadow", "why": "to see"}
    path = "/console/rules/large/mode"
    response = await two.client.post(path, data=form, allow_redirects=False)
    assert response.status == 303
    assert {name: response.headers[name] for name in headers} == headers
    assert two.bodies == [b"mode=shadow&why=to+see"]


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("PUT", "/v1/rules", {"rules": {"rules": []}, "why": "to see"}),
        ("POST", "/v1/lists", {"entries": [{"list": "deny", "kind": "user", "value": "u"}]}),
        ("POST", "/v1/models/rollback", {"level": "scoring", "why": "to see"}),
    ],
)
async def test_changes_go_on_whole_to_whoever_holds_the_registry(
    two: Two, worker: Worker, monkeypatch: pytest.MonkeyPatch, method: str, path: str, document: Any
) -> None:
    registry = worker.agents.control.table.changelog_topic_name
    held = {str(two.holder.make_url("/")): {registry: [0]}}
    monkeypatch.setattr(worker.app.assignor, "tables_metadata", lambda: held)
    answer = await worker.ask(path, method, document=document)
    assert (answer.status, answer.body) == (200, b'{"user_id":"a/b"}')
    assert [json.loads(body) for body in two.bodies] == [document]


async def test_a_trial_of_rules_is_asked_of_who_decides(
    two: Two, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"rules": {"version": 1, "rules": []}}
    merchants = worker.agents.merchants.table.changelog_topic_name
    # The leader keeps no merchants either, and takes their changelog for another topic.
    held = {str(two.holder.make_url("/")): {merchants: [2, 1]}}
    monkeypatch.setattr(worker.app.assignor, "tables_metadata", dict)
    monkeypatch.setattr(worker.app.assignor, "external_topics_metadata", lambda: held)
    monkeypatch.setattr(worker.app.assignor, "assigned_actives", set)
    answer = await worker.ask("/v1/rules/test", "POST", document=document)
    assert (answer.status, answer.body) == (200, b'{"user_id":"a/b"}')
    assert [json.loads(body) for body in two.bodies] == [document]
    monkeypatch.setattr(worker.app.assignor, "assigned_actives", lambda: {TP(merchants, 0)})
    await worker.ask("/v1/rules/test", "POST", document=document)
    assert len(two.bodies) == 1, "the one asked decides as well"


async def test_nothing_is_handed_on_twice(two: Two) -> None:
    response = await two.client.get("/v1/users/u", headers={FORWARDED: "http://you"})
    assert response.status == 421
    assert two.seen == []


async def test_a_holder_that_is_gone(two: Two) -> None:
    await two.holder.close()
    response = await two.client.get("/v1/users/u")
    assert response.status == 503
    assert response.headers["Retry-After"] == "2"
    assert "does not answer" in (await response.json())["detail"]


async def test_a_change_is_waited_for_as_long_as_it_may_take(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert forwarding.CHANGE_SECONDS > control.SECONDS + audit.WRITE_SECONDS
    monkeypatch.setattr(forwarding, "_TO_READ", ClientTimeout(total=0.05))
    two.thinks = 0.3
    async with two.client.get("/v1/models") as response:
        assert response.status == 503
    for method in ("POST", "PUT", "DELETE"):
        two.answer = web.Response()
        async with two.client.request(method, "/v1/models") as response:
            assert response.status == 200
