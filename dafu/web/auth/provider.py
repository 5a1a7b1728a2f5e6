"""Tokens of an identity provider: signed by its keys, for dafu, with roles that mean ours."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import jwt
import msgspec

from dafu.settings import Access
from dafu.web.auth.identities import BadCredentialError
from dafu.web.auth.records import permissions_of
from dafu.web.auth.signing import BadTokenError, decode, header_of
from dafu.web.principals import ROLES, Principal, Role
from dafu.web.problems import RefusedError, problem

__all__ = ["ALGORITHMS", "KeySet", "Provider", "open_provider", "role_of"]

logger = logging.getLogger(__name__)

ALGORITHMS: Final = {
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "PS256": "RSA",
    "PS384": "RSA",
    "PS512": "RSA",
    "ES256": "EC",
    "ES384": "EC",
    "ES512": "EC",
    "EdDSA": "OKP",
}
"""Those with a private and a public key, and the kind of key of each: never `none`, never HS256."""

FRESH_SECONDS: Final = 3600.0
FLOOR_SECONDS: Final = 30.0
"""Keys are fetched again after the first, or for a key that is not known, but never more often
than after the second: who makes up key ids does not make us ask the provider."""

_FETCH_SECONDS: Final = 5.0
_MAX_BYTES: Final = 1 << 20
_RANK: Final[tuple[Role, ...]] = ("admin", "engineer", "model_owner", "analyst", "viewer")


class KeySet:
    """The provider's public keys, fetched when they are needed.

    Parameters
    ----------
    url : str
        Of the JSON Web Key Set (RFC 7517).
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = -float("inf")
        self._lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """The key of an id; None if the provider has none.

        Raises
        ------
        ProviderError
            If there are no keys, since the provider did not answer.
        """
        if kid not in self._keys or self._clock() - self._fetched >= FRESH_SECONDS:
            async with self._lock:
                await self._refresh(kid)
        if not self._keys:
            raise RefusedError(
                problem(
                    503,
                    "the identity provider's keys could not be fetched",
                    headers={"Retry-After": "30"},
                )
            )
        return self._keys.get(kid)

    async def _refresh(self, kid: str) -> None:
        now = self._clock()
        stale = now - self._fetched >= FRESH_SECONDS
        if (kid in self._keys and not stale) or now - self._tried < FLOOR_SECONDS:
            return  # another request has been quicker, or it is too early
        self._tried = now
        try:
            self._keys = _usable(await self._fetch())
            self._fetched = now
        except (
            aiohttp.ClientError,
            OSError,
            TimeoutError,
            ValueError,
            msgspec.MsgspecError,
            jwt.PyJWTError,
        ) as exc:
            logger.error(  # noqa: TRY400
                "the identity provider's keys could not be fetched from %s: %s",
                self._url,
                str(exc) or type(exc).__name__,
            )

    async def _fetch(self) -> Any:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout)
        async with self._session.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            raw = await response.content.read(_MAX_BYTES + 1)
            while len(raw) <= _MAX_BYTES and (more := await response.content.read(_MAX_BYTES)):
                raw += more
            if len(raw) > _MAX_BYTES:
                raise ValueError("the answer is too long")
        return msgspec.json.decode(raw)

    async def close(self, _: Any = None) -> None:
        """Let go of the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _usable(document: Any) -> dict[str, jwt.PyJWK]:
    """Keys for signatures, by id; others and those of kinds that are not known are left out."""
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("it is no JSON Web Key Set")  # noqa: TRY004
    found = {}
    for key in document["keys"]:
        if not isinstance(key, dict) or not isinstance(key.get("kid"), str):
            continue
        if key.get("use", "sig") != "sig" or key.get("kty") not in set(ALGORITHMS.values()):
            continue
        try:
            found[key["kid"]] = jwt.PyJWK(key)
        except jwt.PyJWTError as exc:
            logger.warning("a key of the identity provider's can not be used: %s", exc)
    return found


class Provider:
    """Takes the identity provider's tokens.

    Parameters
    ----------
    issuer, audience : str
        What has to stand in a token as `iss` and `aud`.
    keys : KeySet
    name_claim, roles_claim : str
        Where a caller's name and roles stand; dots lead into objects.
    roles : mapping of str to Role
        Which of the provider's roles is which of ours.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: KeySet,
        *,
        name_claim: str = "sub",
        roles_claim: str = "roles",
        roles: Mapping[str, Role] | None = None,
    ) -> None:
        self._issuer, self._audience = issuer, audience
        self.keys = keys
        self._name_claim, self._roles_claim = name_claim, roles_claim
        self._roles: Mapping[str, Role] = roles or {role: role for role in ROLES}
        self._host = urlsplit(issuer).hostname or issuer

    async def principal(self, token: str) -> Principal:
        """Whose token this is.

        Raises
        ------
        BadCredentialError
            If it is not good.
        RefusedError
            403, if whoever it is has no role here; 503, if the provider does not answer.
        """
        try:
            claims = await self._claims(token)
        except BadTokenError as exc:
            raise BadCredentialError(str(exc)) from None
        name = find_claim(claims, self._name_claim)
        if not isinstance(name, str) or not name:
            raise BadCredentialError(f"the token has no name in {self._name_claim}")
        role = role_of(find_claim(claims, self._roles_claim), self._roles)
        full = f"{self._host}:{name[:200]}"
        if role is None:
            raise RefusedError(problem(403, f"{full} has no role here"))
        return Principal(full, "token", role, permissions_of(role))

    async def _claims(self, token: str) -> dict[str, Any]:
        header = header_of(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS or not isinstance(kid, str):
            raise BadTokenError("the token is not good: its algorithm or key is not taken")
        key = await self.keys.find(kid)
        if key is None:
            raise BadTokenError("the token is not good: nobody knows its key")
        if key.key_type != ALGORITHMS[algorithm]:
            raise BadTokenError("the token is not good: its key is for another algorithm")
        return decode(
            token, key.key, algorithms=[algorithm], audience=self._audience, issuer=self._issuer
        )


def find_claim(claims: Mapping[str, Any], path: str) -> Any:
    """What stands in a token under a name, or under names within one another.

    Examples
    --------
    >>> find_claim({"realm_access": {"roles": ["a"]}}, "realm_access.roles")
    ['a']
    >>> find_claim({"https://example.com/roles": "a"}, "https://example.com/roles")
    'a'
    """
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def role_of(claimed: Any, roles: Mapping[str, Role]) -> Role | None:
    """The role that may most among those claimed: a list, or a text with blanks in between.

    Examples
    --------
    >>> role_of(["staff", "fraud"], {"staff": "viewer", "fraud": "analyst"})
    'analyst'
    """
    names = claimed.split() if isinstance(claimed, str) else claimed
    if not isinstance(names, list):
        return None
    held = {roles[name] for name in names if isinstance(name, str) and name in roles}
    return next((role for role in _RANK if role in held), None)


def open_provider(access: Access) -> Provider | None:
    """The identity provider of the settings, if there is one."""
    if access.idp_issuer is None or access.idp_audience is None or access.idp_jwks_url is None:
        return None
    roles: dict[str, Role] = {}
    for pair in access.idp_roles:
        theirs, _, ours = pair.rpartition("=")
        roles[theirs] = ours  # type: ignore[assignment]
    return Provider(
        access.idp_issuer,
        access.idp_audience,
        KeySet(access.idp_jwks_url),
        name_claim=access.idp_name_claim,
        roles_claim=access.idp_roles_claim,
        roles=roles,
    )
