"""`dafu lists`: who and what is denied, watched or allowed, while workers run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dafu.cli.control import By, Json, Wait, Why, ask, read_entries, signature
from dafu.cli.options import parse_moment
from dafu.errors import DafuError

if TYPE_CHECKING:
    from dafu.lists import ListAction, ListEntry

app = typer.Typer(
    help="Deny, watch and allow users, merchants, devices and the like.", no_args_is_help=True
)

_List = Annotated[str, typer.Argument(metavar="LIST", help="deny, watch or allow.")]
_Kind = Annotated[
    str,
    typer.Argument(metavar="KIND", help="user, merchant, device, ip, card, email or country."),
]
_Values = Annotated[
    list[str] | None, typer.Argument(metavar="VALUE", help="As transactions have them.")
]
_File = Annotated[Path | None, typer.Option("--file", help="One value a line.")]


class ListValuesError(DafuError):
    """What was given as entries is none."""


@app.command("add")
def add(
    name: _List,
    kind: _Kind,
    values: _Values = None,
    file: _File = None,
    until: Annotated[
        str | None,
        typer.Option(help="For transactions before this date or time. [default: for good]"),
    ] = None,
    why: Why = "",
    by: By = None,
    wait: Wait = 30.0,
) -> None:
    """Put values on a list, from a place in the workers' logs that a replay finds again."""
    _ask("add_entries", name, kind, _all(values, file), parse_moment(until), by, why, wait)


@app.command("remove")
def remove(
    name: _List,
    kind: _Kind,
    values: _Values = None,
    file: _File = None,
    why: Why = "",
    by: By = None,
    wait: Wait = 30.0,
) -> None:
    """Take values off a list."""
    _ask("remove_entries", name, kind, _all(values, file), None, by, why, wait)


@app.command("show")
def show(as_json: Json = False) -> None:
    """Show what is on the lists, who put it there and why."""
    import msgspec

    from dafu.settings import load_settings

    entries = asyncio.run(read_entries(load_settings()))
    if as_json:
        typer.echo(msgspec.json.encode(entries).decode())
        return
    for entry in entries:
        typer.echo(_line(entry))
    typer.echo(f"{len(entries)} entries")


def _all(values: list[str] | None, file: Path | None) -> list[str]:
    found = list(values or ())
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise ListValuesError(f"{file} can not be read: {exc}") from exc
        found += [line.strip() for line in lines if line.strip()]
    if not found:
        raise typer.BadParameter("give at least one value, or a --file of them")
    return list(dict.fromkeys(found))


def _ask(
    action: ListAction,
    name: str,
    kind: str,
    values: list[str],
    until: int | None,
    by: str | None,
    why: str,
    wait: float,
) -> None:
    """Publish the entries, as many in an event as may be, and say what became of each event."""
    import msgspec

    from dafu.lists import MAX_AT_ONCE, ListEvent

    for start in range(0, len(values), MAX_AT_ONCE):
        part = values[start : start + MAX_AT_ONCE]
        entries: list[dict[str, Any]] = [{"list": name, "kind": kind, "value": v} for v in part]
        if until is not None:
            entries = [entry | {"until": until} for entry in entries]
        asked = {"action": action, "entries": entries, **signature(by, why)}
        try:
            event = msgspec.convert(asked, ListEvent)
        except msgspec.ValidationError as exc:
            raise ListValuesError(f"{name} {kind}: {exc}") from exc
        if ask(event, wait) is not None:
            many = f"{len(part)} entries" if len(part) > 1 else "1 entry"
            typer.echo(f"{action}: done, {many} of the {name} list")


def _line(entry: ListEntry) -> str:
    until = f", until {_moment(entry.until)}" if entry.until is not None else ""
    why = f": {entry.why}" if entry.why else ""
    by = entry.by or "somebody"
    return f"{entry.list:<6} {entry.kind:<9} {entry.value}{until}, by {by} {_moment(entry.at)}{why}"


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
