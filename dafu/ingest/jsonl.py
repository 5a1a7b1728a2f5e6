"""JSON lines into record batches: one transaction a line, or the line as it is.

Unlike the cells of a table, a line can be published although it is no transaction: the worker puts
it on the dead-letters topic, with the reason, as it would if any other producer had sent it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import orjson
import pyarrow as pa

from dafu.ingest.columns import TYPES
from dafu.ingest.mapping import LABELS, REQUIRED, Cast, Mapping, Source, field_cast

_LARGEST_MS: Final = 9.2e18
_MISSING: Final = object()


class JsonLines:
    """Reads lines with one mapping."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._fields = [(n, field_cast(n), source) for n, source in mapping.fields.items()]
        self._labels = [(n, LABELS[n], source) for n, source in mapping.labels.items()]
        mentioned = [*mapping.fields.values(), *mapping.labels.values()]
        # Columns that are no attributes, whatever `other_columns` says.
        self._used = {c for source in mentioned for c in source.columns} | set(mapping.ignore)
        self._label_columns = {c for source in mapping.labels.values() for c in source.columns}
        self._schema = pa.schema(
            [(name, TYPES[cast]) for name, cast, _ in [*self._fields, *self._labels]]
            + [("attributes", pa.string()), ("raw", pa.binary())]
        )

    def batches(self, stream: Any, rows: int) -> Iterator[Any]:
        """Record batches of at most `rows` lines; blank lines do not count."""
        buffered = io.BufferedReader(stream)  # closes the stream when it goes: keep it
        lines = (line for line in map(bytes.strip, buffered) if line)
        while chunk := [self._row(line) for line in islice(lines, rows)]:
            columns = zip(*chunk, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _row(self, line: bytes) -> tuple[Any, ...]:
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            return self._as_it_is(line, {})
        try:
            values = [
                _value(document, name, cast, source)
                for name, cast, source in [*self._fields, *self._labels]
            ]
            attributes = self._attributes(document)
        except ValueError:
            return self._as_it_is(line, document)
        return (*values, attributes, None)

    def _attributes(self, document: dict[str, Any]) -> str | None:
        found: dict[str, Any] = {}
        for name, source in self._mapping.attributes.items():
            value = _value(document, name, source.cast, source)
            if value is not None:
                found[name] = value
        if self._mapping.other_columns != "ignore":
            used = self._used.union(*(s.columns for s in self._mapping.attributes.values()))
            found |= {k: v for k, v in document.items() if k not in used and v is not None}
        return orjson.dumps(found).decode() if found else None

    def _as_it_is(self, line: bytes, document: dict[str, Any]) -> tuple[Any, ...]:
        """A row that carries the line, keyed by its user where that can be read."""
        if self._label_columns & document.keys():  # labels are not for publishing, even here
            rest = {k: v for k, v in document.items() if k not in self._label_columns}
            line = orjson.dumps(rest)
        row: list[Any] = [None] * (len(self._schema) - 1)
        try:
            user = _value(document, "user_id", "text", self._mapping.fields["user_id"])
        except ValueError:
            user = None
        row[self._schema.get_field_index("user_id")] = user
        return (*row, line)


def _value(document: dict[str, Any], name: str, cast: Cast | None, source: Source) -> Any:
    """The value of one field, None where an optional one is missing; ValueError if it is wrong."""
    given: Any = source.constant
    if given is None:
        given = next((document[c] for c in source.columns if c in document), _MISSING)
    if given is None or given is _MISSING:
        if name in REQUIRED:
            raise ValueError(name)
        return None
    if cast is None:
        return given
    value = _CASTS[cast](given, source)
    return source.prefix + value if source.prefix and cast == "text" else value


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ValueError(given)
    return float(given)


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
