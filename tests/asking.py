"""Asking a worker over HTTP as a program does that started it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Final

ADMIN_KEY: Final = "tests-may-do-everything-" + "0" * 16
"""What workers of tests get as DAFU_ADMIN_KEY."""


def ask(url: str, key: str | None = ADMIN_KEY) -> tuple[int, Any]:
    """Status and JSON document of a GET."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=10
        ) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)
