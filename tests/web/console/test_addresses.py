"""Where the console leads, and where it does not let itself be led."""

from __future__ import annotations

from urllib.parse import unquote, urljoin, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dafu.web.console.addresses import (
    HOME,
    decision_url,
    merchant_url,
    ring_url,
    safe_next,
    sign_in_url,
    user_url,
)

ORIGIN = "https://dafu.example"


@pytest.mark.parametrize(
    "address",
    [
        "/console/",
        "/docs",
        "/console/rings?min_score=0.5",
        "/console/users/a%2Fb",
        "/console/decisions/ada/t%201?said=fraud",
    ],
)
def test_pages_of_the_console_are_returned_to(address: str) -> None:
    assert safe_next(address) == address


@pytest.mark.parametrize(
    "address",
    [
        None,
        "",
        "https://elsewhere.example/console/",
        "//elsewhere.example/console/",
        "/\\elsewhere.example/console/",
        "/console\\@elsewhere.example",
        "/console/../v1/me",
        "/console/%2e%2e/v1/me",
        "/console/.%2E/x",
        "/consolex",
        "/docs/../v1/me",
        "/v1/decisions",
        "javascript:alert(1)",
        "/console/\nLocation: https://elsewhere.example",
        "/console/\r\n",
        "/console/ x",
        '/console/"onload=',
        "/console/<script>",
        "/console/sign-in",
        "/console/sign-in?next=/console/sign-in",
        "/console/" + "x" * 5000,
    ],
)
def test_everything_else_leads_home(address: str | None) -> None:
    assert safe_next(address) == HOME


@given(st.one_of(st.text(max_size=60), st.text(max_size=60).map(lambda s: "/console/" + s)))
def test_whatever_is_asked_for_stays_on_the_console(address: str) -> None:
    led = urlsplit(urljoin(f"{ORIGIN}/console/sign-in", safe_next(address)))
    assert f"{led.scheme}://{led.netloc}" == ORIGIN
    assert led.path.startswith("/console/") or led.path in ("/console", "/docs")
    assert ".." not in unquote(led.path).split("/")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_ids_are_one_step_of_a_path(name: str) -> None:
    assume(name not in {".", ".."})  # no browser has an address for these
    for url in (user_url(name), merchant_url(name), ring_url(name), decision_url(name, name)):
        assert url.isascii()
        assert safe_next(url) == url
        path = urlsplit(urljoin(ORIGIN, url)).path
        assert unquote(path.rsplit("/", 1)[1]) == name


def test_the_sign_in_leads_on() -> None:
    assert sign_in_url("/console/rings?min_score=0.5") == (
        "/console/sign-in?next=/console/rings%3Fmin_score%3D0.5"
    )
    assert sign_in_url("https://elsewhere.example") == "/console/sign-in"
