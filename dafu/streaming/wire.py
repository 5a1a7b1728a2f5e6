"""Kafka's record batches as columns: from the bytes of a fetch, and to the bytes of a send.

Record batch format 2 (magic 2, KIP-98; https://kafka.apache.org/documentation/#recordbatch): a
header of 61 bytes, then records of varints, keys, values and headers, which compiled kernels read
and write a batch at a time. Legacy formats are written over into it by aiokafka's own reader and
builder, which is slow, and correct.

It knows bytes and offsets, and neither topics, clients nor what the bytes mean.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, Final

import google_crc32c
import numpy as np
from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from msgspec import Struct

from dafu.columns import I64, ByteColumn
from dafu.errors import DafuError
from dafu.streaming.records import RecordBatch
from dafu.streaming.wire_kernels import (
    BATCH_OVERHEAD,
    all_inside,
    plan_batches,
    read_records,
    write_batches,
)

__all__ = [
    "BATCH_OVERHEAD",
    "RECORD_OVERHEAD",
    "Aborted",
    "CodecMissingError",
    "CorruptRecordsError",
    "Decoded",
    "EncodedBatch",
    "decode",
    "encode",
    "encode_groups",
]

RECORD_OVERHEAD: Final = 5 + 1 + 10 + 5 + 5 + 5 + 1
"""Bytes of a record without key, value and header section, at most."""
NO_TIMESTAMP: Final = -1
"""The timestamp of a record in format 0, which has none."""

# Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first timestamp,
# max timestamp, producer id, producer epoch, base sequence, record count.
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_CRC: Final = struct.Struct(">I")
_CRC_AT: Final = 17
_CRC_FROM: Final = 21
_CRC_PIECE: Final = 1 << 16
_MAGIC_AT: Final = 16
_LENGTH: Final = struct.Struct(">i")
_LENGTH_AT: Final = 8
_LENGTH_FROM: Final = 12
_MAGIC: Final = 2
_MIN_LEGACY: Final = 26
_MIN_RECORD: Final = 7

_CODEC_BITS: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20

Aborted = Collection[tuple[int, int]]
"""Transactions that were aborted: their producers' ids, and the first offset of each."""

_Codec = tuple[str, Callable[[], bool], Callable[[Any], bytes], Callable[[Any], bytes]]
_CODECS: Final[dict[int, _Codec]] = {
    # Without the time of day, which aiokafka leaves in: the same records are the same bytes.
    1: ("gzip", codec.has_gzip, partial(gzip.compress, mtime=0), codec.gzip_decode),
    2: ("snappy", codec.has_snappy, codec.snappy_encode, codec.snappy_decode),
    3: ("lz4", codec.has_lz4, codec.lz4_encode, codec.lz4_decode),
    4: ("zstd", codec.has_zstd, codec.zstd_encode, codec.zstd_decode),
}


class CorruptRecordsError(DafuError):
    """Bytes that are no record batches, or were changed on their way."""


class CodecMissingError(DafuError):
    """Records compressed by a codec that is unknown or not installed."""


# --- decoding -----------------------------------------------------------------------------------


class Decoded(Struct, frozen=True):
    """The records of one fetch of one partition, in offset order.

    `buffer` holds keys, values and header sections; `rows` is int64 [8, n]: offset, timestamp
    (epoch ms), then start and length of key, value and header section. `next_offset` is where to
    read on; it may be further than one past the last record, where batches were compacted away
    or held transaction markers.
    """

    buffer: bytes
    rows: I64
    next_offset: int

    def __len__(self) -> int:
        return int(self.rows.shape[1])

    def batch(self, topic: str, partition: int, first: int, end: int) -> RecordBatch:
        """Records first..end-1 as columns that share the buffer."""
        offsets, timestamps, *pairs = self.rows[:, first:end]
        keys, values, headers = (
            ByteColumn(self.buffer, pairs[i], pairs[i + 1]) for i in range(0, len(pairs), 2)
        )
        return RecordBatch(topic, partition, offsets, timestamps, keys, values, headers)


