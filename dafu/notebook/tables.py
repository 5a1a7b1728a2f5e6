"""Tables of any make into Arrow tables, and those into the batches that the stream's code reads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv, parquet

from dafu.ingest import Mapping as ColumnMapping
from dafu.ingest import TransactionReader
from dafu.ingest.columns import convert
from dafu.ingest.mapping import Cast, TimeFormat
from dafu.notebook.errors import NotebookError

TableLike = Any
"""A path, a pandas or Polars data frame, an Arrow table, or records as dictionaries."""

_DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}


class Named(NamedTuple):
    """A table and what to call it."""

    name: str
    table: Any


class Mapped(NamedTuple):
    """Arrow batches of transactions, how many rows were left out, and what was wrong with some."""

    batches: list[Any]
    skipped: int
    examples: list[str]


def read_table(data: TableLike) -> Named:
    """Any table as an Arrow table. The cells of CSV files stay text: ids keep their zeros.

    Raises
    ------
    NotebookError
        If it can not be read, is empty, or has two columns of one name.
    """
    try:
        name, table = _read(data)
    except (pa.ArrowException, orjson.JSONDecodeError, OSError, UnicodeDecodeError) as exc:
        raise NotebookError(f"the table can not be read: {exc}") from exc
    names = table.column_names
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise NotebookError(f"{name} has more than one column named {', '.join(twice)}")
    if table.num_rows == 0 or not names:
        raise NotebookError(f"{name} has no rows")
    return Named(name, table)


def _read(data: TableLike) -> Named:
    if isinstance(data, str | Path):
        return _read_file(Path(data).expanduser())
    if isinstance(data, pa.Table):
        return Named("table", data)
    if type(data).__module__.split(".")[0] == "pandas":
        return Named("data frame", pa.Table.from_pandas(data, preserve_index=False))
    if hasattr(data, "to_arrow"):
        return Named("data frame", data.to_arrow())
    if isinstance(data, Mapping):
        data = [data]
    if isinstance(data, Iterable):
        return Named("records", _of_records(list(data)))
    raise NotebookError(
        f"{type(data).__name__} is no table: give a path, a data frame, an Arrow table, or records"
    )


def _of_records(records: list[Any]) -> Any:
    if not all(isinstance(record, Mapping) for record in records):
        raise NotebookError("records must be dictionaries of column name to value")
    names = list(dict.fromkeys(str(name) for record in records for name in record))
    return pa.table({n: _column([record.get(n) for record in records]) for n in names})


def _column(values: list[Any]) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # mixed, or beyond 64 bits
        return pa.array([None if v is None else str(v) for v in values], pa.string())


def _read_file(path: Path) -> Named:
    if not path.is_file():
        raise NotebookError(f"there is no file {path}")
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".bz2", ".zst"):
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind in (".parquet", ".pq"):
        return Named(path.name, parquet.read_table(path))
    if kind in _DELIMITERS:
        return Named(path.name, _read_csv(path, _DELIMITERS[kind]))
    if kind in (".jsonl", ".ndjson"):
        with pa.input_stream(str(path), "detect") as stream:
            lines = stream.read().splitlines()
        return Named(path.name, _of_records([orjson.loads(line) for line in lines if line.strip()]))
    raise NotebookError(
        f"{path}: cannot tell what it is; the name should end with .csv, .tsv, .parquet, .pq, "
        ".jsonl or .ndjson"
    )


def _read_csv(path: Path, delimiter: str) -> Any:
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    options = csv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    return csv.read_csv(path, parse_options=parse, convert_options=options)


def array_of(table: Any, column: str) -> Any:
    """A column as one Arrow array."""
    found = table.column(column).combine_chunks()
    if isinstance(found, pa.ChunkedArray):  # of several chunks that do not fit together
        found = pa.concat_arrays(found.chunks)
    return found


def converted(table: Any, column: str, cast: Cast, fmt: TimeFormat = "iso") -> Any:
    """A column with other values; a cell that can not be converted is missing."""
    return convert(array_of(table, column), cast, fmt)[0]


def numbers(table: Any, column: str) -> NDArray[np.float64]:
    """A column as float64, NaN where there is no finite number."""
    array = array_of(table, column)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    values = convert(array, "float")[0]
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def milliseconds(table: Any, column: str, fmt: TimeFormat) -> NDArray[np.int64]:
    """A column as epoch milliseconds; what can not be read is the largest number, thus last."""
    times = converted(table, column, "timestamp", fmt).cast(pa.int64())
    last = np.iinfo(np.int64).max
    return np.asarray(pc.fill_null(times, last).to_numpy(zero_copy_only=False), dtype=np.int64)


def parsed_times(table: Any, column: str, time_format: str) -> Any:
    """The table with a column of text in a format of strptime read as times in UTC.

    Raises
    ------
    NotebookError
        If no cell follows the format.
    """
    text = array_of(table, column).cast(pa.string())
    times = pc.strptime(text, format=time_format, unit="ms", error_is_null=True)
    if times.null_count == len(times):
        raise NotebookError(f"no cell of column `{column}` follows time_format {time_format!r}")
    at = table.column_names.index(column)
    return table.set_column(at, column, times)


def map_table(named: Named, mapping: ColumnMapping, *, skip_bad: bool) -> Mapped:
    """Batches of transactions, read from the table as from a file.

    Raises
    ------
    MappingError, BadRowError
        If the mapping does not fit, or a row does not and `skip_bad` is not set.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{Path(named.name).stem}.parquet"
        try:
            parquet.write_table(named.table, path)
        except pa.ArrowException as exc:
            raise NotebookError(f"{named.name} has columns that are no values: {exc}") from exc
        reader = TransactionReader(path, mapping, skip_bad=skip_bad)
        batches = list(reader)
    return Mapped(batches, reader.skipped, reader.examples)
