"""Every endpoint of a worker against everybody who must not get in, and those who may.

The table is made from the declarations: an endpoint that is added is in it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from dafu.web.auth.gate import AuthGate
from dafu.web.auth.identities import Identities, subject_of
from dafu.web.auth.records import AuthRecords, KeyRecord, digest
from dafu.web.endpoints import ENDPOINTS, Call, Endpoint, install
from dafu.web.principals import ROLES, Permission
from dafu.web.problems import protect
from dafu.web.rates import MemoryRates
from dafu.web.surroundings import surround
from tests.asking import ADMIN_KEY
from tests.web.auth.forging import forgeries
from tests.web.conftest import Worker

OPEN = {
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("POST", "/oauth/token"),
    ("GET", "/console/sign-in"),
    ("POST", "/console/sign-in"),
    ("POST", "/console/sign-out"),
    ("GET", "/console/static/{digest}/{name}"),
}
"""All that is open to callers who show nothing; whoever adds to it says why.

Health is for load balancers and tells nothing else. Who asks for a token or signs in shows who he
is there; the page for that needs its style. Signing out ends the session that is brought, if any.
"""

KEYS = {f"key-of-{role}": role for role in ROLES}
REACHED = 299
NARROW, EXPIRED, DISABLED = "key-that-may-nothing", "key-that-expired", "key-that-is-disabled"


@pytest.fixture
async def door(unlimited: Worker) -> AsyncIterator[Worker]:
    """A worker with a key for each role, and some that are not good."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    records = AuthRecords(
        keys=(
            *(KeyRecord(role, digest(key), role) for key, role in KEYS.items()),
            KeyRecord("narrow", digest(NARROW), "admin", ()),
            KeyRecord("expired", digest(EXPIRED), "admin", expires=past),
            KeyRecord("disabled", digest(DISABLED), "admin", disabled=True),
        )
    )
    unlimited.app.auth.identities.file.create(records)
    yield unlimited
    await unlimited.app.auth.audit.settle()


def endpoints(worker: Worker) -> Iterator[Endpoint]:
    yield from worker.app.web.web_app[ENDPOINTS]


