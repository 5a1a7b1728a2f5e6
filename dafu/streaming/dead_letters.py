"""Dead letters: records that could not be processed, kept whole with reason and origin.

A dead letter's key and value are those of the original record, byte for byte; why and from where
is in its headers, all of them UTF-8 text. Reading and re-publishing needs nothing but the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

REASON: Final = "dafu-reason"
DETAIL: Final = "dafu-detail"
TOPIC: Final = "dafu-topic"
PARTITION: Final = "dafu-partition"
OFFSET: Final = "dafu-offset"
TIMESTAMP: Final = "dafu-timestamp"
REROUTED: Final = "dafu-rerouted"
"""On a transaction that was published again under its right key; it happens once."""

_MAX_DETAIL: Final = 500


class Origin(Struct, frozen=True):
    """Why a record was set aside, and where it came from. `timestamp` is the record's, in ms."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp: int


def headers(origin: Origin) -> list[tuple[str, bytes]]:
    """Record headers that carry an origin."""
    return [
        (REASON, origin.reason.encode()),
        (DETAIL, origin.detail[:_MAX_DETAIL].encode("utf-8", "backslashreplace")),
        (TOPIC, origin.topic.encode()),
        (PARTITION, str(origin.partition).encode()),
        (OFFSET, str(origin.offset).encode()),
        (TIMESTAMP, str(origin.timestamp).encode()),
    ]


def read_headers(record_headers: Sequence[tuple[str, bytes]]) -> Origin | None:
    """The origin in a record's headers, None if it has no complete one."""
    found = {name: value.decode("utf-8", "replace") for name, value in record_headers}
    try:
        return Origin(
            found[REASON],
            found[DETAIL],
            found[TOPIC],
            int(found[PARTITION]),
            int(found[OFFSET]),
            int(found[TIMESTAMP]),
        )
    except (KeyError, ValueError):
        return None
