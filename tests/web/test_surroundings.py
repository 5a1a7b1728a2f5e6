"""The name a request comes under, pages of other origins, and refusals that are noted."""

from __future__ import annotations

from typing import Any

import pytest

from dafu.settings import Web
from dafu.web.surroundings import allowed_hosts, is_loopback
from tests.web.auth.conftest import ADMIN_KEY, KEY, MakeSite, Site, bearer, make_site, site

__all__ = ["make_site", "site"]

PAGE = "https://pay.example.com"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("LOCALHOST", True), ("127.0.0.1", True), ("127.9.9.9", True),
     ("::1", True), ("[::1]", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
     ("dafu.example.com", False), ("localhost.example.com", False), ("", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_names_by_default() -> None:
    assert "localhost" in allowed_hosts(Web())
    assert allowed_hosts(Web(host="0.0.0.0")) == ()
    assert allowed_hosts(Web(host="127.0.0.1", allowed_hosts=("A.example",))) == ("a.example",)


@pytest.mark.parametrize(
    ("name", "status"),
    [("localhost", 200), ("localhost:9", 200), ("127.0.0.1:6066", 200), ("[::1]:6066", 200),
     ("LOCALHOST.", 200), ("evil.example", 400), ("localhost.evil.example", 400),
     ("127.0.0.1.evil.example", 400), ("", 400), ("a:b:c", 400)],
)  # fmt: skip
async def test_on_loopback_only_its_own_names(site: Site, name: str, status: int) -> None:
    assert (await site.ask("/read", headers={**bearer(KEY), "Host": name}))[0] == status
    assert (await site.ask("/health/live", headers={"Host": name}))[0] == 200


async def test_names_that_are_set(make_site: MakeSite) -> None:
    site = await make_site(allowed_hosts=("dafu.example.com", ".internal.example"))
    for name, status in {
        "dafu.example.com": 200,
        "DAFU.example.com:443": 200,
        "w1.internal.example": 200,
        "a.b.internal.example": 200,
        "internal.example": 400,
        "xinternal.example": 400,
        "localhost": 400,
    }.items():
        assert (await site.ask("/read", headers={**bearer(KEY), "Host": name}))[0] == status, name


async def test_pages_of_other_origins_are_told_nothing_by_default(site: Site) -> None:
    for method, status in (("OPTIONS", 405), ("GET", 200)):
        headers = {**bearer(KEY), "Origin": PAGE, "Access-Control-Request-Method": "GET"}
        assert (await site.ask("/read", method, headers=headers))[0] == status
        assert not [name for name in site.headers if name.startswith("Access-Control")]


async def test_pages_of_origins_that_are_set(make_site: MakeSite) -> None:
    site = await make_site(cors_origins=(PAGE,))
    preflight = {"Access-Control-Request-Method": "POST"}
    status, _ = await site.ask("/label", "OPTIONS", headers={"Origin": PAGE, **preflight})
    assert status == 204
    assert site.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in site.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in site.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in site.headers
    status, _ = await site.ask("/read", headers={**bearer(KEY), "Origin": PAGE})
    assert (status, site.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    assert "Origin" in site.headers["Vary"]
    # Refusals too, or the page could not read them.
    assert (await site.ask("/read", headers={"Origin": PAGE}))[0] == 401
    assert site.headers["Access-Control-Allow-Origin"] == PAGE
    for other in ("https://evil.example", PAGE + ".evil.example", "http://pay.example.com", "null"):
        status, _ = await site.ask("/label", "OPTIONS", headers={"Origin": other, **preflight})
        assert status == 403
        await site.ask("/read", headers={**bearer(KEY), "Origin": other})
        assert "Access-Control-Allow-Origin" not in site.headers


async def test_refusals_are_noted_once_a_minute_and_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("dafu.web.surroundings.time.monotonic", lambda: now[0])
    for _ in range(5):
        assert (await site.ask("/audit", headers=bearer(KEY)))[0] == 403
    assert (await site.ask("/audit", headers=bearer("guess")))[0] == 401
    assert (await site.ask("/audit"))[0] == 401
    now[0] += 60.0
    assert (await site.ask("/audit", headers=bearer(KEY)))[0] == 403

    def shown(note: dict[str, Any]) -> tuple[Any, ...]:
        return note["who"], note["role"], note["target"], note["outcome"], note["details"]

    assert [shown(note) for note in await site.notes()] == [
        ("watcher", "viewer", "GET /audit", "refused", {"status": 403}),
        ("", "", "GET /audit", "refused", {"status": 401}),
        ("watcher", "viewer", "GET /audit", "refused", {"status": 403, "repeated": 4}),
    ]
    assert all("guess" not in str(note) for note in await site.notes())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 20_000, 400),
        (b'{"text":' * 5_000, 400),
        (b'{"text":"' + b"x" * 60_000 + b'"}', 200),
        (b'{"text":"' + b"x" * 70_000 + b'"}', 413),
        (b'{"text":' + b"9" * 5_000 + b"}", 400),
        (b'{"text":1e999999}', 400),
        (b'{"text":"\xff"}', 400),
        (b'{"text":"\\ud800"}', 400),
        (b'{"text":"a","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400),
        (b"", 400),
        (b"\x00", 400),
    ],
)
async def test_bodies_that_are_too_much(site: Site, body: bytes, status: int) -> None:
    headers = {**bearer(ADMIN_KEY), "Content-Type": "application/json"}
    found, document = await site.ask("/label", "POST", headers=headers, data=body)
    assert found == status, document


async def test_no_endpoint_takes_more_than_the_settings_say(make_site: MakeSite) -> None:
    site = await make_site(max_body_bytes=1024)

    async def chunks() -> Any:
        for _ in range(4):
            yield b" " * 500

    headers = {**bearer(ADMIN_KEY), "Content-Type": "application/json"}
    for data in (b" " * 2000, chunks()):
        status, document = await site.ask("/label", "POST", headers=headers, data=data)
        assert (status, document["max_bytes"]) == (413, 1024)
