"""Every page: who may see it, what it may load, and that nothing somebody wrote does any harm."""

from __future__ import annotations

import asyncio
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from dafu.lists import ListEntry
from dafu.schema import FiredRule, Reason
from dafu.web.console import decisions
from dafu.web.console.assets import asset_url
from dafu.web.console.rendering import POLICY
from dafu.web.decisions import decision_endpoints
from tests.asking import ADMIN_KEY
from tests.web.conftest import payment
from tests.web.console.conftest import HOSTILE, Console, Feed, Page
from tests.web.decisions.documents import made

PAGES = (
    "/console/",
    "/console/?outcome=review,block&min_risk=0.5",
    "/console/overview",
    "/console/overview?minutes=15",
    "/console/overview/figures",
    "/console/rings",
    "/console/rules",
    "/console/lists",
    "/console/models",
    "/console/dead-letters",
    "/console/search?q=somebody",
    "/console/users/ada",
    "/console/merchants/shop",
    "/console/decisions/ada/t1",
)
WRONG = (
    ("/console/nowhere", 404),
    ("/console/users/nobody", 404),
    ("/console/rings/ring-none", 404),
    ("/console/decisions/ada/t404", 404),
    ("/console/?min_risk=2", 400),
    ("/console/?colour=red", 400),
)


