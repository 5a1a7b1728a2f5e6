"""Keys, users and clients as they are kept: nothing in them lets anybody in who reads them.

Pure: no file, no clock. Keys and secrets of clients are 256 random bits, so one SHA-256 is enough
to keep them; passwords are people's, and are hashed with Argon2id (`dafu.web.auth.passwords`).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from dafu.errors import DafuError
from dafu.web.principals import ROLES, Permission, Role

__all__ = [
    "KEY_PREFIX",
    "SECRET_PREFIX",
    "AuthRecordError",
    "AuthRecords",
    "ClientRecord",
    "KeyRecord",
    "UserRecord",
    "add",
    "digest",
    "new_key",
    "new_secret",
    "permissions_of",
    "remove",
]

KEY_PREFIX: Final = "dafu_"
SECRET_PREFIX: Final = "dafusecret_"  # noqa: S105
_BYTES: Final = 32

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]
"""No colon: names of an identity provider's have one."""

_Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class AuthRecordError(DafuError):
    """A name that is taken, unknown, or not one."""


class KeyRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An API key: the SHA-256 of it, whose it is, and what it may."""

    name: Name
    sha256: _Digest
    role: Role
    permissions: tuple[Permission, ...] | None = None
    """Fewer than the role has; None: all of them."""
    expires: datetime | None = None
    disabled: bool = False


class UserRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Somebody who signs in with a password."""

    name: Name
    password: str
    """Argon2id, in the usual notation."""
    role: Role
    disabled: bool = False


class ClientRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A program that asks for tokens (OAuth 2.0)."""

    name: Name
    sha256: _Digest
    role: Role
    permissions: tuple[Permission, ...] | None = None
    disabled: bool = False


Record = KeyRecord | UserRecord | ClientRecord


class AuthRecords(Struct, frozen=True, forbid_unknown_fields=True):
    """All of them; a name stands for one only."""

    keys: tuple[KeyRecord, ...] = ()
    users: tuple[UserRecord, ...] = ()
    clients: tuple[ClientRecord, ...] = ()

    def key(self, shown: str) -> KeyRecord | None:
        """The record of a key, whatever may be wrong with it."""
        return _matching(self.keys, shown)

    def user(self, name: str) -> UserRecord | None:
        """The user of this name."""
        return next((user for user in self.users if user.name == name), None)

    def client(self, name: str) -> ClientRecord | None:
        """The client of this name."""
        return next((client for client in self.clients if client.name == name), None)

    def everybody(self) -> list[Record]:
        """Keys, users and clients."""
        return [*self.keys, *self.users, *self.clients]


def _matching(keys: Iterable[KeyRecord], shown: str) -> KeyRecord | None:
    """All are compared, each in constant time."""
    hashed, found = digest(shown), None
    for key in keys:
        if hmac.compare_digest(key.sha256, hashed):
            found = key
    return found


def digest(secret: str) -> str:
    """SHA-256 of a key or a client's secret, in hexadecimal digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def new_key() -> str:
    """A key nobody has: 256 random bits behind a prefix that scanners for leaked keys can know."""
    return KEY_PREFIX + secrets.token_urlsafe(_BYTES)


def new_secret() -> str:
    """A client's secret, likewise."""
    return SECRET_PREFIX + secrets.token_urlsafe(_BYTES)


def permissions_of(
    role: Role, permissions: Iterable[Permission] | None = None
) -> frozenset[Permission]:
    """What a role may, or as much of it as is named."""
    return ROLES[role] if permissions is None else ROLES[role].intersection(permissions)


def add(records: AuthRecords, record: Record) -> AuthRecords:
    """With one more.

    Raises
    ------
    AuthRecordError
        If the name is taken.
    """
    for other in records.everybody():
        if other.name == record.name:
            raise AuthRecordError(f"there is already a {_kind(other)} named {record.name}")
    group = f"{_kind(record)}s"
    members = (*getattr(records, group), record)
    return msgspec.structs.replace(records, **{group: members})


def remove(records: AuthRecords, kind: type[Record], name: str) -> AuthRecords:
    """Without a key, a user or a client.

    Raises
    ------
    AuthRecordError
        If there is none of that name.
    """
    group = f"{kind.__name__.removesuffix('Record').lower()}s"
    before = getattr(records, group)
    after = tuple(record for record in before if record.name != name)
    if len(after) == len(before):
        there_are = ", ".join(sorted(record.name for record in before)) or "none"
        raise AuthRecordError(f"there is no {group[:-1]} named {name}; there are: {there_are}")
    return msgspec.structs.replace(records, **{group: after})


def _kind(record: Record) -> str:
    return type(record).__name__.removesuffix("Record").lower()
