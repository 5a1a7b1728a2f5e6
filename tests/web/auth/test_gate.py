"""The gate as clients and browsers meet it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from dafu.web.auth.forwarded import WORD
from dafu.web.auth.identities import subject_of
from dafu.web.auth.provider import KeySet, Provider
from dafu.web.auth.records import AuthRecords, KeyRecord, UserRecord, digest
from dafu.web.endpoints import Call, Endpoint, install
from dafu.web.problems import protect
from tests.web.auth.conftest import (
    ADMIN_KEY,
    HASHED,
    KEY,
    MakeSite,
    Site,
    bearer,
)
from tests.web.auth.forging import forgeries
from tests.web.gates import OneGate

LABEL = {"json": {"text": "x"}}


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
async def test_a_key_opens_what_its_role_may(site: Site, header: str) -> None:
    shown = KEY if header == "X-API-Key" else f"Bearer {KEY}"
    status, document = await site.ask("/read", headers={header: shown})
    assert (status, document["who"]) == (200, "watcher")
    status, document = await site.ask("/label", "POST", headers={header: shown}, **LABEL)
    assert (status, document["permission"]) == (403, "label")
    assert "watcher (viewer) lacks" in document["detail"]


async def test_the_administrators_key_opens_all(site: Site) -> None:
    for path in ("/read", "/audit"):
        assert (await site.ask(path, headers=bearer(ADMIN_KEY)))[0] == 200
    _, me = await site.ask("/v1/me", headers=bearer(ADMIN_KEY))
    assert (me["name"], me["kind"], me["role"]) == ("admin", "key", "admin")
    assert "pii" in me["permissions"]


async def test_a_key_ends(site: Site) -> None:
    end = datetime.fromtimestamp(site.now + 60, UTC)
    site.records(AuthRecords(keys=(KeyRecord("k", digest(KEY), "viewer", expires=end),)))
    assert (await site.ask("/read", headers=bearer(KEY)))[0] == 200
    site.now += 59.9
    assert (await site.ask("/read", headers=bearer(KEY)))[0] == 200
    site.now += 0.1
    status, document = await site.ask("/read", headers=bearer(KEY))
    assert (status, document["detail"]) == (401, "the key has expired")
    site.records(AuthRecords())
    status, document = await site.ask("/read", headers=bearer(KEY))
    assert (status, document["detail"]) == (401, "there is no such key")


async def test_forged_tokens_are_refused_with_and_without_a_provider(make_site: MakeSite) -> None:
    keys = KeySet("http://127.0.0.1:9/none")
    for provider in (None, Provider("https://id.example", "dafu", keys)):
        site = await make_site(provider)
        subject = site.auth.identities.of_key(ADMIN_KEY)
        good = site.auth.identities.token(subject)
        assert (await site.ask("/audit", headers=bearer(good)))[0] == 200
        for what, token in forgeries(site.auth.identities, subject).items():
            status, _ = await site.ask("/audit", headers=bearer(token))
            # A provider that has no keys to tell whether they are its own.
            assert status == 401 or (status == 503 and provider is not None), what
        await keys.close()


async def test_open_endpoints_know_who_calls_and_refuse_what_is_not_good(site: Site) -> None:
    assert (await site.ask("/open"))[1]["who"] == ""
    assert (await site.ask("/open", headers=bearer(KEY)))[1]["who"] == "watcher"
    assert (await site.ask("/open", headers=bearer("x")))[0] == 401
    assert (await site.ask("/open", headers={"Cookie": "dafu-session=x"}))[0] == 200


async def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(site: Site) -> None:
    await site.ask("/sign-in", "POST", data={"user": "ann", "password": "correct horse battery"})
    cookie = site.headers["Set-Cookie"]
    assert cookie.startswith("dafu-session=")
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/", "max-age=43200"} <= parts
    assert "secure" not in parts
    assert not any(part.startswith("domain") for part in parts)


async def test_under_tls_it_is_secure_and_this_hosts(make_site: MakeSite) -> None:
    site = await make_site(behind_proxy=True)
    await site.ask("/sign-in", "POST", data={"user": "ann", "password": "correct horse battery"})
    cookie = site.headers["Set-Cookie"]
    assert cookie.startswith("__Host-dafu-session=")
    assert {"Secure", "HttpOnly", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Domain" not in cookie


async def test_what_a_session_changes_needs_its_token(site: Site) -> None:
    csrf = await site.signed_in()
    assert (await site.ask("/read"))[1]["who"] == "ann"
    refused: list[dict[str, str]] = [{}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": csrf + "x"}]
    for headers in refused:
        status, document = await site.ask("/label", "POST", headers=headers, **LABEL)
        assert status == 403, headers
        assert "CSRF" in document["detail"]
    status, document = await site.ask("/label", "POST", headers={"X-CSRF-Token": csrf}, **LABEL)
    assert (status, document) == (200, {"who": "ann", "body": {"text": "x"}})


async def test_a_form_brings_it_in_a_field_and_can_still_be_read(site: Site) -> None:
    csrf = await site.signed_in()
    assert (await site.ask("/form", "POST", data={"a": "b"}))[0] == 403
    assert (await site.ask("/form", "POST", data={"a": "b", "csrf_token": "x"}))[0] == 403
    form = {"a": "b", "csrf_token": csrf}
    raw = f"a=b&csrf_token={csrf}"
    assert await site.ask("/form", "POST", data=form) == (200, {"form": form, "raw": raw})


async def test_the_token_of_another_session_is_none(site: Site) -> None:
    other = await site.signed_in()
    site.client.session.cookie_jar.clear()
    await site.signed_in(key=ADMIN_KEY)
    assert (await site.ask("/label", "POST", headers={"X-CSRF-Token": other}, **LABEL))[0] == 403


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({"Origin": "http://{host}"}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "http://{host}.evil.example"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
    ],
)
async def test_it_comes_from_a_page_of_ours(
    site: Site, headers: dict[str, str], good: bool
) -> None:
    csrf = await site.signed_in()
    host = f"{site.client.host}:{site.client.port}"
    given = {name: value.replace("{host}", host) for name, value in headers.items()}
    status, _ = await site.ask("/label", "POST", headers={"X-CSRF-Token": csrf, **given}, **LABEL)
    assert status == (200 if good else 403)
    form = {"user": "ann", "password": "correct horse battery"}
    status, _ = await site.ask("/sign-in", "POST", headers=given, data=form)
    assert status == (200 if good else 403)


async def test_keys_and_tokens_need_no_csrf_token(site: Site) -> None:
    for shown in (ADMIN_KEY, site.auth.identities.token(site.auth.identities.of_key(ADMIN_KEY))):
        headers = {**bearer(shown), "Origin": "https://elsewhere.example"}
        assert (await site.ask("/label", "POST", headers=headers, **LABEL))[0] == 200
    csrf = await site.signed_in()
    headers = {**bearer("x"), "X-CSRF-Token": csrf}
    assert (await site.ask("/label", "POST", headers=headers, **LABEL))[0] == 401


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Authorization: Bearer a.\xff.b", 401),
        (b"Authorization: Bearer \xff", 401),
        (b"Authorization: \xff", 401),
        (b"X-API-Key: \xff", 401),
        (b"Cookie: dafu-session=a.\xff.b", 401),
        (b"Cookie: dafu-session=%b\r\nX-CSRF-Token: \xff", 403),
    ],
)
async def test_what_is_no_text_is_refused_as_anything_else(
    site: Site, header: bytes, status: int
) -> None:
    identities = site.auth.identities
    session = identities.session(subject_of(identities.file.records().users[0]))
    reader, writer = await asyncio.open_connection(site.client.host, site.client.port)
    header = header.replace(b"%b", session.encode())
    writer.write(
        b"POST /label HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%b\r\n\r\n" % header
    )
    answer = await reader.read()
    writer.close()
    assert int(answer.split()[1]) == status, answer


async def test_sessions_and_tokens_end_with_time(site: Site) -> None:
    await site.signed_in()
    token = site.auth.identities.token(site.auth.identities.of_key(ADMIN_KEY))
    site.now += 900 + 9
    assert (await site.ask("/read", headers=bearer(token)))[0] == 200
    site.now += 2
    assert (await site.ask("/read", headers=bearer(token)))[0] == 401
    site.now += 12 * 3600 - 902
    assert (await site.ask("/read"))[0] == 200
    site.now += 2
    assert (await site.ask("/read"))[0] == 401


async def test_who_is_removed_or_changed_loses_sessions_and_tokens(site: Site) -> None:
    csrf = await site.signed_in()
    identities = site.auth.identities
    user = identities.file.records().users[0]
    token = identities.token(subject_of(user))
    label = {"headers": {"X-CSRF-Token": csrf}, **LABEL}
    assert (await site.ask("/label", "POST", **label))[0] == 200
    changes: list[tuple[UserRecord | None, int]] = [
        (msgspec.structs.replace(user, role="viewer"), 403),
        (msgspec.structs.replace(user, password=HASHED + "x"), 401),
        (msgspec.structs.replace(user, disabled=True), 401),
        (None, 401),
    ]
    for changed, expected in changes:
        site.records(AuthRecords(users=() if changed is None else (changed,)))
        assert (await site.ask("/label", "POST", **label))[0] == expected
        assert (await site.ask("/label", "POST", headers=bearer(token), **LABEL))[0] == expected
    site.records(AuthRecords(users=(user,)))
    assert (await site.ask("/label", "POST", **label))[0] == 200


async def test_signing_out(site: Site) -> None:
    csrf = await site.signed_in()
    assert (await site.ask("/sign-out", "POST", headers={"X-CSRF-Token": csrf}))[0] == 200
    assert (await site.ask("/read"))[0] == 401
    notes = [note for note in await site.notes() if note["action"] == "sign_out"]
    assert [(note["who"], note["kind"]) for note in notes] == [("ann", "session")]


async def test_a_session_of_a_key_ends_with_it(site: Site) -> None:
    await site.signed_in(key=KEY)
    assert (await site.ask("/read"))[1]["who"] == "watcher"
    site.records(AuthRecords())
    assert (await site.ask("/read"))[0] == 401


async def test_limits_are_by_caller_and_group_and_are_told(make_site: MakeSite) -> None:
    site = await make_site(reads_per_minute=3, changes_per_minute=2)
    for left in (2, 1, 0):
        assert (await site.ask("/read", headers=bearer(KEY)))[0] == 200
        assert site.headers["RateLimit-Limit"] == "3"
        assert site.headers["RateLimit-Remaining"] == str(left)
    status, document = await site.ask("/read", headers=bearer(KEY))
    assert (status, document["group"]) == (429, "read")
    assert site.headers["Retry-After"] == "20"
    assert (site.headers["RateLimit-Remaining"], site.headers["RateLimit-Reset"]) == ("0", "60")
    assert (await site.ask("/read", headers=bearer(ADMIN_KEY)))[0] == 200
    for expected in (200, 200, 429):
        status, _ = await site.ask("/label", "POST", headers=bearer(ADMIN_KEY), **LABEL)
        assert status == expected
    for expected in (401, 401, 401, 429):
        assert (await site.ask("/read"))[0] == expected
    for _ in range(5):
        assert (await site.ask("/health/live"))[0] == 200
    site.now += 20
    assert (await site.ask("/read", headers=bearer(KEY)))[0] == 200
    assert (await site.ask("/read", headers=bearer(KEY)))[0] == 429


async def test_guesses_at_keys_and_signing_in_are_limited_by_address(make_site: MakeSite) -> None:
    site = await make_site(reads_per_minute=2, sign_ins_per_minute=2, behind_proxy=True)
    here, there = {"X-Forwarded-For": "9.9.9.9, 1.2.3.4"}, {"X-Forwarded-For": "1.2.3.5"}
    for expected in (401, 401, 429):
        assert (await site.ask("/read", headers={**bearer("x"), **here}))[0] == expected
    form = {"grant_type": "client_credentials"}
    for expected in (401, 401, 429):
        assert (await site.ask("/oauth/token", "POST", data=form, headers=here))[0] == expected
    assert (await site.ask("/read", headers={**bearer("x"), **there}))[0] == 401
    v6 = [{"X-Forwarded-For": f"2001:db8::{n}"} for n in (1, 2, 3)]
    statuses = [(await site.ask("/read", headers=each))[0] for each in v6]
    assert statuses == [401, 401, 429]


async def test_nobody_else_says_where_he_comes_from(make_site: MakeSite) -> None:
    site = await make_site(reads_per_minute=1)
    assert (await site.ask("/read", headers={"X-Forwarded-For": "1.1.1.1"}))[0] == 401
    assert (await site.ask("/read", headers={"X-Forwarded-For": "2.2.2.2"}))[0] == 429


async def test_another_workers_word_counts_and_a_made_up_one_does_not(make_site: MakeSite) -> None:
    site = await make_site(reads_per_minute=1)
    word: dict[str, str] = {}

    class Asked:
        method, raw_path = "GET", "/read"

    asked: Any = Asked()
    word[WORD] = site.auth.words.give(asked, "10.1.2.3")
    for _ in range(3):
        headers = {**bearer(KEY), **word, "Host": "worker-2.internal:6066"}
        assert (await site.ask("/read", headers=headers))[0] == 200
    # The word opens nothing by itself, and is for this request alone.
    assert (await site.ask("/read", headers=word))[0] == 401
    assert (await site.ask("/csrf", headers={**bearer(KEY), **word, "Host": "x"}))[0] == 400
    assert (await site.ask("/read", headers=bearer(KEY)))[0] == 200
    assert (await site.ask("/read", headers={**bearer(KEY), WORD: "a.b.c"}))[0] == 429
    session = site.auth.identities.session(site.auth.identities.of_key(KEY))
    assert (await site.ask("/read", headers={**bearer(KEY), WORD: session}))[0] == 429


async def test_answers_take_no_longer_than_they_may() -> None:
    async def slow(call: Call) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    async def late(call: Call) -> web.Response:
        raise TimeoutError

    def endpoint(path: str, handler: Any) -> Endpoint:
        return Endpoint(
            method="GET", path=path, name=path, summary="", tag="", permission=None, handler=handler
        )

    app = web.Application()
    protect(app)
    install(app, [endpoint("/slow", slow), endpoint("/late", late)], OneGate(), 0.05)
    async with TestClient(TestServer(app)) as client:
        response = await client.get("/slow")
        assert (response.status, response.content_type) == (504, "application/problem+json")
        assert "0.05 s" in (await response.json())["detail"]
        assert (await client.get("/late")).status == 500
