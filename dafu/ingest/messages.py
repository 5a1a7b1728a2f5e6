"""Payments as somebody else's system says them, one record each, into transactions.

As `dafu.ingest.jsonl` does with the lines of a file. What is no transaction is refused, with the
reason that the engine would have for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
import orjson

from dafu.ingest.documents import Document, Field, MissingValueError, Wanted
from dafu.ingest.framing import unframed
from dafu.ingest.mapping import Mapping
from dafu.schema import InvalidRecordError, parse_document, parse_transaction

__all__ = ["ReadRecord", "Translator", "framed_json_document", "json_document"]

ReadRecord = Callable[[bytes | None], Document]
"""Makes a document of a record; raises InvalidRecordError for what is none."""

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def json_document(raw: bytes | None) -> Document:
    """The object of a record that is JSON."""
    return parse_document(raw, _decode, "a payment")


def framed_json_document(raw: bytes | None) -> Document:
    """The object of a record that is JSON behind the id of its schema, which nobody asks for."""
    _, payload = unframed(raw)
    return json_document(payload)


class Translator:
    """Translates with one mapping what `read` makes documents of."""

    def __init__(self, mapping: Mapping, read: ReadRecord = json_document) -> None:
        self._wanted = Wanted(mapping)
        self._document = read

    def translate(self, raw: bytes | None) -> tuple[str, bytes]:
        """A transaction's user, and its JSON.

        Raises
        ------
        InvalidRecordError
            As `dafu.schema.parse_transaction` does, of the payment or of what became of it.
        """
        wanted = self._wanted
        document = self._document(raw)
        values = _read(wanted.fields, document)
        attributes = _read(wanted.attributes, document)
        if wanted.others != "ignore":
            others = wanted.unmentioned(document)
            if others and wanted.others == "error":
                names = ", ".join(sorted(others))
                raise InvalidRecordError("invalid_field", f"the mapping says nothing of: {names}")
            attributes = others | attributes
        values = {**values, **attributes, **values}  # in this order, and a field counts more
        try:
            text = orjson.dumps(values, default=_exact)
        except orjson.JSONEncodeError as exc:
            raise InvalidRecordError("invalid_field", f"no JSON can say it: {exc}") from None
        transaction, _ = parse_transaction(text)
        return transaction.user_id, text


def _exact(value: Any) -> Any:
    """A number as JSON with all of its digits."""
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    raise TypeError(type(value).__name__)


def _read(fields: Sequence[Field], document: Document) -> dict[str, Any]:
    """The values of those fields that there are."""
    values: dict[str, Any] = {}
    for field in fields:
        try:
            value = field.read(document)
        except MissingValueError:
            what = f"`{field.name}` is missing: there is no {_said(field.columns)}"
            raise InvalidRecordError("missing_field", what) from None
        except ValueError:
            # Not what it is: that may be somebody's card.
            what = f"`{field.name}`, from {_said(field.columns)}, is no {field.cast}"
            raise InvalidRecordError("invalid_field", what) from None
        if value is not None:
            values[field.name] = value
    return values


def _said(columns: Sequence[str]) -> str:
    return " or ".join(f"`{column}`" for column in columns) or "a constant"
