"""Tokens of an identity provider, which is played by a server of the tests' own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dafu.settings import Access
from dafu.web.auth.identities import BadCredentialError
from dafu.web.auth.provider import (
    FLOOR_SECONDS,
    FRESH_SECONDS,
    KeySet,
    Provider,
    open_provider,
    role_of,
)
from dafu.web.problems import RefusedError
from tests.web.auth.conftest import ADMIN_KEY, MakeSite, bearer

ISSUER, AUDIENCE = "https://id.example.com/realm", "dafu"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
OKP = ed25519.Ed25519PrivateKey.generate()
ALGORITHMS: dict[str, tuple[Any, Any]] = {
    "RS256": (RSA, jwt.algorithms.RSAAlgorithm),
    "PS256": (RSA, jwt.algorithms.RSAAlgorithm),
    "ES256": (EC, jwt.algorithms.ECAlgorithm),
    "EdDSA": (OKP, jwt.algorithms.OKPAlgorithm),
}


def public(algorithm: str, kid: str) -> dict[str, Any]:
    key, kind = ALGORITHMS[algorithm]
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


def token(algorithm: str = "RS256", kid: str | None = "k1", key: Any = None, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "iat": now,
        "nbf": now,
        "exp": now + 60,
        "roles": ["analyst"],
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims, key or ALGORITHMS[algorithm][0], algorithm, headers=headers)


class IdentityProvider:
    """Serves a key set, and counts how often."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [public("RS256", "k1")]
        self.status, self.asked, self.now = 200, 0, 1000.0
        self.body: bytes | None = None
        app = web.Application()
        app.router.add_get("/jwks", self._serve)
        self.server = TestServer(app)

    async def _serve(self, _: web.Request) -> web.Response:
        self.asked += 1
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        return web.Response(body=body, status=self.status, content_type="application/json")

    def provider(self, **more: Any) -> Provider:
        keys = KeySet(str(self.server.make_url("/jwks")), lambda: self.now)
        return Provider(ISSUER, AUDIENCE, keys, **more)


@pytest.fixture
async def idp() -> AsyncIterator[IdentityProvider]:
    found = IdentityProvider()
    await found.server.start_server()
    yield found
    await found.server.close()


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
async def test_its_tokens_are_good(idp: IdentityProvider, algorithm: str) -> None:
    idp.keys = [public(algorithm, "k1")]
    provider = idp.provider()
    principal = await provider.principal(token(algorithm))
    assert (principal.name, principal.kind, principal.role) == (
        "id.example.com:ann",
        "token",
        "analyst",
    )
    await provider.principal(token(algorithm, aud=["another", AUDIENCE]))
    assert idp.asked == 1
    await provider.keys.close()


async def test_anything_else_is_not(idp: IdentityProvider) -> None:
    provider, now = idp.provider(), int(time.time())
    pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    idp.keys = [public("RS256", "k1"), public("ES256", "ec")]
    bad = {
        "another issuer": token(iss="https://evil.example"),
        "an issuer that begins alike": token(iss=ISSUER + "/x"),
        "another audience": token(aud="another"),
        "audiences": token(aud=["a", "b"]),
        "no audience": token(aud=None),
        "no issuer": token(iss=None),
        "no subject": token(sub=None),
        "expired": token(exp=now - 60),
        "no end": token(exp=None),
        "not yet": token(nbf=now + 60),
        "another key": token(key=rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        "no key id": token(kid=None),
        "an unknown key id": token(kid="k9"),
        "a key of another algorithm": token("RS256", kid="ec"),
        "HS256 by the public key": _by_secret(pem),
        "none": _by_nothing(),
        "no text": "..",
    }
    for what, shown in bad.items():
        with pytest.raises(BadCredentialError):
            await provider.principal(shown)
            pytest.fail(what)
    await provider.keys.close()


def _by_secret(secret: bytes) -> str:
    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    body = token().split(".")[1]
    text = f"{part(json.dumps({'alg': 'HS256', 'kid': 'k1'}).encode())}.{body}"
    return f"{text}.{part(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def _by_nothing() -> str:
    return jwt.encode({"sub": "ann"}, "", algorithm="none", headers={"kid": "k1"})


async def test_new_keys_are_fetched_but_not_too_often(idp: IdentityProvider) -> None:
    provider = idp.provider()
    await provider.principal(token())
    idp.keys = [public("ES256", "k2")]
    for _ in range(20):
        with pytest.raises(BadCredentialError):
            await provider.principal(token("ES256", kid="k2"))
    assert idp.asked == 1
    idp.now += FLOOR_SECONDS
    await provider.principal(token("ES256", kid="k2"))
    assert idp.asked == 2
    with pytest.raises(BadCredentialError):
        await provider.principal(token())
    idp.now += FRESH_SECONDS
    await provider.principal(token("ES256", kid="k2"))
    assert idp.asked == 3
    await provider.keys.close()


async def test_many_at_once_fetch_once(idp: IdentityProvider) -> None:
    provider = idp.provider()
    await asyncio.gather(*(provider.principal(token()) for _ in range(10)))
    assert idp.asked == 1
    await provider.keys.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, None), (302, None), (200, b"no json"), (200, b"[]"), (200, b'{"keys":{}}'),
     (200, b'{"keys":[' + b" " * (2 << 20) + b"]}")],
)  # fmt: skip
async def test_a_provider_that_fails(idp: IdentityProvider, status: int, body: Any) -> None:
    provider = idp.provider()
    idp.status, idp.body = status, body
    with pytest.raises(RefusedError) as refused:
        await provider.principal(token())
    assert refused.value.response.status == 503
    idp.status, idp.body = 200, None
    idp.now += FLOOR_SECONDS
    await provider.principal(token())
    idp.status, idp.body = status, body
    idp.now += FRESH_SECONDS
    await provider.principal(token())  # what was known holds on
    await provider.keys.close()


