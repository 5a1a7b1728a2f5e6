"""`dafu dead-letters`: look at records that were set aside, and publish them again."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from dafu.settings import Settings
    from dafu.streaming.dead_letters import Origin

_SHOWN: Final = 160
_CHUNK: Final = 1000

_Letter = tuple[Any, "Origin"]


def dead_letters(
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines, also on a terminal.")
    ] = False,
    republish: Annotated[
        bool, typer.Option("--republish", help="Publish them again where they came from.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Only those with this reason.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --republish: only say what would be done.")
    ] = False,
) -> None:
    """List dead letters from the beginning, or publish them again: same key, same bytes.

    Publish them again once the cause is gone (a setting, a newer dafu). One that is decided
    already is recognised by its transaction_id and changes nothing.
    """
    if dry_run and not republish:
        raise typer.BadParameter("--dry-run goes with --republish")
    from dafu.settings import load_settings

    settings = load_settings()
    letters, unknown = asyncio.run(_collect(settings, limit, reason))
    if republish:
        _republish(settings, letters, dry_run=dry_run)
    elif as_json or not sys.stdout.isatty():
        for letter in letters:
            typer.echo(json.dumps(_document(letter), ensure_ascii=False))
    else:
        _show(letters)
    if unknown:
        sys.stderr.write(f"{unknown} records without the headers of a dead letter were left out\n")


async def _collect(
    settings: Settings, limit: int | None, reason: str | None
) -> tuple[list[_Letter], int]:
    from dafu.cli.kafka import read_topic
    from dafu.streaming.dead_letters import read_headers

    letters: list[_Letter] = []
    unknown = 0
    async with aclosing(read_topic(settings, settings.topics.dead_letters)) as batches:
        async for records in batches:
            for record in records:
                origin = read_headers(record.headers)
                if origin is None:
                    unknown += 1
                elif reason is None or origin.reason == reason:
                    letters.append((record, origin))
                    if len(letters) == limit:
                        return letters, unknown
    return letters, unknown


def _republish(settings: Settings, letters: list[_Letter], *, dry_run: bool) -> None:
    places = Counter(origin.topic for _, origin in letters)
    if not dry_run:
        asyncio.run(_send(settings, letters))
    done = "would publish" if dry_run else "published"
    for topic, count in places.items():
        typer.echo(f"{done} {count:,} records to {topic}")
    if not places:
        typer.echo("there are no such dead letters")


async def _send(settings: Settings, letters: list[_Letter]) -> None:
    from dafu.cli.kafka import opened_producer
    from dafu.columns import ByteColumn
    from dafu.streaming.sender import BatchSender

    async with opened_producer(settings) as producer:
        sender = BatchSender(producer)
        for topic in dict.fromkeys(origin.topic for _, origin in letters):
            records = [record for record, origin in letters if origin.topic == topic]
            for start in range(0, len(records), _CHUNK):
                chunk = records[start : start + _CHUNK]
                await sender.send(
                    topic,
                    ByteColumn.of([r.key for r in chunk]),
                    ByteColumn.of([r.value for r in chunk]),
                )


def _document(letter: _Letter) -> dict[str, Any]:
    """A dead letter as JSON; a key or value that is no UTF-8 goes as base64."""
    record, origin = letter
    document: dict[str, Any] = {
        "reason": origin.reason,
        "detail": origin.detail,
        "topic": origin.topic,
        "partition": origin.partition,
        "offset": origin.offset,
        "timestamp": origin.timestamp,
    }
    for name, content in (("key", record.key), ("value", record.value)):
        try:
            document[name] = None if content is None else content.decode()
        except UnicodeDecodeError:
            document[f"{name}_base64"] = base64.b64encode(content).decode()
    return document


def _show(letters: list[_Letter]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for record, origin in letters:
        console.print(
            Text.assemble(
                (origin.reason, "bold yellow"),
                f"  {origin.detail}  ",
                (f"{origin.topic}[{origin.partition}] offset {origin.offset}", "dim"),
            ),
            soft_wrap=True,
        )
        value = repr(record.value)[1:] if record.value is not None else "(no value)"
        more = "" if len(value) <= _SHOWN else " ..."
        console.print(Text(f"    {value[:_SHOWN]}{more}", "dim"), soft_wrap=True)
    reasons = Counter(origin.reason for _, origin in letters)
    counts = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    console.print(f"{len(letters):,} dead letters" + (f": {counts}" if counts else ""))
