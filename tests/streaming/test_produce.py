"""Produce requests against aiokafka's own encoding of them."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v3
from aiokafka.protocol.types import Schema
from hypothesis import given
from hypothesis import strategies as st

from dafu.streaming.produce import encode_request, join_requests_once

partitions = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.binary(max_size=50)), max_size=4)


@given(
    transactional_id=st.none() | st.text(max_size=10),
    acks=st.sampled_from([-1, 0, 1]),
    timeout=st.integers(0, 2**31 - 1),
    topics=st.lists(st.tuples(st.text(max_size=20), partitions), max_size=4),
)
def test_the_bytes_are_aiokafkas(
    transactional_id: str | None, acks: int, timeout: int, topics: list[Any]
) -> None:
    fields = [transactional_id, acks, timeout, topics]
    assert encode_request(fields) == Schema.encode(ProduceRequest_v3.SCHEMA, fields)


def test_every_version_in_use_is_encoded_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProduceRequest_v3.SCHEMA, "encode", None, raising=False)
    join_requests_once()
    request = ProduceRequest(None, -1, 1000, [("topic", [(0, b"batch")])])
    for version in range(3, 8):
        built = request.prepare({0: (version, version)})
        assert built.SCHEMA.encode is encode_request
        assert built.encode() == encode_request([None, -1, 1000, [("topic", [(0, b"batch")])]])
