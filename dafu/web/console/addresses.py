"""Addresses of pages, and which of them may be returned to after signing in. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

__all__ = [
    "HOME",
    "SIGN_IN",
    "decision_url",
    "merchant_url",
    "ring_url",
    "safe_next",
    "sign_in_url",
    "user_url",
]

HOME: Final = "/console/"
SIGN_IN: Final = "/console/sign-in"

_PATH: Final = re.compile(
    r"/docs\Z|/console(?:/[\x21\x23-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]*)?\Z"
)
"""Printable ASCII that may stand in an address: no space, quote, backslash, angle bracket."""
_MAX_CHARACTERS: Final = 2048


def user_url(user_id: str) -> str:
    """The page of a user."""
    return f"/console/users/{_quoted(user_id)}"


def merchant_url(merchant_id: str) -> str:
    """The page of a merchant."""
    return f"/console/merchants/{_quoted(merchant_id)}"


def ring_url(ring_id: str) -> str:
    """The page of a ring."""
    return f"/console/rings/{_quoted(ring_id)}"


def decision_url(user_id: str, transaction_id: str) -> str:
    """The page of a decision."""
    return f"/console/decisions/{_quoted(user_id)}/{_quoted(transaction_id)}"


def safe_next(address: str | None) -> str:
    """Where to go after signing in: a page of the console, whatever was asked for.

    Only paths of the console on the same origin are let through, and the page of the endpoints;
    all else leads home, and so does the sign-in itself.

    Examples
    --------
    >>> safe_next("/console/rings?min_score=0.5")
    '/console/rings?min_score=0.5'
    >>> safe_next("//elsewhere.example/console/")
    '/console/'
    """
    if address is None or len(address) > _MAX_CHARACTERS or not _PATH.match(address):
        return HOME
    path = address.partition("?")[0].partition("#")[0]
    steps = path.lower().replace("%2e", ".").split("/")
    if path.rstrip("/") == SIGN_IN or ".." in steps or "." in steps:
        return HOME
    return address


def sign_in_url(wanted: str) -> str:
    """The sign-in that leads on to an address."""
    onward = safe_next(wanted)
    return SIGN_IN if onward == HOME else f"{SIGN_IN}?next={quote(onward, safe='/')}"


def _quoted(part: str) -> str:
    # Browsers take one dot or two for a step in the path, however they are written: there is no
    # address of whatever is called so.
    return quote(part.encode("utf-8", "surrogateescape"), safe="")
