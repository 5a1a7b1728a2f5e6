"""What goes into a stage and what comes out, whichever way it travelled.

Knows bytes and offsets, neither topics' clients nor what the bytes mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.columns import ByteColumn
from dafu.features.catalogue import USER_FEATURES, USER_LAYOUT_HASH
from dafu.hashing import hash64
from dafu.rules import FiredMode
from dafu.stages.texts import PLACES, TEXTS
from dafu.tables.changes import Changes
from dafu.tables.working_set import PartitionRecords, Share

NO_TIMESTAMP: Final = -1

Partitions = Callable[[int], PartitionRecords]
"""The state of each partition, by number."""


class Piece(NamedTuple):
    """The records of one partition in a batch: those at positions start to before end."""

    partition: int
    start: int
    end: int


class InputBatch(Struct, frozen=True):
    """Records of one or more partitions, piece by piece, each in log order and none of two pieces.

    Several partitions in one batch are a matter of cost: what a stage makes of a piece does not
    depend on the others. `timestamps` are the records' own times (epoch milliseconds),
    NO_TIMESTAMP where the source has none; `rerouted` says which were already sent again under
    their right key.
    """

    pieces: Sequence[Piece]
    keys: ByteColumn
    values: ByteColumn
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    rerouted: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        partition: int,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        first_offset: int = 0,
        timestamps: Sequence[int] | None = None,
    ) -> InputBatch:
        """Consecutive records of one partition; without timestamps unless they are given."""
        n = len(values)
        times = np.full(n, NO_TIMESTAMP) if timestamps is None else np.array(timestamps, np.int64)
        return cls(
            [Piece(partition, 0, n)],
            ByteColumn.of(keys),
            ByteColumn.of(values),
            np.arange(first_offset, first_offset + n),
            times,
        )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def partitions(self) -> NDArray[np.int64]:
        """int64 [n]: the partition of each record."""
        partitions = np.array([p.partition for p in self.pieces], np.int64)
        return np.repeat(partitions, [p.end - p.start for p in self.pieces])

    def part(self, rows: NDArray[np.int64]) -> InputBatch:
        """These records (ascending positions) alone."""
        pieces: list[Piece] = []
        for piece, own in zip(self.pieces, self.cut(rows), strict=True):
            if own.stop > own.start:
                pieces.append(Piece(piece.partition, own.start, own.stop))
        back = {int(row): i for i, row in enumerate(rows)} if self.rerouted else {}
        return InputBatch(
            pieces,
            self.keys.take(rows),
            self.values.take(rows),
            self.offsets[rows],
            self.timestamps[rows],
            frozenset(back[i] for i in self.rerouted if i in back),
        )

    def cut(self, rows: NDArray[np.int64]) -> list[slice]:
        """Which of these rows (ascending) belong to each piece."""
        ends = np.searchsorted(rows, [p.end for p in self.pieces]).tolist()
        return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def share_out(
    batch: InputBatch,
    rows: NDArray[np.int64],
    records: Partitions,
    keys: Sequence[bytes] | None = None,
) -> tuple[list[Share], list[int], NDArray[np.int64]]:
    """Number the entities that rows (ascending) of a batch are about, by their records' keys.

    `keys` [rows] are given where they are others.

    Returns
    -------
    list of Share [pieces]
    list of int [rows]
        Number of each row's entity, in all shares together.
    int64 [entities]
        How many of the rows each has.
    """
    if keys is None:
        keys = batch.keys.take(rows).present()
    shares: list[Share] = []
    numbers: list[int] = []
    first = 0
    for piece, part in zip(batch.pieces, batch.cut(rows), strict=True):
        own: dict[bytes, int] = {}
        numbers += [own.setdefault(key, first + len(own)) for key in keys[part]]
        first += len(own)
        shares.append(Share(records(piece.partition), list(own)))
    return shares, numbers, np.bincount(numbers, minlength=first)


class Rejected(Struct, frozen=True):
    """A record that got no decision: its position in the batch and why."""

    index: int
    reason: str
    detail: str


class StageOutput(Struct, kw_only=True):
    """What a stage made of a batch: publish its outputs before the changes, which are by partition.

    `fenced` counts records that the state accounts for already.
    """

    changes: dict[int, Changes]
    rejected: list[Rejected]
    fenced: int = 0

    @property
    def only_changes(self) -> Changes:
        """The changes of a batch of one partition."""
        (changes,) = self.changes.values()
        return changes


class Messages(NamedTuple):
    """Records for another topic: n keys and n values."""

    keys: ByteColumn
    values: ByteColumn

    @classmethod
    def of(cls, keys: Sequence[bytes], values: Sequence[bytes]) -> Messages:
        """Copy the keys and values."""
        return cls(ByteColumn.of(keys), ByteColumn.of(values))


NO_MESSAGES: Final = Messages.of([], [])


class UserOutput(StageOutput):
    """What stage one made of a batch.

    `forward_*` go to the merchant-keyed topic, one for every transaction applied, in order, and
    among them the labels that are for merchants; `forward_hashes` (int64) say to which partition
    (`dafu.partitioner.key_hashes`). `labels` counts those applied.
    `reroutes` are positions of records to publish again under their `user_id`.
    `sightings` go to those who look which identifiers users share, `activities` to those who find
    rings (`dafu.rings.records`). Of identifiers, `refused` counts those that name nothing, and
    `capped` those of users who had too many that day; `memberships` counts those applied.
    """

    forward_keys: ByteColumn
    forward_values: ByteColumn
    forward_hashes: NDArray[np.int64]
    reroutes: list[tuple[int, bytes]]
    duplicates: int = 0
    labels: int = 0
    sightings: Messages = NO_MESSAGES
    activities: Messages = NO_MESSAGES
    refused: int = 0
    capped: int = 0
    memberships: int = 0


class Judged(NamedTuple):
    """Transactions as the rules are given them: the forwarded records, their headers (FORWARD [n])
    and the features, float64 [n, F] in catalogue order."""

    values: ByteColumn
    header: np.ndarray
    features: np.ndarray


class MerchantOutput(StageOutput):
    """What stage two made of a batch.

    `ingested` holds the time (epoch milliseconds) at which the broker got each decision's
    transaction, for latency; `sources` and `offsets` say where it has it, as partition and offset
    (int64). `features` is float64 [decisions, F] in catalogue order, `judged` what
    the rules were given, None if there was nothing to decide. `fired` says
    of each rule that fired its id, its mode and on how many transactions. `sightings`
    and `activities` tell of blocked transactions, as those of `UserOutput` do,
    `alerts` of bursts at merchants, by ring. `degraded` says that rules decided alone, `fired`
    of each rule that fired its id, its mode and on how many transactions.
    """

    keys: ByteColumn
    decisions: ByteColumn
    ingested: np.ndarray
    sources: np.ndarray
    offsets: np.ndarray
    features: np.ndarray
    outcomes: np.ndarray
    judged: Judged | None = None
    fired: Sequence[tuple[str, FiredMode, int]] = ()
    alerts: Messages = NO_MESSAGES
    degraded: bool = False
    repeats: int = 0
    labels: int = 0
    sightings: Messages = NO_MESSAGES
    activities: Messages = NO_MESSAGES


FORWARD_MAGIC: Final = 0x0004_4644
"""Format 4 of the forwarded record ("DF" and a version)."""

LABEL_MAGIC: Final = 0x0004_4C44
"""Format 4 of a label that stands among forwarded records ("DL" and a version)."""

MAX_SEQUENCE_MODELS: Final = 3
"""Sequence models that score beside each other: the champion, which comes first, and others."""

FORWARD_LAYOUT: Final = zlib.crc32(repr((USER_LAYOUT_HASH, TEXTS, PLACES)).encode())
"""Tells versions apart whose forwarded records hold other features or fields."""

FORWARD: Final = np.dtype(
    [
        ("magic", "<u4"),
        ("layout", "<u4"),
        ("source", "<i8"),  # partition and offset of the transaction
        ("offset", "<i8"),
        ("ingested", "<i8"),
        ("time", "<i8"),
        ("amount", "<f8"),
        ("user", "<u8"),
        ("transaction", "<u8"),  # of the label, as the next two
        ("observed", "<i8"),
        ("label", "<i8"),  # 0 for none: what it says, here or of a transaction that had it already
        ("sequence_model", "<u8", (MAX_SEQUENCE_MODELS,)),  # whose, 0 for none: `model_number`
        ("sequence_risk", "<f8", (MAX_SEQUENCE_MODELS,)),
        ("places", "<f8", (len(PLACES),)),
        ("features", "<f8", (len(USER_FEATURES),)),
        ("text_start", "<u2", (len(TEXTS),)),  # in the JSON; see `dafu.stages.texts`
        ("text_length", "<u2", (len(TEXTS),)),
        ("plain", "<u4"),  # 1 if these two arrays hold
        ("ring_id", "<u2"),  # bytes of UTF-8 between this header and the JSON: the ring's id,
        ("ring_shared", "<u2"),  # and what ties the user to it
    ]
)
"""What stage one sends ahead of the transaction's own JSON, in one record. A label is sent as such
a header alone, with the time and amount of the transaction that it is about."""

ABSENT_TEXT: Final = 0xFFFF
"""The `text_length` of a field that is absent or null."""


def model_number(version: str) -> int:
    """What tells sequence models apart in state and headers; 64 bits of the version's hash."""
    return hash64(version.encode()) or 1


def forward_header(n: int) -> np.ndarray:
    """Fresh FORWARD records with their constant fields set."""
    header = np.zeros(n, dtype=FORWARD)
    header["magic"] = FORWARD_MAGIC
    header["layout"] = FORWARD_LAYOUT
    header["sequence_risk"] = np.nan
    return header