async def test_keys_that_are_of_no_use_are_left_out(idp: IdentityProvider) -> None:
    idp.keys = [
        {"kty": "oct", "kid": "k1", "k": "c2VjcmV0"},
        {**public("RS256", "k2"), "use": "enc"},
        {"kty": "RSA", "kid": "k3", "n": "!", "e": "AQAB"},
        {"kty": "RSA"},
        public("ES256", "k4"),
    ]
    provider = idp.provider()
    await provider.principal(token("ES256", kid="k4"))
    for kid in ("k1", "k2", "k3"):
        with pytest.raises(BadCredentialError):
            await provider.principal(token(kid=kid))
    await provider.keys.close()


async def test_roles_and_names_come_from_the_claims_that_are_named(idp: IdentityProvider) -> None:
    provider = idp.provider(
        name_claim="preferred_username",
        roles_claim="realm_access.roles",
        roles={"fraud": "analyst", "root": "admin"},
    )
    shown = token(preferred_username="ann", realm_access={"roles": ["x", "fraud"]})
    principal = await provider.principal(shown)
    assert (principal.name, principal.role) == ("id.example.com:ann", "analyst")
    for roles in ([], ["admin"], "x", None, 7, {"admin": 1}, [["root"]]):
        with pytest.raises(RefusedError) as refused:
            await provider.principal(token(preferred_username="a", realm_access={"roles": roles}))
        assert refused.value.response.status == 403
    with pytest.raises(BadCredentialError, match="no name"):
        await provider.principal(token(realm_access={"roles": ["fraud"]}))
    await provider.keys.close()


def test_the_role_that_may_most_counts() -> None:
    ours = {"v": "viewer", "e": "engineer", "a": "analyst"}
    assert role_of("v e a", ours) == "engineer"  # type: ignore[arg-type]
    assert role_of(["v"], ours) == "viewer"  # type: ignore[arg-type]
    assert role_of("", ours) is None  # type: ignore[arg-type]


def test_the_settings_make_one() -> None:
    assert open_provider(Access()) is None
    access = Access(
        idp_issuer=ISSUER,
        idp_audience=AUDIENCE,
        idp_jwks_url="https://id.example.com/jwks",
        idp_roles=("team=a=analyst",),
    )
    provider = open_provider(access)
    assert provider is not None
    assert provider._roles == {"team=a": "analyst"}


async def test_its_tokens_and_ours_are_taken_side_by_side(
    idp: IdentityProvider, make_site: MakeSite
) -> None:
    provider = idp.provider()
    site = await make_site(provider)
    status, me = await site.ask("/v1/me", headers=bearer(token()))
    assert (status, me["name"], me["role"]) == (200, "id.example.com:ann", "analyst")
    ours = site.auth.identities.token(site.auth.identities.of_key(ADMIN_KEY))
    assert (await site.ask("/v1/me", headers=bearer(ours)))[1]["name"] == "admin"
    assert (await site.ask("/v1/me", headers=bearer(token(aud="x"))))[0] == 401
    assert (await site.ask("/v1/me", headers=bearer(token(roles=[]))))[0] == 403
    alone = await make_site()
    assert (await alone.ask("/v1/me", headers=bearer(token())))[0] == 401
    await provider.keys.close()