class Shape(HTMLParser):
    """What of a page matters to those who do not see it, and to its policy."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def values(self, tag: str, name: str) -> list[str]:
        return [v for t, n, v in self.attributes if (t, n) == (tag, name)]


def fill(console: Console) -> None:
    console.worker.apply([payment(1, "ada"), payment(2, "ada", amount=12_000.0)])
    console.feed.tell(made("ada", "t1"), made("ada", "t2", 1, decision="block", risk_score=0.95))


@pytest.mark.parametrize("path", [*PAGES, *(path for path, _ in WRONG)])
async def test_pages_load_and_run_nothing_but_their_assets(console: Console, path: str) -> None:
    fill(console)
    await console.sign_in()
    page = await console.get(path)
    assert page.status == dict(WRONG).get(path, 200)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"] == POLICY
    assert page.headers["Cache-Control"] == "no-store"
    shape = Shape(page)
    loaded = [
        *shape.values("script", "src"),
        *shape.values("link", "href"),
        *shape.values("img", "src"),
    ]
    assert all(address.startswith("/console/static/") for address in loaded)
    assert not [a for a in shape.attributes if a[1] == "style" or a[1].startswith("on")]
    assert "style" not in shape.tags
    assert len(shape.values("script", "src")) == shape.tags.count("script")
    for tag, name in (("a", "href"), ("form", "action")):
        assert all(
            v.startswith(("/", "#")) and not v.startswith("//") for v in shape.values(tag, name)
        )
    assert not re.search(r"https?://", page.text.replace("http://www.w3.org/2000/svg", ""))


@pytest.mark.parametrize("path", [p for p in PAGES if not p.endswith("figures")])
async def test_pages_have_landmarks_headings_and_named_tables(console: Console, path: str) -> None:
    fill(console)
    await console.sign_in()
    shape = Shape(await console.get(path))
    for tag in ("header", "main", "footer", "nav", "h1"):
        assert shape.tags.count(tag) == 1
    assert shape.values("html", "lang") == ["en"]
    assert "#main" in shape.values("a", "href")
    assert shape.tags.count("caption") == shape.tags.count("table")
    assert shape.tags.count("th") == len(shape.values("th", "scope"))
    idents = [v for _, n, v in shape.attributes if n == "id"]
    assert len(idents) == len(set(idents))


async def test_nothing_that_somebody_wrote_becomes_markup(console: Console) -> None:
    console.worker.apply([payment(1, HOSTILE, HOSTILE)])
    reasons = [Reason(f"ring:{HOSTILE}", HOSTILE)]
    fired = [FiredRule(HOSTILE, "review", 0.5, "live")]
    told: dict[str, Any] = {"decision": "block", "reasons": reasons, "rules_fired": fired}
    told |= {"merchant_id": HOSTILE, "scores": {HOSTILE: 0.5}, "model_used": HOSTILE}
    console.feed.tell(made(HOSTILE, HOSTILE, **told))
    console.feed.set_aside(HOSTILE.encode(), HOSTILE.encode(), HOSTILE)
    console.entries.append(ListEntry("deny", "user", HOSTILE, by=HOSTILE, why=HOSTILE))
    await console.sign_in()
    name = quote(HOSTILE, safe="")
    for path in (
        "/console/",
        "/console/lists",
        "/console/dead-letters",
        f"/console/decisions/{name}/{name}",
        f"/console/users/{name}",
        f"/console/merchants/{name}",
        f"/console/search?q={quote('nobody' + HOSTILE)}",
        f"/console/users/{name}x",
        f"/console/rules?done={name}",
        f"/console/sign-in?next={name}",
    ):
        page = await console.get(path)
        assert page.status in (200, 404), path
        assert "<script>" not in page.text
        assert not set("\u202e\u2066") & set(page.text), path
        if "sign-in" not in path:
            assert "alert(" in page.words, path


async def test_a_row_of_the_stream_is_escaped_as_well(console: Console) -> None:
    await console.sign_in()
    url = f"{console.worker.base}/console/decisions/stream?outcome=block"
    async with console.session.get(url) as response:
        assert response.content_type == "text/event-stream"
        assert await response.content.readline() == b"retry: 2000\n"
        console.feed.tell(made("ada", "t1"), made(HOSTILE, "t2", decision="block"))
        async for line in response.content:
            if line.startswith(b"data: "):
                break
    news = json.loads(line[6:])
    assert (news["shown"], news["matching"], news["block"]) == (1, 1, 1)
    assert "<script>" not in news["rows"]
    assert "&lt;script&gt;" in news["rows"]


async def test_a_stream_ends_with_the_feed(console: Console) -> None:
    await console.sign_in()
    url = f"{console.worker.base}/console/decisions/stream"
    async with asyncio.timeout(20), console.session.get(url) as response:
        assert await response.content.readline() == b"retry: 2000\n"
        await console.feed.close()
        assert b"event: decisions" not in await response.read()


@pytest.mark.parametrize(
    ("path", "module"),
    [("/v1/decisions/stream", decision_endpoints), ("/console/decisions/stream", decisions)],
)
async def test_a_stream_ends_and_has_to_be_asked_for_anew(
    console: Console, monkeypatch: pytest.MonkeyPatch, path: str, module: Any
) -> None:
    monkeypatch.setattr(module, "STREAM_SECONDS", 0.2)
    await console.sign_in()
    async with asyncio.timeout(10), console.session.get(console.worker.base + path) as response:
        assert response.status == 200
        assert await response.read() == b"retry: 2000\n\n"
    assert console.feed.figures["subscribers"] == 0


async def test_no_more_streams_than_may_be(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MOST_STREAMS", 1)
    await console.sign_in()
    url = f"{console.worker.base}/console/decisions/stream"
    async with console.session.get(url) as first:
        assert first.status == 200
        async with console.session.get(url) as second:
            assert (second.status, second.headers["Retry-After"]) == (503, "30")


async def test_who_has_not_signed_in_is_sent_to_do_so(console: Console) -> None:
    for path in PAGES:
        page = await console.get(path)
        assert page.status == 303
        assert page.headers["Location"] == f"/console/sign-in?next={quote(path)}" or (
            path == "/console/" and page.headers["Location"] == "/console/sign-in"
        )
    page = await console.get("/docs")
    assert (page.status, page.headers["Location"]) == (303, "/console/sign-in?next=/docs")
    page = await console.post("/console/decisions/ada/t1/label", {"verdict": "fraud"})
    assert (page.status, page.headers["Location"]) == (303, "/console/sign-in")
    page = await console.get("/console/", Accept="application/json")
    assert page.status == 401
    assert console.published == []


async def test_signing_in_leads_on_and_out(console: Console) -> None:
    page = await console.get("/console/sign-in?next=/console/rings")
    assert 'name="next" value="/console/rings"' in page.text
    page = await console.post(
        "/console/sign-in", {"key": "not-a-key-at-all" * 3, "next": "/console/rings"}
    )
    assert page.status == 401
    assert 'name="next" value="/console/rings"' in page.text
    page = await console.post("/console/sign-in", {"key": ADMIN_KEY, "next": "/console/rings"})
    assert (page.status, page.headers["Location"]) == (303, "/console/rings")
    cookie = page.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite" in cookie
    assert (await console.get("/console/rings")).status == 200
    page = await console.post("/console/sign-out", {"csrf_token": await console.csrf()})
    assert (page.status, page.headers["Location"]) == (303, "/console/sign-in")
    assert (await console.get("/console/rings")).status == 303


async def test_after_signing_in_one_stays_here(console: Console) -> None:
    for wanted in ("https://elsewhere.example/", "//elsewhere.example", "/v1/status"):
        page = await console.post("/console/sign-in", {"key": ADMIN_KEY, "next": wanted})
        assert page.headers["Location"] == "/console/"


async def test_a_label_needs_the_token_and_goes_to_the_topic(console: Console) -> None:
    fill(console)
    await console.sign_in()
    path = "/console/decisions/ada/t1/label"
    for form in ({"verdict": "fraud"}, {"verdict": "fraud", "csrf_token": "no"}):
        assert (await console.post(path, form)).status == 403
    token = {"csrf_token": await console.csrf()}
    assert (await console.post(path, {"verdict": "perhaps", **token})).status == 400
    assert (
        await console.post("/console/decisions/ada/t9/label", {"verdict": "fraud", **token})
    ).status == 404
    crossed = await console.post(
        path, {"verdict": "fraud", **token}, Origin="https://elsewhere.example"
    )
    assert crossed.status == 403
    assert console.published == []
    page = await console.post(path, {"verdict": "fraud", **token})
    assert (page.status, page.headers["Location"]) == (303, "/console/decisions/ada/t1?said=fraud")
    ((topic, key, value),) = console.published
    label = msgspec.json.decode(value)
    assert (topic, key) == ("labels", b"ada")
    assert (label["transaction_id"], label["is_fraud"], label["source"]) == ("t1", True, "analyst")
    assert "labelled as fraud" in (await console.get(page.headers["Location"])).words


async def test_a_label_is_for_the_transaction_that_is_shown(console: Console) -> None:
    console.feed.tell(made("victim", "t9"), made("victim/t9/label?", "t1", 1))
    await console.sign_in()
    page = await console.get("/console/decisions/victim%2Ft9%2Flabel%3F/t1")
    (action,) = (a for a in Shape(page).values("form", "action") if "/decisions/" in a)
    form = {"verdict": "genuine", "csrf_token": await console.csrf()}
    assert (await console.post(action, form)).status == 303
    ((_, key, value),) = console.published
    assert (key, json.loads(value)["transaction_id"]) == (b"victim/t9/label?", "t1")


async def test_who_tries_again_gets_to_the_same_page(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(_: Feed) -> None:
        raise TimeoutError

    monkeypatch.setattr(Feed, "started", late)
    await console.sign_in()
    path = "/console/decisions/a%2Fb%3F/t%231"
    page = await console.get(path)
    assert (page.status, page.headers["Retry-After"]) == (503, "2")
    assert path in Shape(page).values("a", "href")


async def test_assets_are_kept_for_ever_under_their_digest(console: Console) -> None:
    for name, kind in (
        ("console.css", "text/css"),
        ("console.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        asset = await console.get(asset_url(name))
        assert asset.status == 200
        assert asset.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert asset.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        old = await console.get(f"/console/static/0123456789abcdef/{name}")
        assert (old.status, old.headers["Cache-Control"]) == (200, "no-cache")
        assert old.text == asset.text
    assert (await console.get(asset_url("console.js") + ".map")).status == 404
    assert (await console.get("/console/static/x/..%2fpages.py")).status == 404


async def test_the_theme_is_what_was_chosen(console: Console) -> None:
    for cookie, theme in (("dark", "dark"), ('"><script>', "auto"), ("light", "light")):
        console.session.cookie_jar.update_cookies({"dafu_theme": cookie})
        page = await console.get("/console/sign-in")
        assert f'data-theme="{theme}"' in page.text


async def test_a_ring_is_drawn_and_listed(console: Console) -> None:
    await console.sign_in()
    listed = await console.get("/console/rings")
    (name,) = set(re.findall(r"/console/rings/(ring-[0-9a-f]+)", listed.text))
    page = await console.get(f"/console/rings/{name}")
    assert page.headers["Content-Security-Policy"] == POLICY
    assert "<style" not in page.text
    assert 'data-node="user:u0"' in page.text
    assert 'data-node="device:dev-1"' in page.text
    assert 'href="/console/users/u0"' in page.text
    assert re.search(r'data-from="user:u0"\s+data-to="device:dev-1"', page.text)


async def test_the_search_leads_to_the_one_thing_of_that_id(console: Console) -> None:
    console.feed.tell(
        made("ada", "t1"), made("bob", "ada2", 1, merchant_id="both"), made("both", "t3", 2)
    )
    await console.sign_in()
    for wanted, where in (("t1", "/console/decisions/ada/t1"), (" bob ", "/console/users/bob"),
                          ("shop", "/console/merchants/shop")):  # fmt: skip
        page = await console.get(f"/console/search?q={quote(wanted)}")
        assert (page.status, page.headers["Location"]) == (303, where)
    page = await console.get("/console/search?q=both")
    assert "/console/users/both" in page.text and "/console/merchants/both" in page.text
    page = await console.get("/console/search?q=a%2Fb")
    assert page.status == 200 and "/console/users/a%2Fb" in page.text


def test_assets_load_nothing_from_anywhere() -> None:
    static = files("dafu.web.console") / "static"
    names = [item.name for item in static.iterdir()]
    assert {"console.css", "console.js", "decisions.js", "overview.js", "picture.js"} <= set(names)
    for name in names:
        text = (static / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|\"//[a-z]+\.|url\(|@import|eval\(|new Function", text), (
            name
        )
