"""The frame of records with a schema: what has one, and what only looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.ingest.framing import schema_ids, unframed
from dafu.schema import MAX_RECORD_BYTES, InvalidRecordError
from tests.schema_registry import framed


@given(st.integers(0, 2**31 - 1), st.binary(max_size=40))
def test_what_is_framed_comes_apart_again(number: int, payload: bytes) -> None:
    record = framed(number, payload)
    assert unframed(record) == (number, payload)
    assert schema_ids([None, b"", record, b'{"a": 1}', record, record[:4]]) == {number}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"\0" * (MAX_RECORD_BYTES + 1), "oversized"),
        (b'{"user_id": 1}', "not_framed"),
        (b"\x01\0\0\0\x07payload", "not_framed"),
        (b"\0\0\0\x07", "not_framed"),
        (b"\0\xff\xff\xff\xff", "not_framed"),  # below 0, which no registry gives
    ],
)
def test_what_is_not_framed_is_refused_and_asks_for_no_schema(
    raw: bytes | None, reason: str
) -> None:
    with pytest.raises(InvalidRecordError) as refused:
        unframed(raw)
    assert refused.value.reason == reason
    assert reason == "oversized" or schema_ids([raw]) == set()
