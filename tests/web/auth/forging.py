"""Tokens that must never be taken: each is a good one with one thing wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dafu.web.auth.identities import TOKEN_AUDIENCE, Identities, Subject


def encoded(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forgeries(identities: Identities, subject: Subject) -> dict[str, str]:
    """By what is wrong with it; `subject` may do all, and is known."""
    good = identities.token(subject)
    claims = jwt.decode(good, options={"verify_signature": False})
    header = jwt.get_unverified_header(good)
    head, body, signature = good.split(".")
    signer = identities.signer
    now = identities.clock()
    public = signer.public_pem()

    def signed(changes: dict[str, Any], audience: str = TOKEN_AUDIENCE) -> str:
        """By the right key."""
        key = signer._private()
        whole = {k: v for k, v in {**claims, "aud": audience, **changes}.items() if v is not None}
        return jwt.encode(whole, key, algorithm="EdDSA", headers={"kid": header["kid"]})

    def by_secret(secret: bytes, algorithm: str) -> str:
        digest = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}[algorithm]
        text = f"{encoded({**header, 'alg': algorithm})}.{body}"
        return f"{text}.{encoded(hmac.new(secret, text.encode(), digest).digest())}"

    stranger = Ed25519PrivateKey.generate()
    flipped = "A" if signature[0] != "A" else "B"
    return {
        "alg none": f"{encoded({**header, 'alg': 'none'})}.{body}.",
        "alg None": f"{encoded({**header, 'alg': 'None'})}.{body}.",
        "alg none, old signature": f"{encoded({**header, 'alg': 'none'})}.{body}.{signature}",
        "HS256 by the public key": by_secret(public, "HS256"),
        "HS512 by the public key": by_secret(public, "HS512"),
        "HS256 by the raw public key": by_secret(
            signer._private().public_key().public_bytes_raw(), "HS256"
        ),
        "HS256 by nothing": by_secret(b"", "HS256"),
        "no signature": f"{head}.{body}.",
        "a damaged signature": f"{head}.{body}.{flipped}{signature[1:]}",
        "another key": jwt.encode(claims, stranger, algorithm="EdDSA"),
        "another key, our key id": jwt.encode(
            claims, stranger, algorithm="EdDSA", headers={"kid": header["kid"]}
        ),
        "another key that it brings along": jwt.encode(
            claims,
            stranger,
            algorithm="EdDSA",
            headers={
                "kid": header["kid"],
                "jwk": jwt.algorithms.OKPAlgorithm.to_jwk(stranger.public_key(), as_dict=True),
            },
        ),
        "a changed payload": f"{head}.{encoded({**claims, 'sub': 'root'})}.{signature}",
        "another audience": signed({}, "another"),
        "a session": identities.session(subject),
        "another issuer": signed({"iss": "https://evil.example"}),
        "no issuer": signed({"iss": None}),
        "no audience": signed({"aud": None}),
        "no end": signed({"exp": None}),
        "not yet good": signed({"nbf": int(now) + 3600}),
        "of the future": signed({"iat": int(now) + 3600, "nbf": int(now) + 3600}),
        "expired": signed({"exp": int(now) - 60}),
        "of nobody": signed({"sub": "nobody", "kind": "user"}),
        "of nobody's kind": signed({"kind": "god"}),
        "without a proof": signed({"proof": None}),
        "with another proof": signed({"proof": "0" * 32}),
        "no token": "a.b.c",
        "nothing": "..",
        "long": "a" * 3500 + "." + "b" * 3500 + ".c",
    }
