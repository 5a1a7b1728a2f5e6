"""Payments in Avro (binary encoding) behind the ids of their schemas, into documents.

A document has JSON's types, and `Decimal`. What Avro has beyond them is text: times as the reader
of Parquet files writes them, in UTC with milliseconds, dates, UUIDs, and bytes in hexadecimal. So a
mapping reads it like any other.

A record is read by the schema that it was written with: a mapping, which goes by names, does what
a reader's schema would. The decoder is fastavro's, with logical types of our own, because its
decimals are rounded to the precision, and times that Python has no name for are errors to it. This
module knows no registry.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Any, Final

import fastavro.read
from fastavro import parse_schema, schemaless_reader
from fastavro.schema import SchemaParseException

from dafu.ingest.avro_schemas import DATE, DECIMAL, HEX, TIME, UUID, SchemaError, self_contained
from dafu.ingest.documents import Document
from dafu.ingest.framing import RegisteredSchema, schema_ids, unframed
from dafu.schema import InvalidRecordError, iso

__all__ = ["AvroReader"]

_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_WRONG: Final = (EOFError, LookupError, ValueError, ArithmeticError, TypeError)
"""What the decoder raises for bytes that are no such record."""


class AvroReader:
    """Reads records by the schemas that it has learned."""

    def __init__(self) -> None:
        self._schemas: dict[int, Any] = {}
        self._unusable: dict[int, str] = {}

    def unknown(self, records: Iterable[bytes | None]) -> set[int]:
        """The ids of schemas that these records name and that it has not learned."""
        return schema_ids(records) - self._schemas.keys() - self._unusable.keys()

    def learn(self, number: int, schema: RegisteredSchema) -> None:
        """Take note of the schema with this id; that it can not be used is said by `read`."""
        try:
            self._schemas[number] = _parsed(schema)
        except (SchemaParseException, LookupError, ValueError, TypeError) as exc:
            self._unusable[number] = f"schema {number} can not be used: {exc}"

    def read(self, raw: bytes | None) -> Document:
        """The document of a record.

        Raises
        ------
        InvalidRecordError
            `empty`, `oversized`, `not_framed`, `unknown_schema`, `unusable_schema`, `not_avro` or
            `not_an_object`.
        """
        number, payload = unframed(raw)
        schema = self._schemas.get(number)
        if schema is None:
            if number in self._unusable:
                raise InvalidRecordError("unusable_schema", self._unusable[number])
            raise InvalidRecordError(
                "unknown_schema", f"the registry has no schema {number}, or not what it refers to"
            )
        stream = io.BytesIO(payload)
        try:
            document = schemaless_reader(stream, schema, None)
        except EOFError:
            why = "it ends too early"
        except _WRONG:
            # Not what it is: that may be somebody's card.
            why = "it has values that the schema does not allow"
        else:
            rest = len(payload) - stream.tell()
            if not rest:
                return _object(document)
            why = f"{rest} bytes are left over"
        raise InvalidRecordError("not_avro", f"the payload does not fit schema {number}: {why}")


def _parsed(schema: RegisteredSchema) -> Any:
    if schema.kind != "AVRO":
        raise SchemaError(f"it is of the kind {schema.kind}, not AVRO")
    return parse_schema(self_contained(schema.text, schema.references))


def _object(document: Any) -> Document:
    if not isinstance(document, dict):
        what = type(document).__name__
        raise InvalidRecordError("not_an_object", f"a payment is a record, this is {what}")
    return document


def _time(value: int, schema: Any, _: Any) -> str | int:
    """Text in UTC; milliseconds where there is no such year, as some write for `never`."""
    milliseconds: int = value // schema["per_ms"]
    try:
        return iso(milliseconds)
    except OverflowError:
        return milliseconds


def _date(value: int, _schema: Any, _: Any) -> str | int:
    """Text; days since the epoch where there is no such year."""
    try:
        return date.fromordinal(_EPOCH_DAY + value).isoformat()
    except (OverflowError, ValueError):
        return value


def _decimal(value: bytes, schema: Any, _: Any) -> Decimal:
    """All digits of a number that has no more of them than it may have."""
    unscaled = int.from_bytes(value, "big", signed=True)
    if not value or abs(unscaled) >= schema["bound"]:
        raise ValueError(value)
    return Decimal(f"{unscaled}E-{schema['scale']}")


def _uuid(value: bytes, _schema: Any, _: Any) -> str:
    return str(uuid.UUID(bytes=value))


def _hex(value: bytes, _schema: Any, _: Any) -> str:
    return value.hex()


fastavro.read.LOGICAL_READERS.update(
    {
        f"long-{TIME}": _time,
        f"int-{DATE}": _date,
        f"bytes-{DECIMAL}": _decimal,
        f"fixed-{DECIMAL}": _decimal,
        f"fixed-{UUID}": _uuid,
        f"bytes-{HEX}": _hex,
        f"fixed-{HEX}": _hex,
    }
)
