"""The states of one batch's entities: unpacked for a kernel, packed again as the records to write.

An entity's state is spread over records of one partition, so that a change writes little:

========================  ==================================================================
key                       value
========================  ==================================================================
``H`` + id                head, the events of the open (newest) chunk, memory of sequence models
``C`` + number + id       one closed chunk of events; number is 8 bytes, big-endian
``A`` + slot + id         archive, once the entity has had more events than it retains; slot is
                          a byte, 0 or 1
``L`` + slot + id         labels, once there are any; likewise
``R`` + slot + id         a user's fraud ring, once there was one; likewise
``I`` + hash              id of a merchant by its 64-bit hash, big-endian: written once
========================  ==================================================================

The order of the records returned by `WorkingSet.changes` is part of the format: an entity's head
comes last, and nothing before it touches what the previous head refers to. Archives, labels and
rings go to the slot that is free, closed chunks get new numbers, and tombstones are for chunks that
the previous head had let go of already. A log that ends anywhere therefore holds a complete state:
the head decides, and what it does not refer to yet is written again when its transactions are. All
integers and floats are little-endian. This module knows bytes and layouts, no Faust, no broker
and no clock.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from dafu.columns import ByteColumn, positions, prefixes
from dafu.features.state import (
    RETAINED_MAX,
    SCHEMA_VERSION,
    EntityLayout,
    new_head,
)
from dafu.tables.changes import Change, Changes
from dafu.tables.migrations import MIGRATIONS, StateError, damaged, present_marks
from dafu.tables.packing import fill_events, first_unsound, mark_repeats, pack_changes
from dafu.tables.slotted import (
    ARCHIVES,
    LABEL_RECORDS,
    RINGS,
    Kind,
    SlottedRecords,
    slotted_key,
)

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("dafu packs its state in native byte order and needs a little-endian machine")

HEAD = b"H"
CHUNK = b"C"
ID = b"I"


class PartitionRecords(Protocol):
    """The local records of one partition of a table."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values by key, None where there is none."""
        ...

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records, in any order."""
        ...

    def write(self, changes: Sequence[Change]) -> None:
        """Apply changes in order, all or none of them surviving a crash."""
        ...


class Share(NamedTuple):
    """What a batch needs of one partition: where its records are, and distinct ids."""

    records: PartitionRecords
    entities: Sequence[bytes]


def chunk_key(number: int, entity: bytes) -> bytes:
    """Key of an entity's closed chunk."""
    return CHUNK + number.to_bytes(8, "big") + entity


def id_key(hashed: bytes) -> bytes:
    """Key of the record that tells an id by its hash, eight bytes."""
    return ID + hashed


class Memory(NamedTuple):
    """What a sequence model keeps of an entity: `size` numbers (float32), 0 in the beginning.

    `model` tells whose they are: another model's do not count. 64 bits of its version, not 0.
    """

    model: int
    size: int


