"""Payments as somebody else's system says them, one JSON object each, into transactions.

As `dafu.ingest.jsonl` does with the lines of a file. What is no transaction is refused, with the
reason that the engine would have for it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson

from dafu.ingest.documents import MissingValueError, Wanted, value_of
from dafu.ingest.mapping import Cast, Mapping, Source
from dafu.schema import InvalidRecordError, parse_document, parse_transaction

__all__ = ["Translator"]

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Translator:
    """Translates with one mapping."""

    def __init__(self, mapping: Mapping) -> None:
        self._wanted = Wanted(mapping)

    def translate(self, raw: bytes | None) -> tuple[str, bytes]:
        """A transaction's user, and its JSON: fields first, then attributes.

        Raises
        ------
        InvalidRecordError
            As `dafu.schema.parse_transaction` does, of the payment or of what became of it.
        """
        wanted = self._wanted
        document = parse_document(raw, _decode, "a payment")
        values: dict[str, Any] = {}
        for name, cast, source in wanted.fields:
            if (value := _read(document, name, cast, source)) is not None:
                values[name] = value
        attributes = {
            name: _read(document, name, source.cast, source)
            for name, source in wanted.attributes.items()
        }
        if wanted.others != "ignore":
            others = wanted.unmentioned(document)
            if others and wanted.others == "error":
                names = ", ".join(sorted(others))
                raise InvalidRecordError("invalid_field", f"the mapping says nothing of: {names}")
            attributes = others | attributes
        values |= {
            name: value
            for name, value in attributes.items()
            if value is not None and name not in values
        }
        try:
            text = orjson.dumps(values)
        except orjson.JSONEncodeError as exc:
            raise InvalidRecordError("invalid_field", f"no JSON can say it: {exc}") from None
        transaction, _ = parse_transaction(text)
        return transaction.user_id, text


def _read(document: dict[str, Any], name: str, cast: Cast | None, source: Source) -> Any:
    where = " or ".join(f"`{column}`" for column in source.columns) or "a constant"
    try:
        return value_of(document, name, cast, source)
    except MissingValueError:
        raise InvalidRecordError(
            "missing_field", f"`{name}` is missing: there is no {where}"
        ) from None
    except ValueError:
        # Not what it is: that may be somebody's card.
        raise InvalidRecordError("invalid_field", f"`{name}`, from {where}, is no {cast}") from None
