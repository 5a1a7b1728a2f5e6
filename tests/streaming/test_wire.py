"""Record batches as columns, against aiokafka's builder and reader, and against damaged bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import (
    _DefaultRecordBatchBuilderPy,
)
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c, decode_varint
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dafu.columns import NULL, ByteColumn
from dafu.partitioner import _murmur2, partitions_for
from dafu.streaming import wire
from dafu.streaming.records import RecordBatch, encode_headers
from dafu.streaming.wire import (
    BATCH_OVERHEAD,
    RECORD_OVERHEAD,
    CodecMissingError,
    CorruptRecordsError,
    Decoded,
    EncodedBatch,
    decode,
    encode,
    encode_groups,
)
from dafu.streaming.wire_kernels import all_inside, plan_batches, read_records, write_batches

Plain = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
Described = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]
"""Key, value, headers and timestamp."""

NOW = 1_700_000_000_000
GZIP = 1
CODECS = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
CRC, CRC_FROM, COUNT, ATTRIBUTES, PRODUCER = 17, 21, 57, 21, 43

strings = st.none() | st.binary(max_size=12) | st.integers(60, 9000).map(lambda n: b"x" * n)
headers = st.lists(st.tuples(st.text(max_size=6), st.none() | st.binary(max_size=6)), max_size=3)
times = st.integers(NOW, NOW + 5) | st.integers(0, 2**62)
described = st.lists(st.tuples(strings, strings, headers, times), max_size=30)


def encoded(
    records: Sequence[Described], max_bytes: int, compression: int = 0
) -> list[EncodedBatch]:
    return encode(
        ByteColumn.of([key for key, _, _, _ in records]),
        ByteColumn.of([value for _, value, _, _ in records]),
        np.array([time for _, _, _, time in records], np.int64),
        ByteColumn.of([encode_headers(h) if h else None for _, _, h, _ in records]),
        max_bytes=max_bytes,
        compression=compression,
    )


def built(records: Sequence[Described], max_bytes: int, compression: int = 0) -> list[bytes]:
    """What aiokafka makes of them.

    Its builder in C takes some records for a byte longer than they are, and so ends a batch
    before a record that would have filled it exactly; the one in Python does not.
    """
    builders: list[Any] = []
    count = 0
    for key, value, head, time in records:
        count += 1
        if not builders or builders[-1].append(count - 1, time, key, value, head) is None:
            builder = _DefaultRecordBatchBuilderPy(2, compression, 0, -1, -1, 0, max_bytes)
            builder.append(0, time, key, value, head)
            builders.append(builder)
            count = 1
    return [bytes(builder.build()) for builder in builders]


def log(batches: Sequence[bytes], first: int = 0, gap: int = 0) -> bytes:
    """Batches as a broker stores them: with base offsets, and so many offsets between them."""
    out = b""
    for batch in batches:
        out += struct.pack(">q", first) + batch[8:]
        first += struct.unpack_from(">i", batch, 23)[0] + 1 + gap
    return out


def sealed(batch: bytes) -> bytes:
    """With the checksum that its bytes ask for."""
    return batch[:CRC] + struct.pack(">I", calc_crc32c(batch[CRC_FROM:])) + batch[CRC_FROM:]


def read(data: bytes, position: int = 0) -> tuple[list[Plain], int]:
    """What aiokafka reads, and where it would read on."""
    found: list[Plain] = []
    records = MemoryRecords(data)
    while records.has_next():
        batch = records.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException
        if not batch.is_control_batch:
            for r in batch:
                if r.offset >= position:
                    time = -1 if r.timestamp is None else r.timestamp
                    found.append((r.offset, time, r.key, r.value, [*r.headers]))
                    position = r.offset + 1
        position = max(position, batch.next_offset)
    return found, position


def plain(batch: RecordBatch) -> list[Plain]:
    assert batch.has_headers.tolist() == [bool(batch.headers_of(i)) for i in range(len(batch))]
    return [
        (offset, time, key, value, batch.headers_of(i))
        for i, (offset, time, key, value) in enumerate(
            zip(
                batch.offsets.tolist(),
                batch.timestamps.tolist(),
                batch.keys,
                batch.values,
                strict=True,
            )
        )
    ]


def decoded(data: bytes, position: int = 0) -> tuple[list[Plain], int]:
    found = decode(data, position)
    return plain(found.batch("t", 3, 0, len(found))), found.next_offset


@settings(deadline=None)
@given(records=described, max_bytes=st.sampled_from((1, 200, 10_000, 10**6)))
def test_encodes_as_aiokafka_does(records: list[Described], max_bytes: int) -> None:
    batches = encoded(records, max_bytes)
    assert [bytes(batch.data) for batch in batches] == built(records, max_bytes)
    assert sum(batch.count for batch in batches) == len(records)
    for batch in batches:
        assert batch.count == 1 or len(batch.data) <= max_bytes


@settings(deadline=None)
@given(
    records=described,
    max_bytes=st.sampled_from((1, 200, 10**6)),
    compression=st.sampled_from([0, *CODECS]),
    first=st.sampled_from((0, 7, 2**40)),
    gap=st.integers(0, 2),
    skip=st.integers(0, 40),
    cut=st.integers(0, 100),
)
def test_decodes_as_aiokafka_does(
    records: list[Described],
    max_bytes: int,
    compression: int,
    first: int,
    gap: int,
    skip: int,
    cut: int,
) -> None:
    data = log(built(records, max_bytes, compression), first, gap)
    data = data[: max(0, len(data) - cut)]
    assert decoded(data, first + skip) == read(data, first + skip)


@pytest.mark.parametrize("compression", CODECS)
def test_compresses_as_aiokafka_does(compression: int) -> None:
    records: list[Described] = [(b"k", b"v" * 50, [], NOW + i) for i in range(200)]
    # The time is part of what gzip writes.
    data = log([bytes(batch.data) for batch in encoded(records, 4000, compression)])
    assert len(data) < 2000
    assert decoded(data) == read(log(built(records, 4000)))
    (random,) = encoded([(b"", np.random.default_rng(0).bytes(50), [], NOW)], 4000, compression)
    assert bytes(random.data) == built([(b"", bytes(random.data[-51:-1]), [], NOW)], 4000)[0]


def test_one_time_for_all_and_no_headers() -> None:
    keys = ByteColumn.of([b"a", None])
    (batch,) = encode(keys, keys, NOW, max_bytes=1000)
    assert decoded(log([bytes(batch.data)]))[0] == [
        (0, NOW, b"a", b"a", []),
        (1, NOW, None, None, []),
    ]


def test_the_overheads_are_upper_bounds() -> None:
    far: list[Described] = [(None, None, [], 0)] * 70_000 + [(b"k" * 70_000, b"", [], 2**62)]
    batches = encoded(far, 2**31 - 1)
    alone = encoded(far[:-1], 2**31 - 1)
    assert len(batches) == 1
    assert len(batches[0].data) - len(alone[0].data) <= 70_000 + RECORD_OVERHEAD
    assert len(encoded([], 1)) == 0
    assert len(encoded(far[-1:], 1)[0].data) <= BATCH_OVERHEAD + RECORD_OVERHEAD + 70_000


def test_columns_that_do_not_fit_are_refused() -> None:
    one, two = ByteColumn.of([b"a"]), ByteColumn.of([b"a", b"b"])
    with pytest.raises(ValueError, match="1 keys, 2 values"):
        encode(one, two, NOW, max_bytes=100)
    with pytest.raises(ValueError, match="2 timestamps"):
        encode(one, one, np.zeros(2, np.int64), max_bytes=100)
    for start, length in ((0, 2), (1, 1), (-1, 1), (2**62, 2**62)):
        outside = ByteColumn(b"a", np.array([start]), np.array([length]))
        with pytest.raises(ValueError, match="outside its buffer"):
            encode(one, outside, NOW, max_bytes=100)


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("compression", [0, GZIP])
def test_legacy_formats(magic: int, compression: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, compression, 10_000)
    for i, (key, value) in enumerate([(b"a", b"1" * 90), (None, b""), (b"", None)]):
        builder.append(i, NOW + i, key, value)
    old = bytes(builder.build())
    new = log(built([(b"k", b"v", [("h", b"1")], NOW)], 1000), 3)
    for position in (0, 2):
        # One by one: aiokafka does not read the one format behind the other.
        before, after = read(old, position), read(new, position)
        assert decoded(old + new, position) == (before[0] + after[0], after[1])
    assert decoded(old)[0][0] == (0, NOW if magic else -1, b"a", b"1" * 90, [])
    damaged = bytearray(old + new)
    damaged[len(old) - 1] ^= 1
    with pytest.raises(CorruptRecordsError, match="message set at offset"):
        decode(bytes(damaged))


def with_attributes(batch: bytes, attributes: int) -> bytes:
    return sealed(batch[:ATTRIBUTES] + struct.pack(">h", attributes) + batch[ATTRIBUTES + 2 :])


def test_log_append_time_is_that_of_the_batch() -> None:
    (batch,) = built([(b"k", b"v", [], NOW + i) for i in (0, 9, 5)], 1000)
    data = with_attributes(batch, 0x08)
    assert decoded(data) == read(data)
    assert [time for _, time, *_ in decoded(data)[0]] == [NOW + 9] * 3


def test_transaction_markers_are_no_records() -> None:
    payments = built([(b"k", b"v", [], NOW)] * 2, 1000)[0]
    (marker,) = built([(struct.pack(">HH", 0, 1), b"\0" * 6, [], NOW)], 1000)
    data = log([with_attributes(payments, 0x10), with_attributes(marker, 0x30)])
    found, position = decoded(data)
    assert [offset for offset, *_ in found] == [0, 1]
    assert position == 3
    assert decoded(log([with_attributes(marker, 0x30)])) == ([], 1)


def of_producer(batch: bytes, producer: int, attributes: int) -> bytes:
    batch = batch[:PRODUCER] + struct.pack(">q", producer) + batch[PRODUCER + 8 :]
    return with_attributes(batch, attributes)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([-1, 7, 8, 9]), st.sampled_from(["send", "commit", "abort"])),
        max_size=25,
    ),
    position=st.integers(0, 40),
)
@example([(7, "send"), (7, "abort"), (7, "send")], 0)
@example([(7, "send"), (8, "send"), (-1, "send"), (7, "abort"), (8, "commit"), (7, "send")], 1)
def test_aborted_transactions_are_left_out(steps: list[tuple[int, str]], position: int) -> None:
    batches: list[bytes] = []
    began: dict[int, int] = {}
    sent: dict[int, list[int]] = {}
    aborted: list[tuple[int, int]] = []
    committed: list[int] = []
    starts: list[int] = []
    at = 0
    for producer, step in [*steps, *((producer, "commit") for producer in (7, 8, 9))]:
        starts.append(at)
        if step == "send" or producer < 0:
            count = 1 + at % 3
            (batch,) = built([(b"k", b"v", [], NOW)] * count, 1000)
            batches.append(of_producer(batch, producer, 0x10 if producer >= 0 else 0))
            offsets = list(range(at, at + count))
            if producer < 0:
                committed += offsets
            else:
                began.setdefault(producer, at)
                sent.setdefault(producer, []).extend(offsets)
            at += count
            continue
        kept = step == "commit"
        (marker,) = built([(struct.pack(">HH", 0, kept), b"\0" * 6, [], NOW)], 1000)
        batches.append(of_producer(marker, producer, 0x30))
        if kept:
            committed += sent.pop(producer, [])
        elif producer in began and position <= at:  # a broker names those that end behind it
            aborted.append((producer, began[producer]))
        sent.pop(producer, None)
        began.pop(producer, None)
        at += 1
    # A fetch begins with the batch that holds the position.
    first = max((i for i, start in enumerate(starts) if start <= position), default=0)
    data = log(batches)[sum(map(len, batches[:first])) :]
    found = decode(data, position, aborted=aborted[::-1])
    assert found.rows[0].tolist() == sorted(o for o in committed if o >= position)
    assert found.next_offset == max(at, position)


def test_a_compacted_batch_moves_the_position_past_its_last_offset() -> None:
    (batch,) = built([(b"k", b"v", [], NOW)], 1000)
    emptied = bytearray(batch[:BATCH_OVERHEAD])
    struct.pack_into(">i", emptied, 8, BATCH_OVERHEAD - 12)
    struct.pack_into(">i", emptied, 23, 41)  # last offset delta
    struct.pack_into(">i", emptied, COUNT, 0)
    data = sealed(bytes(emptied)) + log([batch], 42)
    assert decoded(data)[1] == read(data)[1] == 43
    assert decoded(sealed(bytes(emptied))) == ([], 42)


def test_a_changed_byte_is_noticed() -> None:
    (batch,) = built([(b"key", b"value", [("h", b"1")], NOW)], 1000)
    for at in range(CRC, len(batch)):
        damaged = bytearray(batch)
        damaged[at] ^= 0x40
        with pytest.raises(CorruptRecordsError, match="base offset 0: its checksum is wrong"):
            decode(bytes(damaged))


def test_nonsense_lengths_and_formats() -> None:
    (batch,) = built([(b"k", b"v", [], NOW)], 1000)
    for length in (-1, -(2**31), 0, 10, BATCH_OVERHEAD - 13):
        with pytest.raises(CorruptRecordsError, match="cannot be its length"):
            decode(batch[:8] + struct.pack(">i", length) + batch[12:])
    with pytest.raises(CorruptRecordsError, match="unknown format 3"):
        decode(batch[:16] + b"\3" + batch[17:])
    for count in (-1, 2**31 - 1):
        damaged = sealed(batch[:COUNT] + struct.pack(">i", count) + batch[COUNT + 4 :])
        with pytest.raises(CorruptRecordsError, match="records cannot be in"):
            decode(damaged)


@pytest.mark.parametrize(("number", "name"), CODECS.items())
def test_what_a_codec_did_not_make_is_corrupt(number: int, name: str) -> None:
    (batch,) = built([(b"k", b"v", [], NOW)], 1000)
    with pytest.raises(CorruptRecordsError, match=f"no valid {name} data"):
        decode(with_attributes(batch, number))


def test_codecs_that_nobody_knows_or_has(monkeypatch: pytest.MonkeyPatch) -> None:
    (batch,) = built([(b"k", b"v", [], NOW)], 1000)
    with pytest.raises(CodecMissingError, match="codec 7"):
        decode(with_attributes(batch, 7))
    with pytest.raises(CodecMissingError, match="codec 9"):
        encoded([(b"k", b"v", [], NOW)], 1000, 9)
    name, _, *both = wire._CODECS[4]
    monkeypatch.setitem(wire._CODECS, 4, (name, lambda: False, *both))
    with pytest.raises(CodecMissingError, match=r"zstd, .* install cramjam"):
        decode(with_attributes(batch, 4))
    with pytest.raises(CodecMissingError, match="cramjam"):
        encoded([(b"k", b"v", [], NOW)], 1000, 4)


damage = st.lists(
    st.tuples(
        st.integers(0, 400), st.sampled_from((0, 1, 2, 0x7F, 0x80, 0xFF)) | st.integers(0, 255)
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=500)
@given(records=st.lists(st.tuples(strings, strings, headers, times), min_size=1), hits=damage)
def test_damaged_records_give_an_error_or_what_aiokafka_reads(
    records: list[Described], hits: list[tuple[int, int]]
) -> None:
    """With a checksum that fits the damage, so that the lengths are all there is to go by."""
    batch = bytearray(built(records, 3000)[0])
    for at, byte in hits:
        batch[BATCH_OVERHEAD + at % (len(batch) - BATCH_OVERHEAD)] = byte
    data = sealed(bytes(batch))
    try:
        found = decode(data)
    except CorruptRecordsError:
        try:
            offsets = [r.offset for r in MemoryRecords(data).next_batch()]
        except (CorruptRecordException, UnicodeDecodeError):
            return
        # aiokafka takes these; but the position after the batch would not be behind its records.
        assert not 0 <= min(offsets) <= max(offsets) < struct.unpack_from(">i", data, COUNT)[0]
        return
    assert_inside(found)
    try:
        expected = read(without_attributes(data))
    except UnicodeDecodeError:
        return  # aiokafka refuses the names of such headers
    assert (plain(found.batch("t", 0, 0, len(found))), found.next_offset) == expected


def without_attributes(data: bytes) -> bytes:
    """A batch whose records have their attributes cleared: aiokafka takes the byte for a varint."""
    out = bytearray(data)
    at = BATCH_OVERHEAD
    while at < len(out):
        length, at = decode_varint(out, at)
        out[at] = 0
        at += length
    return sealed(bytes(out))


def assert_inside(found: Decoded) -> None:
    for start, length in zip(found.rows[2::2], found.rows[3::2], strict=True):
        assert (start >= 0).all()
        assert (length >= -1).all()
        assert (start + np.maximum(length, 0) <= len(found.buffer)).all()


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=200), magic=st.integers(0, 2), check_crc=st.booleans())
def test_arbitrary_bytes_give_an_error_or_nothing_outside_of_them(
    data: bytes, magic: int, check_crc: bool
) -> None:
    data = data[:8] + struct.pack(">i", len(data)) + data[8:12] + bytes([magic]) + data[12:]
    data = data[:8] + struct.pack(">i", len(data) - 12) + data[12:]
    try:
        found = decode(data, check_crc=check_crc)
    except (CorruptRecordsError, CodecMissingError):
        return
    assert_inside(found)


def test_the_time_of_day_is_in_no_bytes() -> None:
    (batch,) = encoded([(b"key", b"x" * 1000, [], 1_700_000_000_000)], 2000, GZIP)
    packed = bytes(batch.data)[BATCH_OVERHEAD:]
    assert packed[:2] == b"\x1f\x8b"
    assert packed[4:8] == bytes(4), "RFC 1952: MTIME, 0 for none"


@settings(deadline=None)
@given(data=st.data(), records=described, max_bytes=st.integers(100, 2000))
@pytest.mark.parametrize("compression", [0, GZIP])
def test_groups_are_encoded_as_each_would_be_alone(
    data: st.DataObject, records: list[Described], max_bytes: int, compression: int
) -> None:
    drawn = data.draw(st.lists(st.integers(0, 3), min_size=len(records), max_size=len(records)))
    groups = [[i for i, group in enumerate(drawn) if group == g] for g in sorted(set(drawn))]
    found = encode_groups(
        ByteColumn.of([key for key, _, _, _ in records]),
        ByteColumn.of([value for _, value, _, _ in records]),
        np.array([time for _, _, _, time in records], np.int64),
        ByteColumn.of([encode_headers(h) if h else None for _, _, h, _ in records]),
        np.array([i for group in groups for i in group], np.int64),
        np.cumsum([len(group) for group in groups], dtype=np.int64),
        max_bytes=max_bytes,
        compression=compression,
    )
    alone = [encoded([records[i] for i in group], max_bytes, compression) for group in groups]
    assert [[(bytes(b.data), b.count) for b in batches] for batches in found] == [
        [(bytes(b.data), b.count) for b in batches] for batches in alone
    ]


def test_kernels_are_compiled_once() -> None:
    """Columns from anywhere are of one array type: nothing is compiled in the middle of traffic."""
    owned = ByteColumn.of([b"a", None])
    data = log([bytes(batch.data) for batch in encode(owned, owned, NOW, max_bytes=1000)])
    fetched = decode(data).batch("t", 0, 0, 2)
    array = ByteColumn(np.zeros(9, np.uint8), np.arange(9)[:2].copy(), np.array([1, NULL]))
    stamps = np.arange(4)
    stamps.flags.writeable = False
    for keys in (owned, fetched.keys, fetched.keys.take([1, 0]), array):
        for times in (NOW, stamps[::2], fetched.timestamps):
            encode(keys, fetched.values, times, fetched.headers, max_bytes=1000)
        partitions_for(keys, 3)
    kernels: tuple[Any, ...] = (read_records, plan_batches, write_batches, all_inside)
    assert [len(kernel.signatures) for kernel in kernels] == [1, 1, 1, 1]
    assert len(cast(Any, _murmur2).signatures) == 1
