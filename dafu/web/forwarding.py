"""Requests about what another worker holds, handed on to it.

Workers know from the consumer group which of them holds which partition, and at what URL it
answers. A request is handed on as it came, with the caller's own credentials, so that the other
worker decides anew who may what; and once only: a worker that is asked by another one for what it
does not hold either says so.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from aiohttp import web
from yarl import URL

from dafu.web.problems import problem
from dafu.web.reading import read_bytes

__all__ = ["FORWARDED", "Forwarder", "held_here", "holders"]

FORWARDED: Final = "Dafu-Forwarded-By"
"""A header with the URL of the worker that hands a request on."""

SECONDS: Final = 10.0
CHANGE_SECONDS: Final = 28.0
"""For a request that changes something: it waits for what becomes of an event, then for its entry
in the audit log."""

_PASSED_ON: Final = ("Authorization", "Cookie", "X-API-Key", "Accept", "Content-Type", "Origin")
_PASSED_BACK: Final = (
    "Content-Type",
    "Content-Security-Policy",
    "Content-Disposition",
    "Location",
    "Referrer-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "Allow",
)
_MAX_BYTES: Final = 1 << 20
_READS: Final = ("GET", "HEAD")
_TO_READ: Final = aiohttp.ClientTimeout(total=SECONDS)
_TO_CHANGE: Final = aiohttp.ClientTimeout(total=CHANGE_SECONDS)
_SILENCE: Final = (TimeoutError, aiohttp.ClientError, OSError)

Vouch = Callable[[web.Request], Mapping[str, str]]


def held_here(app: Any, changelog: str) -> set[int]:
    """The partitions of a table that this worker holds."""
    return {tp.partition for tp in app.assignor.assigned_actives() if tp.topic == changelog}


def holders(app: Any, changelog: str) -> dict[int, str]:
    """The URL of the worker that holds each partition of a table; none before an assignment."""
    # Whoever led the group took the changelogs of tables that it does not keep for other topics.
    told = (app.assignor.tables_metadata(), app.assignor.external_topics_metadata())
    return {
        partition: url
        for by_worker in told
        for url, topics in by_worker.items()
        for partition in topics.get(changelog, ())
    }


class Forwarder:
    """Hands requests on to other workers.

    Parameters
    ----------
    app : faust.App
        Whose consumer group is asked who holds what.
    tls : ssl.SSLContext, optional
        Which certificates of other workers are trusted.
    vouch : callable, optional
        Headers by which the other worker knows that this one has let the request in.
    """

    def __init__(
        self, app: Any, tls: ssl.SSLContext | None = None, vouch: Vouch | None = None
    ) -> None:
        self.app = app
        self._tls = tls
        self._vouch = vouch
        self._session: aiohttp.ClientSession | None = None

    async def forward(self, request: web.Request, changelog: str, partition: int) -> web.Response:
        """The answer of the worker that holds a partition of a table, or why there is none."""
        url = holders(self.app, changelog).get(partition)
        if url is None:
            return problem(
                503,
                f"no worker is known to hold partition {partition} of {changelog}",
                headers={"Retry-After": "2"},
                partition=partition,
            )
        if FORWARDED in request.headers:
            return problem(
                421,
                f"partition {partition} of {changelog} is not held by this worker, but by {url}",
                partition=partition,
                worker=url,
            )
        return await self.ask(request, url)

    def others(self) -> set[str]:
        """The URLs of the other workers."""
        me = str(self.app.conf.canonical_url).rstrip("/")
        return {url for url in self.app.assignor.tables_metadata() if url.rstrip("/") != me}

    async def ask(self, request: web.Request, url: str) -> web.Response:
        """The answer of another worker; see `others` for their URLs."""
        timeout = _TO_READ if request.method in _READS else _TO_CHANGE
        try:
            async with await self._sent(request, url, timeout) as found:
                content = await found.read()
        except _SILENCE as exc:
            return _silent(url, exc)
        return web.Response(body=content, status=found.status, headers=_back(found))

    async def pass_through(self, request: web.Request, url: str) -> web.StreamResponse:
        """The same, however long it is, piece by piece."""
        try:
            found = await self._sent(request, url, aiohttp.ClientTimeout(sock_read=SECONDS))
        except _SILENCE as exc:
            return _silent(url, exc)
        async with found:
            response = web.StreamResponse(status=found.status, headers=_back(found))
            await response.prepare(request)
            async for piece in found.content.iter_any():
                await response.write(piece)
        return response

    async def _sent(
        self, request: web.Request, url: str, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls)
            self._session = aiohttp.ClientSession(connector=connector)
        headers = {h: request.headers[h] for h in _PASSED_ON if h in request.headers}
        if self._vouch is not None:
            headers.update(self._vouch(request))
        headers[FORWARDED] = quote(str(self.app.conf.canonical_url), safe=":/")
        body = await read_bytes(request, _MAX_BYTES) if request.body_exists else None
        target = URL(url.rstrip("/") + request.raw_path, encoded=True)
        return await self._session.request(
            request.method,
            target,
            headers=headers,
            data=body,
            allow_redirects=False,
            timeout=timeout,
        )

    async def close(self, _: Any = None) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _back(found: aiohttp.ClientResponse) -> dict[str, str]:
    return {h: found.headers[h] for h in _PASSED_BACK if h in found.headers}


def _silent(url: str, exc: BaseException) -> web.Response:
    return problem(
        503,
        f"the worker that holds this, {url}, does not answer: {str(exc) or type(exc).__name__}",
        headers={"Retry-After": "2"},
        worker=url,
    )
