"""Chunks of records as columns, and record headers against aiokafka's."""

from __future__ import annotations

import numpy as np
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.streaming.records import RecordBatch, decode_headers, encode_headers

Headers = list[tuple[str, bytes | None]]


@given(st.lists(st.tuples(st.text(), st.none() | st.binary()), max_size=70))
def test_headers_as_aiokafka_writes_and_reads_them(headers: Headers) -> None:
    section = encode_headers(headers)
    assert decode_headers(section) == headers
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    builder.append(0, 0, None, None, headers)
    batch = bytes(builder.build())
    assert batch.endswith(section)
    (record,) = MemoryRecords(batch).next_batch()
    assert list(record.headers) == decode_headers(section)


def test_long_headers() -> None:
    headers: Headers = [("n" * 200, b"v" * 70_000), ("", b"")]
    assert decode_headers(encode_headers(headers)) == headers


def test_a_name_that_is_no_utf8_is_replaced() -> None:
    assert decode_headers(b"\x02\x02\xff\x01") == [("\ufffd", None)]


def batch() -> RecordBatch:
    return RecordBatch(
        "topic",
        3,
        np.array([5, 9, 10]),
        np.array([100, -1, 300]),
        ByteColumn.of([b"a", None, b"c"]),
        ByteColumn.of([b"1", b"2", None]),
        ByteColumn.of([b"\0", encode_headers([("h", None)]), None]),
    )


def test_a_batch_says_where_it_is_from() -> None:
    assert len(batch()) == 3
    assert repr(batch()) == "<RecordBatch topic[3] 5..10>"
    assert repr(RecordBatch.of("topic", 3, [])) == "<RecordBatch topic[3] empty>"


def test_headers_of_a_record() -> None:
    assert batch().has_headers.tolist() == [False, True, False]
    assert [batch().headers_of(i) for i in range(3)] == [[], [("h", None)], []]
