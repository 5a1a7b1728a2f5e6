"""Lists of users, merchants and identifiers, as events: who is denied, watched or allowed.

An entry is put or removed by an event on `control`. What is granted goes as a `ListChange` into
every partition of the log that stage two reads, among the transactions, and holds from there on.
An entry may end; that is told by the transactions' own times. This module is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta, Struct

from dafu.errors import RegistryError
from dafu.features.state import LATENESS
from dafu.schema import MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS, Id, ShortText

ListName = Literal["deny", "watch", "allow"]
EntryKind = Literal["user", "merchant", "device", "ip", "card", "email", "country"]
ListAction = Literal["add_entries", "remove_entries"]

LIST_NAMES: Final[tuple[ListName, ...]] = get_args(ListName)
ENTRY_KINDS: Final[tuple[EntryKind, ...]] = get_args(EntryKind)

FIELDS: Final[dict[EntryKind, str]] = {
    "user": "user_id",
    "merchant": "merchant_id",
    "device": "device_fingerprint",
    "ip": "ip_address",
    "card": "card_id",
    "email": "email",
    "country": "country",
}
"""The field of a transaction that entries of a kind are compared with."""

COLUMNS: Final[dict[ListName, str]] = {name: f"on_{name}_list" for name in LIST_NAMES}
"""What rules call it that a transaction has something on a list."""

FOLDED: Final[dict[EntryKind, Callable[[str], str]]] = {"email": str.lower, "country": str.upper}
"""Kinds that are compared in lower or in upper case."""

MAX_ENTRIES: Final = 10_000
"""In all lists together."""

MAX_AT_ONCE: Final = 500
"""Entries that one event puts or removes."""

MAX_VALUE_CHARS: Final = 512


_TOLD: Final = 20
"""Entries that a refusal names."""


class EntryKey(NamedTuple):
    """What tells entries apart."""

    list: ListName
    kind: EntryKind
    value: str


class ListEntry(Struct, frozen=True, omit_defaults=True):
    """Something on a list, for transactions before `until` (epoch milliseconds, None: for good).

    `by`, `why` and `at` (epoch milliseconds) are for people, and only the registry has them.
    """

    list: ListName
    kind: EntryKind
    value: Annotated[str, Meta(min_length=1, max_length=MAX_VALUE_CHARS)]
    until: Annotated[int, Meta(ge=MIN_TIMESTAMP_MS, lt=MAX_TIMESTAMP_MS)] | None = None
    by: ShortText = ""
    why: ShortText = ""
    at: int = 0

    @property
    def key(self) -> EntryKey:
        """What tells it apart; spellings that mean the same are one."""
        return EntryKey(self.list, self.kind, folded(self.kind, self.value))

    def holds_at(self, time: int) -> bool:
        """Whether a transaction of this time (epoch milliseconds) meets it."""
        return self.until is None or time < self.until

    @property
    def ends(self) -> int | None:
        """From when on late transactions need not meet it either; None for never."""
        return None if self.until is None else self.until + LATENESS

    def forgotten_at(self, now: int) -> bool:
        """Whether it is not to be kept any longer."""
        return self.ends is not None and now >= self.ends


def by_list(entry: ListEntry) -> tuple[int, int, str]:
    """The key that sorts entries as people read them: by list, kind and value."""
    return LIST_NAMES.index(entry.list), ENTRY_KINDS.index(entry.kind), entry.value


class ListEvent(Struct, frozen=True, omit_defaults=True):
    """A request about entries, with who and why, as it stands on `control`.

    All of them are put, in place of what is there under the same list, kind and value, or all
    are removed. `at` is epoch milliseconds, for people.
    """

    event_id: Id
    action: ListAction
    entries: Annotated[tuple[ListEntry, ...], Meta(min_length=1, max_length=MAX_AT_ONCE)]
    by: ShortText = ""
    why: ShortText = ""
    at: int = 0

    def signed(self) -> tuple[ListEntry, ...]:
        """The entries with who asked for them and why."""
        return tuple(
            msgspec.structs.replace(e, by=self.by, why=self.why, at=self.at) for e in self.entries
        )

    def unsigned(self) -> tuple[ListEntry, ...]:
        """The entries alone."""
        return tuple(msgspec.structs.replace(e, by="", why="", at=0) for e in self.entries)


class ListChange(Struct, frozen=True, omit_defaults=True):
    """From here on in this log these entries hold, or hold no longer.

    Changes count up, together with switches; a lower number is a repeat. `now` is the time of the
    event's record in epoch milliseconds: entries that ended long before it are forgotten.
    """

    number: int
    now: int
    entries: tuple[ListEntry, ...]
    removed: bool = False


def folded(kind: EntryKind, value: str) -> str:
    """The form in which values of a kind are compared."""
    return FOLDED[kind](value) if kind in FOLDED else value


def check_entries(there: Mapping[EntryKey, ListEntry], event: ListEvent, now: int) -> None:
    """See that what an event asks for can be.

    Parameters
    ----------
    there : mapping of EntryKey to ListEntry
        All entries.
    event : ListEvent
    now : int
        Epoch milliseconds: the time of the event's record.

    Raises
    ------
    RegistryError
        If it can not; the message says why.
    """
    if event.action == "remove_entries":
        absent = [e.key for e in event.entries if e.key not in there]
        if absent:
            told = [f"{k.kind} {k.value!r} is not on the {k.list} list" for k in absent[:_TOLD]]
            raise RegistryError("; ".join(told) + _more(absent))
        return
    over = [e.key for e in event.entries if not e.holds_at(now)]
    if over:
        told = [f"{k.kind} {k.value!r} would have ended already" for k in over[:_TOLD]]
        raise RegistryError("; ".join(told) + _more(over))
    kept = {key for key, entry in there.items() if not entry.forgotten_at(now)}
    kept.update(e.key for e in event.entries)
    if len(kept) > MAX_ENTRIES:
        raise RegistryError(
            f"the lists would have {len(kept):,} entries, and {MAX_ENTRIES:,} may be: remove some "
            "that are no longer needed"
        )


def _more(keys: Sequence[EntryKey]) -> str:
    return f"; and {len(keys) - _TOLD} more" if len(keys) > _TOLD else ""
