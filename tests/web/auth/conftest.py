"""A server with the gate before a few endpoints, and clocks that tests set."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from dafu.settings import Access, Settings, Web
from dafu.web.auth.auth import Auth
from dafu.web.auth.endpoints import auth_endpoints
from dafu.web.auth.gate import AuthGate
from dafu.web.auth.passwords import hash_password
from dafu.web.auth.provider import Provider
from dafu.web.auth.records import AuthRecords, ClientRecord, KeyRecord, UserRecord, digest
from dafu.web.endpoints import Call, Endpoint, install
from dafu.web.principals import Permission
from dafu.web.problems import answer, protect
from dafu.web.rates import MemoryRates
from dafu.web.reading import read_bytes
from dafu.web.surroundings import surround

ADMIN_KEY = "an-administrators-key-for-tests-" + "0" * 8
KEY, SECRET, PASSWORD = "dafu_of-a-viewer", "dafusecret_of-a-shop", "correct horse battery"


class Label(msgspec.Struct):
    text: str


class Site:
    """The server, what it noted, and the time.

    It begins at the machine's time, the only clock that the library that reads tokens has: a word
    of another worker is good for seconds.
    """

    def __init__(self, directory: Path, provider: Provider | None, **web_settings: Any) -> None:
        self.now = float(int(time.time()))
        self.audited: list[dict[str, Any]] = []
        access = Access(file=directory / "auth" / "auth.yaml")
        limits = {"reads_per_minute": 0, "changes_per_minute": 0, "sign_ins_per_minute": 0}
        web_settings = {"admin_key": ADMIN_KEY, **limits, **web_settings}
        self.settings = Settings(web=Web(**web_settings), auth=access)
        self.auth = Auth(self.settings, self._publish, worker="w1", clock=lambda: self.now)
        self.records(
            AuthRecords(
                keys=(KeyRecord("watcher", digest(KEY), "viewer"),),
                users=(UserRecord("ann", HASHED, "analyst"),),
                clients=(ClientRecord("shop", digest(SECRET), "engineer", (Permission.SCORE,)),),
            )
        )
        self.app = web.Application()
        protect(self.app)
        surround(self.app, self.settings.web, self.auth.words, self.auth.audit)
        gate = AuthGate(self.auth, MemoryRates(lambda: self.now), provider)
        install(self.app, [*auth_endpoints(self.auth), *_endpoints(self.auth)], gate, 5.0)
        self.client: TestClient[Any, Any] = TestClient(TestServer(self.app))

    async def _publish(self, _key: bytes, value: bytes) -> None:
        self.audited.append(json.loads(value))

    def records(self, records: AuthRecords) -> None:
        """Replace the file's records; the server knows at once."""
        self.auth.identities.file.change(lambda _: records)

    async def ask(self, path: str, method: str = "GET", **given: Any) -> tuple[int, Any]:
        """Status and document, or text."""
        async with self.client.request(method, path, **given) as response:
            text = await response.text()
            self.headers = response.headers
            return response.status, json.loads(text) if text[:1] in "{[" and text else text

    async def notes(self) -> list[dict[str, Any]]:
        """What the audit log got."""
        await self.auth.audit.settle()
        return self.audited

    async def signed_in(self, path: str = "/sign-in", **form: str) -> str:
        """Sign in as Ann, and her CSRF token."""
        form = form or {"user": "ann", "password": PASSWORD}
        status, token = await self.ask(path, "POST", data=form)
        assert status == 200, token
        status, document = await self.ask("/csrf")
        assert status == 200
        return str(document["csrf"])


HASHED = hash_password(PASSWORD)


def _endpoints(auth: Auth) -> list[Endpoint]:
    async def echo(call: Call) -> web.Response:
        return answer({"who": call.who, "body": call.body})

    async def csrf(call: Call) -> web.Response:
        assert call.principal is not None
        return answer({"csrf": call.principal.csrf, "kind": call.principal.kind})

    async def sign_in(call: Call) -> web.Response:
        form = await call.request.post()
        if "key" in form:
            token = await auth.sign_in_with_key(str(form["key"]), call.request)
        else:
            user, password = str(form["user"]), str(form["password"])
            token = await auth.sign_in(user, password, call.request)
        response = web.Response(text="in")
        auth.set_session(response, token)
        return response

    async def sign_out(call: Call) -> web.Response:
        response = web.Response(text="out")
        auth.sign_out(call, response)
        return response

    async def form(call: Call) -> web.Response:
        raw = await read_bytes(call.request, 1000)
        return answer({"form": dict(await call.request.post()), "raw": raw.decode()})

    def endpoint(method: Any, path: str, handler: Any, **more: Any) -> Endpoint:
        more = {"permission": Permission.READ, **more}
        return Endpoint(
            method=method,
            path=path,
            name=f"{method} {path}",
            summary="",
            tag="",
            handler=handler,
            **more,
        )

    return [
        endpoint("GET", "/open", echo, permission=None),
        endpoint("GET", "/health/live", echo, permission=None),
        endpoint("GET", "/read", echo),
        endpoint("GET", "/csrf", csrf),
        endpoint("POST", "/label", echo, permission=Permission.LABEL, body=Label),
        endpoint("POST", "/form", form, permission=Permission.LABEL),
        endpoint("GET", "/audit", echo, permission=Permission.AUDIT),
        endpoint("POST", "/sign-in", sign_in, permission=None, signs_in=True, page=True),
        endpoint("POST", "/sign-out", sign_out),
    ]


MakeSite = Callable[..., Any]


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[MakeSite]:
    """Starts servers with settings of a test's own."""
    sites: list[Site] = []

    async def make(provider: Provider | None = None, **web_settings: Any) -> Site:
        site = Site(tmp_path / str(len(sites)), provider, **web_settings)
        sites.append(site)
        await site.client.start_server()
        return site

    yield make
    for site in sites:
        await site.auth.audit.settle()
        await site.client.close()


@pytest.fixture
async def site(make_site: MakeSite) -> Site:
    """A server as the settings are by default, without limits."""
    found: Site = await make_site()
    return found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