class WorkingSet:
    """The states of a batch's entities as arrays that a kernel steps in place.

    Parameters
    ----------
    layout : EntityLayout
    shares : sequence of Share
        The entities by partition. An entity's number is its position in all of them together.
    arrivals : int array [entities]
        How many transactions of each the batch brings: room is made for as many events.
    labelled, enrolled : int array or None
        Numbers of the entities that the batch brings labels of, or memberships in rings.
    memories : sequence of Memory
        What the sequence models in use keep. Those of others are let go with the next change.

    Attributes
    ----------
    heads : layout.head [entities]
    events : layout.event [...]
        Entity e's event numbered s is at ``origins[e] + s``.
    origins : int64 [entities]
    archives : layout.archive [...]
        Entity e's archive is row ``archive_of[e]``, -1 if it has and needs none.
    archive_of : int64 [entities]
    labels : layout.labels [...]
        Entity e's labels are row ``labels_of[e]``, -1 if it has and gets none.
    labels_of : int64 [entities]
    rings : layout.ring [...]
        Likewise, with ``ring_of``; only of users.
    ring_of : int64 [entities]
    memories : list of float32 [entities, size]
        One for each of the models; changed in place.
    """

    def __init__(
        self,
        layout: EntityLayout,
        shares: Sequence[Share],
        arrivals: np.ndarray,
        labelled: np.ndarray | None = None,
        memories: Sequence[Memory] = (),
        enrolled: np.ndarray | None = None,
    ) -> None:
        self.layout = layout
        self._migrations = MIGRATIONS[layout.kind]
        self._shares = shares
        self.entities = [entity for share in shares for entity in share.entities]
        self._ends = np.cumsum([len(share.entities) for share in shares])
        self._load_heads()
        self._load_events(arrivals)
        many = self._old_next - self._old_first + arrivals > RETAINED_MAX
        archives = self._load_slotted(ARCHIVES, positions(many))
        labels = self._load_slotted(LABEL_RECORDS, labelled)
        rings = self._load_slotted(RINGS, enrolled)
        self.archives, self.archive_of = archives.rows, archives.row_of
        self.labels, self.labels_of = labels.rows, labels.row_of
        self.rings, self.ring_of = rings.rows, rings.row_of
        self._slotted = (archives, labels, rings)
        self._load_memories(memories)

    def _get(self, keys: Sequence[bytes], owners: np.ndarray) -> list[bytes | None]:
        """Records by key, each that of an entity (ascending numbers)."""
        if len(self._shares) == 1:
            return self._shares[0].records.get_many(keys)
        values: list[bytes | None] = []
        for share, end in zip(self._shares, np.searchsorted(owners, self._ends), strict=True):
            values += share.records.get_many(keys[len(values) : end])
        return values

    def _load_heads(self) -> None:
        size = self.layout.head.itemsize
        blank = blank_head(self.layout)
        everybody = np.arange(len(self.entities))
        values = self._get([HEAD + e for e in self.entities], everybody)
        self._as_stored = values
        values = self._migrations.heads(self.entities, values)
        self._stored = ByteColumn.of([blank if v is None else v for v in values])
        short = positions(self._stored.lengths < size)
        if short.size:
            raise self._damaged(HEAD + self.entities[short[0]])
        packed = prefixes(self._stored, size)
        self._before = packed.copy()
        self.heads: Any = packed.view(self.layout.head)
        unsound = first_unsound(self.heads, self.layout.chunk, RETAINED_MAX)
        if unsound >= 0:
            raise self._damaged(HEAD + self.entities[unsound])
        self._old_first = self.heads["first_event"].copy()
        self._old_next = self.heads["next_event"].copy()

    def new_entities(self) -> list[list[bytes]]:
        """Entities that the present version has not written yet and is about to, share by share."""
        out: list[list[bytes]] = [[] for _ in self._shares]
        old = self._migrations.old_heads(self._as_stored)
        if not old:
            return out
        size = self.layout.head.itemsize
        before, now = self._before.reshape(-1, size), self.heads.view(np.uint8).reshape(-1, size)
        written = np.array(old)[(before[old] != now[old]).any(axis=1)]
        shares = np.searchsorted(self._ends, written, side="right")
        for e, share in zip(written.tolist(), shares.tolist(), strict=True):
            out[share].append(self.entities[e])
        return out

    def _damaged(self, key: bytes) -> StateError:
        return damaged(self.layout.kind, key)

    def _load_events(self, arrivals: np.ndarray) -> None:
        size = self.layout.event.itemsize
        chunk = self.layout.chunk
        head_size = self.layout.head.itemsize
        self._memory_bytes = np.ascontiguousarray(self.heads["memory"])
        tails = self._stored.lengths - head_size - self._memory_bytes
        wrong = positions(tails != size * (self._old_next % chunk))
        if wrong.size:
            raise self._damaged(HEAD + self.entities[wrong[0]])
        firsts = self._old_first // chunk
        closed = self._old_next // chunk - firsts
        joined = b""
        owners = positions(closed > 0)
        if owners.size:
            keys = [
                CHUNK + number.to_bytes(8, "big") + self.entities[e]
                for e, first, n in zip(
                    owners.tolist(), firsts[owners].tolist(), closed[owners].tolist(), strict=True
                )
                for number in range(first, first + n)
            ]
            found = self._get(keys, np.repeat(owners, closed[owners]))
            values = self._migrations.chunks(keys, found)
            joined = b"".join(values)  # type: ignore[arg-type]
        room = self._old_next - self._old_first + arrivals
        packed = fill_events(
            joined,
            closed * (chunk * size),
            self._stored,
            head_size,
            self._memory_bytes,
            room * size,
        )
        self.events: Any = packed.view(self.layout.event)
        starts = np.zeros(len(self.entities), dtype=np.int64)
        np.cumsum(room[:-1], out=starts[1:])
        self.origins = starts - self._old_first

    def _load_slotted(self, kind: Kind, more: np.ndarray | None) -> SlottedRecords:
        """The records of a kind: of those who have one, and blank ones for `more` entities."""
        dtype: np.dtype[np.void] | None = getattr(self.layout, kind.part)
        if dtype is None:
            return SlottedRecords(kind, len(self.entities), None, np.empty(0, np.int64))
        has = self.heads[kind.has] == 1
        wrong = positions((self.heads[kind.has] | self.heads[kind.slot]) & ~1)
        if wrong.size:
            raise self._damaged(HEAD + self.entities[wrong[0]])
        needs = has.copy()
        if more is not None:
            needs[more] = True
        out = SlottedRecords(kind, len(self.entities), dtype, positions(needs))
        stored = positions(has)
        if stored.size:
            slots = self.heads[kind.slot][stored].tolist()
            keys = [
                slotted_key(kind.letter, slot, self.entities[e])
                for e, slot in zip(stored.tolist(), slots, strict=True)
            ]
            values = self._migrations.slotted(kind.part, keys, self._get(keys, stored))
            found = np.frombuffer(b"".join(v or b"" for v in values), dtype)
            unsound = positions(~kind.sound(found))
            if unsound.size:
                raise self._damaged(keys[unsound[0]])
            out.rows[out.row_of[stored]] = found
        out.loaded()
        return out

    def _load_memories(self, memories: Sequence[Memory]) -> None:
        """Blocks of model, size and numbers, block after block; each a multiple of eight bytes."""
        n = len(self.entities)
        if not memories and not self._memory_bytes.any():
            self.memories: list[np.ndarray] = []
            self._blocks: list[Any] = []
            self._memory = np.zeros((n, 0), np.uint8)
            return
        sizes = [_memory_block(m).itemsize for m in memories]
        self._memory = np.zeros((n, sum(sizes)), np.uint8)
        blocks: list[Any] = []
        for m, size, end in zip(memories, sizes, np.cumsum(sizes).tolist(), strict=True):
            block = self._memory[:, end - size : end].view(_memory_block(m))[:, 0]
            block["model"] = m.model
            block["size"] = m.size
            blocks.append(block)
        self._blocks = blocks
        blank = self._memory.copy()
        stored = self._stored.elsewhere(
            self._stored.starts + self._stored.lengths - self._memory_bytes, self._memory_bytes
        )
        alike = positions(self._memory_bytes == sum(sizes))
        if alike.size and sizes:
            self._memory[alike] = prefixes(stored.take(alike), sum(sizes)).reshape(-1, sum(sizes))
        # Where the blocks are others, as after a change of models, each entity is looked at.
        names = blank.view(np.int64).reshape(n, -1) if sizes else np.zeros((n, 0), np.int64)
        at = [start // 8 + k for start in np.cumsum([0, *sizes[:-1]]).tolist() for k in (0, 1)]
        found = self._memory.view(np.int64).reshape(n, -1) if sizes else names
        other = (found[:, at] != names[:, at]).any(axis=1) if sizes else np.zeros(n, bool)
        other |= (self._memory_bytes != sum(sizes)) & (self._memory_bytes > 0)
        for e in positions(other).tolist():
            self._memory[e] = blank[e]
            for model, numbers in self._stored_memories(e, stored[e] or b""):
                for m, block in zip(memories, blocks, strict=True):
                    if m.model == model and m.size == len(numbers):
                        block["numbers"][e] = numbers
        self.memories = [np.ascontiguousarray(block["numbers"]) for block in blocks]
        self.heads["memory"] = sum(sizes)
        self._before.view(self.layout.head)["memory"] = sum(sizes)

    def _stored_memories(self, e: int, stored: bytes) -> Iterator[tuple[int, np.ndarray]]:
        at = 0
        while at < len(stored):
            if len(stored) - at < _MEMORY_PREFIX.size:
                raise self._damaged(HEAD + self.entities[e])
            model, size = _MEMORY_PREFIX.unpack_from(stored, at)
            end = at + _memory_block(Memory(model, size)).itemsize if 0 <= size < 2**16 else -1
            if not at < end <= len(stored):
                raise self._damaged(HEAD + self.entities[e])
            yield model, np.frombuffer(stored, np.float32, size, at + _MEMORY_PREFIX.size)
            at = end

    def changes(self) -> list[Changes]:
        """Records to log and to store, share by share, in the order in which they must be written.

        An entity whose state did not change has none.
        """
        for block, own in zip(self._blocks, self.memories, strict=True):
            block["numbers"] = own
        heads = self.heads.copy()
        words = (len(heads), heads.itemsize // 8)
        differs = heads.view(np.int64).reshape(words) != self._before.view(np.int64).reshape(words)
        changed = positions(differs.any(axis=1))
        heads["chunks_from"][changed] = self._old_first[changed] // self.layout.chunk
        slotted = [each.to_write(heads) for each in self._slotted]
        packed, ends = pack_changes(
            changed,
            ByteColumn.of(self.entities),
            heads,
            self.events,
            self.layout.chunk,
            self.origins,
            self._old_next,
            np.ascontiguousarray(self.heads["chunks_from"]),
            slotted,
            self._memory.reshape(-1),
            self._memory.shape[1],
        )
        if len(self._shares) == 1:
            return [packed]
        cuts = np.concatenate(([0], ends))[np.searchsorted(changed, self._ends)].tolist()
        return [packed[a:b] for a, b in zip([0, *cuts[:-1]], cuts, strict=True)]


_MEMORY_PREFIX: Final = struct.Struct("<Qq")


def _memory_block(memory: Memory) -> np.dtype[np.void]:
    """A model's numbers behind what tells whose they are, filled up to eight bytes."""
    fields = [("model", "<u8"), ("size", "<i8"), ("numbers", "<f4", (memory.size,))]
    return np.dtype(fields + [("filler", "<f4")] * (memory.size % 2))


_BLANKS: dict[str, bytes] = {}


def blank_head(layout: EntityLayout) -> bytes:
    """The packed head of an entity that was never seen."""
    blank = _BLANKS.get(layout.kind)
    if blank is None:
        head = np.zeros(1, dtype=layout.head)
        new_head(head)
        blank = _BLANKS[layout.kind] = head.tobytes()
    return blank


class SourceMarks:
    """How far each partition of an upstream topic has come through one partition downstream.

    A repartition topic repeats records after its writer restarted; they carry the partition and
    offset that they stem from, and what is at or below the mark of its source partition has been
    seen. `fence` is the offset, in the partition downstream, up to which the marks account for it.
    """

    KEY = b"S"
    _PREFIX = struct.Struct("<qqq")  # schema version, fence, number of source partitions

    __slots__ = ("fence", "marks")

    def __init__(self, fence: int, marks: np.ndarray) -> None:
        self.fence = fence
        self.marks = marks

    @classmethod
    def load(cls, records: PartitionRecords) -> SourceMarks:
        """Read the marks of a partition; fresh ones if it has none."""
        value = records.get_many([cls.KEY])[0]
        if value is None:
            return cls(-1, np.full(0, -1, dtype=np.int64))
        value = present_marks(value)
        if len(value) < cls._PREFIX.size or len(value) % 8:
            raise cls._damaged()
        _version, fence, n = cls._PREFIX.unpack_from(value)
        marks = np.frombuffer(value, np.int64, offset=cls._PREFIX.size).copy()
        if len(marks) != n:
            raise cls._damaged()
        return cls(fence, marks)

    @staticmethod
    def _damaged() -> StateError:
        return StateError(
            "the record of source marks is cut short: the local store or the changelog is damaged; "
            "delete the local store to rebuild it from the changelog"
        )

    def changes(self) -> Changes:
        """The record that stores these marks."""
        prefix = self._PREFIX.pack(SCHEMA_VERSION, self.fence, len(self.marks))
        return Changes.of([(self.KEY, prefix + self.marks.tobytes())])

    def repeats(self, sources: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Tell which records of a batch are repeats, and move the marks past the batch.

        Parameters
        ----------
        sources, offsets : int64 [n]
            Source partition and source offset of each record, in log order.

        Returns
        -------
        bool [n]
        """
        highest = int(sources.max(initial=-1))
        if highest >= len(self.marks):
            grown = np.full(highest + 1, -1, dtype=np.int64)
            grown[: len(self.marks)] = self.marks
            self.marks = grown
        repeated = np.empty(len(sources), np.bool_)
        mark_repeats(
            np.ascontiguousarray(sources), np.ascontiguousarray(offsets), self.marks, repeated
        )
        return repeated
