"""The token endpoint (RFC 6749), and signing in."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from dafu.web.auth.records import AuthRecords
from dafu.web.auth.throttle import Throttle
from tests.web.auth.conftest import PASSWORD, SECRET, MakeSite, Site, bearer

CLIENT = {"grant_type": "client_credentials"}
USER = {"grant_type": "password", "username": "ann", "password": PASSWORD}


def basic(name: str, secret: str) -> dict[str, str]:
    raw = f"{quote(name, safe='')}:{quote(secret, safe='')}".encode()
    return {"Authorization": "Basic " + base64.b64encode(raw).decode()}


async def token(site: Site, form: Any, **headers: str) -> tuple[int, Any]:
    return await site.ask("/oauth/token", "POST", data=form, headers=headers)


@pytest.mark.parametrize("where", ["header", "form"])
async def test_a_client_gets_a_token_that_may_what_it_may(site: Site, where: str) -> None:
    if where == "header":
        status, document = await token(site, CLIENT, **basic("shop", SECRET))
    else:
        form = {**CLIENT, "client_id": "shop", "client_secret": SECRET}
        status, document = await token(site, form)
    assert status == 200
    assert set(document) == {"access_token", "token_type", "expires_in", "scope"}
    assert (document["token_type"], document["expires_in"]) == ("Bearer", 900)
    assert document["scope"] == "score"
    assert site.headers["Cache-Control"] == "no-store"
    status, document = await site.ask("/read", headers=bearer(document["access_token"]))
    assert (status, document["permission"]) == (403, "read")


async def test_a_user_gets_a_token_for_the_password(site: Site) -> None:
    status, document = await token(site, USER)
    assert status == 200
    _, me = await site.ask("/v1/me", headers=bearer(document["access_token"]))
    assert (me["name"], me["kind"], me["role"]) == ("ann", "token", "analyst")
    assert " ".join(me["permissions"]) == document["scope"]


@pytest.mark.parametrize(
    ("form", "headers", "status", "error"),
    [
        ({}, {}, 400, "invalid_request"),
        ({"grant_type": "implicit"}, {}, 400, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, {}, 400, "unsupported_grant_type"),
        (CLIENT, {}, 401, "invalid_client"),
        (CLIENT, basic("shop", "wrong"), 401, "invalid_client"),
        (CLIENT, basic("nobody", SECRET), 401, "invalid_client"),
        (CLIENT, basic("ann", PASSWORD), 401, "invalid_client"),
        (CLIENT, {"Authorization": "Basic !"}, 401, "invalid_client"),
        (CLIENT, {"Authorization": "Basic " + base64.b64encode(b"\xff").decode()}, 401,
         "invalid_client"),
        (CLIENT, bearer("x"), 401, "invalid_client"),
        ({**CLIENT, "client_id": "shop"}, {}, 401, "invalid_client"),
        ({**CLIENT, "client_id": "shop", "client_secret": SECRET}, basic("shop", SECRET), 400,
         "invalid_request"),
        ({"grant_type": "password", "username": "ann"}, {}, 400, "invalid_request"),
        ({**USER, "password": "wrong"}, {}, 400, "invalid_grant"),
        ({**USER, "username": "nobody"}, {}, 400, "invalid_grant"),
        ({**USER, "username": "shop", "password": SECRET}, {}, 400, "invalid_grant"),
        ({**USER, "password": "x" * 5000}, {}, 400, "invalid_grant"),
        (b"a=%zz&\xff", {"Content-Type": "application/x-www-form-urlencoded"}, 400,
         "invalid_request"),
        ("grant_type=password&grant_type=password",
         {"Content-Type": "application/x-www-form-urlencoded"}, 400, "invalid_request"),
        (b"{}", {"Content-Type": "application/json"}, 400, "invalid_request"),
    ],
)  # fmt: skip
async def test_errors_are_those_of_the_rfc(
    site: Site, form: Any, headers: dict[str, str], status: int, error: str
) -> None:
    found, document = await token(site, form, **headers)
    assert (found, document["error"]) == (status, error), document
    assert set(document) == {"error", "error_description"}
    assert site.headers["Cache-Control"] == "no-store"
    assert site.headers["Content-Type"].startswith("application/json")
    assert ("WWW-Authenticate" in site.headers) == (status == 401)


async def test_a_form_that_is_too_long_is_refused(site: Site) -> None:
    assert (await token(site, {**USER, "password": "x" * 10_000}))[0] == 413


async def test_multipart_is_no_form_here(site: Site) -> None:
    with aiohttp.MultipartWriter("form-data") as parts:
        parts.append("password", {"Content-Disposition": 'form-data; name="grant_type"'})
    status, document = await site.ask("/oauth/token", "POST", data=parts)
    assert (status, document["error"]) == (400, "invalid_request")


async def test_names_and_passwords_are_told_apart_by_nothing(site: Site) -> None:
    """Same words, same status; and about the same time, since both are hashed."""
    answers, seconds = [], []
    for form in ({**USER, "password": "wrong"}, {**USER, "username": "nobody"}):
        took = []
        for _ in range(2):
            start = time.perf_counter()
            answers.append(await token(site, form))
            took.append(time.perf_counter() - start)
        seconds.append(min(took))
    assert all(answer == answers[0] for answer in answers)
    assert max(seconds) < 8 * min(seconds)
    assert min(seconds) > 0.004


def quick(site: Site) -> None:
    """Throttles that know the site's clock."""
    signing_in = site.auth.signing_in
    signing_in._clock = lambda: site.now
    signing_in._users = Throttle(free=2, first=4.0)
    signing_in._addresses = Throttle(free=4, first=8.0)


