"""Compiled copying between packed records and the arrays that a stage's kernel steps.

What the records mean and in which order they are written is told in `dafu.tables.working_set`;
this module moves the bytes. It knows no keys but their one-letter kinds, and no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dafu.columns import I64, U8, ByteColumn, copy_bytes
from dafu.kernel import kernel
from dafu.tables.changes import NOTHING, Changes

_HEAD: Final = ord("H")
_CHUNK: Final = ord("C")
_NUMBER_BYTES: Final = 8
_MAX_NUMBER: Final = 2**53
_MAX_MEMORY: Final = 2**16
_MAX_FORGOTTEN: Final = 2**16  # chunks that one batch can let go


@kernel
def first_unsound(heads: Any, chunk: int, retained: int) -> int:
    """Number of the first entity whose counters can not be true, -1 if there is none.

    Parameters
    ----------
    heads : head dtype [E]
    chunk : int
        Events to a chunk.
    retained : int
        How many events an entity has at most.
    """
    for e in range(len(heads)):
        h = heads[e]
        if (
            not 0 <= h.first_event <= h.next_event < _MAX_NUMBER
            or h.next_event - h.first_event > retained
            or h.first_event % chunk != 0
            or not 0 <= h.first_event // chunk - h.chunks_from < _MAX_FORGOTTEN
            or h.chunks_from < 0
            or not 0 <= h.memory <= _MAX_MEMORY
        ):
            return e
    return -1


@kernel
def mark_repeats(sources: I64, offsets: I64, marks: I64, repeated: Any) -> None:
    """Tell which records are at or below the mark of their source, and move the marks past them.

    Parameters
    ----------
    sources, offsets : int64 [n]
        In log order.
    marks : int64 [sources]
    repeated : bool [n]
        Filled.
    """
    for i in range(len(sources)):
        source = sources[i]
        repeated[i] = offsets[i] <= marks[source]
        marks[source] = max(marks[source], offsets[i])


@kernel
def _fill(
    closed: U8,
    closed_bytes: I64,
    buffer: U8,
    starts: I64,
    lengths: I64,
    skip: int,
    after: I64,
    room_bytes: I64,
    out: U8,
) -> None:
    at = 0
    taken = 0
    for e in range(len(starts)):
        copy_bytes(closed, taken, out, at, closed_bytes[e])
        taken += closed_bytes[e]
        used = closed_bytes[e]
        tail = lengths[e] - skip - after[e]
        copy_bytes(buffer, starts[e] + skip, out, at + used, tail)
        out[at + used + tail : at + room_bytes[e]] = 0
        at += room_bytes[e]


def fill_events(
    closed: bytes, closed_bytes: I64, values: ByteColumn, skip: int, after: I64, room_bytes: I64
) -> U8:
    """Entity after entity: its closed chunks, the open one, and zeros up to its room.

    Parameters
    ----------
    closed : bytes
        All entities' closed chunks, `closed_bytes` [E] of them each.
    values : ByteColumn [E]
        Head records: `skip` bytes of head, the open chunk, `after` [E] bytes of other things.
    room_bytes : int64 [E]
        Bytes that each entity gets.
    """
    out = np.empty(int(room_bytes.sum()), np.uint8)
    source = ByteColumn.packed(closed, np.array([len(closed)])).buffer
    _fill(
        source,
        closed_bytes,
        values.buffer,
        values.starts,
        values.lengths,
        skip,
        after,
        room_bytes,
        out,
    )
    return out


@kernel
def _key(kind: int, number: int, id_buffer: U8, start: int, n: int, out: U8, at: int) -> int:
    """Write a key; chunk numbers take eight bytes, slots one, heads have no number."""
    out[at] = kind
    at += 1
    if kind == _CHUNK:
        for i in range(_NUMBER_BYTES):
            out[at + i] = (number >> (8 * (_NUMBER_BYTES - 1 - i))) & 0xFF
        at += _NUMBER_BYTES
    elif kind != _HEAD:
        out[at] = number
        at += 1
    copy_bytes(id_buffer, start, out, at, n)
    return at + n


@kernel
def _pack(
    changed: I64,
    id_buffer: U8,
    id_starts: I64,
    id_lengths: I64,
    heads: U8,
    head_size: int,
    events: U8,
    event_size: int,
    chunk: int,
    origins: I64,
    firsts: I64,
    nexts: I64,
    old_nexts: I64,
    deleted_from: I64,
    deleted_to: I64,
    slotted: tuple[U8, ...],
    slotted_kinds: I64,
    slotted_sizes: I64,
    slotted_rows: I64,
    slots: I64,
    memory: U8,
    memory_size: int,
    key_buffer: U8,
    key_lengths: I64,
    value_buffer: U8,
    value_lengths: I64,
    ends: I64,
) -> int:
    """Lay out the records of the changed entities; the number of records written.

    `ends` [changed] receives the number of records up to the end of each entity's. Called with
    empty output arrays it only counts: `key_lengths` [3] then receives the numbers of records,
    key bytes and value bytes.
    """
    counting = len(value_lengths) == 0
    n = 0
    key_at = 0
    value_at = 0
    for c in range(len(changed)):
        e = changed[c]
        start, length = id_starts[e], id_lengths[e]
        open_chunk = nexts[e] // chunk
        for number in range(deleted_from[e], deleted_to[e]):
            size = 1 + _NUMBER_BYTES + length
            if not counting:
                _key(_CHUNK, number, id_buffer, start, length, key_buffer, key_at)
                key_lengths[n] = size
                value_lengths[n] = -1
            key_at += size
            n += 1
        for k in range(len(slotted_kinds)):
            row = slotted_rows[k, e]
            if row < 0:
                continue
            size, record = 2 + length, slotted_sizes[k]
            if not counting:
                kind = slotted_kinds[k]
                _key(kind, slots[k, e], id_buffer, start, length, key_buffer, key_at)
                key_lengths[n] = size
                value_lengths[n] = record
                copy_bytes(slotted[k], row * record, value_buffer, value_at, record)
            key_at += size
            value_at += record
            n += 1
        for number in range(max(old_nexts[e] // chunk, firsts[e] // chunk), open_chunk):
            size = 1 + _NUMBER_BYTES + length
            closed = chunk * event_size
            if not counting:
                _key(_CHUNK, number, id_buffer, start, length, key_buffer, key_at)
                key_lengths[n] = size
                value_lengths[n] = closed
                first = (origins[e] + number * chunk) * event_size
                copy_bytes(events, first, value_buffer, value_at, closed)
            key_at += size
            value_at += closed
            n += 1
        tail = (nexts[e] - open_chunk * chunk) * event_size
        if not counting:
            _key(_HEAD, 0, id_buffer, start, length, key_buffer, key_at)
            key_lengths[n] = 1 + length
            value_lengths[n] = head_size + tail + memory_size
            copy_bytes(heads, e * head_size, value_buffer, value_at, head_size)
            first = (origins[e] + open_chunk * chunk) * event_size
            copy_bytes(events, first, value_buffer, value_at + head_size, tail)
            copy_bytes(
                memory, e * memory_size, value_buffer, value_at + head_size + tail, memory_size
            )
        key_at += 1 + length
        value_at += head_size + tail + memory_size
        n += 1
        ends[c] = n
    if counting:
        key_lengths[0] = n
        key_lengths[1] = key_at
        key_lengths[2] = value_at
    return n


class SlottedRows(NamedTuple):
    """Records of a kind of which an entity has one in either of two slots.

    `letter` begins their keys, `records` holds the rows, `row` [E] says which one of an entity is
    to be written, -1 for none, and `slot` [E] where.
    """

    letter: bytes
    records: Any
    row: I64
    slot: I64


def pack_changes(
    changed: I64,
    ids: ByteColumn,
    heads: Any,
    events: Any,
    chunk: int,
    origins: I64,
    old_nexts: I64,
    deleted_from: I64,
    slotted: Sequence[SlottedRows],
    memory: U8,
    memory_size: int,
) -> tuple[Changes, I64]:
    """Records of the changed entities, in the order that `dafu.tables.working_set` prescribes.

    With them int64 [changed]: how many records they are up to and with each entity's.

    Parameters
    ----------
    changed : int64 [...]
        Numbers of the entities to write.
    ids : ByteColumn [E]
    heads : head dtype [E]
        As they are to be written.
    events, origins : event dtype [...], int64 [E]
        Entity e's event numbered s is at ``origins[e] + s``.
    chunk : int
        Events to a chunk.
    old_nexts : int64 [E]
        Number that the next event had before: what came since is new.
    deleted_from : int64 [E]
        From here to the head's `chunks_from` go the tombstones.
    slotted : sequence of SlottedRows
        Always as many, so that there is one compiled form of this.
    memory : uint8 [E * memory_size]
        What sequence models keep of each entity.
    """
    fixed = (
        changed,
        ids.buffer,
        ids.starts,
        ids.lengths,
        heads.view(np.uint8),
        heads.itemsize,
        events.view(np.uint8),
        events.itemsize,
        chunk,
        origins,
        np.ascontiguousarray(heads["first_event"]),
        np.ascontiguousarray(heads["next_event"]),
        old_nexts,
        deleted_from,
        np.ascontiguousarray(heads["chunks_from"]),
        tuple(each.records.view(np.uint8) for each in slotted),
        np.array([ord(each.letter) for each in slotted]),
        np.array([each.records.itemsize for each in slotted]),
        np.array([each.row for each in slotted]),
        np.array([each.slot for each in slotted]),
        memory,
        memory_size,
    )
    no_bytes, none = np.empty(0, np.uint8), np.empty(0, np.int64)
    totals, ends = np.zeros(3, np.int64), np.empty(len(changed), np.int64)
    _pack(*fixed, no_bytes, totals, no_bytes, none, ends)
    n, key_bytes, value_bytes = totals.tolist()
    if n == 0:
        return NOTHING, ends
    keys, values = np.empty(key_bytes, np.uint8), np.empty(value_bytes, np.uint8)
    key_lengths, value_lengths = np.empty(n, np.int64), np.empty(n, np.int64)
    _pack(*fixed, keys, key_lengths, values, value_lengths, ends)
    changes = Changes(
        ByteColumn.packed(keys, key_lengths), ByteColumn.packed(values, value_lengths)
    )
    return changes, ends
