"""Requests on the topic `control`, published for people, and what became of them.

Shared by the commands about models, rules and lists.
"""

from __future__ import annotations

import asyncio
import getpass
import time
import uuid
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from dafu.errors import DafuError

if TYPE_CHECKING:
    from dafu.lists import ListEntry
    from dafu.registry import Event, Registry
    from dafu.settings import Settings
    from dafu.tables.records import MemoryRecords

_POLL_SECONDS: Final = 0.3

Json = Annotated[bool, typer.Option("--json", help="As one JSON document.")]
Why = Annotated[str, typer.Option(help="For whoever asks later.")]
By = Annotated[str | None, typer.Option(help="Who asks. [default: the user's name]")]
Wait = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for the workers' answer; 0: do not wait.")
]


class RefusedError(DafuError):
    """The workers set a control event aside."""


class UnansweredError(DafuError):
    """No worker has dealt with a control event in time."""


class _Place(NamedTuple):
    """Where a control event was written, and where dead letters ended before."""

    partition: int
    offset: int
    letters_from: Mapping[int, int]


def signature(by: str | None, why: str) -> dict[str, Any]:
    """The fields that every event has: a new id, who asks, why, and when."""
    return {
        "event_id": str(uuid.uuid4()),
        "by": _user() if by is None else by,
        "why": why,
        "at": time.time_ns() // 1_000_000,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return ""


def ask(event: Event, wait: float) -> Registry | None:
    """Publish an event, and say so if nobody waits for what becomes of it; raises as `request`."""
    from dafu.settings import load_settings

    registry = asyncio.run(request(load_settings(), event, wait))
    if registry is None:
        typer.echo(f"published {event.action} ({event.event_id}); not waiting for an answer")
    return registry


async def request(settings: Settings, event: Event, wait: float) -> Registry | None:
    """Publish an event and wait for the registry after it; None without waiting.

    Raises
    ------
    RefusedError
        If it came back as a dead letter.
    UnansweredError
        If neither happened in time.
    """
    from dafu.cli.kafka import ensure_topic, opened_producer, topic_ends
    from dafu.columns import ByteColumn
    from dafu.registry import CONTROL_KEY, encode_event
    from dafu.streaming.sender import BatchSender

    await ensure_topic(settings, settings.topics.control)
    letters = await topic_ends(settings, settings.topics.dead_letters)
    async with opened_producer(settings) as producer:
        written = await BatchSender(producer).send(
            settings.topics.control,
            ByteColumn.of([CONTROL_KEY]),
            ByteColumn.of([encode_event(event)]),
        )
    ((partition, at),) = written.items()
    if not wait:
        return None
    return await _answer(settings, _Place(partition, at.last, letters), wait)


async def _answer(settings: Settings, place: _Place, wait: float) -> Registry:
    deadline = time.monotonic() + wait
    while True:
        registry = await read_registry(settings)
        # After the registry: a refusal is written before any later event is granted.
        if (why := await _refusal(settings, place)) is not None:
            raise RefusedError(f"refused: {why}")
        if registry is not None and registry.number >= place.offset:
            return registry
        if time.monotonic() > deadline:
            raise UnansweredError(
                f"no worker has answered within {wait:g} s. The event is on "
                f"{settings.topics.control} and will be dealt with when one runs; see then with "
                "`dafu models list`, `dafu rules list` or `dafu lists show`, and "
                "`dafu dead-letters`"
            )
        await asyncio.sleep(_POLL_SECONDS)


async def _refusal(settings: Settings, place: _Place) -> str | None:
    """Why the event was set aside, None if it was not."""
    from dafu.cli.kafka import read_topic, topic_ends
    from dafu.streaming.dead_letters import read_headers

    topic = settings.topics.dead_letters
    if not await topic_ends(settings, topic):
        return None
    async with aclosing(read_topic(settings, topic, start=place.letters_from)) as batches:
        async for records in batches:
            for record in records:
                origin = read_headers(record.headers)
                if (
                    origin is not None
                    and origin.topic == settings.topics.control
                    and (origin.partition, origin.offset) == (place.partition, place.offset)
                ):
                    return f"{origin.reason}: {origin.detail}"
    return None


async def read_registry(settings: Settings) -> Registry | None:
    """What models and rules are in force, by the changelog of the control agent's table.

    None if nothing was ever granted.

    Raises
    ------
    BrokerUnreachableError, TopicError
    """
    return (await _read_table(settings))[0]


async def read_entries(settings: Settings) -> list[ListEntry]:
    """All entries of lists, in order of list, kind and value; raises as `read_registry`."""
    from dafu.lists import by_list
    from dafu.stages.lists import entries_of

    _, records = await _read_table(settings)
    entries = [] if records is None else [*entries_of(records).values()]
    return sorted(entries, key=by_list)


async def _read_table(settings: Settings) -> tuple[Registry | None, MemoryRecords | None]:
    """The registry and the partition that it stands in."""
    from dafu.cli.kafka import read_topic, topic_ends
    from dafu.registry import REGISTRY_KEY, decode_registry
    from dafu.streaming.records import RecordBatch
    from dafu.tables.ownership import PartitionLog, log_page
    from dafu.tables.records import MemoryRecords

    topic = f"{settings.app_id}-models-changelog"
    if not await topic_ends(settings, topic):
        return None, None
    logs: dict[int, PartitionLog] = {}
    tables: dict[int, MemoryRecords] = {}
    async with aclosing(read_topic(settings, topic)) as batches:
        async for records in batches:
            if not records:
                continue
            number = records[0].partition
            log = logs.setdefault(number, PartitionLog())
            page = log_page(RecordBatch.of(topic, number, records))
            tables.setdefault(number, MemoryRecords()).write(log.recover(page))
    found = [
        (decode_registry(table.data[REGISTRY_KEY]), table)
        for table in tables.values()
        if REGISTRY_KEY in table.data
    ]
    return max(found, key=lambda held: held[0].number, default=(None, None))
