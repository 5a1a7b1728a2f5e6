"""Lists over HTTP: who is denied, watched or allowed, and until when."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from dafu.lists import (
    MAX_AT_ONCE,
    EntryKind,
    ListAction,
    ListEntry,
    ListEvent,
    ListName,
    by_list,
)
from dafu.schema import ShortText
from dafu.web.control import CHANGE_PROBLEMS, READ_PROBLEMS, ControlDesk, signed
from dafu.web.endpoints import Call, Endpoint
from dafu.web.masking import mask
from dafu.web.principals import Permission
from dafu.web.problems import answer

__all__ = ["Entries", "list_endpoints"]


class ListQuery(Struct, frozen=True):
    """Which entries."""

    list: ListName | None = None
    kind: EntryKind | None = None


class Entries(Struct, frozen=True):
    """Entries, in order of list, kind and value; those that ended may still be among them."""

    entries: list[ListEntry]


class ListRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Entries to put or to remove, and why; `by`, `why` and `at` of each are not read."""

    entries: Annotated[tuple[ListEntry, ...], Meta(min_length=1, max_length=MAX_AT_ONCE)]
    why: ShortText = ""


def list_endpoints(desk: ControlDesk) -> list[Endpoint]:
    """Show, add, remove."""

    def shown(call: Call, partition: int, query: ListQuery) -> web.Response:
        entries = [
            entry
            for entry in desk.agent.entries(partition).values()
            if query.list in (None, entry.list) and query.kind in (None, entry.kind)
        ]
        entries.sort(key=by_list)
        return answer(mask(Entries(entries), call))

    async def show(call: Call) -> web.Response:
        partition = await desk.here(call.request)
        if isinstance(partition, web.Response):
            return partition
        return shown(call, partition, call.query)

    async def change(call: Call, action: ListAction) -> web.Response:
        partition = await desk.here(call.request)
        if isinstance(partition, web.Response):
            return partition
        event = ListEvent(action=action, entries=call.body.entries, **signed(call, call.body.why))
        lists = sorted({entry.list for entry in event.entries})
        refused = await desk.ask(call, event, ", ".join(lists))
        return shown(call, partition, ListQuery()) if refused is None else refused

    async def add(call: Call) -> web.Response:
        return await change(call, "add_entries")

    async def remove(call: Call) -> web.Response:
        return await change(call, "remove_entries")

    def changing(path: str, name: str, summary: str, handler: Any) -> Endpoint:
        return Endpoint(
            method="POST",
            path=path,
            name=name,
            summary=summary,
            tag="lists",
            permission=Permission.LISTS,
            handler=handler,
            body=ListRequest,
            max_bytes=1 << 20,
            returns=Entries,
            problems=CHANGE_PROBLEMS,
        )

    return [
        Endpoint(
            method="GET",
            path="/v1/lists",
            name="get_lists",
            summary="Who is denied, watched or allowed",
            tag="lists",
            permission=Permission.READ,
            handler=show,
            query=ListQuery,
            returns=Entries,
            problems=READ_PROBLEMS,
        ),
        changing("/v1/lists", "add_entries", "Put entries on lists", add),
        changing("/v1/lists/remove", "remove_entries", "Take entries off lists", remove),
    ]
