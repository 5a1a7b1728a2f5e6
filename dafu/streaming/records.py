"""A fetched chunk of records as columns, which is what one Faust event carries here.

It knows bytes, offsets and how record headers are written, and nothing of topics' contents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dafu.columns import I64, ByteColumn

__all__ = ["RecordBatch", "decode_headers", "encode_headers"]


class RecordBatch:
    """Consecutive records of one partition, n of them.

    Offsets increase, but not always by one: a compacted topic has gaps.

    Parameters
    ----------
    topic, partition
        Where the records are from.
    offsets : int64 [n]
    timestamps : int64 [n]
        The records' own times in epoch milliseconds, -1 where there is none.
    keys, values
        Of n each, absent where the record has a null.
    headers
        The records' header sections (see `encode_headers`). That of a record without headers is
        absent or a single byte.
    """

    __slots__ = ("headers", "keys", "offsets", "partition", "timestamps", "topic", "values")

    def __init__(
        self,
        topic: str,
        partition: int,
        offsets: I64,
        timestamps: I64,
        keys: ByteColumn,
        values: ByteColumn,
        headers: ByteColumn,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offsets = offsets
        self.timestamps = timestamps
        self.keys = keys
        self.values = values
        self.headers = headers

    @classmethod
    def of(cls, topic: str, partition: int, records: Sequence[Any]) -> RecordBatch:
        """The columns of aiokafka's consumer records, which are all of this partition."""
        return cls(
            topic,
            partition,
            np.array([r.offset for r in records], np.int64),
            np.array([r.timestamp for r in records], np.int64),
            ByteColumn.of([r.key for r in records]),
            ByteColumn.of([r.value for r in records]),
            ByteColumn.of([encode_headers(r.headers) for r in records]),
        )

    @classmethod
    def joined(cls, batches: Sequence[RecordBatch]) -> RecordBatch:
        """Batches of one partition, one after the other; at least one."""
        first = batches[0]
        if len(batches) == 1:
            return first
        return cls(
            first.topic,
            first.partition,
            np.concatenate([batch.offsets for batch in batches]),
            np.concatenate([batch.timestamps for batch in batches]),
            ByteColumn.joined([batch.keys for batch in batches]),
            ByteColumn.joined([batch.values for batch in batches]),
            ByteColumn.joined([batch.headers for batch in batches]),
        )

    def part(self, first: int, end: int) -> RecordBatch:
        """Records first..end-1, which share what they consist of."""
        rows = slice(first, end)
        return RecordBatch(
            self.topic,
            self.partition,
            self.offsets[rows],
            self.timestamps[rows],
            self.keys.part(first, end),
            self.values.part(first, end),
            self.headers.part(first, end),
        )

    def take(self, mask: NDArray[np.bool_]) -> RecordBatch:
        """The records where a mask is true; likewise."""
        return RecordBatch(
            self.topic,
            self.partition,
            self.offsets[mask],
            self.timestamps[mask],
            self.keys.take(mask),
            self.values.take(mask),
            self.headers.take(mask),
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        if not len(self):
            return f"<RecordBatch {self.topic}[{self.partition}] empty>"
        first, last = self.offsets[0], self.offsets[-1]
        return f"<RecordBatch {self.topic}[{self.partition}] {first}..{last}>"

    @property
    def has_headers(self) -> NDArray[np.bool_]:
        """bool [n]: which records have headers."""
        return self.headers.lengths > 1

    def headers_of(self, i: int) -> list[tuple[str, bytes | None]]:
        """The headers of a record, in order."""
        return decode_headers(self.headers[i] or b"\0")


def encode_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    r"""The header section of a record: their number, then each name and value, with lengths.

    Lengths and the number are zigzag varints, and a null's is -1
    (https://kafka.apache.org/documentation/#record).

    Examples
    --------
    >>> encode_headers([("h", b"1")])
    b'\x02\x02h\x021'
    """
    out = bytearray(_varint(len(headers)))
    for name, value in headers:
        text = name.encode()
        out += _varint(len(text)) + text
        out += _varint(-1) if value is None else _varint(len(value)) + value
    return bytes(out)


def decode_headers(section: bytes) -> list[tuple[str, bytes | None]]:
    """The headers in a well-formed section; what of a name is no UTF-8 is replaced."""
    count, at = _read_varint(section, 0)
    found: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        length, at = _read_varint(section, at)
        name = section[at : at + length].decode("utf-8", "replace")
        length, at = _read_varint(section, at + length)
        found.append((name, None if length < 0 else section[at : at + length]))
        at += max(length, 0)
    return found


def _varint(value: int) -> bytes:
    raw = value << 1 if value >= 0 else ~(value << 1)
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    raw = shift = 0
    while True:
        byte = data[at]
        at += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (raw >> 1) ^ -(raw & 1), at
        shift += 7
