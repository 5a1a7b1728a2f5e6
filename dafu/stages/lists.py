"""Entries of lists in a partition's state, and which transactions meet them.

Entries stand in buckets by their hash, so that a change writes little and all of them can be
loaded without a scan. A record beside them, written last, says which change was the last one and
what the buckets hold: who has them loaded need not read them again. Pure: state in, changes and
columns out; what is remembered between batches is told apart by its content.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.hashing import hash64
from dafu.lists import (
    COLUMNS,
    ENTRY_KINDS,
    FIELDS,
    FOLDED,
    LIST_NAMES,
    EntryKey,
    EntryKind,
    ListChange,
    ListEntry,
    ListName,
    folded,
)
from dafu.schema import Reason
from dafu.stages.batch import InputBatch, Partitions
from dafu.stages.texts import Texts
from dafu.tables.changes import NOTHING, Change, Changes
from dafu.tables.migrations import damaged
from dafu.tables.working_set import PartitionRecords

ENTRIES_KEY: Final = b"E"
"""In a table: the last change of the lists in the partition's log."""

_BUCKETS: Final = 256
_BUCKET_KEYS: Final = [ENTRIES_KEY + bytes([k]) for k in range(_BUCKETS)]
_INDEXES: Final = 8
"""Lists that are kept loaded: partitions come to a change one after the other."""


class _Last(Struct, frozen=True):
    """The last change that was applied, when the next entry may be forgotten (epoch milliseconds,
    None for never), and a hash of the buckets."""

    number: int
    ends: int | None
    digest: int


_decode_last = msgspec.json.Decoder(_Last).decode
_decode_bucket = msgspec.json.Decoder(tuple[ListEntry, ...]).decode
_encode = msgspec.json.Encoder().encode


def apply_change(records: PartitionRecords, change: ListChange) -> Changes:
    """What a change of lists makes of a partition's state; nothing if it is a repeat.

    Entries that ended long before the change are forgotten with it. Written in part and applied
    again, it comes to the same.

    Raises
    ------
    StateError
        If a record of the lists is damaged.
    """
    raw = records.get_many([ENTRIES_KEY])[0]
    last = _Last(-1, None, 0) if raw is None else _read_last(raw)
    if last.number >= change.number:
        return NOTHING
    stored = records.get_many(_BUCKET_KEYS)
    concerned: dict[int, list[ListEntry]] = {}
    ends = last.ends
    if ends is not None and change.now >= ends:
        concerned, ends = {k: [] for k, own in enumerate(stored) if own is not None}, None
    for entry in change.entries:
        concerned.setdefault(_bucket_of(entry.key), []).append(entry)
    new = list(stored)
    for k, entries in concerned.items():
        kept = {key: e for key, e in _entries(stored[k]) if not e.forgotten_at(change.now)}
        for entry in entries:
            if change.removed:
                kept.pop(entry.key, None)
            else:
                kept[entry.key] = entry
        new[k] = _encode(list(kept.values())) if kept else None
        ends = min(filter(None, (ends, *(e.ends for e in kept.values()))), default=None)
    changes: list[Change] = [
        (key, after)
        for key, before, after in zip(_BUCKET_KEYS, stored, new, strict=True)
        if before != after
    ]
    now = _Last(change.number, ends, _digest(new))
    return Changes.of([*changes, (ENTRIES_KEY, _encode(now))])


def entries_of(records: PartitionRecords) -> dict[EntryKey, ListEntry]:
    """All entries of a partition.

    Raises
    ------
    StateError
        If a record of the lists is damaged.
    """
    return {key: e for raw in records.get_many(_BUCKET_KEYS) for key, e in _entries(raw)}


