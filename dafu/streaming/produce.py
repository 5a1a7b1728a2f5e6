"""Produce requests written in one go: aiokafka joins what it has joined, six times over.

A request of some megabytes is copied as often. It knows the layout of Kafka's produce request,
versions 3 to 7 (https://kafka.apache.org/protocol#The_Messages_Produce), and no records.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from aiokafka.protocol.produce import ProduceRequest_v3

__all__ = ["encode_request", "join_requests_once"]

_LENGTH: Final = struct.Struct(">h")
_COUNT: Final = struct.Struct(">i")
_FIXED: Final = struct.Struct(">hii")  # acks, timeout in milliseconds, number of topics
_PARTITION: Final = struct.Struct(">ii")  # number, bytes of its record batch


def encode_request(fields: Sequence[Any]) -> bytes:
    """The body of a produce request.

    Parameters
    ----------
    fields
        Transactional id or None, acks, timeout, and topics as aiokafka has them: (name,
        [(partition, record batch)]).
    """
    transactional_id, acks, timeout, topics = fields
    pieces: list[Any] = [_string(transactional_id), _FIXED.pack(acks, timeout, len(topics))]
    for topic, partitions in topics:
        pieces += [_string(topic), _COUNT.pack(len(partitions))]
        for partition, data in partitions:
            pieces += [_PARTITION.pack(partition, len(data)), data]
    return b"".join(pieces)


def _string(text: str | None) -> bytes:
    if text is None:
        return _LENGTH.pack(-1)
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def join_requests_once() -> None:
    """Make all producers of this process encode their requests with `encode_request`."""
    # One schema object serves versions 3 to 7.
    ProduceRequest_v3.SCHEMA.encode = encode_request
