"""`dafu keys`, `dafu users`, `dafu clients`: who may call the workers, and as what.

They write the file that the settings name (`auth.file`); workers that read it know within a
second. What is secret is printed once and kept as a hash; passwords are asked for, or read from
standard input, and never taken from the command line, where others could see them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dafu.errors import DafuError

if TYPE_CHECKING:
    from dafu.web.auth.file import AuthFile
    from dafu.web.principals import Permission, Role

__all__ = ["clients", "keys", "users"]

keys = typer.Typer(help="API keys.", no_args_is_help=True)
users = typer.Typer(help="People who sign in with a password.", no_args_is_help=True)
clients = typer.Typer(help="Programs that ask for tokens (OAuth 2.0).", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="Its name in the audit log.")]
_RoleName = Annotated[
    str, typer.Option("--role", help="viewer, analyst, model_owner, engineer or admin.")
]
_Permissions = Annotated[
    str | None,
    typer.Option("--permissions", help="Fewer than the role has, such as score or read,label."),
]


class AccessArgumentError(DafuError):
    """An argument that is none of those that there are."""


@keys.command("add")
def add_key(
    name: _Name,
    role: _RoleName,
    permissions: _Permissions = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: a date or a time (UTC).")
    ] = None,
) -> None:
    """Make a key and print it, once."""
    from dafu.web.auth.records import KeyRecord, digest, new_key

    key, until = new_key(), _moment(expires)
    _add(KeyRecord(name, digest(key), _role(role), _narrowed(role, permissions), until))
    typer.echo(key)


@keys.command("list")
def list_keys() -> None:
    """List the keys; what they are can not be told any more."""
    _show(
        (
            (key.name, key.role, *_limits(key.permissions, key.disabled, key.expires))
            for key in _file().records().keys
        ),
        "keys",
    )


@keys.command("revoke")
def revoke_key(name: _Name) -> None:
    """Remove a key, and end the sessions that it began."""
    from dafu.web.auth.records import KeyRecord

    _remove(KeyRecord, name)


@users.command("add")
def add_user(name: _Name, role: _RoleName) -> None:
    """Add somebody; the password is asked for, or read from standard input."""
    from dafu.web.auth.passwords import hash_password
    from dafu.web.auth.records import UserRecord

    known = _role(role)
    _add(UserRecord(name, hash_password(_password()), known))


@users.command("list")
def list_users() -> None:
    """List who there is."""
    rows = ((u.name, u.role, *_limits(None, u.disabled, None)) for u in _file().records().users)
    _show(rows, "users")


@users.command("remove")
def remove_user(name: _Name) -> None:
    """Remove somebody, with sessions and tokens."""
    from dafu.web.auth.records import UserRecord

    _remove(UserRecord, name)


@users.command("password")
def change_password(name: _Name) -> None:
    """Give somebody another password, which ends sessions and tokens."""
    import msgspec

    from dafu.web.auth.passwords import hash_password
    from dafu.web.auth.records import AuthRecordError, AuthRecords

    def unknown() -> AuthRecordError:
        return AuthRecordError(f"there is no user named {name}")

    if _file().records().user(name) is None:
        raise unknown()
    hashed = hash_password(_password())

    def change(records: AuthRecords) -> AuthRecords:
        if records.user(name) is None:
            raise unknown()
        changed = tuple(
            msgspec.structs.replace(user, password=hashed) if user.name == name else user
            for user in records.users
        )
        return msgspec.structs.replace(records, users=changed)

    _file().change(change)


@clients.command("add")
def add_client(name: _Name, role: _RoleName, permissions: _Permissions = None) -> None:
    """Add a client and print its secret, once."""
    from dafu.web.auth.records import ClientRecord, digest, new_secret

    secret = new_secret()
    _add(ClientRecord(name, digest(secret), _role(role), _narrowed(role, permissions)))
    typer.echo(secret)


@clients.command("list")
def list_clients() -> None:
    """List the clients."""
    rows = (
        (c.name, c.role, *_limits(c.permissions, c.disabled, None))
        for c in _file().records().clients
    )
    _show(rows, "clients")


@clients.command("remove")
def remove_client(name: _Name) -> None:
    """Remove a client, with its tokens."""
    from dafu.web.auth.records import ClientRecord

    _remove(ClientRecord, name)


def _file() -> AuthFile:
    from dafu.settings import load_settings
    from dafu.web.auth.file import AuthFile

    return AuthFile(load_settings().auth.file)


def _add(record: Any) -> None:
    """A record is made without its name being checked: do so before it is kept."""
    import msgspec

    from dafu.web.auth.records import add

    try:
        record = msgspec.convert(msgspec.to_builtins(record), type(record))
    except msgspec.ValidationError:
        raise AccessArgumentError(
            f"{record.name!r} is no name: up to 64 letters, digits, '.', '_', '@' and '-'"
        ) from None
    file = _file()
    file.change(lambda records: add(records, record))
    sys.stderr.write(f"{record.name} ({record.role}) is in {file.path}\n")


def _remove(kind: Any, name: str) -> None:
    from dafu.web.auth.records import remove

    _file().change(lambda records: remove(records, kind, name))


def _role(name: str) -> Role:
    from dafu.web.principals import ROLES

    if name not in ROLES:
        raise AccessArgumentError(f"{name!r} is no role; there are: {', '.join(ROLES)}")
    return name


def _narrowed(role: str, names: str | None) -> tuple[Permission, ...] | None:
    from dafu.web.principals import ROLES

    if names is None:
        return None
    held = {str(permission): permission for permission in ROLES[_role(role)]}
    asked = [part.strip() for part in names.split(",") if part.strip()]
    missing = [part for part in asked if part not in held]
    if missing or not asked:
        raise AccessArgumentError(
            f"{role} does not have {', '.join(missing) or 'nothing'}; it has: "
            f"{', '.join(sorted(held))}"
        )
    return tuple(held[part] for part in asked)


def _moment(text: str | None) -> datetime | None:
    from dafu.cli.options import parse_moment

    ms = parse_moment(text)
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def _password() -> str:
    from dafu.web.auth.passwords import MAX_LENGTH, MIN_LENGTH

    if sys.stdin.isatty():
        password = str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise AccessArgumentError(
            f"a password has {MIN_LENGTH} to {MAX_LENGTH:,} characters; this one has "
            f"{len(password)}"
        )
    return password


def _limits(
    permissions: Iterable[Permission] | None, disabled: bool, expires: datetime | None
) -> tuple[str, str]:
    may = "all of the role's" if permissions is None else ", ".join(sorted(permissions))
    until = "" if expires is None else f"until {expires.isoformat(timespec='minutes')}"
    return may, ", ".join(part for part in (until, "disabled" if disabled else "") if part)


def _show(rows: Iterable[tuple[str, ...]], what: str) -> None:
    listed = list(rows)
    if not listed:
        typer.echo(f"there are no {what}")
    widths = [max((len(row[i]) for row in listed), default=0) for i in range(4)]
    for row in listed:
        line = "  ".join(part.ljust(width) for part, width in zip(row, widths, strict=True))
        typer.echo(line.rstrip())
