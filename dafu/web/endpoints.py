"""Endpoints as declarations: what is asked, who may, what comes back; and how they are served.

An `Endpoint` is the single place that says all about a route. What the declaration says is done
before its handler runs: who calls is found out, the permission checked, the query and the body
read into the declared types. The OpenAPI document and the tests of who may what are made from the
same declarations. A route without one, such as those that Faust brings along, is not served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from aiohttp import web
from msgspec import Struct

from dafu.web.principals import Permission, Principal
from dafu.web.problems import RefusedError, problem, unauthorized
from dafu.web.reading import read_body, read_query

__all__ = ["ENDPOINTS", "Call", "Endpoint", "Gate", "install"]

Method = Literal["GET", "POST", "PUT", "DELETE"]

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was let in.

    Attributes
    ----------
    request : aiohttp.web.Request
    principal : Principal or None
        Who calls; None at endpoints that are open to everybody, for callers who show nothing.
    query, body : Any
        Instances of the types that the endpoint declares, None without one.
    """

    request: web.Request
    principal: Principal | None
    query: Any = None
    body: Any = None

    def may(self, permission: Permission) -> bool:
        """Whether the caller has a permission."""
        return self.principal is not None and permission in self.principal.permissions

    @property
    def who(self) -> str:
        """The caller's name, empty if nobody knows."""
        return "" if self.principal is None else self.principal.name

    def path(self, name: str) -> str:
        """A part of the path, decoded."""
        return self.request.match_info[name]


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A method on a path.

    Parameters
    ----------
    method, path
        As aiohttp's router writes paths: ``/v1/users/{user_id}``. GET serves HEAD as well.
    name : str
        Of the operation in the OpenAPI document, unique.
    summary : str
        A sentence for people.
    tag : str
        The group it is listed in.
    permission : Permission or None
        What the caller needs; None: open to everybody.
    handler : callable
    query : Struct type, optional
        Each field is a parameter; unknown parameters are refused.
    body : type, optional
        What msgspec decodes the JSON body into.
    raw : bool
        The handler gets the body's bytes, and reads them as that type itself.
    takes : str
        The type of the body.
    max_bytes : int
        A longer body is refused.
    returns : Any
        The type of the answer's document; None where it has no JSON document.
    status : int
        Of the answer when all is well.
    also : mapping of int to type
        Other answers of that kind, by status.
    media : str
        The type of the answer when it is not JSON.
    streams : bool
        The answer is given as it comes, and takes as long as that takes.
    problems : mapping of int to str
        What else may come back, as problem details, and when.
    page : bool
        A page for people: who has not signed in is sent to sign in.
    documented : bool
        Whether it stands in the OpenAPI document.
    signs_in : bool
        Whether callers come here to show who they are in their own way, so that nothing else that
        they show is looked at.
    grants : tuple of str
        The OAuth flows by which access tokens are had here, as OpenAPI names them.
    """

    method: Method
    path: str
    name: str
    summary: str
    tag: str
    permission: Permission | None
    handler: Handler
    query: type[Struct] | None = None
    body: Any = None
    raw: bool = False
    takes: str = JSON
    max_bytes: int = 64 * 1024
    returns: Any = None
    status: int = 200
    also: Mapping[int, Any] = field(default_factory=dict)
    media: str = JSON
    streams: bool = False
    problems: Mapping[int, str] = field(default_factory=dict)
    page: bool = False
    documented: bool = True
    signs_in: bool = False
    grants: tuple[Literal["clientCredentials", "password"], ...] = ()


ENDPOINTS: Final = web.AppKey("endpoints", tuple[Endpoint, ...])
"""What an application serves."""


class Gate(Protocol):
    """Finds out who calls."""

    async def enter(self, request: web.Request, endpoint: Endpoint, /) -> Principal | None:
        """Who calls, None if he shows nothing.

        Raises
        ------
        RefusedError
            If what he shows is not good, or he may not call now.
        """
        ...


def install(
    application: web.Application,
    endpoints: Iterable[Endpoint],
    gate: Gate,
    seconds: float = 30.0,
) -> None:
    """Serve endpoints, and nothing else, on an application.

    What has not been answered after so many `seconds` is given up; streams go on.
    """
    served: set[Any] = set()
    application[ENDPOINTS] = endpoints = tuple(endpoints)
    for endpoint in endpoints:
        handler = _guarded(
            endpoint, gate, None if endpoint.streams or endpoint.media == EVENTS else seconds
        )
        served.add(handler)
        allow_head = {"allow_head": True} if endpoint.method == "GET" else {}
        adder = getattr(application.router, f"add_{endpoint.method.lower()}")
        adder(endpoint.path, handler, **allow_head)
    application.middlewares.append(_only(served))


def _only(served: set[Any]) -> Any:
    """A middleware that hides what is not an endpoint."""

    @web.middleware
    async def only(request: web.Request, handler: Handler) -> web.StreamResponse:
        match = request.match_info
        if match.http_exception is None and match.handler not in served:
            raise web.HTTPNotFound
        return await handler(request)  # type: ignore[arg-type]

    return only


def _guarded(
    endpoint: Endpoint, gate: Gate, seconds: float | None
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answered(request: web.Request) -> web.StreamResponse:
        principal = await gate.enter(request, endpoint)
        if endpoint.permission is not None:
            _check(principal, endpoint.permission, request)
        query = None if endpoint.query is None else read_query(request, endpoint.query)
        body = None
        if endpoint.body is not None:
            kind = bytes if endpoint.raw else endpoint.body
            body = await read_body(request, kind, endpoint.max_bytes)
        return await endpoint.handler(Call(request, principal, query, body))

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await answered(request)
        except TimeoutError:
            if not limit.expired():
                raise
            late = problem(504, f"there was no answer within {seconds:g} s: it was given up")
            raise RefusedError(late) from None

    return guarded


def _check(principal: Principal | None, permission: Permission, request: web.Request) -> None:
    if principal is None:
        raise RefusedError(
            unauthorized(
                f"{request.method} {request.path} needs a key or a token: send it as "
                "`Authorization: Bearer ...`"
            )
        )
    if permission not in principal.permissions:
        raise RefusedError(
            problem(
                403,
                f"{principal.name} ({principal.role}) lacks the permission `{permission}`",
                permission=permission,
            )
        )
