"""Stage two's reading of what stage one forwarded: the header of each record, and its soundness.

The topic in between is a log like any other, to which others may write. What does not look like
the work of stage one is rejected, before anything in it is taken for a position or a number.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from dafu.columns import I64, U8, ByteColumn, positions, prefixes
from dafu.errors import DafuError
from dafu.features.state import FRAUD_LABEL, PAYMENT, RING_ID_BYTES, SHARED_BYTES
from dafu.kernel import kernel
from dafu.schema import MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS, Transaction
from dafu.stages.batch import (
    ABSENT_TEXT,
    FORWARD,
    FORWARD_LAYOUT,
    FORWARD_MAGIC,
    LABEL_MAGIC,
    InputBatch,
    Rejected,
)
from dafu.stages.texts import TEXTS

MAX_PARTITIONS: Final = 1_000_000
"""Of the topic that stage one reads; a mark is kept for each."""

LABEL_KEY_BYTES: Final = 8
"""A label's key is the hash of its merchant's id."""

_BEGINS_JSON: Final = tuple(b"{ \t\r\n")
_MAGIC: Final = FORWARD["magic"]
if FORWARD_MAGIC >> 16 != LABEL_MAGIC >> 16:  # pragma: no cover
    raise ImportError("transactions and labels are forwarded in formats of different numbers")
_REQUIRED: Final = 3
_FIRST_TEXTS: Final = ("transaction_id", "user_id", "merchant_id")
if TEXTS[:_REQUIRED] != _FIRST_TEXTS:  # pragma: no cover
    raise ImportError("the texts of a transaction do not begin with the required ones")

_decode = msgspec.json.Decoder(Transaction).decode


class LayoutMismatchError(DafuError):
    """Stage one forwards another format, or other features, than this version reads."""


def unpack(batch: InputBatch) -> tuple[NDArray[np.int64], np.ndarray, list[Rejected]]:
    """Split off the headers of transactions and labels; records that have none, or a damaged one,
    are rejected.

    Returns
    -------
    int64 [rows], ascending
        Positions of the records that stage one forwarded.
    FORWARD [rows]
        Their headers.
    list of Rejected

    Raises
    ------
    LayoutMismatchError
        If the records come from a version with another format or other user features.
    """
    size = FORWARD.itemsize
    rows = positions((batch.values.lengths >= size) & (batch.keys.lengths > 0))
    header = prefixes(batch.values.take(rows), size).view(FORWARD)
    labels = (
        (header["magic"] == LABEL_MAGIC)
        & (batch.values.lengths[rows] == size)
        & (batch.keys.lengths[rows] == LABEL_KEY_BYTES)
    )
    forwarded = labels | ((header["magic"] == FORWARD_MAGIC) & (batch.values.lengths[rows] > size))
    if not forwarded.all():
        rows, header = rows[forwarded], header[forwarded]
    other = positions(header["layout"] != FORWARD_LAYOUT)
    if other.size:
        raise LayoutMismatchError(
            f"record at offset {batch.offsets[rows[other[0]]]} carries features and fields of "
            f"layout {header['layout'][other[0]]:08x}, this version reads {FORWARD_LAYOUT:08x}. "
            "Let the version that forwarded it drain the topic before upgrading"
        )
    rejected: list[Rejected] = []
    if rows.size < len(batch):
        why = "not a record that the users agent forwarded"
        others = np.setdiff1d(np.arange(len(batch)), rows)
        _refuse_other_formats(batch, others)
        rejected = [Rejected(i, "not_forwarded", why) for i in others.tolist()]
    sound = _sound(header, batch.values.take(rows))
    if not sound.all():
        why = "its header does not fit the transaction that follows it"
        rejected += [Rejected(i, "not_forwarded", why) for i in rows[~sound].tolist()]
        rows, header = rows[sound], header[sound]
    return rows, header, rejected


def _refuse_other_formats(batch: InputBatch, rows: NDArray[np.int64]) -> None:
    """Raise at a record, of these, that another format's number stands at the head of."""
    long = rows[batch.values.lengths[rows] >= _MAGIC.itemsize]
    magic = prefixes(batch.values.take(long), _MAGIC.itemsize).view(_MAGIC)
    kind, number = magic & 0xFFFF, magic >> 16
    ours = (kind == FORWARD_MAGIC & 0xFFFF) | (kind == LABEL_MAGIC & 0xFFFF)
    other = positions(ours & (number != FORWARD_MAGIC >> 16))
    if other.size:
        raise LayoutMismatchError(
            f"record at offset {batch.offsets[long[other[0]]]} was forwarded in format "
            f"{number[other[0]]}, this version reads {FORWARD_MAGIC >> 16}. Let the version that "
            "forwarded it drain the topic before upgrading"
        )


