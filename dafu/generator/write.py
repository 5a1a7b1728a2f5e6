"""Writing generated transactions as CSV, Parquet or JSON lines, and the truth about groups."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from dafu.generator.simulation import GeneratorError
from dafu.rings.truth import Truth, encode_truth

_encode_lines = msgspec.json.Encoder().encode_lines

SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")


def write(data: pa.Table | Iterable[pa.RecordBatch], path: Path | str) -> int:
    """Write transactions to `path` and return their number.

    The format follows the suffix: `.csv`, `.parquet`, or `.jsonl` / `.ndjson` for JSON lines. A
    missing value is an empty CSV field and a null elsewhere.

    Raises
    ------
    GeneratorError
        For another suffix, or if the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise GeneratorError(f"{path}: unknown format; use one of {', '.join(SUFFIXES)}")
    batches = iter(data.to_batches() if isinstance(data, pa.Table) else data)
    first = next(batches, None)
    schema = data.schema if isinstance(data, pa.Table) else None if first is None else first.schema
    if schema is None:
        raise GeneratorError(f"{path}: there is nothing to write, not even a schema")
    rows = 0

    def counted() -> Iterable[pa.RecordBatch]:
        nonlocal rows
        if first is not None:
            rows += first.num_rows
            yield first
        for batch in batches:
            rows += batch.num_rows
            yield batch

    try:
        if path.suffix == ".csv":
            options = pa.csv.WriteOptions(quoting_style="needed")
            with pa.csv.CSVWriter(path, schema, write_options=options) as writer:
                for batch in counted():
                    writer.write_batch(batch)
        elif path.suffix == ".parquet":
            with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
                for batch in counted():
                    writer.write_batch(batch)
        else:
            with path.open("wb") as out:
                for batch in counted():
                    out.write(_json_lines(batch))
    except OSError as exc:
        raise GeneratorError(f"{path}: cannot be written: {exc}") from exc
    return rows


def write_truth(truth: Truth, path: Path | str) -> None:
    """Write what is known of rings and look-alikes as JSON.

    Raises
    ------
    GeneratorError
        If the file cannot be written.
    """
    try:
        Path(path).write_bytes(encode_truth(truth) + b"\n")
    except OSError as exc:
        raise GeneratorError(f"{path}: cannot be written: {exc}") from exc


def _json_lines(batch: pa.RecordBatch) -> bytes:
    names = batch.schema.names
    rows = zip(*[column.to_pylist() for column in batch.columns], strict=True)
    return _encode_lines([dict(zip(names, row, strict=True)) for row in rows])
