"""The kernels below `dafu.streaming.wire`: records of varints, keys, values and headers.

Positions are bytes in a buffer. Reading never goes past the end it is given, whatever the bytes
say; writing trusts its arguments, which `wire` has checked.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from dafu.columns import I64, U8, copy_bytes
from dafu.kernel import kernel

BATCH_OVERHEAD: Final = 61
"""Bytes of a record batch without its records."""


@kernel
def _read_varint(buffer: U8, at: int, end: int) -> tuple[Any, int]:
    """A zigzag varint of 64 bits and where it ends; -1 for an end if it does not."""
    raw = np.uint64(0)
    shift = np.uint64(0)
    while at < end:
        byte = np.uint64(buffer[at])
        at += 1
        raw |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(raw >> np.uint64(1)) ^ -np.int64(raw & np.uint64(1)), at
        shift += np.uint64(7)
        if shift > np.uint64(63):
            break
    return 0, -1


@kernel
def _read_bytes(buffer: U8, at: int, end: int) -> tuple[Any, int]:
    """Length of a byte string (-1: null) and where it ends; -1 for an end beyond `end`."""
    length, at = _read_varint(buffer, at, end)
    if at < 0 or length > end - at:
        return 0, -1
    if length < 0:
        return -1, at
    return length, at + length


@kernel
def _skip_headers(buffer: U8, at: int, end: int) -> tuple[Any, int]:
    """Number of a record's headers and where they end; -1 for an end if they are malformed."""
    count, at = _read_varint(buffer, at, end)
    if at < 0 or count < 0 or count > end - at:
        return 0, -1
    for _ in range(count):
        length, at = _read_bytes(buffer, at, end)
        if at < 0 or length < 0:
            return 0, -1
        _, at = _read_bytes(buffer, at, end)
        if at < 0:
            return 0, -1
    return count, at


@kernel
def read_records(buffer: U8, table: I64, next_offset: int, rows: I64) -> tuple[int, int, int]:
    """Fill `rows` (see `Decoded`) from sections (see `_sections`).

    Returns the number of records, and number and position of a malformed section or -1.
    """
    n = 0
    for b in range(table.shape[0]):
        at = table[b, 0]
        end = table[b, 1]
        for _ in range(table[b, 2]):
            begin = at
            length, at = _read_varint(buffer, at, end)
            # Room for the attributes byte, which means nothing in this format.
            if at < 0 or length < 1 or length > end - at:
                return n, b, begin
            stop = at + length
            at += 1
            time, at = _read_varint(buffer, at, stop)
            if at < 0:
                return n, b, begin
            delta, at = _read_varint(buffer, at, stop)
            if at < 0 or delta < 0 or delta >= table[b, 6] - table[b, 3]:
                return n, b, begin
            key_length, at = _read_bytes(buffer, at, stop)
            if at < 0:
                return n, b, begin
            key_start = at - max(key_length, 0)
            value_length, at = _read_bytes(buffer, at, stop)
            if at < 0:
                return n, b, begin
            value_start = at - max(value_length, 0)
            header_start = at
            headers, at = _skip_headers(buffer, at, stop)
            if at != stop:
                return n, b, begin
            offset = table[b, 3] + delta
            if offset < next_offset:
                continue
            next_offset = offset + 1
            if headers == 0:
                # The last byte of a zero, however long it is written: see `RecordBatch`.
                header_start = stop - 1
            rows[0, n] = offset
            rows[1, n] = table[b, 4] + time * table[b, 5]
            rows[2, n] = key_start
            rows[3, n] = key_length
            rows[4, n] = value_start
            rows[5, n] = value_length
            rows[6, n] = header_start
            rows[7, n] = stop - header_start
            n += 1
        if at != end:
            return n, b, at
        next_offset = max(next_offset, table[b, 6])
    return n, -1, 0


