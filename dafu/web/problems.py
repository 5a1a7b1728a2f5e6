"""Answers as JSON and errors as problem details (RFC 9457), with the headers that all need.

Knows aiohttp and nothing of what is served.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from dafu.errors import DafuError

__all__ = ["RefusedError", "answer", "invalid", "problem", "protect", "unauthorized"]

logger = logging.getLogger(__name__)

_POLICY: Final = "Content-Security-Policy"
_CACHE: Final = "Cache-Control"
_OWN: Final = frozenset({_POLICY, _CACHE})
"""Whoever answers with a document that has a style, or that may be kept, says so himself."""

_HEADERS: Final = {
    _CACHE: "no-store",
    "X-Content-Type-Options": "nosniff",
    _POLICY: "default-src 'none'; frame-ancestors 'none'",
    "Server": "dafu",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(document: Any, *, status: int = 200) -> web.Response:
    """A JSON response of anything that msgspec encodes; floats that are not finite become null."""
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json"
    )


def problem(
    status: int, detail: str, *, headers: dict[str, str] | None = None, **members: Any
) -> web.Response:
    """An error as `application/problem+json`.

    Parameters
    ----------
    status : int
        HTTP status; its phrase becomes the title.
    detail : str
        What was wrong and what to do, for people.
    headers : dict, optional
    **members
        Further members of the document, for programs.
    """
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    return web.Response(
        body=msgspec.json.encode(document),
        status=status,
        content_type="application/problem+json",
        headers=headers,
    )


class RefusedError(Exception):
    """A request that is not let in; `response` says why."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(str(response.status))
        self.response = response


def unauthorized(detail: str, error: str | None = None) -> web.Response:
    """401, with the challenge of RFC 6750."""
    challenge = 'Bearer realm="dafu"' + (f', error="{error}"' if error else "")
    return problem(401, detail, headers={"WWW-Authenticate": challenge})


def invalid(detail: str, field: str | None = None, *, status: int = 400) -> web.Response:
    """400 that names the field; a path such as `transactions[3].amount`."""
    members: dict[str, Any] = {} if field is None else {"field": field}
    return problem(status, detail, **members)


def protect(application: web.Application) -> None:
    """Give every answer of an application, Faust's own included, these headers and errors."""
    application.middlewares.append(_problems)
    application.on_response_prepare.append(_set_headers)


async def _set_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        if name not in _OWN or name not in response.headers:
            response.headers[name] = value


@web.middleware
async def _problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as exc:
        return exc.response
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        allow = exc.headers.get("Allow")
        headers = None if allow is None else {"Allow": allow}
        detail = {
            404: f"there is nothing at {request.path}",
            405: f"{request.method} is not possible at {request.path}",
        }.get(exc.status, exc.reason)
        return problem(exc.status, detail, headers=headers)
    except DafuError as exc:  # its message is meant for people
        logger.error("%s %s: %s", request.method, request.path, exc)  # noqa: TRY400
        return problem(500, str(exc))
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        return problem(500, "the worker failed to answer; its log says why")
