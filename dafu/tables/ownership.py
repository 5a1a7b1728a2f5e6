"""Who owns a changelog partition, told by the partition itself: claims, stamps and repairs.

A worker that was suspended can lose a partition without knowing it, wake up and append state that
its successor has long replaced. The consumer group can not prevent that, and neither can a look at
a clock. So the log says by itself who may write to it:

* Before its first record an owner appends a **claim**, a record with the key `CLAIM_KEY`. The
  claim's offset names the ownership: unique, and larger than every one before.
* Every other record carries the claim it is written under in the header `STAMP`. A record that
  comes after a newer claim than its own is **stale**: whoever reads the log ignores it.
* An owner knows the offset up to which it has seen the log. If the broker acknowledges its next
  records further on than they should be, somebody else has written in between. The owner reads
  that. Stale records are repaired: their keys are appended once more with the values they ought
  to have, so that compaction, which keeps the last record of a key, keeps the right one. A
  newer claim means that the partition is lost: the owner stops.

Records without a stamp stem from versions without claims. A reader accepts them; an owner that
meets one behind its claim can not tell who is right, and stops.

Pure: what has to be appended or read is yielded to the caller, which answers with the offset of
the last record appended, or with what it read. This module knows no broker, no clock and no Faust.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dafu.columns import prefixes
from dafu.errors import DafuError
from dafu.streaming.records import RecordBatch, encode_headers
from dafu.tables.changes import Change
from dafu.tables.working_set import PartitionRecords

__all__ = [
    "CLAIM_KEY",
    "NOWHERE",
    "NO_CLAIM",
    "STAMP",
    "Append",
    "LogPage",
    "LostPartitionError",
    "PartitionLog",
    "Position",
    "Read",
    "Steps",
    "log_page",
    "stamp_header",
]

CLAIM_KEY: Final = b"O"
"""No other record's key is this one; see `dafu.tables.working_set` for what they begin with."""

STAMP: Final = "o"
"""Header with the offset of the claim that a record is written under, 8 bytes, little-endian."""

NO_CLAIM: Final = -1


class LostPartitionError(DafuError):
    """Another worker has claimed a partition that this one was writing to."""


class Position(NamedTuple):
    """Where reading a changelog has come to: the last offset, and the latest claim up to it."""

    offset: int
    claim: int = NO_CLAIM


NOWHERE: Final = Position(-1)
"""Before the first record."""


class LogPage(NamedTuple):
    """Consecutive records of a changelog partition, as columns; offsets may have gaps.

    `stamps` are `NO_CLAIM` where there is none, which includes the claims.
    """

    offsets: NDArray[np.int64]
    keys: Sequence[bytes]
    values: Sequence[bytes | None]
    stamps: NDArray[np.int64]


class Append(NamedTuple):
    """Append these records, in order, all with this stamp; answer with the last one's offset.

    A claim has the stamp `NO_CLAIM`, which stands for no header.
    """

    changes: Sequence[Change]
    stamp: int


class Read(NamedTuple):
    """Read what the log holds from `first` to before `end`; answer with a `LogPage`.

    Records at or after `end` may be among it, as long as none before them is missing.
    """

    first: int
    end: int


_T = TypeVar("_T")
Steps = Generator[Append | Read, Any, _T]
"""What is to be done, one thing after the other, and what comes of it."""


def stamp_header(claim: int) -> tuple[str, bytes]:
    """The header of records that are written under a claim."""
    return STAMP, claim.to_bytes(8, "little")


_SECTION: Final = encode_headers([stamp_header(0)])
_PREFIX: Final = np.frombuffer(_SECTION[:-8], np.uint8)


def log_page(chunk: RecordBatch) -> LogPage:
    """What counts of a chunk of a changelog."""
    stamps = np.full(len(chunk), NO_CLAIM)
    usual = np.flatnonzero(chunk.headers.lengths == len(_SECTION))
    sections = prefixes(chunk.headers.take(usual), len(_SECTION)).reshape(-1, len(_SECTION))
    known = (sections[:, : len(_PREFIX)] == _PREFIX).all(axis=1)
    stamps[usual[known]] = sections[known, len(_PREFIX) :].copy().view("<i8").ravel()
    for i in np.flatnonzero(chunk.has_headers & (stamps == NO_CLAIM)).tolist():
        stamps[i] = _stamp(chunk.headers_of(i))
    return LogPage(chunk.offsets, chunk.keys.present(), chunk.values.tolist(), stamps)