def decode(
    data: bytes, fetch_offset: int = 0, *, check_crc: bool = True, aborted: Aborted = ()
) -> Decoded:
    """Read the record batches that a fetch returned for a partition.

    Parameters
    ----------
    data
        Record batches, one after the other. The broker cuts a response off at its size limit, so
        an incomplete batch at the end is normal and left for the next fetch.
    fetch_offset
        What was asked for. Records before it, which share a batch with it, are left out.
    check_crc
        Whether to compare checksums.
    aborted
        What the fetch said was aborted; those records are left out. Transaction markers (control
        batches) always are.

    Raises
    ------
    CorruptRecordsError
        If lengths contradict each other or a checksum is wrong.
    CodecMissingError
        If there is no decompressor.
    """
    sections, buffer, next_offset = _sections(data, fetch_offset, check_crc, aborted)
    table = np.array(sections, np.int64).reshape(-1, 7)
    rows = np.empty((8, int(table[:, 2].sum())), np.int64)
    count, bad, at = read_records(np.frombuffer(buffer, np.uint8), table, fetch_offset, rows)
    if bad >= 0:
        start, end, expected, base = table[bad, :4].tolist()
        raise CorruptRecordsError(
            f"record batch with base offset {base}: its {expected} records do not fit "
            f"their lengths and offsets, as seen at byte {at - start} of {end - start}"
        )
    if count < rows.shape[1]:
        rows = np.ascontiguousarray(rows[:, :count])
    return Decoded(buffer, rows, next_offset)


def _sections(
    data: bytes, fetch_offset: int, check_crc: bool, aborted: Aborted
) -> tuple[list[tuple[int, ...]], bytes, int]:
    """Where the records of each batch are, the buffer they are in, and where to read on.

    A section is (start, end, record count, base offset, first timestamp, what the timestamp
    deltas count for: 1 or 0, next offset).
    """
    sections: list[tuple[int, ...]] = []
    pieces = [data]
    size = len(data)
    next_offset = fetch_offset
    # Of these producers everything is left out up to their next marker.
    aborting: set[int] = set()
    to_come = sorted(aborted, key=lambda transaction: transaction[1], reverse=True)
    for start, end, magic in _batches(data):
        batch = memoryview(data)[start:end]
        if magic < _MAGIC:
            batch = _modernized(batch, check_crc=check_crc)
        (base, _, _, _, crc, attributes, last, first_time, max_time, producer, _, _, count) = (
            _HEADER.unpack_from(batch)
        )
        if check_crc and crc != _checksum(batch[_CRC_FROM:]):
            raise CorruptRecordsError(
                f"record batch with base offset {base}: its checksum is wrong, the bytes were "
                "changed on the broker's disk or on the way"
            )
        next_offset = max(next_offset, base + last + 1)
        while to_come and to_come[-1][1] <= base + last:
            aborting.add(to_come.pop()[0])
        if attributes & _CONTROL:
            aborting.discard(producer)
            continue
        if attributes & _TRANSACTIONAL and producer in aborting:
            continue
        if attributes & _CODEC_BITS:
            piece: Any = _decompressed(attributes & _CODEC_BITS, batch[BATCH_OVERHEAD:], base)
        elif magic < _MAGIC:
            piece = batch[BATCH_OVERHEAD:]
        else:
            piece = None
        if piece is None:
            section = (start + BATCH_OVERHEAD, end)
        else:
            section = (size, size + len(piece))
            pieces.append(piece)
            size += len(piece)
        if not 0 <= count <= (section[1] - section[0]) // _MIN_RECORD:
            raise CorruptRecordsError(
                f"record batch with base offset {base}: {count} records cannot be in "
                f"{section[1] - section[0]} bytes"
            )
        appended = bool(attributes & _LOG_APPEND_TIME)
        time = max_time if appended else first_time
        sections.append((*section, count, base, time, 1 - appended, base + last + 1))
    return sections, data if len(pieces) == 1 else b"".join(pieces), next_offset


