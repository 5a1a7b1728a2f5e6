"""The page of lists: who is denied, watched or allowed, until when and why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from dafu.lists import (
    ENTRY_KINDS,
    LIST_NAMES,
    EntryKind,
    ListAction,
    ListEntry,
    ListEvent,
    ListName,
    by_list,
)
from dafu.web.console.forms import read_form
from dafu.web.console.rendering import page
from dafu.web.control import ControlDesk, signed
from dafu.web.endpoints import Call
from dafu.web.masking import mask
from dafu.web.problems import RefusedError, invalid

__all__ = ["EntryForm", "ListPages"]

_LISTS: Final = "/console/lists"


class EntryForm(Struct, frozen=True):
    """An entry, and why it is put or taken off; `until` is a date and time in UTC, or empty."""

    list: ListName
    kind: EntryKind
    value: Annotated[str, Meta(min_length=1, max_length=512)]
    why: Annotated[str, Meta(min_length=3, max_length=256)]
    until: Annotated[str, Meta(max_length=40)] = ""


class ListPages:
    """The page of lists.

    Parameters
    ----------
    desk : ControlDesk
    """

    def __init__(self, desk: ControlDesk) -> None:
        self._desk = desk

    async def listed(self, call: Call) -> web.Response:
        """All entries."""
        partition = await self._desk.here(call.request)
        if isinstance(partition, web.Response):
            return partition
        entries = sorted(self._desk.agent.entries(partition).values(), key=by_list)
        return page(
            call,
            "lists.html",
            title="Lists",
            entries=[mask(entry, call) for entry in entries],
            names=LIST_NAMES,
            kinds=ENTRY_KINDS,
        )

    async def add(self, call: Call) -> web.Response:
        """Put an entry on a list."""
        return await self._change(call, "add_entries")

    async def remove(self, call: Call) -> web.Response:
        """Take an entry off a list."""
        return await self._change(call, "remove_entries")

    async def _change(self, call: Call, action: ListAction) -> web.Response:
        partition = await self._desk.here(call.request)
        if isinstance(partition, web.Response):
            return partition
        form = await read_form(call.request, EntryForm)
        entry = ListEntry(form.list, form.kind, form.value, _until(form.until))
        event = ListEvent(action=action, entries=(entry,), **signed(call, form.why))
        refused = await self._desk.ask(call, event, form.list)
        if refused is not None:
            return refused
        raise web.HTTPSeeOther(_LISTS)


def _until(text: str) -> int | None:
    """Epoch milliseconds of a form's date and time in UTC; None for an empty one."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedError(invalid("is no date and time", "until")) from None
    return int(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000)