def _stamp(headers: Iterable[tuple[str, bytes | None]]) -> int:
    for name, value in headers:
        if name == STAMP and value is not None:
            return int.from_bytes(value, "little")
    return NO_CLAIM


class PartitionLog:
    """What one worker knows of one changelog partition.

    Parameters
    ----------
    position : Position
        What the local store holds; `NOWHERE` if it is empty.
    name : str
        The partition, for messages.

    Attributes
    ----------
    end : int
        Last offset that this worker has read or written.
    claim : int
        Latest claim up to there.
    own : int
        This worker's claim, `NO_CLAIM` while it has none.
    stale : set of bytes
        Keys whose last record is stale and has not been repaired.
    revoked : bool
        Whether the partition has been taken away from this worker in good order.
    """

    __slots__ = ("_held", "claim", "end", "name", "own", "revoked", "stale")

    def __init__(self, position: Position = NOWHERE, name: str = "changelog") -> None:
        self.end, self.claim = position
        self.own = NO_CLAIM
        self.stale: set[bytes] = set()
        self.revoked = False
        self.name = name
        self._held: Position | None = None

    @property
    def position(self) -> Position:
        """What to store beside the state, to read on from after a restart.

        It stays before the first stale record until that is repaired: what has to be repaired is
        known from the log only. What follows is then read twice, which changes nothing.
        """
        return self._held or Position(self.end, self.claim)

    def revoke(self) -> None:
        """The group gave the partition to another worker: write nothing more."""
        self.own = NO_CLAIM
        self.revoked = True

    def abandon(self) -> None:
        """It is not known how far an append came: claim the partition anew before anything else."""
        self.own = NO_CLAIM

    def recover(self, page: LogPage) -> list[Change]:
        """Take note of what the log holds next; returns what has to be applied to the state.

        Records that are known already, claims and stale records are left out.
        """
        offsets, keys, values, stamps = page
        if not len(offsets):
            return []
        claims = np.fromiter((key == CLAIM_KEY for key in keys), np.bool_, len(keys))
        fresh = offsets > self.end
        latest = np.maximum.accumulate(np.where(claims & fresh, offsets, self.claim))
        # No stamp is larger than the offset of its record, so a claim is never behind itself.
        stale = fresh & (stamps != NO_CLAIM) & (stamps < latest)
        live = fresh & ~claims & ~stale
        if self.stale or stale.any():
            self._note(page, stale, live, latest)
        self.claim = int(latest[-1])
        if self.own != self.claim:
            self.own = NO_CLAIM
        self.end = max(self.end, int(offsets[-1]))
        if live.all():
            return list(zip(keys, values, strict=True))
        return [(keys[i], values[i]) for i in np.flatnonzero(live).tolist()]

    def _note(self, page: LogPage, stale: Any, live: Any, latest: NDArray[np.int64]) -> None:
        """Keep track of the keys whose last record is stale."""
        for i in np.flatnonzero(stale | live).tolist():
            if not stale[i]:
                self.stale.discard(page.keys[i])
                if not self.stale:
                    self._held = None
                continue
            if not self.stale:
                self._held = Position(int(page.offsets[i]) - 1, int(latest[i]))
            self.stale.add(page.keys[i])

    def take(self, records: PartitionRecords, token: bytes) -> Steps[list[Change]]:
        """Claim the partition, after its recovery and before its state is used.

        Parameters
        ----------
        records : PartitionRecords
            The local state.
        token : bytes
            The claim's value, unlike any other's: tells a claim that the client sent twice from
            that of another worker.

        Returns
        -------
        list of changes
            What the previous owner appended last, to be applied with `position`.

        Raises
        ------
        LostPartitionError
            If another worker has claimed it since recovery.
        """
        claim: int = yield Append([(CLAIM_KEY, token)], NO_CLAIM)
        if self.revoked:
            raise self._lost("it was revoked")
        changes: list[Change] = []
        if claim != self.end + 1:
            page: LogPage = yield Read(self.end + 1, claim)
            for key, value in zip(page.keys, page.values, strict=True):
                if key == CLAIM_KEY and value != token:
                    raise self._lost("another worker claimed it at the same time")
            changes = self.recover(page)
        if self.claim > claim:
            raise self._lost("another worker has claimed it since")
        self.end = max(self.end, claim)
        self.claim = self.own = claim
        yield from self._repair(records, dict(changes))
        return changes

    def commit(
        self, records: PartitionRecords, changes: Sequence[Change], claim: int
    ) -> Steps[None]:
        """Log changes that were worked out under a claim; apply them with `position` afterwards.

        Raises
        ------
        LostPartitionError
            If that claim holds no longer.
        """
        self._check(claim)
        yield from self._write(records, changes)

    def watch(self, records: PartitionRecords, end: int) -> Steps[None]:
        """Look at what others may have written to an owned partition, and repair it.

        Parameters
        ----------
        records : PartitionRecords
            The local state.
        end : int
            Where the log ends, as the broker reports it.
        """
        # What recovery found in a changelog that this worker owned before and still owns.
        yield from self._repair(records, {})
        if end <= self.end + 1:
            return
        own = self.own
        page: LogPage = yield Read(self.end + 1, end)
        self._check(own)
        if len(page.offsets):
            spoilt = self._spoilt(page, {}, records)
            self.end = max(self.end, int(page.offsets[-1]))
            yield from self._write(records, _values(spoilt, {}, records))

    def _repair(self, records: PartitionRecords, current: dict[bytes, bytes | None]) -> Steps[None]:
        """Write the keys again whose last record is stale."""
        if self.stale:
            keys = set(self.stale)
            yield from self._write(records, _values(keys, current, records))
            self.stale -= keys
            if not self.stale:
                self._held = None

    def _write(self, records: PartitionRecords, changes: Sequence[Change]) -> Steps[None]:
        """Append, and append again whatever others have spoilt, until the log is ours."""
        own = self.own
        wanted = changes
        current: dict[bytes, bytes | None] | None = None
        while changes:
            last: int = yield Append(changes, own)
            self._check(own)
            if last == self.end + len(changes):
                self.end = last
                return
            if current is None:
                current = dict(iter(wanted))
            page: LogPage = yield Read(self.end + 1, last + 1)
            self._check(own)
            changes = _values(self._spoilt(page, current, records), current, records)
            self.end = max(last, int(page.offsets[-1]) if len(page.offsets) else last)

    def _spoilt(
        self, page: LogPage, current: dict[bytes, bytes | None], records: PartitionRecords
    ) -> list[bytes]:
        """Keys of a page whose last record in it is not what this owner wants to be kept.

        Its own records count, too: one that a client sent twice may come late.
        """
        last: dict[bytes, tuple[bytes | None, int]] = {}
        for key, value, stamp in zip(page.keys, page.values, page.stamps.tolist(), strict=True):
            if key == CLAIM_KEY:
                raise self._lost("another worker has claimed it since")
            if stamp == NO_CLAIM:
                raise self._lost("a worker of a version without claims writes to it as well")
            last[key] = value, stamp
        wanted = dict(_values(last, current, records))
        return [
            key for key, (value, stamp) in last.items() if stamp != self.own or value != wanted[key]
        ]

    def _check(self, claim: int) -> None:
        if claim != self.own or claim == NO_CLAIM:
            why = "it was revoked" if self.revoked else "this worker's claim is not the latest"
            raise self._lost(why)

    def _lost(self, why: str) -> LostPartitionError:
        self.own = NO_CLAIM
        return LostPartitionError(
            f"{self.name} is not this worker's to write to: {why}. It stops before it counts "
            "anything wrongly, nothing is lost. Was it, or the other one, suspended for longer "
            "than the session timeout? Start it again"
        )


def _values(
    keys: Iterable[bytes], current: dict[bytes, bytes | None], records: PartitionRecords
) -> list[Change]:
    """Keys with the values they should have: what is being written, or else the local state."""
    chosen = list(keys)
    stored = records.get_many(chosen)
    return [(key, current.get(key, value)) for key, value in zip(chosen, stored, strict=True)]
