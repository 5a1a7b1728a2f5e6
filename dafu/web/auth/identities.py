"""Whose key, token or session something is, and tokens and sessions for those who are known.

Tokens and sessions say who somebody is; what he may is looked up each time. So a key that is
revoked, a user who is removed, another password or role ends or changes what was signed before.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

from msgspec import Struct

from dafu.web.auth.file import AuthFile
from dafu.web.auth.records import (
    ClientRecord,
    KeyRecord,
    UserRecord,
    digest,
    permissions_of,
)
from dafu.web.auth.signing import LEEWAY_SECONDS, BadTokenError, Signer
from dafu.web.principals import Permission, Principal, Role

__all__ = ["ADMIN", "BadCredentialError", "Identities", "Subject", "subject_of"]

TOKEN_AUDIENCE: Final = "dafu"  # noqa: S105
SESSION_AUDIENCE: Final = "dafu-session"
ADMIN: Final = "admin"
"""The name of whoever has the administrator's key of the settings."""

_REMEMBERED: Final = 4096

SubjectKind = Literal["admin", "key", "user", "client"]


class BadCredentialError(Exception):
    """A key, token or session that is not good; the text says why, for its bearer."""


class Subject(Struct, frozen=True):
    """Somebody known here. `proof` changes with his key, password or secret."""

    kind: SubjectKind
    name: str
    role: Role
    permissions: frozenset[Permission]
    proof: str


def subject_of(record: KeyRecord | UserRecord | ClientRecord) -> Subject:
    """Whom a record is of."""
    if isinstance(record, UserRecord):
        permissions, secret, kind = permissions_of(record.role), record.password, "user"
    else:
        permissions = permissions_of(record.role, record.permissions)
        secret, kind = record.sha256, "key" if isinstance(record, KeyRecord) else "client"
    return Subject(kind, record.name, record.role, permissions, _proof(secret))  # type: ignore[arg-type]


class Identities:
    """Those who are known here.

    Parameters
    ----------
    file : AuthFile
    signer : Signer
    admin_key : str or None
        A key that may do everything, besides those in the file.
    token_seconds, session_seconds : float
        How long tokens and sessions are good.
    clock : callable
        Epoch seconds.
    """

    def __init__(
        self,
        file: AuthFile,
        signer: Signer,
        *,
        admin_key: str | None = None,
        token_seconds: float = 900.0,
        session_seconds: float = 43_200.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.file = file
        self.signer = signer
        self.token_seconds = token_seconds
        self.session_seconds = session_seconds
        self.clock = clock
        self._admin = None if admin_key is None else digest(admin_key)
        self._read: OrderedDict[tuple[str, bytes], dict[str, Any]] = OrderedDict()

    @property
    def anybody(self) -> bool:
        """Whether there is anybody who could be let in."""
        return self._admin is not None or bool(self.file.records().everybody())

    def of_key(self, shown: str) -> Subject:
        """Whose key this is.

        Raises
        ------
        BadCredentialError
            If nobody's, or it is not good any more.
        """
        if self._admin is not None and hmac.compare_digest(self._admin, digest(shown)):
            return self._administrator()
        record = self.file.records().key(shown)
        if record is None:
            raise BadCredentialError("there is no such key")
        return self._of_key_record(record)

    def of_token(self, token: str) -> Subject:
        """Whose access token this is; raises likewise."""
        return self._of_claims(self._claims(token, TOKEN_AUDIENCE))

    def of_session(self, token: str) -> tuple[Subject, str]:
        """Whose session this is, and its CSRF token; raises likewise."""
        claims = self._claims(token, SESSION_AUDIENCE)
        csrf = claims.get("csrf")
        if not isinstance(csrf, str) or not csrf:
            raise BadCredentialError("the session is not good")
        return self._of_claims(claims), csrf

    def token(self, subject: Subject) -> str:
        """A new access token."""
        return self.signer.sign(
            _claims_of(subject),
            audience=TOKEN_AUDIENCE,
            now=self.clock(),
            seconds=self.token_seconds,
        )

    def session(self, subject: Subject) -> str:
        """A new session."""
        return self.signer.sign(
            {**_claims_of(subject), "csrf": secrets.token_urlsafe(32)},
            audience=SESSION_AUDIENCE,
            now=self.clock(),
            seconds=self.session_seconds,
        )

    def _claims(self, token: str, audience: str) -> dict[str, Any]:
        """Signatures are checked once, times with every use."""
        remembered = (audience, hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest())
        claims = self._read.get(remembered)
        if claims is None:
            try:
                claims = self.signer.read(token, audience=audience)
            except BadTokenError as exc:
                raise BadCredentialError(str(exc)) from None
            self._read[remembered] = claims
            while len(self._read) > _REMEMBERED:
                self._read.popitem(last=False)
        else:
            self._read.move_to_end(remembered)
        if self.clock() >= claims["exp"] + LEEWAY_SECONDS:
            raise BadCredentialError("the token has expired")
        return claims

    def _of_claims(self, claims: dict[str, Any]) -> Subject:
        subject = self._find(claims.get("kind"), str(claims["sub"]))
        if not hmac.compare_digest(subject.proof, str(claims.get("proof", ""))):
            raise BadCredentialError("the password or the key has been changed since")
        return subject

    def _find(self, kind: Any, name: str) -> Subject:
        records = self.file.records()
        record: KeyRecord | UserRecord | ClientRecord | None = None
        if kind == "admin" and self._admin is not None:
            return self._administrator()
        if kind == "key":
            record = next((key for key in records.keys if key.name == name), None)
        elif kind == "user":
            record = records.user(name)
        elif kind == "client":
            record = records.client(name)
        if record is None:
            raise BadCredentialError("whoever this was made for is not known any more")
        if isinstance(record, KeyRecord):
            return self._of_key_record(record)
        if record.disabled:
            raise BadCredentialError("whoever this was made for has been disabled")
        return subject_of(record)

    def _of_key_record(self, record: KeyRecord) -> Subject:
        if record.disabled:
            raise BadCredentialError("the key has been disabled")
        if record.expires is not None and self.clock() >= _utc(record.expires).timestamp():
            raise BadCredentialError("the key has expired")
        return subject_of(record)

    def _administrator(self) -> Subject:
        assert self._admin is not None
        return Subject("admin", ADMIN, "admin", permissions_of("admin"), _proof(self._admin))


def principal_of(
    subject: Subject, kind: Literal["key", "token", "session"], csrf: str = ""
) -> Principal:
    """The caller, as endpoints see him."""
    return Principal(subject.name, kind, subject.role, subject.permissions, csrf)


def _claims_of(subject: Subject) -> dict[str, Any]:
    return {
        "sub": subject.name,
        "kind": subject.kind,
        "proof": subject.proof,
        "jti": secrets.token_hex(8),
    }


def _proof(kept: str) -> str:
    return hashlib.sha256(b"proof:" + kept.encode()).hexdigest()[:32]


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