def _read_last(raw: bytes) -> _Last:
    try:
        return _decode_last(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise damaged("partition", ENTRIES_KEY) from None


@lru_cache(maxsize=4 * _BUCKETS)
def _entries(raw: bytes | None) -> tuple[tuple[EntryKey, ListEntry], ...]:
    """What a bucket holds. Most are as they were when they were read last."""
    try:
        return () if raw is None else tuple((e.key, e) for e in _decode_bucket(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise damaged("partition", ENTRIES_KEY) from None


def _bucket_of(key: EntryKey) -> int:
    return hash64("\0".join(key).encode()) % _BUCKETS


def _digest(buckets: Sequence[bytes | None]) -> int:
    return hash64(b"\0".join([raw or b"" for raw in buckets]))


class _Index(NamedTuple):
    """Entries by kind, in the order of ENTRY_KINDS, and value."""

    by_kind: dict[EntryKind, dict[str, list[ListEntry]]]


class HeldEntries(NamedTuple):
    """Entries, and the rows (ascending) for which they hold."""

    entries: _Index
    rows: NDArray[np.int64]


class Listed(NamedTuple):
    """Of n transactions: a column (0 or 1) for each list, and by row what is to be said of it."""

    columns: dict[str, NDArray[np.float64]]
    reasons: dict[int, list[Reason]]


class Lists:
    """Finds entries that transactions meet.

    Parameters
    ----------
    names : collection of str
        The columns that rules read, of which some may be lists'. Without any nothing is looked up.
    deciding : collection of str
        Those that live rules read: of the others nothing is said.
    """

    def __init__(self, names: Collection[str], deciding: Collection[str]) -> None:
        self._wanted = [name for name in LIST_NAMES if COLUMNS[name] in names]
        self._told = [name for name in LIST_NAMES if COLUMNS[name] in deciding]
        self._loaded: OrderedDict[bytes, _Index] = OrderedDict()

    def entries_for(
        self, batch: InputBatch, rows: NDArray[np.int64], records: Partitions
    ) -> list[HeldEntries]:
        """Which entries hold for which of these rows (positions among `rows`, which ascend).

        Raises
        ------
        StateError
            If a record of the lists is damaged.
        """
        if not self._wanted:
            return []
        held: dict[int, tuple[_Index, list[NDArray[np.int64]]]] = {}
        for piece, part in zip(batch.pieces, batch.cut(rows), strict=True):
            own = records(piece.partition)
            raw = own.get_many([ENTRIES_KEY])[0] if part.stop > part.start else None
            index = None if raw is None else self._index(raw, own)
            if index is not None and index.by_kind:
                _, parts = held.setdefault(id(index), (index, []))
                parts.append(np.arange(part.start, part.stop))
        return [HeldEntries(index, np.concatenate(parts)) for index, parts in held.values()]

    def _index(self, raw: bytes, records: PartitionRecords) -> _Index:
        index = self._loaded.get(raw)
        if index is None:
            index = self._loaded[raw] = _load(raw, records)
            while len(self._loaded) > _INDEXES:
                self._loaded.popitem(last=False)
        else:
            self._loaded.move_to_end(raw)
        return index

    def look_up(
        self,
        held: Sequence[HeldEntries],
        texts: Texts,
        times: NDArray[np.int64],
    ) -> Listed:
        """Look n transactions up.

        Parameters
        ----------
        held
            What `entries_for` gave.
        texts : Texts of n
        times : int64 [n]
            Of the transactions, in epoch milliseconds.
        """
        columns = {COLUMNS[name]: np.zeros(len(times)) for name in self._wanted}
        reasons: defaultdict[int, list[Reason]] = defaultdict(list)
        met: defaultdict[tuple[int, ListName], list[EntryKind]] = defaultdict(list)
        for index, rows in held:
            part = texts if len(rows) == len(times) else texts.part(rows)
            for i, entry in _matches(index, part):
                row = int(rows[i])
                if entry.holds_at(int(times[row])):
                    met[row, entry.list].append(entry.kind)
        for name in self._wanted:
            for row in [row for row, which in met if which == name]:
                columns[COLUMNS[name]][row] = 1.0
                if name in self._told:
                    reasons[row].append(_reason(name, met[row, name]))
        return Listed(columns, reasons)


def _matches(index: _Index, texts: Texts) -> Iterator[tuple[int, ListEntry]]:
    """Which rows have the value of which entries, kind by kind."""
    columns = texts.strings([FIELDS[kind] for kind in index.by_kind])
    for (kind, own), sent in zip(index.by_kind.items(), columns, strict=True):
        values = sent
        if kind in FOLDED:
            values = [None if v is None else folded(kind, v) for v in sent]
        if own.keys().isdisjoint(values):
            continue
        for i, value in enumerate(values):
            for entry in own.get(value or "", ()):
                yield i, entry


def _load(raw: bytes, records: PartitionRecords) -> _Index:
    buckets = records.get_many(_BUCKET_KEYS)
    if _digest(buckets) != _read_last(raw).digest:
        raise damaged("partition", ENTRIES_KEY)
    by_kind: dict[EntryKind, dict[str, list[ListEntry]]] = {}
    for (_, kind, value), entry in (pair for bucket in buckets for pair in _entries(bucket)):
        by_kind.setdefault(kind, {}).setdefault(value, []).append(entry)
    return _Index({kind: by_kind[kind] for kind in ENTRY_KINDS if kind in by_kind})


def _reason(name: ListName, kinds: Sequence[EntryKind]) -> Reason:
    what = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} and {kinds[-1]}"
    return Reason(f"list:{name}", f"{what} on the {name} list")
