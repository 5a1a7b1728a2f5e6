"""Values of one JSON document as a mapping finds them. Pure, and knows no table of columns."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from dafu.ingest.mapping import LABELS, REQUIRED, Cast, Source, field_cast
from dafu.ingest.mapping import Mapping as Named

__all__ = ["MISSING", "MissingValueError", "Wanted", "found_at", "value_of"]

MISSING: Final[Any] = object()
_LARGEST_MS: Final = 9.2e18

Document = Mapping[str, Any]


class MissingValueError(ValueError):
    """A document lacks a field that every transaction has."""


class Wanted:
    """What a mapping wants of each document: (name, type, source) of its fields and labels.

    `label_columns` are members that must not be published. What a mapping mentions, or something
    inside of, is no attribute by itself, whatever it says of other columns.
    """

    def __init__(self, mapping: Named) -> None:
        self.fields = [(n, field_cast(n), source) for n, source in mapping.fields.items()]
        self.labels = [(n, LABELS[n], source) for n, source in mapping.labels.items()]
        self.attributes = mapping.attributes
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

    def attributes_of(self, document: Document) -> dict[str, Any]:
        """The attributes that are mapped, as far as there are any.

        Raises
        ------
        ValueError
            If one can not be converted as the mapping wants it.
        """
        values = ((n, value_of(document, n, s.cast, s)) for n, s in self.attributes.items())
        return {name: value for name, value in values if value is not None}


def _columns(sources: Collection[Source]) -> set[str]:
    names = {column for source in sources for column in source.columns}
    return names | {name.partition(".")[0] for name in names}


def found_at(document: Document, column: str) -> Any:
    """What a document holds under a name, or else under a path with dots; `MISSING` if nothing."""
    if column in document or "." not in column:
        return document.get(column, MISSING)
    found: Any = document
    for part in column.split("."):
        if not isinstance(found, dict) or part not in found:
            return MISSING
        found = found[part]
    return found


def value_of(document: Document, name: str, cast: Cast | None, source: Source) -> Any:
    """The value of one field, None where an optional one is missing.

    Raises
    ------
    MissingValueError, ValueError
        If a required one is missing, or it is not what it has to be.
    """
    given: Any = source.constant
    if given is None:
        values = (found_at(document, column) for column in source.columns)
        given = next((value for value in values if value is not MISSING), None)
    if given is None:
        if name in REQUIRED:
            raise MissingValueError(name)
        return None
    if cast is None:
        return given
    value = _CASTS[cast](given, source)
    if source.divide != 1.0:
        value /= source.divide
    return source.prefix + value if source.prefix and cast == "text" else value


def _number(given: Any) -> float:
    value = math.nan
    if isinstance(given, int | float) and not isinstance(given, bool):
        with contextlib.suppress(OverflowError):  # an integer of hundreds of digits
            value = float(given)
    if not math.isfinite(value):
        raise ValueError(given)
    return value


def _text(given: Any, _source: Source) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise ValueError(given)
    return str(given)


def _float(given: Any, _source: Source) -> float:
    return _number(given)


def _int(given: Any, _source: Source) -> int:
    value = _number(given)
    if not value.is_integer() or abs(value) >= 2**63:
        raise ValueError(given)
    return int(given)


def _bool(given: Any, _source: Source) -> bool:
    if given in (0, 1, True, False):
        return bool(given)
    raise ValueError(given)


def _timestamp(given: Any, source: Source) -> int:
    """Epoch milliseconds of a time as text, or as a number (milliseconds unless said otherwise)."""
    if isinstance(given, str):
        moment = datetime.fromisoformat(given.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        value = moment.timestamp() * 1000
    else:
        value = _number(given) * (1000 if source.format == "epoch_s" else 1)
    if abs(value) >= _LARGEST_MS:
        raise ValueError(given)
    return math.floor(value + 1e-6)


_CASTS: Final[dict[str, Any]] = {
    "text": _text,
    "float": _float,
    "int": _int,
    "bool": _bool,
    "timestamp": _timestamp,
}
