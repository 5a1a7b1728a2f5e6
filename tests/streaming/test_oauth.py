"""Tokens for brokers: from an endpoint as RFC 6749 has it, and from files."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiokafka.errors import KafkaConnectionError

from dafu.streaming import oauth
from dafu.streaming.oauth import TokenProvider, TokenSource, provider_of


class Endpoint:
    """A token endpoint that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answer: Any = None
        self.status = 200
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        login = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        self.asked.append((login, {k: str(v) for k, v in (await request.post()).items()}))
        if self.status == 302:
            raise web.HTTPFound(self.url)
        if isinstance(self.answer, str):
            return web.Response(text=self.answer, status=self.status)
        number = len(self.asked)
        answer = self.answer or {"access_token": f"token-{number}", "expires_in": 100}
        return web.json_response(answer, status=self.status)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint()
    app = web.Application()
    app.router.add_post("/token", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    yield made
    await runner.cleanup()


async def test_client_credentials_are_shown_and_a_scope_asked_for(endpoint: Endpoint) -> None:
    source = TokenSource(endpoint.url, "core:1", "s3 cret/+", "kafka", ("logicalCluster=lkc=1",))
    provider = TokenProvider(source)
    assert await provider.token() == "token-1"
    login = "core%3A1:s3+cret%2F%2B"
    assert endpoint.asked == [(login, {"grant_type": "client_credentials", "scope": "kafka"})]
    assert provider.extensions() == {"logicalCluster": "lkc=1"}
    await TokenProvider(TokenSource(endpoint.url, "a", "b")).token()
    assert endpoint.asked[1] == ("a:b", {"grant_type": "client_credentials"})


async def test_a_token_serves_until_most_of_its_time_is_over(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(oauth, "time", SimpleNamespace(monotonic=lambda: now))
    provider = TokenProvider(TokenSource(endpoint.url, "a", "b"))
    assert [await provider.token() for _ in range(3)] == ["token-1"] * 3
    now = 1079.9
    assert await provider.token() == "token-1"
    now = 1080.0
    assert await provider.token() == "token-2"
    endpoint.answer = {"access_token": "other", "expires_in": "30"}  # text, as some write it
    now = 1160.0
    assert await provider.token() == "other"
    now = 1183.9
    assert await provider.token() == "other"
    assert len(endpoint.asked) == 3
    endpoint.answer = {"access_token": "soon-over"}
    now = 1184.0
    assert [await provider.token() for _ in range(2)] == ["soon-over"] * 2
    assert len(endpoint.asked) == 5


@pytest.mark.parametrize(
    ("status", "answer", "why"),
    [
        (401, {"error": "invalid_client"}, r"401 Unauthorized: .*invalid_client"),
        (500, "sorry" * 1000, r"500 .*: (sorry){40}$"),
        (302, None, "302"),
        (200, {"token_type": "Bearer"}, "access_token"),
        (200, [1], "array"),
        (200, "nothing", "malformed"),
        (200, {"access_token": ""}, "it is empty"),
        (200, {"access_token": "a\x01auth=b"}, "no token has"),
    ],
)
async def test_it_is_said_why_there_is_no_token(
    endpoint: Endpoint, status: int, answer: Any, why: str
) -> None:
    endpoint.status, endpoint.answer = status, answer
    provider = TokenProvider(TokenSource(endpoint.url, "a", "hunter2"))
    with pytest.raises(KafkaConnectionError, match=why) as caught:
        await provider.token()
    assert endpoint.url in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert len(endpoint.asked) == 1, "a redirect is not followed"
    endpoint.status, endpoint.answer = 200, None
    assert await provider.token() == "token-2"


async def test_an_endpoint_that_is_away_or_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_: Any) -> None:
        await asyncio.sleep(60)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    monkeypatch.setattr(oauth, "TIMEOUT_SECONDS", 0.05)
    with pytest.raises(KafkaConnectionError, match=r"no token from .*imeout"):
        await TokenProvider(TokenSource(url, "a", "b")).token()
    server.close()
    with pytest.raises(KafkaConnectionError, match="no token from"):
        await TokenProvider(TokenSource("http://127.0.0.1:1/token", "a", "b")).token()


async def test_a_file_is_read_for_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "a token"
    file.write_text("one\n")
    provider = TokenProvider(TokenSource(file.as_uri()))
    assert await provider.token() == "one"
    file.write_text("two")
    assert await provider.token() == "two"
    for wrong in ("", "a b", "\N{SNOWMAN}"):
        file.write_text(wrong, encoding="utf-8")
        with pytest.raises(KafkaConnectionError, match="no token from file:"):
            await provider.token()
    file.unlink()
    with pytest.raises(KafkaConnectionError, match="No such file"):
        await provider.token()


def test_all_clients_of_a_process_share_a_token() -> None:
    source = TokenSource("https://login.example.com/token", "a", "b")
    assert provider_of(source) is provider_of(TokenSource(source.url, "a", "b"))
    assert provider_of(source) is not provider_of(TokenSource(source.url, "a", "c"))


def test_a_source_does_not_show_its_secret() -> None:
    assert "hunter2" not in repr(TokenSource("https://login.example.com/token", "a", "hunter2"))
