"""What goes into a stage and what comes out, whichever way it travelled.

Knows bytes and offsets, neither topics' clients nor what the bytes mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.columns import ByteColumn
from dafu.features.catalogue import USER_FEATURES, USER_LAYOUT_HASH
from dafu.stages.texts import PLACES, TEXTS
from dafu.tables.changes import Changes

NO_TIMESTAMP: Final = -1


class InputBatch(Struct, frozen=True):
    """Records of one partition in log order.

    `timestamps` are the records' own times (epoch milliseconds), NO_TIMESTAMP where the source
    has none; `rerouted` says which were already sent again under their right key.
    """

    partition: int
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
        """Consecutive records from sequences; without timestamps unless they are given."""
        n = len(values)
        times = np.full(n, NO_TIMESTAMP) if timestamps is None else np.array(timestamps, np.int64)
        return cls(
            partition,
            ByteColumn.of(keys),
            ByteColumn.of(values),
            np.arange(first_offset, first_offset + n),
            times,
        )

    def __len__(self) -> int:
        return len(self.values)


class Rejected(Struct, frozen=True):
    """A record that got no decision: its position in the batch and why."""

    index: int
    reason: str
    detail: str


class UserOutput(Struct):
    """What stage one made of a batch. Publish the outputs before the changes.

    `forward_*` go to the merchant-keyed topic, one for every transaction applied, in order.
    `reroutes` are positions of records to publish again under their `user_id`.
    """

    forward_keys: ByteColumn
    forward_values: ByteColumn
    rejected: list[Rejected]
    reroutes: list[tuple[int, bytes]]
    changes: Changes
    duplicates: int = 0
    fenced: int = 0


class MerchantOutput(Struct):
    """What stage two made of a batch. Publish the decisions before the changes.

    `ingested` holds the time (epoch milliseconds) at which the broker got each decision's
    transaction, for latency. `features` is float64 [decisions, 83] in catalogue order.
    """

    keys: ByteColumn
    decisions: ByteColumn
    ingested: np.ndarray
    features: np.ndarray
    outcomes: np.ndarray
    rejected: list[Rejected]
    changes: Changes
    repeats: int = 0
    fenced: int = 0


FORWARD_MAGIC: Final = 0x0002_4644
"""Format 2 of the forwarded record ("DF" and a version)."""

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
        ("places", "<f8", (len(PLACES),)),
        ("features", "<f8", (len(USER_FEATURES),)),
        ("text_start", "<u2", (len(TEXTS),)),  # in the JSON; see `dafu.stages.texts`
        ("text_length", "<u2", (len(TEXTS),)),
        ("plain", "<u4"),  # 1 if these two arrays hold
    ]
)
"""What stage one sends ahead of the transaction's own JSON, in one record."""

ABSENT_TEXT: Final = 0xFFFF
"""The `text_length` of a field that is absent or null."""


def forward_header(n: int) -> np.ndarray:
    """Fresh FORWARD records with their constant fields set."""
    header = np.zeros(n, dtype=FORWARD)
    header["magic"] = FORWARD_MAGIC
    header["layout"] = FORWARD_LAYOUT
    return header
