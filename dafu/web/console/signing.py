"""Signing in to the console, by name and password or with a key, and out again."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from dafu.web.auth.auth import Auth, SignInError
from dafu.web.console.addresses import SIGN_IN, safe_next
from dafu.web.console.forms import read_form
from dafu.web.console.rendering import page
from dafu.web.endpoints import Call

__all__ = ["NextQuery", "SigningPages"]


class NextQuery(Struct, frozen=True):
    """Where somebody wanted to go."""

    next: Annotated[str, Meta(max_length=4096)] = ""


class SignInForm(Struct, frozen=True):
    """Either a name and a password, or a key."""

    user: Annotated[str, Meta(max_length=256)] = ""
    password: Annotated[str, Meta(max_length=1024)] = ""
    key: Annotated[str, Meta(max_length=1024)] = ""
    next: Annotated[str, Meta(max_length=4096)] = ""


class SigningPages:
    """The sign-in and the sign-out.

    Parameters
    ----------
    auth : Auth
    """

    def __init__(self, auth: Auth) -> None:
        self._auth = auth

    async def form(self, call: Call) -> web.Response:
        """The page to sign in at."""
        return _form(call, call.query.next)

    async def sign_in(self, call: Call) -> web.Response:
        """Begin a session, and go on to where somebody wanted to go."""
        form = await read_form(call.request, SignInForm)
        try:
            if form.key:
                session = await self._auth.sign_in_with_key(form.key.strip(), call.request)
            else:
                session = await self._auth.sign_in(form.user, form.password, call.request)
        except SignInError as exc:
            status = exc.response.status
            shown = _form(call, form.next, wrong=exc.message, user=form.user, status=status)
            if exc.retry_after:
                shown.headers["Retry-After"] = str(exc.retry_after)
            return shown
        response = web.Response(status=303, headers={"Location": safe_next(form.next)})
        self._auth.set_session(response, session)
        return response

    async def sign_out(self, call: Call) -> web.Response:
        """End the session of this browser."""
        response = web.Response(status=303, headers={"Location": SIGN_IN})
        self._auth.sign_out(call, response)
        return response


def _form(
    call: Call, wanted: str, *, wrong: str = "", user: str = "", status: int = 200
) -> web.Response:
    return page(
        call,
        "sign-in.html",
        title="Sign in",
        status=status,
        next=safe_next(wanted),
        wrong=wrong,
        user=user,
    )
