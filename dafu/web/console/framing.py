"""What makes pages of answers that are none: problems, and calls of people who have not signed in.

Endpoints of the console refuse as all endpoints do, with problem details. Whoever looks at a page
is sent to sign in, or told in a page what is wrong.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web
from msgspec import Struct

from dafu.web.auth.gate import PRINCIPAL
from dafu.web.console.addresses import SIGN_IN, sign_in_url
from dafu.web.console.rendering import page
from dafu.web.endpoints import Call

__all__ = ["frame"]

_CONSOLE: Final = "/console"
_REFERENCE: Final = "/docs"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Problem(Struct):
    """What is told of problem details."""

    title: str
    status: int
    detail: str


def frame(application: web.Application) -> None:
    """Answer in pages below ``/console`` and at ``/docs``, whatever else an application does."""
    application.middlewares.insert(0, _in_pages)


@web.middleware
async def _in_pages(request: web.Request, handler: _Handler) -> web.StreamResponse:
    response = await handler(request)
    path = request.path
    if (
        response.status < 400
        or response.content_type != "application/problem+json"
        or not (path in (_CONSOLE, _REFERENCE) or path.startswith(f"{_CONSOLE}/"))
    ):
        return response
    if response.status == 401 and path != SIGN_IN and "text/html" in _accepted(request):
        wanted = str(request.rel_url) if request.method == "GET" else ""
        return web.Response(status=303, headers={"Location": sign_in_url(wanted)})
    return _told(request, response)


def _accepted(request: web.Request) -> str:
    return request.headers.get("Accept", "text/html")


def _told(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """The same refusal as a page, with the headers that it came with."""
    assert isinstance(response, web.Response) and isinstance(response.body, bytes)
    found = msgspec.json.decode(response.body, type=_Problem)
    shown = page(
        Call(request, request.get(PRINCIPAL)),
        "error.html",
        title=found.title,
        status=found.status,
        detail=found.detail,
        retry="Retry-After" in response.headers,
    )
    for name in ("Retry-After", "Allow", "WWW-Authenticate"):
        if name in response.headers:
            shown.headers[name] = response.headers[name]
    return shown
