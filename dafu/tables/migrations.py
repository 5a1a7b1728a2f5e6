"""Records of an older schema version become records of the present one when they are loaded.

State outlives the version of dafu that wrote it. So old layouts are kept here as data, each with
what it takes to make the next version of it; a record that is some versions old goes through all
steps in turn. Nothing is rewritten for its own sake: a record stays as it is until the entity's
next transaction, and a closed chunk, which is never written again, until it is forgotten. An
entity may therefore have records of several versions, and each tells its own:

* heads, archives, labels, rings and source marks begin with their version;
* events carry none, to stay small. Those of the open chunk are in the head's record and of its
  version. A closed chunk is told by its length: events of different versions differ in size, or
  else in nothing, which `Migrations` checks.

To change the layout: append the present one to `OLD_USERS`, `OLD_MERCHANTS` and `OLD_MARKS` as it
is (all of them, also where nothing changes), raise `SCHEMA_VERSION`, and say in `adjust` what new
fields hold. A step sees one kind of record at a time. Events to a chunk can not change.

This module knows bytes and layouts, and nothing of where they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from dafu.errors import DafuError
from dafu.features.state import MERCHANTS, NEVER, SCHEMA_VERSION, USERS, EntityLayout

__all__ = [
    "MIGRATIONS",
    "Adjust",
    "Migrations",
    "OldMarks",
    "OldRecord",
    "OldVersion",
    "StateError",
    "damaged",
    "present_marks",
]

Adjust = Callable[[np.ndarray, np.ndarray], None]
"""(old, new), arrays of equal length: fill in what `new` does not have from `old` by itself."""

_Part = Literal["head", "event", "archive", "labels", "ring"]
Slotted = Literal["archive", "labels", "ring"]
"""Kinds of records of which an entity has one, in either of two slots."""
_VERSION_BYTES: Final = 8


class StateError(DafuError):
    """A packed record that this version can not read."""


def damaged(kind: str, key: bytes) -> StateError:
    """What to raise for a record that is not there, or holds what no version ever wrote."""
    return StateError(
        f"{kind} state record {key!r} is missing or damaged, and so is the local store or the "
        "changelog; delete the local store to rebuild it from the changelog"
    )


class OldRecord(Struct, frozen=True):
    """How one kind of record was laid out, and what the next version's needs besides.

    Fields of equal name and type are carried over, all others start as zeros; `adjust` fills them.
    """

    dtype: np.dtype[np.void]
    adjust: Adjust | None = None


class OldVersion(Struct, frozen=True):
    """All records of one kind of entity as one schema version had them."""

    number: int
    head: OldRecord
    event: OldRecord
    archive: OldRecord
    labels: OldRecord
    ring: OldRecord | None = None


class OldMarks(Struct, frozen=True):
    """Source marks of one schema version; `upgrade` turns what follows the version number."""

    number: int
    upgrade: Callable[[bytes], bytes] | None = None


class Migrations:
    """Turns stored records of one kind of entity into those of the present version.

    Parameters
    ----------
    layout : EntityLayout
        The present layout.
    old : sequence of OldVersion
        Oldest first, without a gap, up to the one before the present.
    present : int
        The present schema version.

    Raises
    ------
    ValueError
        If the versions do not follow each other, or their records can not be told apart.
    """

    def __init__(
        self, layout: EntityLayout, old: Sequence[OldVersion], present: int = SCHEMA_VERSION
    ) -> None:
        self.layout = layout
        self.present = present
        self._old = tuple(old)
        self._oldest = _first_number([version.number for version in old], present)
        self._tag = present.to_bytes(_VERSION_BYTES, "little", signed=True)
        for part, dtypes in (
            ("head", self._dtypes("head")),
            ("archive", self._dtypes("archive")),
            ("record of labels", self._dtypes("labels")),
            ("record of a ring", self._dtypes("ring")),
        ):
            for dtype in dtypes:
                if (dtype.names or ("",))[0] != "schema" or dtype[0] != np.dtype("i8"):
                    raise ValueError(f"a {layout.kind}'s {part} must begin with its schema version")
        self._of_chunk_length: dict[int, int] = {}
        events = self._dtypes("event")
        for i, dtype in enumerate(events):
            same = self._of_chunk_length.get(dtype.itemsize * layout.chunk)
            if same is not None and (
                same != i - 1 or events[same] != dtype or self._old[same].event.adjust is not None
            ):
                raise ValueError(
                    f"events of a {layout.kind} in versions {self._oldest + same} and "
                    f"{self._oldest + i} differ, and not in size: their chunks look alike. Give "
                    "the newer one a field more"
                )
            self._of_chunk_length[dtype.itemsize * layout.chunk] = i

    def old_heads(self, values: Sequence[bytes | None]) -> list[int]:
        """Positions of head records that are not of the present version, or not there."""
        tag = self._tag
        return [i for i, v in enumerate(values) if v is None or not v.startswith(tag)]

    def heads(self, entities: Sequence[bytes], values: list[bytes | None]) -> list[bytes | None]:
        """Head records, each with the events of its open chunk, in the present layout.

        Parameters
        ----------
        entities : sequence of bytes
            Whose they are.
        values : list of bytes or None
            As stored. Where there is none, or one too short to have a version, it stays so.

        Raises
        ------
        StateError
            If one has a version that is not known here, or is damaged.
        """
        tag = self._tag
        if {value[:_VERSION_BYTES] for value in values if value is not None} <= {tag}:
            return values
        out = list(values)
        groups: dict[int, list[int]] = {}
        for i, value in enumerate(values):
            if value is not None and len(value) >= _VERSION_BYTES and not value.startswith(tag):
                groups.setdefault(self._step(value, entities[i]), []).append(i)
        for step, where in groups.items():
            stored = [values[i] or b"" for i in where]
            size = self._old[step].head.dtype.itemsize
            event_size = self._old[step].event.dtype.itemsize
            for i, value in zip(where, stored, strict=True):
                if len(value) < size or (len(value) - size) % event_size:
                    raise damaged(self.layout.kind, b"H" + entities[i])
            heads = self._upgraded("head", step, (value[:size] for value in stored))
            events = self._upgraded("event", step, (value[size:] for value in stored))
            at = 0
            for row, (i, value) in enumerate(zip(where, stored, strict=True)):
                n = (len(value) - size) // event_size
                out[i] = heads[row : row + 1].tobytes() + events[at : at + n].tobytes()
                at += n
        return out

    def chunks(self, keys: Sequence[bytes], values: list[bytes | None]) -> list[bytes | None]:
        """Closed chunks in the present layout, as many as are given.

        Raises
        ------
        StateError
            If one is missing or has a length that no version gives it; `keys` is for the message.
        """
        length = self.layout.event.itemsize * self.layout.chunk
        if {None if value is None else len(value) for value in values} <= {length}:
            return values
        out = list(values)
        groups: dict[int, list[int]] = {}
        for i, value in enumerate(values):
            step = None if value is None else self._of_chunk_length.get(len(value))
            if step is None:
                raise damaged(self.layout.kind, keys[i])
            if step < len(self._old):
                groups.setdefault(step, []).append(i)
        for step, where in groups.items():
            events = self._upgraded("event", step, (values[i] or b"" for i in where))
            for row, i in enumerate(where):
                at = row * self.layout.chunk
                out[i] = events[at : at + self.layout.chunk].tobytes()
        return out

    def slotted(
        self, part: Slotted, keys: Sequence[bytes], values: list[bytes | None]
    ) -> list[bytes | None]:
        """Records of one of the kinds that have slots in the present layout, as many as are given.

        Raises
        ------
        StateError
            If one is missing or damaged, or has a version that is not known here.
        """
        out: list[bytes | None] = []
        for key, value in zip(keys, values, strict=True):
            step = len(self._old)
            if value is not None and not value.startswith(self._tag):
                if len(value) < _VERSION_BYTES:
                    raise damaged(self.layout.kind, key)
                step = self._step(value, key[2:])
                if getattr(self._old[step], part) is None:
                    raise damaged(self.layout.kind, key)
            if value is None or len(value) != self._dtypes(part)[step].itemsize:
                raise damaged(self.layout.kind, key)
            if step < len(self._old):
                value = self._upgraded(part, step, [value]).tobytes()  # noqa: PLW2901
            out.append(value)
        return out

    def _step(self, value: bytes, entity: bytes) -> int:
        """Position among the old versions of the one that a record begins with."""
        number = _number(value)
        if not self._oldest <= number < self.present:
            raise _refusal(
                f"the state of {self.layout.kind} {entity!r}", number, self._oldest, self.present
            )
        return number - self._oldest

    def _dtypes(self, part: _Part) -> list[np.dtype[np.void]]:
        """Layouts of a kind of record, oldest to present; that of a version without it is blank."""
        own: np.dtype[np.void] | None = getattr(self.layout, part)
        records: list[OldRecord | None] = [getattr(version, part) for version in self._old]
        return [_BLANK if r is None else r.dtype for r in records] + [own or _BLANK]

    def _upgraded(self, part: _Part, step: int, packed: Iterable[bytes]) -> np.ndarray:
        """Records of one kind and old version, joined, through all steps to the present."""
        dtypes = self._dtypes(part)
        records: np.ndarray = np.frombuffer(bytearray(b"".join(packed)), dtypes[step])
        for i in range(step, len(self._old)):
            version = self._old[i]
            old: OldRecord | None = getattr(version, part)
            records = _next(records, dtypes[i + 1], None if old is None else old.adjust)
            if part != "event":
                records["schema"] = version.number + 1
        return records


_BLANK: Final = np.dtype([("schema", "i8")])


def _next(old: np.ndarray, dtype: np.dtype[np.void], adjust: Adjust | None) -> np.ndarray:
    if dtype == old.dtype and adjust is None:
        return old
    new = np.zeros(len(old), dtype)
    for name in dtype.names or ():
        if name in (old.dtype.names or ()) and old.dtype[name] == dtype[name]:
            new[name] = old[name]
    if adjust is not None:
        adjust(old, new)
    return new


def present_marks(
    value: bytes, old: Sequence[OldMarks] | None = None, present: int = SCHEMA_VERSION
) -> bytes:
    """The record of source marks in the present layout; one too short for a version stays so.

    Raises
    ------
    StateError
        If it has a version that is not known here.
    """
    old = OLD_MARKS if old is None else old
    number = _number(value)
    if number == present or len(value) < _VERSION_BYTES:
        return value
    oldest = _first_number([version.number for version in old], present)
    if not oldest <= number < present:
        raise _refusal("the record of source marks", number, oldest, present)
    rest = value[_VERSION_BYTES:]
    for version in old[number - oldest :]:
        if version.upgrade is not None:
            rest = version.upgrade(rest)
    return present.to_bytes(_VERSION_BYTES, "little", signed=True) + rest


def _number(value: bytes) -> int:
    return int.from_bytes(value[:_VERSION_BYTES], "little", signed=True)


def _first_number(numbers: Sequence[int], present: int) -> int:
    first = present - len(numbers)
    if list(numbers) != list(range(first, present)):
        raise ValueError(f"old schema versions {list(numbers)} do not lead up to {present}")
    return first


def _refusal(what: str, number: int, oldest: int, present: int) -> StateError:
    reads = f"version {present}" if oldest == present else f"versions {oldest} to {present}"
    if number > present:
        do = "A newer dafu wrote it: run that one"
    else:
        do = f"Run an older dafu first that reads version {number} and writes one of these"
    return StateError(
        f"{what} has schema version {number}; this dafu reads {reads}. {do}, or rebuild the "
        "table from the transactions under a new app_id"
    )


_COUNTERS_1: Final = [
    (name, "i8")
    for name in (
        "schema", "fence", "first_event", "next_event", "evicted_until", "archived",
        "archive_slot", "chunks_from", "first_time", "last_time", "total_count",
    )
]  # fmt: skip
_PLACE_1: Final = [
    ("place_time", "i8"), ("place_lat", "f8"), ("place_long", "f8"), ("places", "i8"),
    ("home_x", "f8"), ("home_y", "f8"), ("home_z", "f8"),
]  # fmt: skip
_USER_EVENT_1: Final = [
    ("transaction", "u8"), ("time", "i8"), ("amount", "f8"), ("merchant", "u8"),
    ("device", "u8"), ("ip", "u8"), ("country", "u8"),
]  # fmt: skip
_MERCHANT_EVENT_1: Final = [("time", "i8"), ("amount", "f8"), ("user", "u8")]


def _archive_1(things: int, slots: int) -> np.dtype[np.void]:
    windows = (6, 49)
    return np.dtype(
        [
            ("schema", "i8"),
            ("through", "i8"),
            ("bucket", "i8", windows),
            *((name, "f8", windows) for name in ("count", "sum", "squares")),
            ("last_seen", "i8", (things, slots)),
        ]
    )


_COUNTERS_2: Final = [*_COUNTERS_1, *((n, "i8") for n in ("labelled", "labels_slot", "memory"))]
_USER_EVENT_2: Final = [*_USER_EVENT_1, ("route", "i8")]


def _archive_2(things: int, slots: int) -> np.dtype[np.void]:
    first = _archive_1(things, slots)
    names = [(name, first[name]) for name in first.names or ()]
    return np.dtype([*names, ("delayed_bucket", "i8", (255,)), ("delayed_count", "f8", (255,))])


def _labels_2(most: int) -> np.dtype[np.void]:
    each = [("transaction", "u8"), ("time", "i8"), ("amount", "f8"), ("observed", "i8")]
    return np.dtype(
        [
            *((name, "i8") for name in ("schema", "count", "dropped_until")),
            *((name, kind, (most,)) for name, kind in [*each, ("fraud", "i8")]),
        ]
    )


def _no_route(_old: np.ndarray, new: np.ndarray) -> None:
    new["route"] = -1


def _no_delayed(_old: np.ndarray, new: np.ndarray) -> None:
    new["delayed_bucket"] = NEVER


def _nothing_announced(_old: np.ndarray, new: np.ndarray) -> None:
    new["announced_day"] = NEVER


# Version 1 knew no labels; version 2 no rings, no identifiers, and nothing of what is usual.
OLD_USERS: Final[tuple[OldVersion, ...]] = (
    OldVersion(
        1,
        OldRecord(np.dtype(_COUNTERS_1 + _PLACE_1)),
        OldRecord(np.dtype(_USER_EVENT_1), _no_route),
        OldRecord(_archive_1(4, 128), _no_delayed),
        OldRecord(_labels_2(32)),
    ),
    OldVersion(
        2,
        OldRecord(np.dtype(_COUNTERS_2 + _PLACE_1), _nothing_announced),
        OldRecord(np.dtype(_USER_EVENT_2)),
        OldRecord(_archive_2(4, 128)),
        OldRecord(_labels_2(32)),
    ),
)
OLD_MERCHANTS: Final[tuple[OldVersion, ...]] = (
    OldVersion(
        1,
        OldRecord(np.dtype(_COUNTERS_1)),
        OldRecord(np.dtype(_MERCHANT_EVENT_1)),
        OldRecord(_archive_1(1, 512), _no_delayed),
        OldRecord(_labels_2(128)),
    ),
    OldVersion(
        2,
        OldRecord(np.dtype(_COUNTERS_2)),
        OldRecord(np.dtype(_MERCHANT_EVENT_1)),
        OldRecord(_archive_2(1, 512)),
        OldRecord(_labels_2(128)),
    ),
)
OLD_MARKS: Final[tuple[OldMarks, ...]] = (OldMarks(1), OldMarks(2))

MIGRATIONS: Final[dict[str, Migrations]] = {
    USERS.kind: Migrations(USERS, OLD_USERS),
    MERCHANTS.kind: Migrations(MERCHANTS, OLD_MERCHANTS),
}
"""By the kind of entity."""