def documents(values: ByteColumn, header: np.ndarray) -> ByteColumn:
    """The transactions' own JSON, of n records that `unpack` found sound and their headers."""
    skip = FORWARD.itemsize + header["ring_id"].astype(np.int64) + header["ring_shared"]
    return values.elsewhere(values.starts + skip, values.lengths - skip)


def ring_texts(value: bytes, header: np.void) -> tuple[str, str]:
    """The id of the ring that the user of a sound record is in, and what ties him to it."""
    start, middle = FORWARD.itemsize, FORWARD.itemsize + int(header["ring_id"])
    end = middle + int(header["ring_shared"])
    return value[start:middle].decode(), value[middle:end].decode()


def _sound(header: np.ndarray, values: ByteColumn) -> NDArray[np.bool_]:
    """bool [n]: whether a header says of its record what can be true."""
    out = np.empty(len(header), np.bool_)
    _check(header, values.buffer, values.starts, values.lengths, FORWARD.itemsize, out)
    payments = header["magic"] == FORWARD_MAGIC
    found = documents(values, header)
    in_ring = (header["ring_id"] > 0) | (header["ring_shared"] > 0)
    for i in positions(out & payments & ((header["plain"] == 0) | in_ring)).tolist():
        try:
            ring_texts(values[i] or b"", header[i])
            if not header["plain"][i]:
                _decode(found[i] or b"")
        except ValueError:  # msgspec's errors, and text that is no UTF-8
            out[i] = False
    return out


@kernel
def _check(
    header: Any, buffer: U8, starts: I64, lengths: I64, size: int, out: NDArray[np.bool_]
) -> None:
    for i in range(len(out)):
        h = header[i]
        ring = int(h.ring_id) + int(h.ring_shared)
        start, length = starts[i] + size + ring, lengths[i] - size - ring
        out[i] = (
            0 <= h.source < MAX_PARTITIONS
            and h.offset >= 0
            and MIN_TIMESTAMP_MS <= h.time < MAX_TIMESTAMP_MS
            and PAYMENT <= h.label <= FRAUD_LABEL
            and (h.label != PAYMENT or h.magic != LABEL_MAGIC)
            and h.plain <= 1
            and h.ring_id <= RING_ID_BYTES
            and h.ring_shared <= SHARED_BYTES
            and (length == 0 if h.magic == LABEL_MAGIC else length > 0)
            and (length == 0 or buffer[start] in _BEGINS_JSON)
            and (h.plain == 0 or _are_texts(h, buffer, start, length))
        )


@kernel
def _are_texts(h: Any, buffer: U8, start: int, length: int) -> bool:
    """Whether all of a plain record's texts are spans of it, with nothing that JSON escapes."""
    for k in range(len(h.text_start)):
        n = int(h.text_length[k])
        if n == ABSENT_TEXT:
            if k < _REQUIRED:
                return False
            continue
        first = int(h.text_start[k])
        if first + n > length:
            return False
        for j in range(start + first, start + first + n):
            c = buffer[j]
            if c < 0x20 or c > 0x7E or c in (0x22, 0x5C):
                return False
    return True
