"""Rings: links and activities in, in the order of their log; alerts and memberships out.

The rings' state is in memory (`dafu.rings.engine`) and in the records of its table, from which it
is built up again at the start, after a rebalance, and whenever the table is not where memory is.

========================  ==================================================================
key                       value
========================  ==================================================================
``L`` ``N`` ``U`` ``R``   a link, an identifier, a user, a ring (`dafu.rings.engine`)
``J`` + number            journal: all changes of the last batch, in so many chunks
``F``                     fence: offset of the last record applied, and the clock
========================  ==================================================================

A batch changes many records, and what comes next depends on all of them: with half of a batch's
changes an engine would say other things than the one that crashed. So a batch is written in this
order: its journal, then the records themselves, then the fence. Wherever the changelog ends,

* within the journal: no record was touched yet. The fence says where to go on, and the incomplete
  journal, which is of a later offset than the fence and lacks chunks, does not count;
* behind the journal: it is complete and of a later offset than the fence. It is applied to
  whatever is there of the records, and the engine goes on behind it. What it said of this batch has
  been acknowledged, since outputs go before changes. The next batch's changes begin with what the
  journal holds, fence included, before they write over it.

Either way the engine goes on from the state after a whole batch, and says the same as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from dafu.rings.encoding import pack, reader
from dafu.rings.engine import RingEngine
from dafu.rings.records import Membership, RingAlert, decode_inbox, encode
from dafu.stages.batch import (
    NO_MESSAGES,
    InputBatch,
    Messages,
    Partitions,
    Piece,
    Rejected,
    StageOutput,
)
from dafu.tables.changes import Change, Changes
from dafu.tables.working_set import PartitionRecords

FENCE: Final = b"F"
JOURNAL: Final = b"J"
JOURNAL_BYTES: Final = 256 * 1024
"""A chunk of the journal holds this much and one change more, at most."""


class Fence(Struct, array_like=True, frozen=True):
    """How far a partition's log was applied, and what the engine knows besides its records."""

    offset: int = -1
    clock: int = 0
    began: int = 0
    applied: int = 0
    opened: int = 0


class JournalChunk(Struct, array_like=True, frozen=True):
    """Some of the changes of the batch up to `offset`: chunk `number` of `total`."""

    offset: int
    number: int
    total: int
    changes: list[tuple[bytes, bytes | None]]


_read_fence = reader("fence of the rings'", Fence)
_read_chunk = reader("journal of the rings'", JournalChunk)


class RingOutput(StageOutput):
    """What the stage made of a batch: alerts by ring, memberships by user.

    `links` counts the records applied.
    """

    alerts: Messages = NO_MESSAGES
    memberships: Messages = NO_MESSAGES
    links: int = 0


class _Held(Struct):
    """A partition's engine; `stored` is the fence that its table holds if nobody else wrote to it.

    `owed` are changes that the table lacks.
    """

    engine: RingEngine
    offset: int
    stored: bytes | None
    owed: list[Change]


class RingStage:
    """The stage for any partitions; the topic has one."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}

    def engine(self, partition: int) -> RingEngine | None:
        """The engine of a partition, for people to look at; None before its first batch."""
        held = self._held.get(partition)
        return None if held is None else held.engine

    def look(self, partition: int, records: PartitionRecords) -> RingEngine:
        """The engine of a partition, for people to look at: built up if there is none yet.

        It may be ahead of its table by the batch under way.
        """
        held = self._held.get(partition)
        if held is None:
            held = self._hold(partition, records)
        return held.engine

    def run(self, batch: InputBatch, records: Partitions) -> RingOutput:
        """Apply a batch to the state in `records`, which is read and not written.

        Raises
        ------
        StateError
            If the state has to be built up and a record of it can not be read.
        """
        alerts: list[RingAlert] = []
        memberships: list[Membership] = []
        output = RingOutput(changes={}, rejected=[])
        for piece in batch.pieces:
            held = self._hold(piece.partition, records(piece.partition))
            self._piece(batch, piece, held, output, alerts, memberships)
        output.alerts = Messages.of(
            [alert.ring_id.encode() for alert in alerts], [encode(alert) for alert in alerts]
        )
        output.memberships = Messages.of(
            [m.user_id.encode() for m in memberships], [encode(m) for m in memberships]
        )
        return output

    def _hold(self, partition: int, records: PartitionRecords) -> _Held:
        held = self._held.get(partition)
        if held is None or records.get_many([FENCE])[0] != held.stored:
            held = self._held[partition] = _build_up(records)
        return held

    def _piece(
        self,
        batch: InputBatch,
        piece: Piece,
        held: _Held,
        output: RingOutput,
        alerts: list[RingAlert],
        memberships: list[Membership],
    ) -> None:
        engine = held.engine
        before = held.offset
        for i in range(piece.start, piece.end):
            offset = int(batch.offsets[i])
            if offset <= held.offset:
                output.fenced += 1
                continue
            held.offset = offset
            try:
                record = decode_inbox(batch.values[i] or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                output.rejected.append(
                    Rejected(i, "invalid_link", f"neither a link nor an activity: {exc}")
                )
                continue
            found = engine.apply(record)
            output.links += 1
            alerts += found.alerts
            memberships += found.memberships
        output.changes[piece.partition] = Changes.of(_changes(held) if held.offset > before else [])


def _changes(held: _Held) -> list[Change]:
    """All that a batch has to write, in order; see the module."""
    engine = held.engine
    held.stored = pack(
        Fence(held.offset, engine.clock, engine.began, engine.applied, engine.book.opened)
    )
    changes: list[Change] = [*engine.changes(), (FENCE, held.stored)]
    owed, held.owed = held.owed, []
    return [*owed, *_journal(held.offset, changes), *changes]


def _journal(offset: int, changes: list[Change]) -> Iterator[Change]:
    chunks: list[list[Change]] = [[]]
    size = 0
    for key, value in changes:
        if size >= JOURNAL_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append((key, value))
        size += len(key) + len(value or b"")
    for number, chunk in enumerate(chunks):
        yield (
            JOURNAL + number.to_bytes(4, "big"),
            pack(JournalChunk(offset, number, len(chunks), chunk)),
        )


def _build_up(records: PartitionRecords) -> _Held:
    """The engine that a table's records make, whatever its last writer came to write."""
    stored = records.get_many([FENCE])[0]
    fence = Fence() if stored is None else _read_fence(FENCE, stored)
    journal = [_read_chunk(key, value) for key, value in records.items() if key.startswith(JOURNAL)]
    latest = max((chunk.offset for chunk in journal), default=-1)
    chunks = [chunk for chunk in journal if chunk.offset == latest]
    owed: list[Change] = []
    if latest > fence.offset and len(chunks) == chunks[0].total:
        chunks.sort(key=lambda chunk: chunk.number)
        owed = [change for chunk in chunks for change in chunk.changes]
        fence = _read_fence(FENCE, owed[-1][1] or b"")
    instead = dict(owed)

    def merged() -> Iterator[tuple[bytes, bytes]]:
        yield from ((key, value) for key, value in records.items() if key not in instead)
        yield from ((key, value) for key, value in instead.items() if value is not None)

    engine = RingEngine.rebuilt(merged(), fence.clock, fence.began, fence.applied, fence.opened)
    return _Held(engine, fence.offset, stored, owed)