def _batches(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Begin, end and format of each complete batch; all formats have length and magic in common."""
    at = 0
    while len(data) - at >= _MAGIC_AT + 1:
        (length,) = _LENGTH.unpack_from(data, at + _LENGTH_AT)
        end = at + _LENGTH_FROM + length
        magic = data[at + _MAGIC_AT]
        least = BATCH_OVERHEAD if magic == _MAGIC else _MIN_LEGACY
        if length < 0 or end - at < least:
            raise CorruptRecordsError(f"record batch at byte {at}: {length} cannot be its length")
        if end > len(data):
            return
        if magic > _MAGIC:
            raise CorruptRecordsError(f"record batch at byte {at}: unknown format {magic}")
        yield at, end, magic
        at = end


def _checksum(data: memoryview) -> int:
    """CRC-32C, by the processor's instruction for it where there is one."""
    crc = 0
    for at in range(0, len(data), _CRC_PIECE):
        # The library takes `bytes` only; small copies stay in the processor's cache.
        crc = google_crc32c.extend(crc, bytes(data[at : at + _CRC_PIECE]))
    return crc


def _decompressed(number: int, data: memoryview, base: int) -> bytes:
    name, there, _, decompress = _codec(number)
    if not there():
        raise CodecMissingError(
            f"record batch with base offset {base} is compressed with {name}, for which nothing "
            "is installed here: install cramjam"
        )
    try:
        return decompress(data.tobytes())
    except Exception as exc:  # every codec has its own, and none of them a common base
        raise CorruptRecordsError(
            f"record batch with base offset {base}: this is no valid {name} data ({exc!r})"
        ) from exc


def _codec(number: int) -> _Codec:
    if number not in _CODECS:
        raise CodecMissingError(f"unknown compression codec {number}: Kafka has 1 to 4")
    return _CODECS[number]


def _modernized(batch: memoryview, *, check_crc: bool) -> memoryview:
    """A batch of format 0 or 1 in format 2."""
    (offset,) = struct.unpack_from(">q", batch)
    try:
        legacy: Any = MemoryRecords(batch.tobytes()).next_batch()
        intact = not check_crc or legacy.validate_crc()
        records = list(legacy) if intact else []
    except Exception as exc:  # assertions and index errors among them
        raise CorruptRecordsError(f"message set at offset {offset}: {exc!r}") from exc
    if not records:
        raise CorruptRecordsError(
            f"message set at offset {offset}: " + ("it is empty" if intact else "wrong checksum")
        )
    base = records[0].offset
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 31)
    for record in records:
        time = NO_TIMESTAMP if record.timestamp is None else record.timestamp
        builder.append(record.offset - base, time, record.key, record.value, [])
    modern = builder.build()
    struct.pack_into(">q", modern, 0, base)
    return memoryview(modern)


# --- encoding -----------------------------------------------------------------------------------


class EncodedBatch(Struct, frozen=True):
    """One record batch as the broker takes it, and how many records it holds."""

    data: memoryview
    count: int


def encode(
    keys: ByteColumn,
    values: ByteColumn,
    timestamps: I64 | int,
    headers: ByteColumn | None = None,
    *,
    max_bytes: int,
    compression: int = 0,
) -> list[EncodedBatch]:
    """Write records into record batches, in order.

    Parameters
    ----------
    keys, values
        One of each per record; an absent one is a null.
    timestamps : int64 [n] or int
        Record timestamps in epoch milliseconds, or one for all.
    headers
        Header sections (`dafu.streaming.records.encode_headers`), absent where there are none.
    max_bytes
        Of a batch before compression; a larger record has a batch of its own.
    compression
        Kafka's codec number, 0 for none. What compression would make larger is left as it is.

    Raises
    ------
    ValueError
        If the columns differ in length or point outside their buffers.
    CodecMissingError
        If there is no such compressor.
    """
    everything = np.arange(len(keys)), np.array([len(keys)])
    (batches,) = encode_groups(
        keys,
        values,
        timestamps,
        headers,
        *everything,
        max_bytes=max_bytes,
        compression=compression,
    )
    return batches


