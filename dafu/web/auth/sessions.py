"""Sessions of a browser: a signed cookie, and what keeps other sites from using it.

The cookie is out of reach of scripts, is not sent with what other sites post, and under TLS is
bound to this host. Whatever changes something has to come from a page of ours (`Origin`) and to
bring the session's own CSRF token, in a header or a form.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from dafu.web.problems import RefusedError, problem
from dafu.web.reading import READ_SECONDS, remember_body

__all__ = ["CSRF_FIELD", "CSRF_HEADER", "SAFE", "Cookies", "check_csrf", "check_origin"]

CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "csrf_token"
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

_FORM: Final = "application/x-www-form-urlencoded"


class Cookies:
    """Sets, reads and clears the cookie.

    Parameters
    ----------
    secure : bool
        Whether browsers reach this server by TLS.
    seconds : float
        How long a session lasts.
    """

    def __init__(self, *, secure: bool, seconds: float) -> None:
        self.name = "__Host-dafu-session" if secure else "dafu-session"
        self._secure = secure
        self._seconds = seconds

    def read(self, request: web.BaseRequest) -> str | None:
        """The session that a request brings."""
        return request.cookies.get(self.name)

    def set(self, response: web.StreamResponse, session: str) -> None:
        """Have the browser keep a session."""
        response.set_cookie(
            self.name,
            session,
            max_age=int(self._seconds),
            path="/",
            httponly=True,
            secure=self._secure,
            samesite="Lax",
        )

    def clear(self, response: web.StreamResponse) -> None:
        """Have the browser forget it."""
        response.del_cookie(self.name, path="/", httponly=True, secure=self._secure, samesite="Lax")


def check_origin(request: web.BaseRequest, *, secure: bool) -> None:
    """See that a request comes from a page of ours, as far as the browser says.

    Raises
    ------
    RefusedError
        403, if it comes from elsewhere.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise _cross_site("another site")
        return
    parts = urlsplit(origin)
    schemes = ("https",) if secure else ("http", "https")
    if parts.scheme not in schemes or parts.netloc.lower() != request.host.lower():
        raise _cross_site(origin[:100])


async def check_csrf(request: web.Request, token: str) -> None:
    """See that a request brings the session's token.

    Raises
    ------
    RefusedError
        403, if it does not.
    """
    shown = request.headers.get(CSRF_HEADER)
    if shown is None and request.content_type == _FORM:
        try:
            async with asyncio.timeout(READ_SECONDS):
                form = await request.post()
        except TimeoutError:
            raise RefusedError(problem(408, "the form did not arrive in time")) from None
        except (UnicodeDecodeError, LookupError) as exc:
            raise RefusedError(problem(400, f"the form can not be read: {exc}")) from None
        remember_body(request, await request.read())
        shown = str(form.get(CSRF_FIELD, ""))
    raw = None if shown is None else shown.encode("utf-8", "surrogateescape")
    if raw is None or not hmac.compare_digest(raw, token.encode()):
        raise RefusedError(
            problem(
                403,
                f"a session has to bring its CSRF token with {request.method}, in the header "
                f"{CSRF_HEADER} or the form field {CSRF_FIELD}",
            )
        )


def _cross_site(where: str) -> RefusedError:
    return RefusedError(problem(403, f"this has to come from a page of dafu, not from {where}"))
