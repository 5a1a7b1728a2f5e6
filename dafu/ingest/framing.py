"""Records as serializers with a schema registry frame them.

That is a byte 0, the schema's id as an integer of four bytes, big-endian, and the payload.

This module knows neither the registry nor what a payload says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from dafu.schema import InvalidRecordError, present

__all__ = ["RegisteredSchema", "schema_ids", "unframed"]

_FRAME: Final = struct.Struct(">Bi")


class RegisteredSchema(NamedTuple):
    """A schema as a registry has it.

    `kind` is AVRO, JSON or PROTOBUF. `references` are the texts of the schemas that it builds on,
    each behind those that it builds on itself.
    """

    kind: str
    text: str
    references: tuple[str, ...] = ()


def unframed(raw: bytes | None) -> tuple[int, bytes]:
    """The id of a record's schema, and its payload.

    Raises
    ------
    InvalidRecordError
        `empty`, `oversized` or `not_framed`.
    """
    record = present(raw)
    schema_id = _schema_id(record)
    if schema_id is None:
        raise InvalidRecordError(
            "not_framed", "the record does not begin with a byte 0 and a schema's id of four bytes"
        )
    return schema_id, record[_FRAME.size :]


def schema_ids(records: Iterable[bytes | None]) -> set[int]:
    """The ids of all schemas that records name."""
    heads = {record[: _FRAME.size] for record in records if record}
    return {number for head in heads if (number := _schema_id(head)) is not None}


def _schema_id(record: bytes) -> int | None:
    """None if there is none: a registry would not even understand the question for one below 0."""
    if len(record) < _FRAME.size:
        return None
    magic, number = _FRAME.unpack_from(record)
    return number if magic == 0 and number >= 0 else None
