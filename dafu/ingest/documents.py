"""Values of one document as a mapping finds them. Pure, and knows no table of columns.

Documents have JSON's types, and `Decimal` where a format has exact numbers. Those stay exact: what
becomes a float is rounded once, at the end.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple

from dafu.ingest.mapping import LABELS, REQUIRED, Cast, Source, field_cast
from dafu.ingest.mapping import Mapping as Named

__all__ = ["Document", "Field", "MissingValueError", "Wanted"]

_MISSING: Final[Any] = object()
_LARGEST_MS: Final = 9.2e18
_NUMBERS: Final = (int, float, Decimal)

Document = Mapping[str, Any]
Read = Callable[[Document], Any]


class Field(NamedTuple):
    """A field of a transaction, a label or an attribute, and what finds it in a document."""

    name: str
    cast: Cast | None
    columns: list[str]
    read: Read


class MissingValueError(ValueError):
    """A document lacks a field that every transaction has."""


class Wanted:
    """What a mapping wants of each document: its fields, labels and attributes.

    `label_columns` are members that must not be published. What a mapping mentions, or something
    inside of, is no attribute by itself, whatever it says of other columns.
    """

    def __init__(self, mapping: Named) -> None:
        self.fields = [_field(n, field_cast(n), s) for n, s in mapping.fields.items()]
        self.labels = [_field(n, LABELS[n], s) for n, s in mapping.labels.items()]
        self.attributes = [_field(n, s.cast, s) for n, s in mapping.attributes.items()]
        self.others = mapping.other_columns
        self.label_columns = _columns(mapping.labels.values())
        self._mentioned = (
            _columns(mapping.fields.values())
            | self.label_columns
            | _columns(mapping.attributes.values())
            | set(mapping.ignore)
        )

    def unmentioned(self, document: Document) -> dict[str, Any]:
        """Members that the mapping says nothing of."""
        return {k: v for k, v in document.items() if k not in self._mentioned and v is not None}


def _field(name: str, cast: Cast | None, source: Source) -> Field:
    return Field(name, cast, source.columns, _reader(name, cast, source))


def _columns(sources: Collection[Source]) -> set[str]:
    names = {column for source in sources for column in source.columns}
    return names | {name.partition(".")[0] for name in names}


def _reader(name: str, cast: Cast | None, source: Source) -> Read:
    """What finds the value of one field in documents, None where an optional one is missing.

    It raises `MissingValueError` or `ValueError` if a required one is missing, or it is not what
    it has to be.
    """
    convert = _conversion(cast, source)
    columns, constant, required = source.columns, source.constant, name in REQUIRED
    plain = columns[0] if len(columns) == 1 and "." not in columns[0] else None

    def read(document: Document) -> Any:
        if plain is not None:
            given = document.get(plain)
        elif constant is not None:
            given = constant
        else:
            values = (_found_at(document, column) for column in columns)
            given = next((value for value in values if value is not _MISSING), None)
        if given is not None:
            return convert(given)
        if required:
            raise MissingValueError(name)
        return None

    return read


def _conversion(cast: Cast | None, source: Source) -> Callable[[Any], Any]:
    prefix, divide = source.prefix, source.divide
    if cast is None:
        return lambda given: given
    if cast == "text" and prefix:
        return lambda given: prefix + _text(given)
    if cast == "float" and divide != 1.0:
        return partial(_quotient, divisor=divide)
    if cast == "timestamp":
        return partial(_timestamp, unit=1000 if source.format == "epoch_s" else 1)
    return _CASTS[cast]


def _found_at(document: Document, column: str) -> Any:
    """What a document holds under a name, or else under a path with dots; `_MISSING` if nothing."""
    if column in document or "." not in column:
        return document.get(column, _MISSING)
    found: Any = document
    for part in column.split("."):
        if not isinstance(found, dict) or part not in found:
            return _MISSING
        found = found[part]
    return found


def _number(given: Any) -> float:
    value = math.nan
    if type(given) is float:
        value = given
    elif isinstance(given, _NUMBERS) and not isinstance(given, bool):
        with contextlib.suppress(OverflowError):  # an integer of hundreds of digits
            value = float(given)
    if not math.isfinite(value):
        raise ValueError(given)
    return value


def _quotient(given: Any, divisor: float) -> float:
    value = _number(given)
    if not isinstance(given, Decimal):
        return value / divisor
    over, under = given.as_integer_ratio()
    times, parts = divisor.as_integer_ratio()
    try:
        return (over * parts) / (under * times)
    except OverflowError as exc:
        raise ValueError(given) from exc


def _text(given: Any) -> str:
    if type(given) is str and given:
        return given
    if isinstance(given, Decimal):
        return format(given, "f")
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise ValueError(given)
    return str(given)


def _int(given: Any) -> int:
    _number(given)
    value = int(given)
    if value != given or abs(value) >= 2**63:
        raise ValueError(given)
    return value


def _bool(given: Any) -> bool:
    if given in (0, 1, True, False):
        return bool(given)
    raise ValueError(given)


def _timestamp(given: Any, unit: int) -> int:
    """Epoch milliseconds of a time as text, or as a number of so many of them."""
    if isinstance(given, str):
        moment = datetime.fromisoformat(given.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        value = moment.timestamp() * 1000
    else:
        value = _number(given) * unit
    if abs(value) >= _LARGEST_MS:
        raise ValueError(given)
    return math.floor(value + 1e-6)


_CASTS: Final[dict[Cast, Callable[[Any], Any]]] = {
    "text": _text,
    "float": _number,
    "int": _int,
    "bool": _bool,
}
