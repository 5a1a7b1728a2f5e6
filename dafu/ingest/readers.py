"""CSV, Parquet and JSON lines into Arrow record batches of transactions, in file order.

A batch has the columns of `dafu.schema.Transaction` that the mapping gives (`timestamp` in
milliseconds UTC), `attributes` (JSON objects as text), the labels, and for JSON lines `raw`: the
bytes of a line that is no transaction, whose other columns are null except a readable `user_id`.

This module knows files and Arrow. It knows no Kafka.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dafu.errors import DafuError
from dafu.ingest.columns import convert
from dafu.ingest.json_text import objects
from dafu.ingest.jsonl import JsonLines
from dafu.ingest.mapping import Column, Mapping, Plan

__all__ = ["ATTRIBUTES", "RAW", "BadRowError", "ReadError", "TransactionReader", "parse_time"]

ATTRIBUTES: Final = "attributes"
RAW: Final = "raw"
_EXAMPLES: Final = 5
_CSV_BLOCK: Final = 8 << 20
_EMPTY: Final = "is empty"
_WRONG: Final = {
    "text": "is not usable as an id or text",
    "float": "is not a number",
    "int": "is not an integer",
    "bool": "is not a truth value (0 or 1)",
    "timestamp": "is not a time in the mapping's `format` (iso, epoch_s or epoch_ms)",
}


class ReadError(DafuError):
    """A file that can not be read."""


class BadRowError(DafuError):
    """A row that can not become a transaction. `row` counts from 1, the first after a header."""

    def __init__(self, file: str, row: int, what: str) -> None:
        super().__init__(
            f"{file}, row {row}: {what}. Correct the row, or leave such rows out (--skip-bad)"
        )
        self.row = row
        self.what = what


def parse_time(text: str) -> int:
    """Epoch milliseconds of a date or date-time in ISO 8601, UTC unless it has an offset.

    Raises
    ------
    ReadError
        When it is neither.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ReadError(
            f"{text!r} is no date or time: write 2020-06-21 or 2020-06-21T12:00:00"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


class TransactionReader:
    """Reads a file of transactions; iterate over it once for record batches.

    Parameters
    ----------
    path
        A file that ends with .csv, .tsv, .parquet, .pq, .jsonl or .ndjson; all but Parquet
        also with .gz, .bz2 or .zst behind.
    mapping
        Which column is which field.
    since, until
        Only transactions with `since <= timestamp < until`, in epoch milliseconds. JSON lines
        that are no transactions have no time and are left out when one of them is given.
    limit
        At most so many rows.
    skip_bad
        Leave out and count rows of CSV and Parquet files that can not become transactions,
        instead of stopping at the first.
    batch_rows
        At most so many rows a batch.

    Attributes
    ----------
    rows : int
        Rows given out so far.
    skipped : int
        Bad rows left out so far; `examples` says what was wrong with the first of them.
    """

    def __init__(
        self,
        path: Path,
        mapping: Mapping,
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
        skip_bad: bool = False,
        batch_rows: int = 50_000,
    ) -> None:
        self.path = path
        self.mapping = mapping
        self.rows = 0
        self.skipped = 0
        self.examples: list[str] = []
        self._since = since
        self._until = until
        self._limit = limit
        self._skip_bad = skip_bad
        self._batch_rows = batch_rows
        self._malformed: list[int] = []  # CSV rows that the parser left out, by number
        self._complaint: BadRowError | None = None
        self._fraction = 0.0
        if not path.is_file():
            raise ReadError(f"there is no file {path}")

    @property
    def fraction(self) -> float:
        """About how much of the file has been read, 0 to 1."""
        return self._fraction

    def __iter__(self) -> Iterator[Any]:
        suffixes = [s.lower() for s in self.path.suffixes]
        if suffixes and suffixes[-1] in (".gz", ".bz2", ".zst"):
            suffixes.pop()
        kind = suffixes[-1] if suffixes else ""
        try:
            if kind in (".parquet", ".pq"):
                batches = self._parquet()
            elif kind in (".csv", ".tsv"):
                batches = self._csv("\t" if kind == ".tsv" else ",")
            elif kind in (".jsonl", ".ndjson"):
                batches = self._json_lines()
            else:
                raise ReadError(
                    f"{self.path}: cannot tell what it is; the name should end with "
                    ".csv, .tsv, .parquet, .pq, .jsonl or .ndjson"
                )
            yield from self._windowed(batches)
        except (pa.ArrowException, OSError) as exc:
            if self._complaint is not None:
                raise self._complaint from None
            raise ReadError(f"{self.path} can not be read: {exc}") from exc

    def _windowed(self, batches: Iterator[Any]) -> Iterator[Any]:
        left = self._limit
        for batch in batches:
            chosen = batch
            for bound, holds in ((self._since, pc.greater_equal), (self._until, pc.less)):
                if bound is not None:
                    times = chosen.column("timestamp").cast(pa.int64())
                    chosen = chosen.filter(holds(times, bound))  # null is left out
            if left is not None:
                chosen = chosen.slice(0, left)
                left -= chosen.num_rows
            if chosen.num_rows:
                self.rows += chosen.num_rows
                yield chosen
            if left == 0:
                return

    def _parquet(self) -> Iterator[Any]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path) as file:
            plan = self._plan(file.schema_arrow.names)
            wanted = [c.source for part in plan for c in part if c.source is not None]
            total = max(file.metadata.num_rows, 1)
            row = 0
            for batch in file.iter_batches(self._batch_rows, columns=list(dict.fromkeys(wanted))):
                row += batch.num_rows
                self._fraction = row / total
                yield self._mapped(batch, plan, row - batch.num_rows)

    def _csv(self, delimiter: str) -> Iterator[Any]:
        from pyarrow import csv

        with pa.OSFile(str(self.path)) as file, pa.input_stream(file, self._codec()) as stream:
            size = max(file.size(), 1)
            names = self._header(delimiter)
            reader = csv.open_csv(
                stream,
                # Threads would take row numbers away from the handler below.
                csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
                csv.ParseOptions(
                    delimiter=delimiter,
                    newlines_in_values=True,
                    invalid_row_handler=self._on_malformed_row,
                ),
                csv.ConvertOptions(
                    column_types={name: pa.string() for name in names},
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
            plan = self._plan(reader.schema.names)
            row = 0
            for block in reader:
                for start in range(0, block.num_rows, self._batch_rows):
                    batch = block.slice(start, self._batch_rows)
                    self._fraction = min(file.tell() / size, 1.0)
                    yield self._mapped(batch, plan, row)
                    row += batch.num_rows
        if self._complaint is not None:
            raise self._complaint

    def _codec(self) -> str | None:
        return {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}.get(self.path.suffix.lower())

    def _header(self, delimiter: str) -> list[str]:
        """Column names as Arrow will see them: to read text as text, it must know them before."""
        from pyarrow import csv

        with pa.OSFile(str(self.path)) as file, pa.input_stream(file, self._codec()) as stream:
            reader = csv.open_csv(
                stream,
                csv.ReadOptions(use_threads=False, block_size=1 << 20),
                csv.ParseOptions(
                    delimiter=delimiter,
                    newlines_in_values=True,
                    invalid_row_handler=lambda _row: "skip",
                ),
                csv.ConvertOptions(strings_can_be_null=True),
            )
            return list(reader.schema.names)

    def _on_malformed_row(self, row: Any) -> str:
        number = (row.number or 2) - 1  # Arrow counts the header as row 1
        what = f"has {row.actual_columns} columns, the header {row.expected_columns}"
        if self._skip_bad:
            self._malformed.append(number)
            self._skip(number, what)
            return "skip"
        self._complaint = self._complaint or BadRowError(self.path.name, number, what)
        return "error"

    def _json_lines(self) -> Iterator[Any]:
        with pa.OSFile(str(self.path)) as file, pa.input_stream(file, self._codec()) as stream:
            size = max(file.size(), 1)
            for batch in JsonLines(self.mapping).batches(stream, min(self._batch_rows, 10_000)):
                self._fraction = min(file.tell() / size, 1.0)
                yield batch

    def _plan(self, names: list[str]) -> Plan:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ReadError(f"{self.path} has more than one column named {', '.join(twice)}")
        return self.mapping.plan(names, self.path.name)

    def _mapped(self, batch: Any, plan: Plan, first_row: int) -> Any:
        """The columns that the plan asks for, without bad rows."""
        good = np.ones(batch.num_rows, bool)
        columns: dict[str, Any] = {}
        bad: dict[int, str] = {}
        for column in [*plan.fields, *plan.labels]:
            columns[column.name] = self._column(batch, column, bad)
        attributes = {c.name: self._column(batch, c, bad) for c in plan.attributes}
        if bad:
            for position in sorted(bad):
                self._complain(self._row_number(first_row + position), bad[position])
            good[list(bad)] = False
        if attributes:
            columns[ATTRIBUTES] = objects(attributes)
        mapped = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
        return mapped.filter(pa.array(good)) if bad else mapped

    def _column(self, batch: Any, column: Column, bad: dict[int, str]) -> Any:
        spec = column.spec
        if column.source is None:
            value, _ = convert(pa.array([spec.constant]), column.cast)
            return _divided(pa.repeat(value[0], batch.num_rows), spec.divide)
        given = batch.column(column.source)
        values, wrong = convert(given, column.cast, spec.format or "iso")
        for position in wrong:
            cell = given[position].as_py()
            what = _WRONG[column.cast or "text"] if cell != "" else _EMPTY
            bad.setdefault(position, f"column `{column.source}` ({column.name}): {cell!r} {what}")
        if column.required and values.null_count:
            for position in pc.indices_nonzero(pc.is_null(values)).to_pylist():
                what = f"column `{column.source}` ({column.name}) {_EMPTY}"
                bad.setdefault(position, what)
        if spec.prefix:
            values = pc.binary_join_element_wise(spec.prefix, values, "")
        return _divided(values, spec.divide)

    def _row_number(self, index: int) -> int:
        """Number of the row that the CSV parser counts as `index`: it leaves malformed rows out."""
        number = index + 1
        while True:
            shifted = index + 1 + bisect_right(self._malformed, number)
            if shifted == number:
                return number
            number = shifted

    def _complain(self, row: int, what: str) -> None:
        if not self._skip_bad:
            raise BadRowError(self.path.name, row, what)
        self._skip(row, what)

    def _skip(self, row: int, what: str) -> None:
        self.skipped += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"row {row}: {what}")


def _divided(values: Any, divisor: float) -> Any:
    return values if divisor == 1.0 else pc.divide(values, divisor)
