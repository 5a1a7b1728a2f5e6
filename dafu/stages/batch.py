"""What goes into a stage and what comes out, whichever way it travelled.

Knows bytes and offsets, neither topics' clients nor what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from dafu.features.catalogue import USER_FEATURES, USER_LAYOUT_HASH
from dafu.tables.working_set import Change

NO_TIMESTAMP: Final = -1


class InputBatch(Struct, frozen=True):
    """Records of one partition in log order.

    `timestamps` are the records' own times (epoch milliseconds), NO_TIMESTAMP where the source
    has none; `rerouted` says which were already sent again under their right key.
    """

    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    offsets: Sequence[int]
    timestamps: Sequence[int]
    rerouted: frozenset[int] = frozenset()

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

    forward_keys: list[bytes]
    forward_values: list[bytes]
    rejected: list[Rejected]
    reroutes: list[tuple[int, bytes]]
    changes: list[Change]
    duplicates: int = 0
    fenced: int = 0


class MerchantOutput(Struct):
    """What stage two made of a batch. Publish the decisions before the changes.

    `ingested` holds the time (epoch milliseconds) at which the broker got each decision's
    transaction, for latency. `features` is float64 [decisions, 83] in catalogue order.
    """

    keys: list[bytes]
    decisions: list[bytes]
    ingested: np.ndarray
    features: np.ndarray
    outcomes: np.ndarray
    rejected: list[Rejected]
    changes: list[Change]
    repeats: int = 0
    fenced: int = 0


FORWARD_MAGIC: Final = 0x0001_4644
"""Format 1 of the forwarded record ("DF" and a version)."""

FORWARD: Final = np.dtype(
    [
        ("magic", "<u4"),
        ("layout", "<u4"),  # which user features follow
        ("source", "<i8"),  # partition and offset of the transaction
        ("offset", "<i8"),
        ("ingested", "<i8"),
        ("time", "<i8"),
        ("amount", "<f8"),
        ("user", "<u8"),
        ("features", "<f8", (len(USER_FEATURES),)),
    ]
)
"""What stage one sends ahead of the transaction's own JSON, in one record."""


def forward_header(n: int) -> np.ndarray:
    """Fresh FORWARD records with their constant fields set."""
    header = np.zeros(n, dtype=FORWARD)
    header["magic"] = FORWARD_MAGIC
    header["layout"] = USER_LAYOUT_HASH
    return header
