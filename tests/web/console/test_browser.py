"""The console in a browser, on a worker that decides: what an analyst does there, and whether
everybody can.

Wants Chromium: the one that DAFU_TEST_CHROMIUM names, or one in the path. With DAFU_SCREENSHOTS set
to a directory, the pictures of the documentation are written there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dafu.settings import ENVIRONMENT

CHROMIUM: Final = os.environ.get("DAFU_TEST_CHROMIUM") or next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))),
    None,
)
pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: see DAFU_TEST_CHROMIUM"),
]

START_SECONDS: Final = 300.0  # with kernels to compile on a busy machine
SLOW_MS: Final = 30_000
PHONE: Final = {"width": 360, "height": 780}
DESK: Final = {"width": 1280, "height": 860}
RULE: Final = "amount_extreme"


class Site(NamedTuple):
    """Where the console is, and the key."""

    address: str
    key: str

    def at(self, path: str) -> str:
        return self.address.removesuffix("/console/") + path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A demonstration with rings, once its traffic is live."""
    directory = tmp_path_factory.mktemp("demo")
    environment = {k: v for k, v in os.environ.items() if k not in {*ENVIRONMENT, "DAFU_CONF"}}
    options = ("--users", "300", "--merchants", "40", "--rate", "20")
    picture = ("--picture", str(directory / "ring.svg"))
    process = subprocess.Popen(
        [sys.executable, "-c", "from dafu.cli import main; main()", "demo", *options, *picture],
        env=environment | {"TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        lines.extend(process.stdout)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        _wait_for_line(lines, "history decided", process)
        found = re.search(r"console: (\S+)   key: (\S+)", "".join(lines))
        assert found is not None, "".join(lines)
        yield Site(*found.groups())
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join(10)


def _wait_for_line(lines: list[str], wanted: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + START_SECONDS
    while not any(line.startswith(wanted) for line in list(lines)):
        assert process.poll() is None and time.monotonic() < end, "".join(lines)
        time.sleep(0.2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A page of a browser, and what went wrong in it or was loaded from elsewhere."""

    def __init__(self, browser: Browser, site: Site, **options: Any) -> None:
        self.site = site
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(SLOW_MS)
        self.wrong: list[str] = []
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))

    def _told(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def _asked(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.site.address).netloc:
            self.wrong.append(f"asked elsewhere: {url}")

    def sign_in(self) -> Page:
        """Sign in with the key, from wherever one is sent to sign in."""
        self.page.goto(self.site.at("/console/"))
        self.page.get_by_role("textbox", name="Key", exact=True).fill(self.site.key)
        self.page.get_by_role("button", name="Sign in with the key").click()
        expect(self.page.get_by_role("heading", level=1, name="Decisions")).to_be_visible()
        return self.page

    def go(self, path: str) -> Page:
        self.page.goto(self.site.at(path))
        return self.page

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []


@pytest.fixture
def visitor(browser: Browser, site: Site) -> Iterator[Visitor]:
    visitor = Visitor(browser, site, viewport=DESK, color_scheme="light")
    yield visitor
    visitor.close()


def first_transaction(page: Page) -> str:
    return page.locator("#decisions tr th a").first.inner_text()


def keep(page: Page, name: str) -> None:
    """A picture for the documentation, if they are asked for: few colours, so that it is small."""
    directory = os.environ.get("DAFU_SCREENSHOTS")
    if directory is None:
        return
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    few = picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(Path(directory) / f"console-{name}.png", optimize=True)


def test_decisions_arrive_until_one_pauses(visitor: Visitor) -> None:
    page = visitor.sign_in()
    before = first_transaction(page)
    expect(page.locator("#decisions tr th a").first).not_to_have_text(before, timeout=SLOW_MS)
    expect(page.locator("#pace")).to_contain_text("decisions a second")
    keep(page, "decisions")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#pace")).to_have_text("Paused.")
    held = first_transaction(page)
    page.wait_for_timeout(2500)
    assert first_transaction(page) == held
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#decisions tr th a").first).not_to_have_text(held, timeout=SLOW_MS)
    page.get_by_role("combobox", name="Decision").select_option("review,block")
    page.get_by_role("button", name="Filter").click()
    assert set(page.locator("#decisions .badge").all_inner_texts()) <= {"review", "block"}


def test_a_user_and_the_label_of_a_transaction(visitor: Visitor) -> None:
    page = visitor.sign_in()
    page.get_by_role("combobox", name="Decision").select_option("review,block")
    page.get_by_role("button", name="Filter").click()
    transaction = first_transaction(page)
    user = page.locator("#decisions tr").first.locator("td a").first.inner_text()
    page.get_by_role("link", name=transaction, exact=True).click()
    expect(page.get_by_role("heading", name="Reasons")).to_be_visible()
    page.get_by_role("combobox", name="The transaction was").select_option("fraud")
    page.get_by_role("button", name="Label", exact=True).click()
    expect(page.locator(".note.good")).to_have_text("The transaction is labelled as fraud.")
    keep(page, "decision")
    page.get_by_role("link", name=user, exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"User {user}")
    row = page.get_by_role("row").filter(has_text=transaction)
    assert row.count() == 1
    amount = row.get_by_role("cell").first.inner_text()
    assert re.fullmatch(r"[\d,]+\.\d\d", amount), "the transaction beside its decision"
    search = page.get_by_role("searchbox")
    search.fill(transaction)
    search.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Decision on {transaction}")
    page.goto(visitor.site.at("/console/audit"))
    expect(page.get_by_role("row").filter(has_text=transaction)).to_contain_text("label")


def test_a_ring_one_can_move_around_in(visitor: Visitor) -> None:
    page = visitor.sign_in()
    page.get_by_role("link", name="Rings", exact=True).click()
    page.get_by_role("table").get_by_role("link").first.click()
    picture = page.locator("#picture svg")
    whole = picture.get_attribute("viewBox")
    page.get_by_role("button", name="Zoom in").click()
    zoomed = picture.get_attribute("viewBox")
    assert zoomed != whole
    node = page.locator('#picture [data-node^="user:"]').first
    edge = page.locator(f'#picture [data-from="{node.get_attribute("data-node")}"]').first
    page.get_by_role("button", name="As it was").click()
    assert picture.get_attribute("viewBox") == whole
    drawn = edge.get_attribute("d")
    page.evaluate("document.getElementById('tools').scrollIntoView()")
    shape = node.locator(".node").bounding_box()
    assert shape is not None
    x, y = shape["x"] + shape["width"] / 2, shape["y"] + shape["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 12)
    page.mouse.up()
    assert re.match(r"translate\([1-9]", node.get_attribute("transform") or "")
    assert edge.get_attribute("d") != drawn, "what ties it goes along"
    keep(page, "ring")
    page.locator("#picture").focus()
    page.keyboard.press("ArrowRight")
    assert picture.get_attribute("viewBox") != whole
    page.keyboard.press("n")
    expect(page.locator("#told")).not_to_be_empty()
    page.keyboard.press("0")
    assert picture.get_attribute("viewBox") == whole
    member = page.get_by_role("region", name="Members").get_by_role("link").first
    name = member.inner_text()
    member.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"User {name}")
    expect(page.locator(".note.bad")).to_contain_text("Member of the ring")


def test_a_rule_looks_on_from_now_on(visitor: Visitor) -> None:
    page = visitor.sign_in()
    page.get_by_role("link", name="Rules", exact=True).click()
    row = page.get_by_role("region", name="Rules", exact=True).get_by_role("row")
    row = row.filter(has=page.locator(f'form[action="/console/rules/{RULE}/mode"]'))
    expect(row.locator(".badge")).to_have_text("live")
    row.locator("summary").click()
    row.get_by_role("combobox", name="Mode").select_option("shadow")
    row.get_by_role("textbox", name="Why").fill("too many of them are genuine")
    row.get_by_role("button", name="Change it").click()
    expect(page.locator(".note.good")).to_contain_text(RULE)
    expect(row.locator(".badge")).to_have_text("shadow")
    changes = page.get_by_role("region", name="Changes of rules")
    expect(changes.get_by_role("row").nth(1)).to_contain_text("too many of them are genuine")


def test_the_theme_is_kept_and_one_can_sign_out(visitor: Visitor) -> None:
    page = visitor.sign_in()
    button = page.get_by_role("button", name="Theme")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    button.click()
    button.click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate(ground) != light
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.goto(visitor.site.at("/console/rings?min_score=0.5"))
    assert page.url.endswith("/console/sign-in?next=/console/rings%3Fmin_score%3D0.5")


def test_the_keyboard_skips_to_the_content(visitor: Visitor) -> None:
    page = visitor.sign_in()
    page.reload()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


LOOKS: Final = (
    {"viewport": DESK, "color_scheme": "light"},
    {"viewport": DESK, "color_scheme": "dark"},
    {"viewport": PHONE, "color_scheme": "light"},
)


@pytest.mark.parametrize(
    "look", LOOKS, ids=lambda x: f"{x['color_scheme']}-{x['viewport']['width']}"
)
def test_everybody_can_use_every_page(browser: Browser, site: Site, look: dict[str, Any]) -> None:
    visitor = Visitor(browser, site, reduced_motion="reduce", **look)
    found = _barriers(visitor.go("/console/sign-in"))
    page = visitor.sign_in()
    one = page.locator("#decisions tr").first
    decision = one.locator("th a").get_attribute("href")
    user, merchant = (one.locator("td a").nth(i).get_attribute("href") for i in (0, 1))
    ring = visitor.go("/console/rings").locator("table a").first.get_attribute("href")
    found += _barriers(page)
    for path in (
        "/console/?outcome=review,block",
        "/console/overview",
        "/console/rules",
        "/console/models",
        "/console/models/performance",
        "/console/lists",
        "/console/dead-letters",
        "/console/audit",
        "/console/search?q=nobody",
        decision,
        user,
        merchant,
        ring,
    ):
        assert path is not None
        page = visitor.go(path)
        if path == "/console/rules":
            page.locator("summary").first.click()
        found += _barriers(page)
    if look["viewport"] is PHONE:
        visitor.go("/console/?outcome=review,block")
        keep(page, "phone")
    visitor.close()
    assert found == []


def test_the_overview_goes_on_by_itself(visitor: Visitor) -> None:
    page = visitor.sign_in()
    page.get_by_role("link", name="Overview", exact=True).click()
    bars = page.locator("#figures .fill-approve").first
    expect(bars).to_have_attribute("d", re.compile("M"), timeout=SLOW_MS)
    drawn = bars.get_attribute("d")
    table = page.locator("details#throughput-table")
    table.locator("summary").click()
    page.locator("h1").click()  # whoever reads in the figures keeps them as they are
    expect(bars).not_to_have_attribute("d", drawn or "", timeout=SLOW_MS)
    expect(table).to_have_attribute("open", "")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Go on")).to_be_visible()
    page.emulate_media(color_scheme="dark")
    visitor.go("/console/overview?minutes=1")
    keep(page, "overview")


def _barriers(page: Page) -> list[str]:
    """What axe finds serious or critical on a page; and whether it is wider than the window."""
    results = Axe().run(page).response
    assert len(results["passes"]) > 10, "it has looked"
    wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    found = [f"{page.url} is wider than the window"] if wide else []
    return found + [
        f"{page.url}: {v['id']} ({v['impact']}): {v['help']}: {node['html'][:200]}"
        for v in results["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"][:3]
    ]
