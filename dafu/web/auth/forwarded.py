"""One worker's word to another that it has let a request in: from where it came, signed.

A worker that gets such a word does not count the request against its limits again, nor judge the
name it came under: the first one did. Who calls, and what he may, it finds out by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from dafu.web.auth.signing import BadTokenError, Signer

__all__ = ["WORD", "Words", "address_of", "is_forwarded"]

WORD: Final = "Dafu-Forwarded-Word"
"""The header."""

_AUDIENCE: Final = "dafu-worker"
_SECONDS: Final = 30.0
_ADDRESS: Final = web.RequestKey("forwarded_from", str)


class Words:
    """Gives such words, and takes them.

    Parameters
    ----------
    signer : Signer
    clock : callable
        Epoch seconds.
    """

    def __init__(self, signer: Signer, clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._clock = clock

    def give(self, request: web.BaseRequest, address: str) -> str:
        """The word for a request that came from an address."""
        claims = {"sub": address, "method": request.method, "path": request.raw_path}
        return self._signer.sign(claims, audience=_AUDIENCE, now=self._clock(), seconds=_SECONDS)

    def take(self, request: web.BaseRequest) -> bool:
        """Whether a request comes with a good word; `address_of` tells what it says from then on.

        A word that is not good counts for nothing.
        """
        word = request.headers.get(WORD)
        if word is None:
            return False
        try:
            claims = self._signer.read(word, audience=_AUDIENCE)
        except BadTokenError:
            return False
        if (claims.get("method"), claims.get("path")) != (request.method, request.raw_path):
            return False
        request[_ADDRESS] = str(claims["sub"])
        return True


def is_forwarded(request: web.BaseRequest) -> bool:
    """Whether another worker let this request in."""
    return _ADDRESS in request


def address_of(request: web.BaseRequest, *, behind_proxy: bool) -> str:
    """Where a request came from: what another worker says, or our own proxy, or the connection."""
    if _ADDRESS in request:
        return request[_ADDRESS]
    if behind_proxy:
        # The last one is what our proxy saw; those before it are whatever the client said.
        last = request.headers.getall("X-Forwarded-For", [""])[-1].rpartition(",")[2].strip()
        if last:
            return last[:64]
    return request.remote or "unknown"
