"""What stage two takes for a forwarded record, and what it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from dafu.schema import MAX_TIMESTAMP_MS
from dafu.stages.batch import FORWARD, InputBatch
from dafu.stages.forwarded import MAX_PARTITIONS, unpack
from dafu.tables.records import MemoryRecords
from tests.streams import START, alone, user_stage

PLAIN = b'{"transaction_id":"t","user_id":"u","merchant_id":"m","amount":1,"timestamp":%d}' % START
NOT_PLAIN = PLAIN.replace(b'"t"', '"\u00e9"'.encode())


RING = (
    b'{"ring":{"user_id":"u","ring_id":"r1","time":%d,"size":3,"risk":1,"shared":"ip x"}}' % START
)


def forwarded(*values: bytes) -> bytearray:
    """What stage one forwards of the last of these."""
    batch = InputBatch.of(0, [b"u"] * len(values), values)
    output = user_stage().run(batch, alone(MemoryRecords()))
    return bytearray(output.forward_values.present()[-1])


def taken(record: bytes | bytearray) -> bool:
    # What stands behind the record in its buffer would do as text.
    batch = InputBatch.of(0, [b"m"], [bytes(record) + b"x" * 50])
    values = batch.values.elsewhere(batch.values.starts, batch.values.lengths - 50)
    rows, header, rejected = unpack(replace(batch, values=values))
    assert len(rows) == len(header) == 1 - len(rejected)
    assert all(why.reason == "not_forwarded" for why in rejected)
    return bool(len(rows))


@pytest.mark.parametrize("value", [PLAIN, NOT_PLAIN], ids=["plain", "not plain"])
def test_what_stage_one_forwards_is_taken(value: bytes) -> None:
    assert taken(forwarded(value))
    record = forwarded(RING, value)
    assert taken(record)
    assert record[FORWARD.itemsize :] == b"r1ip x" + value


@pytest.mark.parametrize("value", [PLAIN, NOT_PLAIN], ids=["plain", "not plain"])
def test_texts_of_a_ring_that_do_not_fit_are_refused(value: bytes) -> None:
    for ring_id, shared in ((2, 5), (2, 3), (1, 4), (41, 4), (2, 65), (0, 0), (0xFFFF, 0xFFFF)):
        record = forwarded(RING, value)
        header = np.frombuffer(record, FORWARD, 1)
        header["ring_id"], header["ring_shared"] = ring_id, shared
        assert not taken(record), (ring_id, shared)
    record = forwarded(RING, value)
    record[FORWARD.itemsize + 3] = 0xFF
    assert not taken(record), "no UTF-8"
    record = forwarded(value)
    np.frombuffer(record, FORWARD, 1)["ring_shared"] = 64
    assert not taken(record[: FORWARD.itemsize + 64]), "nothing is left for the transaction"
    assert not taken(record[: FORWARD.itemsize + 63])


def test_a_label_with_texts_of_a_ring_is_refused() -> None:
    label = b'{"label":{"transaction_id":"t","user_id":"u","is_fraud":true,"source":"analyst",'
    label += b'"observed_at":%d}}' % START
    record = forwarded(PLAIN, label)
    assert len(record) == FORWARD.itemsize
    key = bytes(8)
    for lengths, sound in (((0, 0), True), ((1, 0), False), ((0, 5), False)):
        header = np.frombuffer(record, FORWARD, 1)
        header["ring_id"], header["ring_shared"] = lengths
        rows, _, _ = unpack(InputBatch.of(0, [key], [bytes(record)]))
        assert bool(len(rows)) is sound


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("source", -1),
        ("source", MAX_PARTITIONS),
        ("offset", -1),
        ("time", 0),
        ("time", MAX_TIMESTAMP_MS),
        ("plain", 2),
    ],
)
def test_a_header_that_can_not_be_true_is_refused(field: str, wrong: Any) -> None:
    record = forwarded(PLAIN)
    np.frombuffer(record, FORWARD, 1)[field] = wrong
    assert not taken(record)


def test_texts_beyond_the_record_are_refused_and_no_longer_than_it_are_not() -> None:
    for length in range(1, len(PLAIN) + 20):
        record = forwarded(PLAIN)
        header = np.frombuffer(record, FORWARD, 1)
        header["text_start"][0, 3], header["text_length"][0, 3] = len(PLAIN) - 1, length
        record[-1] = ord("x")
        assert taken(record) is (length == 1)


@pytest.mark.parametrize("byte", [0x00, 0x1F, 0x22, 0x5C, 0x7F, 0x80, 0xFF])
def test_texts_that_json_would_not_hold_like_that_are_refused(byte: int) -> None:
    record = forwarded(PLAIN)
    at = FORWARD.itemsize + int(np.frombuffer(record, FORWARD, 1)["text_start"][0, 1])
    record[at] = byte
    assert not taken(record)


def test_a_required_text_that_is_absent_is_refused() -> None:
    record = forwarded(PLAIN)
    np.frombuffer(record, FORWARD, 1)["text_length"][0, 2] = 0xFFFF
    assert not taken(record)


def test_a_document_that_can_not_be_read_is_refused() -> None:
    record = forwarded(NOT_PLAIN)
    assert not taken(record[:-1])
    assert not taken(record.replace("\u00e9".encode(), b"\xff"))
