"""The gate of every endpoint: who calls, whether it is really he, and whether he calls too often.

A caller shows a key or a token (`Authorization: Bearer`, `X-API-Key`), or a session (the cookie).
Nothing shown is nobody; something that is not good is refused, except a session: a browser brings
its cookie along unasked, so one that has run out counts as none.
"""

from __future__ import annotations

import ipaddress
import math
from typing import Final

from aiohttp import web

from dafu.web.auth.auth import Auth
from dafu.web.auth.forwarded import is_forwarded
from dafu.web.auth.identities import BadCredentialError, principal_of
from dafu.web.auth.provider import Provider
from dafu.web.auth.sessions import SAFE, check_csrf, check_origin
from dafu.web.auth.signing import BadTokenError, header_of
from dafu.web.endpoints import Endpoint
from dafu.web.principals import Permission, Principal
from dafu.web.problems import RefusedError, problem, unauthorized
from dafu.web.rates import Rates

__all__ = ["PRINCIPAL", "RATE_HEADERS", "AuthGate"]

PRINCIPAL: Final = web.RequestKey("principal", Principal)
"""Who calls, once that is known."""

RATE_HEADERS: Final = web.RequestKey("rate_headers", dict[str, str])
"""What the answer says of the caller's rate limit."""


class AuthGate:
    """Lets in who shows a key, a token or a session.

    Parameters
    ----------
    auth : Auth
    rates : Rates
    provider : Provider or None
        The identity provider whose tokens are good as well.
    """

    def __init__(self, auth: Auth, rates: Rates, provider: Provider | None = None) -> None:
        self._auth = auth
        self._rates = rates
        self._provider = provider
        web_settings = auth.web
        self._limits = {
            "read": web_settings.reads_per_minute,
            "score": web_settings.scores_per_minute,
            "change": web_settings.changes_per_minute,
            "sign-in": web_settings.sign_ins_per_minute,
        }

    async def enter(self, request: web.Request, endpoint: Endpoint, /) -> Principal | None:
        """Who calls, None if he shows nothing; see `Gate`."""
        address = f"address:{_network(self._auth.address_of(request))}"
        if endpoint.signs_in:
            await self._limit(request, _group(endpoint), address)
            if endpoint.page and request.method not in SAFE:
                check_origin(request, secure=self._auth.secure)
            return None
        try:
            principal = await self._who(request)
        except BadCredentialError as exc:
            await self._limit(request, _group(endpoint), address)
            raise RefusedError(unauthorized(str(exc), "invalid_token")) from None
        if principal is None:
            await self._limit(request, _group(endpoint), address)
            return None
        request[PRINCIPAL] = principal
        await self._limit(request, _group(endpoint), f"{principal.kind}:{principal.name}")
        if principal.csrf and request.method not in SAFE and not is_forwarded(request):
            check_origin(request, secure=self._auth.secure)
            await check_csrf(request, principal.csrf)
        return principal

    async def _who(self, request: web.Request) -> Principal | None:
        authorization, key = request.headers.get("Authorization"), request.headers.get("X-API-Key")
        if authorization is not None and key is not None:
            raise BadCredentialError("both Authorization and X-API-Key are given: send one")
        if key is not None:
            return principal_of(self._auth.identities.of_key(key), "key")
        if authorization is not None:
            scheme, _, shown = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise BadCredentialError("only bearer credentials are taken here")
            return await self._of_bearer(shown.strip())
        session = self._auth.cookies.read(request)
        if session is None:
            return None
        try:
            subject, csrf = self._auth.identities.of_session(session)
        except BadCredentialError:
            return None
        return principal_of(subject, "session", csrf)

    async def _of_bearer(self, shown: str) -> Principal:
        if shown.count(".") != 2:  # no key has dots, every token has two
            return principal_of(self._auth.identities.of_key(shown), "key")
        try:
            issued_here = self._provider is None or self._auth.signer.made(shown)
            header_of(shown)
        except BadTokenError as exc:
            raise BadCredentialError(str(exc)) from None
        if self._provider is not None and not issued_here:
            return await self._provider.principal(shown)
        return principal_of(self._auth.identities.of_token(shown), "token")

    async def _limit(self, request: web.Request, group: str, client: str) -> None:
        per_minute = self._limits.get(group, 0)
        if per_minute == 0 or is_forwarded(request):
            return
        verdict = await self._rates.take(f"{group}:{client}", per_minute)
        headers = {
            "RateLimit-Limit": str(per_minute),
            "RateLimit-Remaining": str(verdict.remaining),
            "RateLimit-Reset": str(math.ceil(verdict.full_in)),
        }
        if not verdict.allowed:
            wait = max(1, math.ceil(verdict.retry_after))
            raise RefusedError(
                problem(
                    429,
                    f"more than {per_minute} requests a minute ({group}): try again in {wait} s",
                    headers={"Retry-After": str(wait), **headers},
                    group=group,
                )
            )
        request[RATE_HEADERS] = headers


def _group(endpoint: Endpoint) -> str:
    """What an endpoint counts as; health is asked for by machines and never refused."""
    if endpoint.path.startswith("/health/"):
        return "health"
    if endpoint.signs_in and endpoint.method not in SAFE:
        return "sign-in"
    if endpoint.permission is Permission.SCORE:
        return "score"
    return "read" if endpoint.method in SAFE else "change"


def _network(address: str) -> str:
    """Of IPv6 the first 64 bits: whoever has one address there has all of them."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)