def at(endpoint: Endpoint) -> str:
    return re.sub(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", "x", endpoint.path)


class Caller:
    """Asks, and reads status, type and challenge alone."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base, self._session = base, session

    async def __call__(self, endpoint: Endpoint, **headers: str) -> tuple[int, Any]:
        url = URL(self._base + at(endpoint), encoded=True)
        async with self._session.request(
            endpoint.method, url, headers=headers, allow_redirects=False
        ) as response:
            return response.status, response.headers


@pytest.fixture
async def call(door: Worker) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Caller(door.base, session)


def refused(endpoint: Endpoint, status: int, headers: Any) -> bool:
    """401 with a challenge; a page may send people to where they sign in instead."""
    if status == 401:
        return "WWW-Authenticate" in headers
    return endpoint.page and status in (302, 303) and "sign-in" in headers["Location"]


async def test_what_is_open_is_listed(door: Worker) -> None:
    assert {(e.method, e.path) for e in endpoints(door) if e.permission is None} == OPEN


async def test_nobody_gets_in_without_showing_anything(door: Worker, call: Caller) -> None:
    asked = 0
    for endpoint in endpoints(door):
        if endpoint.permission is not None:
            status, headers = await call(endpoint)
            assert refused(endpoint, status, headers), (endpoint.name, status)
            asked += 1
    assert asked >= 10


def bad_credentials(identities: Identities) -> dict[str, dict[str, str]]:
    subject = subject_of(next(key for key in identities.file.records().keys if key.name == "admin"))
    found = {
        f"token: {what}": {"Authorization": f"Bearer {token}"}
        for what, token in forgeries(identities, subject).items()
    }
    for what, key in {
        "unknown": "dafu_unknown",
        "empty": "",
        "expired": EXPIRED,
        "disabled": DISABLED,
        "cut": ADMIN_KEY[:-1],
        "longer": ADMIN_KEY + "0",
        "other case": ADMIN_KEY.upper(),
        "a name": "admin",
        "a hash": digest(ADMIN_KEY),
    }.items():
        found[f"key: {what}"] = {"X-API-Key": key}
        found[f"bearer: {what}"] = {"Authorization": f"Bearer {key}"}
    found["basic"] = {"Authorization": "Basic YWRtaW46YWRtaW4="}
    found["the key without a scheme"] = {"Authorization": ADMIN_KEY}
    found["two credentials"] = {"Authorization": f"Bearer {ADMIN_KEY}", "X-API-Key": ADMIN_KEY}
    return found


async def test_nobody_gets_in_with_what_is_not_good(door: Worker, call: Caller) -> None:
    credentials = bad_credentials(door.app.auth.identities)
    for endpoint in endpoints(door):
        if endpoint.permission is None:
            continue
        for what, headers in credentials.items():
            status, answered = await call(endpoint, **headers)
            assert status == 401, (endpoint.name, what, status)
            assert "WWW-Authenticate" in answered


async def test_a_session_that_is_not_good_is_none(door: Worker, call: Caller) -> None:
    auth = door.app.auth
    subject = auth.identities.of_key("key-of-admin")
    name = auth.cookies.name
    for endpoint in endpoints(door):
        if endpoint.permission is None:
            continue
        sessions = {"an access token": auth.identities.token(subject), "nothing": "", "no": "a.b.c"}
        for what, session in sessions.items():
            status, headers = await call(endpoint, Cookie=f"{name}={session}")
            assert refused(endpoint, status, headers), (endpoint.name, what, status)


@pytest.fixture
async def reached(door: Worker) -> AsyncIterator[Caller]:
    """The same endpoints behind the same gate, each saying that it was reached and doing nothing.

    What they would do, some of it with a broker, is no part of who may.
    """

    async def reach(call: Call) -> web.Response:
        return web.Response(status=REACHED)

    auth = door.app.auth
    app = web.Application()
    protect(app)
    surround(app, auth.web, auth.words, auth.audit)
    plain = {"query": None, "body": None, "handler": reach}
    doubles = [dataclasses.replace(endpoint, **plain) for endpoint in endpoints(door)]  # type: ignore[arg-type]
    install(app, doubles, AuthGate(auth, MemoryRates()))
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        yield Caller(str(server.make_url("")).rstrip("/"), session)


async def test_roles_may_what_they_may_and_nothing_else(door: Worker, reached: Caller) -> None:
    counts = {REACHED: 0, 403: 0}
    for endpoint in endpoints(door):
        for key, role in KEYS.items():
            may = endpoint.permission is None or endpoint.permission in ROLES[role]
            expected = REACHED if may else 403
            status, _ = await reached(endpoint, **{"X-API-Key": key})
            assert status == expected, (endpoint.name, role, status)
            counts[expected] += 1
        status, _ = await reached(endpoint, **{"X-API-Key": NARROW})
        assert status == (REACHED if endpoint.permission is None else 403), endpoint.name
    assert min(counts.values()) > 10


async def test_a_session_changes_nothing_without_its_csrf_token(
    door: Worker, reached: Caller
) -> None:
    auth = door.app.auth
    session = auth.identities.session(auth.identities.of_key("key-of-admin"))
    cookie = f"{auth.cookies.name}={session}"
    _, csrf = auth.identities.of_session(session)
    changing = [e for e in endpoints(door) if e.method != "GET" and not e.signs_in]
    assert changing
    for endpoint in changing:
        for headers in (
            {},
            {"X-CSRF-Token": ""},
            {"X-CSRF-Token": csrf[:-1]},
            {"X-CSRF-Token": csrf, "Origin": "https://evil.example"},
            {"X-CSRF-Token": csrf, "Origin": "null"},
        ):
            status, _ = await reached(endpoint, Cookie=cookie, **headers)
            assert status == 403, (endpoint.name, headers, status)
        status, _ = await reached(endpoint, Cookie=cookie, **{"X-CSRF-Token": csrf})
        assert status == REACHED, endpoint.name


async def test_faust_serves_nothing_by_itself(door: Worker, call: Caller) -> None:
    key = {"Authorization": f"Bearer {ADMIN_KEY}"}
    for path in ("/", "/stats", "/stats/", "/table", "/table/", "/router", "/router/", "/graph",
                 "/graph/", "/assignment/", "/performance/", "/production_index/"):  # fmt: skip
        for headers in ({}, key):
            answer = await door.ask(path, key=None, **headers)
            assert answer.status == 404, path


async def test_other_methods_are_not_possible(door: Worker, call: Caller) -> None:
    by_path: dict[str, set[str]] = {}
    for endpoint in endpoints(door):
        by_path.setdefault(at(endpoint), set()).add(endpoint.method)
    for path, methods in by_path.items():
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} - methods:
            if method == "GET" or path.count("/") > 2:
                continue  # another endpoint's path may be wider
            assert (await door.ask(path, method)).status in (404, 405), (method, path)


def test_every_permission_is_somebodys_and_admins_have_all() -> None:
    assert ROLES["admin"] == set(Permission)
    for permission in Permission:
        if permission is not Permission.AUDIT:
            assert any(permission in held for role, held in ROLES.items() if role != "admin")
    assert all(Permission.READ in held for held in ROLES.values())


def test_the_documents_table_is_what_the_roles_may() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
    table: dict[str, set[str]] = {}
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if line.startswith("| permission |"):
            header = cells[2:]
        elif header and line.startswith("| `"):
            for role, mark in zip(header, cells[2:], strict=True):
                if mark == "yes":
                    table.setdefault(role, set()).add(cells[0])
        elif header and not line.startswith("|"):
            break
    assert table == {role: set(map(str, held)) for role, held in ROLES.items()}
