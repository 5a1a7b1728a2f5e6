"""Style sheets, scripts and icons of the console, under addresses that change with their content.

All assets share one digest in their address, so that modules may import each other by relative
paths, and whoever has fetched one never asks for it again.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

from aiohttp import web

from dafu.web.endpoints import Call
from dafu.web.problems import problem

__all__ = ["STATIC", "asset_url", "serve_asset"]

STATIC: Final = "/console/static"
_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class _Assets(NamedTuple):
    """All assets by name, and the digest of their names and contents."""

    digest: str
    content: dict[str, bytes]


@cache
def _assets() -> _Assets:
    directory = files("dafu.web.console") / "static"
    content = {
        item.name: item.read_bytes()
        for item in sorted(directory.iterdir(), key=lambda item: item.name)
        if item.is_file()
    }
    digest = hashlib.sha256()
    for name, data in content.items():
        digest.update(f"{name}:{len(data)}:".encode() + data)
    return _Assets(digest.hexdigest()[:16], content)


def asset_url(name: str) -> str:
    """The address of an asset as it is now.

    Raises
    ------
    KeyError
        If there is none of that name.
    """
    assets = _assets()
    if name not in assets.content:
        raise KeyError(f"the console has no asset {name!r}")
    return f"{STATIC}/{assets.digest}/{name}"


async def serve_asset(call: Call) -> web.Response:
    """An asset; one that is asked for under another digest may not be kept."""
    assets, name = _assets(), call.path("name")
    data = assets.content.get(name)
    if data is None:
        return problem(404, f"the console has no asset {name!r}")
    suffix = name[name.rfind(".") :]
    kept = call.path("digest") == assets.digest
    return web.Response(
        body=data,
        content_type=_TYPES[suffix],
        charset="utf-8",
        headers={"Cache-Control": _IMMUTABLE if kept else "no-cache"},
    )
