"""Tokens for those who show who they are (RFC 6749), and who somebody is."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote_plus

import msgspec
from aiohttp import web
from msgspec import Struct

from dafu.web.auth.auth import Auth
from dafu.web.auth.identities import Subject
from dafu.web.auth.sign_in import SignInError
from dafu.web.endpoints import Call, Endpoint
from dafu.web.principals import Permission
from dafu.web.problems import answer
from dafu.web.reading import read_bytes

__all__ = ["TOKEN_PATH", "Me", "Token", "auth_endpoints"]

TOKEN_PATH: Final = "/oauth/token"  # noqa: S105
_FORM: Final = "application/x-www-form-urlencoded"
_MAX_BYTES: Final = 8192


class Token(Struct, frozen=True):
    """An access token, and for how many seconds it is good."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str


class Me(Struct, frozen=True):
    """Who calls, and what he may."""

    name: str
    kind: Literal["key", "token", "session"]
    role: str
    permissions: list[str]


class _OAuthError(Exception):
    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error, self.description, self.status = error, description, status
        self.headers: dict[str, str] = {}


def auth_endpoints(auth: Auth) -> list[Endpoint]:
    """`/oauth/token` and `/v1/me`."""

    async def token(call: Call) -> web.StreamResponse:
        try:
            return _granted(auth, await _grant(auth, call.request))
        except _OAuthError as exc:
            return _refused(exc)

    async def me(call: Call) -> web.StreamResponse:
        who = call.principal
        assert who is not None
        return answer(Me(who.name, who.kind, who.role, sorted(who.permissions)))

    return [
        Endpoint(
            method="POST",
            path=TOKEN_PATH,
            name="create_token",
            summary="An access token for a client (client_credentials) or a local user (password)",
            tag="access",
            permission=None,
            handler=token,
            returns=Token,
            signs_in=True,
            documented=False,  # its forms are OAuth's own; the document names it as the token URL
            grants=("clientCredentials", "password"),
        ),
        Endpoint(
            method="GET",
            path="/v1/me",
            name="get_me",
            summary="Who calls, and what he may",
            tag="access",
            permission=Permission.READ,
            handler=me,
            returns=Me,
        ),
    ]


async def _grant(auth: Auth, request: web.Request) -> Subject:
    """Whom a token is asked for, once he has shown who he is."""
    if request.content_type != _FORM:
        raise _OAuthError("invalid_request", f"the body is {_FORM}")
    form = _form(await read_bytes(request, _MAX_BYTES))
    basic = _basic(request)
    kind = form.get("grant_type")
    if kind is None:
        raise _OAuthError("invalid_request", "grant_type is missing")
    if kind not in ("client_credentials", "password"):
        raise _OAuthError("unsupported_grant_type", "client_credentials and password are taken")
    try:
        if kind == "password":
            user, password = form.get("username"), form.get("password")
            if user is None or password is None:
                raise _OAuthError("invalid_request", "username or password is missing")
            return await auth.signing_in.by_password(user, password, request)
        if basic is not None and ("client_secret" in form or "client_id" in form):
            raise _OAuthError("invalid_request", "the client is named twice")
        client, secret = basic or (form.get("client_id"), form.get("client_secret"))
        if client is None or secret is None:
            raise _OAuthError("invalid_client", "the client does not show who it is", 401)
        return await auth.signing_in.by_secret(client, secret, request)
    except SignInError as exc:
        raise _oauth_error(exc, kind) from None


def _oauth_error(exc: SignInError, kind: str) -> _OAuthError:
    if exc.retry_after:
        found = _OAuthError("slow_down", exc.message, 429)
        found.headers["Retry-After"] = str(exc.retry_after)
        return found
    if kind == "password":
        return _OAuthError("invalid_grant", exc.message)
    return _OAuthError("invalid_client", exc.message, 401)


def _form(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=20, errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise _OAuthError("invalid_request", "the form can not be read") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise _OAuthError("invalid_request", "a parameter is given twice")
    return {name: value for name, value in form.items() if value}


def _basic(request: web.Request) -> tuple[str, str] | None:
    """Client and secret of the header, which are form-encoded within (section 2.3.1)."""
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if not scheme:
        return None
    if scheme.lower() != "basic":
        raise _OAuthError("invalid_client", "only Basic is taken here", 401)
    try:
        name, colon, secret = base64.b64decode(shown.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        colon = name = secret = ""
    if not colon:
        raise _OAuthError("invalid_client", "the header can not be read", 401)
    return unquote_plus(name), unquote_plus(secret)


def _granted(auth: Auth, subject: Subject) -> web.Response:
    return _reply(
        Token(
            auth.identities.token(subject),
            "Bearer",
            int(auth.identities.token_seconds),
            " ".join(sorted(subject.permissions)),
        ),
        200,
    )


def _refused(exc: _OAuthError) -> web.Response:
    response = _reply({"error": exc.error, "error_description": exc.description}, exc.status)
    response.headers.update(exc.headers)
    if exc.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="dafu"'
    return response


def _reply(document: Any, status: int) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", "Pragma": "no-cache"},
    )
