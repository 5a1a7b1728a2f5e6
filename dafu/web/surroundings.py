"""What a request comes with, looked at before any endpoint: the name it came under, the origin of
the page that makes it, another worker's word; and what all answers tell of these.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from aiohttp import web

from dafu.settings import Web
from dafu.web.audit import Audit
from dafu.web.auth.forwarded import Words, is_forwarded
from dafu.web.auth.gate import PRINCIPAL, RATE_HEADERS
from dafu.web.problems import RefusedError, problem
from dafu.web.reading import LONGEST_BODY

__all__ = ["allowed_hosts", "is_loopback", "surround"]

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_METHODS: Final = "GET, HEAD, POST, PUT, DELETE"
_HEADERS: Final = "Authorization, X-API-Key, Content-Type"
_EXPOSED: Final = "Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset"
_PREFLIGHT_SECONDS: Final = "600"
_REFUSALS: Final = (401, 403)
_REPEAT_SECONDS: Final = 60.0
_MOST_REPEATS: Final = 10_000


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback.

    Examples
    --------
    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def allowed_hosts(settings: Web) -> tuple[str, ...]:
    """Names that requests may come under; none: any."""
    if settings.allowed_hosts:
        return tuple(host.lower().strip("[]") for host in settings.allowed_hosts)
    if not is_loopback(settings.host):
        return ()
    return (*LOOPBACK_NAMES, settings.host.lower().strip("[]"))


def surround(application: web.Application, settings: Web, words: Words, audit: Audit) -> None:
    """Look at all requests of an application before its endpoints do.

    Parameters
    ----------
    application : aiohttp.web.Application
        Its errors are problem details already (`dafu.web.problems.protect`).
    settings : Web
    words : Words
        Of other workers.
    audit : Audit
        Gets to know who was refused.
    """
    application[LONGEST_BODY] = settings.max_body_bytes
    hosts, origins = allowed_hosts(settings), frozenset(settings.cors_origins)
    application.middlewares.append(_guard(hosts, words))
    if origins:
        application.middlewares.append(_preflights(origins))
    application.middlewares.append(_watch(audit))
    application.on_response_prepare.append(_tell(origins))


def _guard(hosts: tuple[str, ...], words: Words) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        forwarded = words.take(request)
        probe = request.path.startswith("/health/")  # asked for by address
        if hosts and not forwarded and not probe and not _named(request.host, hosts):
            raise RefusedError(
                problem(
                    400,
                    "this server is not known under the name that was asked for: "
                    "web.allowed_hosts (DAFU_ALLOWED_HOSTS) lists those it is",
                )
            )
        return await handler(request)

    return guard


def _named(host: str, hosts: Iterable[str]) -> bool:
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    name = name.rstrip(".")
    return any(
        name == allowed or (allowed.startswith(".") and name.endswith(allowed)) for allowed in hosts
    )


def _preflights(origins: frozenset[str]) -> Any:
    @web.middleware
    async def preflights(request: web.Request, handler: _Handler) -> web.StreamResponse:
        asked = "Access-Control-Request-Method" in request.headers
        if request.method != "OPTIONS" or not asked:
            return await handler(request)
        if request.headers.get("Origin") not in origins:
            raise RefusedError(problem(403, "pages of this origin may not call: web.cors_origins"))
        headers = {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
        }
        return web.Response(status=204, headers=headers)

    return preflights


def _watch(audit: Audit) -> Any:
    """Have refusals noted: of those who are known, and of those who show what is not good. Who
    shows nothing is left to the log of whoever stands in front."""
    repeats = _Repeats()

    @web.middleware
    async def watch(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except RefusedError as exc:
            _note(exc.response.status, request, audit, repeats)
            raise

    return watch


def _note(status: int, request: web.Request, audit: Audit, repeats: _Repeats) -> None:
    principal = request.get(PRINCIPAL)
    shown = "Authorization" in request.headers or "X-API-Key" in request.headers
    if status not in _REFUSALS or is_forwarded(request) or (principal is None and not shown):
        return
    target = f"{request.method} {request.path[:200]}"
    who = audit.address_of(request) if principal is None else principal.name
    before = repeats.count((who, target, status), time.monotonic())
    if before is not None:
        details = {"status": status, **({"repeated": before} if before else {})}
        audit.note(request, principal, "request", target, details, outcome="refused")


class _Repeats:
    """What is refused again within a minute is counted, and told with the next entry."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, str, int], tuple[float, int]] = OrderedDict()

    def count(self, what: tuple[str, str, int], now: float) -> int | None:
        """How often it was refused since it was told last; None if it need not be told yet."""
        told, before = self._told.get(what, (-_REPEAT_SECONDS, 0))
        if now - told < _REPEAT_SECONDS:
            self._told[what] = (told, before + 1)
            return None
        self._told[what] = (now, 0)
        self._told.move_to_end(what)
        while len(self._told) > _MOST_REPEATS:
            self._told.popitem(last=False)
        return before


def _tell(origins: frozenset[str]) -> Any:
    async def tell(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(request.get(RATE_HEADERS, {}))
        if not origins:
            return
        response.headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin in origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED

    return tell
