"""Records of which some entities have one, in either of two slots: archives, labels, rings.

A new version goes to the slot that is free, and the head, written after it, says which one holds.
This module knows layouts and no records' whereabouts; `dafu.tables.working_set` loads and writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.columns import positions
from dafu.features.state import new_archive, new_labels, new_ring
from dafu.tables.migrations import Slotted
from dafu.tables.packing import SlottedRows

ARCHIVE = b"A"
LABELS = b"L"
RING = b"R"

_MOST: Final = 2**53
_NO_RECORD: Final = np.dtype([("schema", "i8")])


def slotted_key(letter: bytes, slot: int, entity: bytes) -> bytes:
    """Key of one of an entity's two records of a kind."""
    return letter + bytes((slot,)) + entity


class Kind(NamedTuple):
    """A kind of record of which some entities have one, in either of two slots.

    The head's field `has` is 1 for those, its field `slot` says where. `marks` gives of its rows
    what tells whether they changed, `sound` which of them can be true.
    """

    part: Slotted
    letter: bytes
    has: str
    slot: str
    fresh: Callable[[np.ndarray], None]
    marks: Callable[[np.ndarray], np.ndarray]
    sound: Callable[[np.ndarray], NDArray[np.bool_]]


def _sound_archives(archives: np.ndarray) -> NDArray[np.bool_]:
    return np.ones(len(archives), np.bool_)


def _sound_labels(labels: np.ndarray) -> NDArray[np.bool_]:
    most = labels["transaction"].shape[1]
    sound: NDArray[np.bool_] = (labels["count"] >= 0) & (labels["count"] <= most)
    return sound


def _sound_rings(rings: np.ndarray) -> NDArray[np.bool_]:
    sound: NDArray[np.bool_] = (rings["risk"] >= 0.0) & (rings["risk"] <= 1.0)
    for name in ("size", "blocked", "frauds", "sharers"):
        sound &= (rings[name] >= 0) & (rings[name] < _MOST)
    for name in ("id", "shared"):
        for i in positions((rings[name] > 0x7F).any(axis=1)).tolist():
            try:
                rings[name][i].tobytes().decode()
            except UnicodeDecodeError:
                sound[i] = False
    return sound


ARCHIVES: Final = Kind(
    "archive",
    ARCHIVE,
    "archived",
    "archive_slot",
    new_archive,
    lambda rows: np.array(rows["through"]),
    _sound_archives,
)
LABEL_RECORDS: Final = Kind(
    "labels", LABELS, "labelled", "labels_slot", new_labels, np.copy, _sound_labels
)
RINGS: Final = Kind("ring", RING, "ringed", "ring_slot", new_ring, np.copy, _sound_rings)


class SlottedRecords:
    """The records of one such kind that a batch's entities have or need.

    Parameters
    ----------
    kind : Kind
    n : int
        Entities in the batch.
    dtype : dtype or None
        None where entities of this sort never have such a record.
    owners : int64 [...], ascending
        Numbers of the entities that get a row.

    Attributes
    ----------
    rows : dtype [owners]
        Blank to begin with.
    row_of : int64 [n]
        Which row is an entity's, -1 for none.
    """

    def __init__(
        self, kind: Kind, n: int, dtype: np.dtype[np.void] | None, owners: np.ndarray
    ) -> None:
        self.kind = kind
        self.owners = owners
        self.row_of = np.full(n, -1, dtype=np.int64)
        self.row_of[owners] = np.arange(owners.size)
        self.rows: Any = np.zeros(owners.size, dtype=dtype or _NO_RECORD)
        if owners.size:
            kind.fresh(self.rows)

    def loaded(self) -> None:
        """Remember what is there, to tell later what changed."""
        self.before = self.kind.marks(self.rows)

    def to_write(self, heads: np.ndarray) -> SlottedRows:
        """What changed, for the slot that is free, which `heads` are told."""
        row = np.full(len(heads), -1, dtype=np.int64)
        if not self.owners.size:
            return SlottedRows(self.kind.letter, self.rows, row, row)
        changed = self.owners[self.kind.marks(self.rows) != self.before]
        heads[self.kind.slot][changed] ^= 1
        row[changed] = self.row_of[changed]
        return SlottedRows(self.kind.letter, self.rows, row, heads[self.kind.slot])
