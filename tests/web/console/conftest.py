"""The console of a worker without a broker: tests fill its feed and keep what it publishes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from yarl import URL

from dafu.agents.control import ControlAgent
from dafu.lists import ListEntry
from dafu.registry import Event, Registry
from dafu.rings.engine import RingEngine
from dafu.stages.rings import RingStage
from dafu.streaming.dead_letters import Origin
from dafu.web.control import ControlDesk
from dafu.web.decisions import assembly
from dafu.web.decisions.feed import DeadLetter, DecisionFeed
from dafu.web.decisions.memory import Made
from dafu.web.decisions.publishing import Place, Publisher
from dafu.web.endpoints import Call
from dafu.web.rings import RingSource
from tests.asking import ADMIN_KEY
from tests.stages.test_ring_pipeline import farm, history, run, stages
from tests.web.conftest import PARTITIONS, Worker
from tests.web.decisions.documents import hashes

HOSTILE = "<script>alert('x')</script>\"&\u202ereversed\u2066"
"""An id or a reason of somebody who means no good: markup, quotes, marks of direction."""


class Feed(DecisionFeed):
    """A feed that hears from tests and not from a broker."""

    async def started(self) -> None:
        """It has."""

    def tell(self, *decisions: Made) -> None:
        """Decisions were published."""
        users = [one.decision.user_id for one in decisions]
        self._remember(list(decisions), np.asarray(hashes(*users)))
        for subscriber in self._subscribers:
            subscriber.offer(list(decisions))

    def set_aside(self, key: bytes | None, value: bytes | None, detail: str = "no amount") -> None:
        """A record became a dead letter."""
        origin = Origin("invalid_field", detail, "transactions", 1, 7, 5)
        self._letters.append(DeadLetter(key, value, origin, 0, 0, 1_700_000_000_000))


class Page:
    """A page that was asked for."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = body.decode()

    @property
    def words(self) -> str:
        """What one can read, with single blanks."""
        reader = _Words()
        reader.feed(self.text)
        return re.sub(r"\s+", " ", " ".join(reader.found)).strip()


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


class Console:
    """A browser, as far as tests need one, and what it looks at."""

    def __init__(self, worker: Worker, feed: Feed) -> None:
        self.worker = worker
        self.feed = feed
        self.published: list[tuple[str, bytes, bytes]] = []
        self.entries: list[ListEntry] = []
        self.registry = Registry()
        self.asked: list[Event] = []
        self.refusal: web.Response | None = None
        jar = aiohttp.CookieJar(unsafe=True)  # of an address and not a name
        self.session = aiohttp.ClientSession(cookie_jar=jar)

    async def get(self, path: str, **headers: str) -> Page:
        """A page, without following where it leads."""
        return await self._ask("GET", path, None, headers)

    async def post(self, path: str, form: dict[str, str] | bytes, **headers: str) -> Page:
        """Post a form."""
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        return await self._ask("POST", path, body, headers)

    async def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Page:
        url = URL(self.worker.base + path, encoded=True)
        headers = {"Accept": "text/html", **headers}
        async with self.session.request(
            method, url, data=body, headers=headers, allow_redirects=False
        ) as response:
            return Page(response, await response.read())

    async def sign_in(self, key: str = ADMIN_KEY) -> None:
        """Begin a session."""
        page = await self.post("/console/sign-in", {"key": key})
        assert page.status == 303, page.words

    async def csrf(self) -> str:
        """The session's token, as pages have it."""
        page = await self.get("/console/")
        found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert found is not None
        return found[1]


def ring_engine() -> RingEngine:
    """What knows one ring."""
    pipeline = stages()
    run(pipeline, history())
    run(pipeline, farm(0, 0.0))
    return RingStage().look(0, pipeline.ring_records)


@pytest.fixture
async def console(
    app_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Console]:
    """The console of a worker that holds everything; nobody has signed in."""
    feeds: list[Feed] = []

    def new_feed(settings: Any, _sender: Any) -> Feed:
        feeds.append(Feed(settings))
        return feeds[-1]

    monkeypatch.setattr(assembly, "DecisionFeed", new_feed)
    worker = Worker(app_class, tmp_path, "memory")
    await worker.start()
    worker.assign({worker.base: range(PARTITIONS)})
    worker.recover()
    console = Console(worker, feeds[0])
    engine = ring_engine()

    async def look(*_: object) -> RingEngine:
        return engine

    async def here(*_: object) -> int:
        return 0

    async def ask(_: ControlDesk, __: Call, event: Event, ___: str) -> web.Response | None:
        console.asked.append(event)
        return console.refusal

    async def publish(_: Publisher, topic: str, key: bytes, value: bytes) -> Place:
        console.published.append((topic, key, value))
        return Place(topic, 0, len(console.published) - 1)

    monkeypatch.setattr(RingSource, "engine", look)
    monkeypatch.setattr(ControlDesk, "here", here)
    monkeypatch.setattr(ControlDesk, "ask", ask)
    monkeypatch.setattr(ControlAgent, "registry", lambda *_: console.registry)
    monkeypatch.setattr(ControlAgent, "entries", lambda *_: {e.key: e for e in console.entries})
    monkeypatch.setattr(Publisher, "publish", publish)
    try:
        yield console
    finally:
        await console.session.close()
        await worker.stop()