def encode_groups(
    keys: ByteColumn,
    values: ByteColumn,
    timestamps: I64 | int,
    headers: ByteColumn | None,
    order: I64,
    ends: I64,
    *,
    max_bytes: int,
    compression: int = 0,
) -> list[list[EncodedBatch]]:
    """Write groups of records, those of one partition each, into record batches of their own.

    Parameters
    ----------
    keys, values, timestamps, headers, max_bytes, compression
        See `encode`, also for what it raises.
    order : int64 [m]
        Which records, those of the first group first.
    ends : int64 [groups]
        Where in `order` each group ends.

    Returns
    -------
    list of list of EncodedBatch [groups]
        They share a buffer.
    """
    n, m = len(keys), len(order)
    if headers is None:
        none = np.zeros(n, np.int64)
        headers = ByteColumn(b"", none, none)
    # A copy, so that the kernels never meet an array that is read-only or not contiguous.
    one = isinstance(timestamps, int)
    times = np.full(n, timestamps, np.int64) if one else np.array(timestamps, np.int64)
    if not len(values) == len(headers) == len(times) == n:
        raise ValueError(
            f"{n} keys, {len(values)} values, {len(headers)} header sections and "
            f"{len(times)} timestamps: there must be one of each for a record"
        )
    if not (_inside(keys) and _inside(values) and _inside(headers)):
        raise ValueError("a column points outside its buffer")
    bodies, firsts, sizes = np.empty(m, np.int64), np.empty(m + 1, np.int64), np.empty(m, np.int64)
    lengths = (keys.lengths, values.lengths, headers.lengths)
    count = plan_batches(order, ends, *lengths, times, max_bytes, bodies, firsts, sizes)
    firsts, sizes = firsts[: count + 1], sizes[:count]
    whole = bytearray(int(sizes.sum()))
    latest = np.empty(count, np.int64)
    write_batches(
        np.frombuffer(whole, np.uint8),
        firsts,
        sizes,
        order,
        times,
        bodies,
        keys.buffer,
        keys.starts,
        keys.lengths,
        values.buffer,
        values.starts,
        values.lengths,
        headers.buffer,
        headers.starts,
        headers.lengths,
        latest,
    )
    first_times = times[order[firsts[:-1]]]
    begins, limits = firsts.tolist(), ends.tolist()
    groups: list[list[EncodedBatch]] = [[] for _ in limits]
    at = group = 0
    for b, (size, first_time, last_time) in enumerate(
        zip(sizes.tolist(), first_times.tolist(), latest.tolist(), strict=True)
    ):
        while begins[b] >= limits[group]:
            group += 1
        data = memoryview(whole)[at : at + size]
        at += size
        attributes = 0
        if compression:
            packed = _compressed(compression, data)
            if len(packed) < size - BATCH_OVERHEAD:
                data = memoryview(bytearray(data[:BATCH_OVERHEAD]) + packed)
                attributes = compression
        records = begins[b + 1] - begins[b]
        _finish(data, attributes, records, first_time, last_time)
        groups[group].append(EncodedBatch(data, records))
    return groups


def _compressed(number: int, data: memoryview) -> bytes:
    name, there, compress, _ = _codec(number)
    if not there():
        raise CodecMissingError(f"nothing is installed here to compress with {name}: cramjam does")
    return compress(bytes(data[BATCH_OVERHEAD:]))


def _finish(data: memoryview, attributes: int, count: int, first_time: int, latest: int) -> None:
    """Write the header. Base offset and leader epoch are the broker's to fill in."""
    length = len(data) - _LENGTH_FROM
    fields = (0, length, -1, _MAGIC, 0, attributes, count - 1, first_time, latest, -1, -1, 0, count)
    _HEADER.pack_into(data, 0, *fields)
    _CRC.pack_into(data, _CRC_AT, _checksum(data[_CRC_FROM:]))


def _inside(column: ByteColumn) -> bool:
    return len(column.lengths) == len(column) and bool(
        all_inside(column.starts, column.lengths, len(column.buffer))
    )
