"""Reading the files of decisions that `dafu.decision_files` writes, by the suffix of the path."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from dafu.decision_files import PAYLOAD, SUFFIXES, DecisionFileError
from dafu.schema import Decision, decode_decision

__all__ = ["read_decisions"]

_BATCH_ROWS: Final = 20_000
_PLAIN: Final = frozenset(
    {
        "transaction_id",
        "user_id",
        "merchant_id",
        "timestamp",
        "decision",
        "risk_level",
        "model_used",
    }
)
"""Columns of a CSV file that are text; the others are JSON."""


def read_decisions(path: Path) -> Iterator[Decision]:
    """The decisions of a file, one after the other.

    Raises
    ------
    DecisionFileError
        If the file is not there, has another suffix, or a row of it is no decision.
    """
    kinds = dict(zip(SUFFIXES, (_lines, _parquet, _csv), strict=True))
    if path.suffix not in kinds:
        raise DecisionFileError(
            f"{path} has none of the suffixes {', '.join(SUFFIXES)}, which say how to read it"
        )
    row = 0
    try:
        for row, decision in enumerate(kinds[path.suffix](path), 1):  # noqa: B007
            yield decision
    except OSError as exc:
        raise DecisionFileError(f"{path} can not be read: {exc.strerror or exc}") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError, csv.Error) as exc:
        raise DecisionFileError(f"{path}: row {row + 1} is no decision: {exc}") from exc


def _lines(path: Path) -> Iterator[Decision]:
    with path.open("rb") as file:
        for line in file:
            yield decode_decision(line)


def _csv(path: Path) -> Iterator[Decision]:
    with path.open(encoding="utf-8", newline="") as file:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        for row in csv.DictReader(file):
            fields: dict[str, Any] = {
                name: text if name in _PLAIN or text is None else msgspec.json.decode(text)
                for name, text in row.items()
                if name is not None
            }
            yield msgspec.convert(fields, Decision)


def _parquet(path: Path) -> Iterator[Decision]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if PAYLOAD not in file.schema_arrow.names:
                raise DecisionFileError(f"{path} has no column `{PAYLOAD}`: it holds no decisions")
            for batch in file.iter_batches(_BATCH_ROWS, columns=[PAYLOAD]):
                for payload in batch.column(0).to_pylist():
                    yield decode_decision(payload)
    except pa.ArrowInvalid as exc:
        raise DecisionFileError(f"{path} is no Parquet file: {exc}") from exc
