"""JSON lines into record batches: one transaction a line, or the line as it is.

Unlike the cells of a table, a line can be published although it is no transaction: the worker puts
it on the dead-letters topic, with the reason, as it would if any other producer had sent it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
import pyarrow as pa

from dafu.ingest.columns import TYPES
from dafu.ingest.documents import Wanted
from dafu.ingest.mapping import Mapping


class JsonLines:
    """Reads lines with one mapping."""

    def __init__(self, mapping: Mapping) -> None:
        self._wanted = wanted = Wanted(mapping)
        self._columns = [*wanted.fields, *wanted.labels]
        self._user = next(field for field in wanted.fields if field.name == "user_id")
        self._schema = pa.schema(
            [(field.name, TYPES[field.cast or "text"]) for field in self._columns]
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
            values = [field.read(document) for field in self._columns]
            found = ((field.name, field.read(document)) for field in self._wanted.attributes)
            attributes = {name: value for name, value in found if value is not None}
        except ValueError:
            return self._as_it_is(line, document)
        if self._wanted.others != "ignore":
            attributes |= self._wanted.unmentioned(document)
        return (*values, orjson.dumps(attributes).decode() if attributes else None, None)

    def _as_it_is(self, line: bytes, document: dict[str, Any]) -> tuple[Any, ...]:
        """A row that carries the line, keyed by its user where that can be read."""
        labels = self._wanted.label_columns
        if labels & document.keys():  # labels are not for publishing, even here
            rest = {k: v for k, v in document.items() if k not in labels}
            line = orjson.dumps(rest)
        row: list[Any] = [None] * (len(self._schema) - 1)
        try:
            user = self._user.read(document)
        except ValueError:
            user = None
        row[self._schema.get_field_index("user_id")] = user
        return (*row, line)