@kernel
def all_inside(starts: I64, lengths: I64, size: int) -> bool:
    """Whether byte strings at these places lie within a buffer of this size."""
    for i in range(starts.size):
        if lengths[i] > 0 and (starts[i] < 0 or starts[i] > size - lengths[i]):
            return False
    return True


@kernel
def _varint_size(value: int) -> int:
    raw = np.uint64((value << 1) ^ (value >> 63))
    size = 1
    while raw >= np.uint64(0x80):
        raw >>= np.uint64(7)
        size += 1
    return size


@kernel
def _write_varint(out: U8, at: int, value: int) -> int:
    raw = np.uint64((value << 1) ^ (value >> 63))
    while raw >= np.uint64(0x80):
        out[at] = np.uint8(raw & np.uint64(0x7F)) | np.uint8(0x80)
        raw >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(raw)
    return at + 1


@kernel
def _bytes_size(length: int) -> int:
    if length < 0:
        return 1
    return _varint_size(length) + length


@kernel
def plan_batches(
    order: I64,
    ends: I64,
    keys: I64,
    values: I64,
    headers: I64,
    timestamps: I64,
    limit: int,
    bodies: I64,
    firsts: I64,
    sizes: I64,
) -> int:
    """Cut groups of records of these lengths into batches.

    `order` names the records of all groups, one group after the other; `ends` says where in it each
    of them ends. Fills, by places in `order`, `bodies` (bytes of each record without its length),
    and of each batch the first record and the bytes; `firsts` ends with the number of records.
    Returns the number of batches.
    """
    count = 0
    begin = 0
    for end in ends:
        first = begin
        size = 0
        for i in range(begin, end):
            r = order[i]
            fixed = 1 + _bytes_size(keys[r]) + _bytes_size(values[r]) + max(headers[r], 1)
            delta = timestamps[r] - timestamps[order[first]]
            body = fixed + _varint_size(i - first) + _varint_size(delta)
            total = body + _varint_size(body)
            if i == begin or size + total > limit:
                # A batch of its own to begin with: both deltas are 0, a byte each.
                body = fixed + 2
                total = body + _varint_size(body)
                first = i
                firsts[count] = i
                count += 1
                size = BATCH_OVERHEAD
            bodies[i] = body
            size += total
            sizes[count - 1] = size
        begin = end
    firsts[count] = order.size
    return count


@kernel
def _write_bytes(out: U8, at: int, buffer: U8, start: int, length: int) -> int:
    copy_bytes(buffer, start, out, at, length)
    return at + max(length, 0)


@kernel
def write_batches(
    out: U8,
    firsts: I64,
    sizes: I64,
    order: I64,
    timestamps: I64,
    bodies: I64,
    keys: U8,
    key_starts: I64,
    key_lengths: I64,
    values: U8,
    value_starts: I64,
    value_lengths: I64,
    headers: U8,
    header_starts: I64,
    header_lengths: I64,
    latest: I64,
) -> None:
    """Write the records of batches that `plan_batches` has planned, each batch behind the place of
    its header; `latest` gets the latest timestamp of each."""
    begin = 0
    for b in range(len(sizes)):
        at = begin + BATCH_OVERHEAD
        first = firsts[b]
        first_time = timestamps[order[first]]
        latest[b] = first_time
        for i in range(first, firsts[b + 1]):
            r = order[i]
            latest[b] = max(latest[b], timestamps[r])
            at = _write_varint(out, at, bodies[i])
            out[at] = 0
            at = _write_varint(out, at + 1, timestamps[r] - first_time)
            at = _write_varint(out, at, i - first)
            at = _write_varint(out, at, max(key_lengths[r], -1))
            at = _write_bytes(out, at, keys, key_starts[r], key_lengths[r])
            at = _write_varint(out, at, max(value_lengths[r], -1))
            at = _write_bytes(out, at, values, value_starts[r], value_lengths[r])
            if header_lengths[r] > 0:
                at = _write_bytes(out, at, headers, header_starts[r], header_lengths[r])
            else:
                out[at] = 0
                at += 1
        begin += sizes[b]
