"""The key that dafu signs with: Ed25519, made once, shared by all workers that share its file.

What it signs says what it is for (its audience), and is read by nobody for anything else: an access
token is no session and no word of another worker.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dafu.web.auth.file import AuthFileError, write_private

__all__ = ["ALGORITHM", "LEEWAY_SECONDS", "BadTokenError", "Signer"]

logger = logging.getLogger(__name__)

ALGORITHM: Final = "EdDSA"
LEEWAY_SECONDS: Final = 10
"""How far clocks of workers may be apart."""

_REQUIRED: Final = ("iss", "aud", "sub", "iat", "nbf", "exp")


class BadTokenError(Exception):
    """A token that is not good; the text says what is wrong with it."""


class Signer:
    """Signs, and reads what it signed.

    Parameters
    ----------
    path : Path
        Of the private key, PEM (PKCS 8). It is read, or made, when it is first needed.
    issuer : str
        What stands as `iss` in all that is signed.
    """

    def __init__(self, path: Path, issuer: str) -> None:
        self.path = path
        self.issuer = issuer
        self._lock = threading.Lock()
        self._key: Ed25519PrivateKey | None = None
        self._kid = ""

    def prepare(self) -> None:
        """Read the key, or make it.

        Raises
        ------
        AuthFileError
            If there is something else in the file, or it can not be written.
        """
        with self._lock:
            if self._key is None:
                self._key = _read(self.path) or _make(self.path)
                public = self._key.public_key().public_bytes_raw()
                self._kid = hashlib.sha256(public).hexdigest()[:16]

    def public_pem(self) -> bytes:
        """The public key, PEM."""
        return (
            self._private()
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def secret(self, use: str) -> bytes:
        """32 bytes that only those who have the key know, others for each use."""
        return hmac.digest(self._private().private_bytes_raw(), f"dafu:{use}".encode(), "sha256")

    def sign(self, claims: Mapping[str, Any], *, audience: str, now: float, seconds: float) -> str:
        """A token.

        Parameters
        ----------
        claims : mapping
            What it says; `sub` at least.
        audience : str
            What it is for.
        now : float
            Epoch seconds.
        seconds : float
            How long it is good.
        """
        key = self._private()
        whole = {
            **claims,
            "iss": self.issuer,
            "aud": audience,
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now + seconds),
        }
        return jwt.encode(whole, key, algorithm=ALGORITHM, headers={"kid": self._kid})

    def read(self, token: str, *, audience: str) -> dict[str, Any]:
        """What a token says.

        Raises
        ------
        BadTokenError
            If another key signed it, or it is for something else, of another time, or damaged.
        """
        return decode(
            token,
            self._private().public_key(),
            algorithms=[ALGORITHM],
            audience=audience,
            issuer=self.issuer,
        )

    def made(self, token: str) -> bool:
        """Whether a token names this key as the one it was signed with; nothing is checked."""
        self.prepare()
        return header_of(token).get("kid") == self._kid

    def _private(self) -> Ed25519PrivateKey:
        self.prepare()
        assert self._key is not None
        return self._key


def header_of(token: str) -> dict[str, Any]:
    """What stands in front of a token, unchecked.

    Raises
    ------
    BadTokenError
        If it is no token.
    """
    try:
        return jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError) as exc:
        raise BadTokenError(f"the token can not be read: {exc}") from None


def decode(
    token: str, key: Any, *, algorithms: list[str], audience: str, issuer: str
) -> dict[str, Any]:
    """What a token says, once all about it has been checked.

    Raises
    ------
    BadTokenError
        If anything about it is not as it has to be.
    """
    try:
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=audience,
            issuer=issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": list(_REQUIRED)},
        )
    except jwt.ExpiredSignatureError:
        raise BadTokenError("the token has expired") from None
    except (jwt.InvalidTokenError, ValueError, TypeError) as exc:
        raise BadTokenError(f"the token is not good: {exc}") from None


def _read(path: Path) -> Ed25519PrivateKey | None:
    try:
        content = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise AuthFileError(f"{path} can not be read: {exc}") from exc
    if mode & 0o077:
        logger.warning(
            "%s can be read by others, who could sign tokens: `chmod 600 %s`", path, path
        )
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as exc:
        raise AuthFileError(f"{path} is no private key in PEM: {exc}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise AuthFileError(
            f"{path} is no Ed25519 key; `openssl genpkey -algorithm ed25519` makes one"
        )
    return key


def _make(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if write_private(path, pem, replace=False):
        logger.info("made a key to sign tokens with: %s", path)
        return key
    other = _read(path)  # of a worker that was quicker
    if other is None:
        raise AuthFileError(f"{path} was there and is gone")
    return other