async def test_attempts_at_a_user_are_slowed_down_whoever_makes_them(make_site: MakeSite) -> None:
    site = await make_site(behind_proxy=True)
    quick(site)

    async def attempt(number: int, **form: str) -> int:
        address = {"X-Forwarded-For": f"10.0.0.{number}"}
        return (await token(site, {**USER, **form}, **address))[0]

    wrong = {"password": "wrong"}
    assert [await attempt(n, **wrong) for n in range(4)] == [400, 400, 400, 429]
    assert site.headers["Retry-After"] == "4"
    # Not even the right password tells itself.
    assert await attempt(9) == 429
    site.now += 4
    assert await attempt(10) == 200
    assert await attempt(11, **wrong) == 400
    assert await attempt(12, username="nobody", **wrong) == 400


async def test_attempts_of_an_address_are_slowed_down_whomever_they_are_at(site: Site) -> None:
    quick(site)
    statuses = [
        (await token(site, {**USER, "username": f"u{n}", "password": "x"}))[0] for n in range(6)
    ]
    assert statuses == [400] * 5 + [429]
    assert (await token(site, USER))[0] == 429
    site.now += 8
    assert (await token(site, USER))[0] == 200
    assert (await token(site, {**USER, "username": "u9", "password": "x"}))[0] == 400
    assert (await token(site, USER))[0] == 429, "one good sign-in buys no new guesses"


async def test_many_attempts_at_once_are_as_many_failures(site: Site) -> None:
    quick(site)
    wrong = {**USER, "password": "wrong"}

    async def attempt() -> int:
        url = site.client.make_url("/oauth/token")
        async with site.client.session.post(url, data=wrong) as response:
            return response.status

    statuses = await asyncio.gather(*(attempt() for _ in range(8)))
    assert sorted(statuses) == [400] * 3 + [429] * 5


async def test_the_audit_log_knows_who_signed_in_and_no_secret(site: Site) -> None:
    await token(site, USER)
    await token(site, {**USER, "password": "a wrong one"})
    await token(site, CLIENT, **basic("shop", SECRET))
    await site.ask("/sign-in", "POST", data={"key": "dafu_guess"})
    notes = await site.notes()
    assert [(n["action"], n["target"], n["outcome"]) for n in notes] == [
        ("sign_in", "ann", "done"),
        ("sign_in", "ann", "refused"),
        ("sign_in", "shop", "done"),
        ("sign_in", "", "refused"),
    ]
    assert {n["address"] for n in notes} == {"127.0.0.1"}
    text = str(notes)
    assert all(secret not in text for secret in (PASSWORD, "a wrong one", SECRET, "dafu_guess"))


async def test_a_client_that_is_removed_has_no_tokens_any_more(site: Site) -> None:
    _, document = await token(site, CLIENT, **basic("shop", SECRET))
    held = bearer(document["access_token"])
    assert (await site.ask("/read", headers=held))[0] == 403
    site.records(AuthRecords())
    assert (await site.ask("/read", headers=held))[0] == 401
