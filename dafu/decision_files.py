"""Files of decisions: JSON lines, CSV or Parquet, by the suffix of the path.

`dafu decisions --out` writes what is on the topic and `dafu score --out` what the same stages make
of a file, both through here, so that the two can be compared. Knows no topic and no stage.
"""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from dafu.errors import DafuError
from dafu.schema import Decision

__all__ = ["SUFFIXES", "DecisionSink", "DecisionFileError", "open_decision_file"]

SUFFIXES: Final = (".jsonl", ".parquet", ".csv")
PAYLOAD: Final = "payload"
"""The Parquet column with a decision's exact bytes."""

_FIELDS: Final = Decision.__struct_fields__
_NESTED: Final = (
    "scores",
    "explanations",
    "reasons",
    "rules_fired",
    "versions",
    "candidates",
)
_FLUSH_ROWS: Final = 20_000


class DecisionFileError(DafuError):
    """A path that decisions can not be written to."""


class DecisionSink(ABC):
    """Takes decisions, each with its payload, until it is closed."""

    @abstractmethod
    def write(self, decisions: Sequence[tuple[Decision, bytes]]) -> None:
        """Take some more."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left and close the file."""


def open_decision_file(path: Path) -> DecisionSink:
    """Create a file for decisions, replacing one that is there.

    `.jsonl` has the payloads as they are, one a line; `.csv` one column a field, nested ones as
    JSON text; `.parquet` the same with types, and the exact bytes as `payload`.

    Raises
    ------
    DecisionFileError
        For another suffix, or if the file can not be written.
    """
    kinds: dict[str, type[_Lines | _Csv | _Parquet]] = dict(
        zip(SUFFIXES, (_Lines, _Parquet, _Csv), strict=True)
    )
    if path.suffix not in kinds:
        raise DecisionFileError(
            f"{path} has none of the suffixes {', '.join(SUFFIXES)}, which say how to write it"
        )
    try:
        return kinds[path.suffix](path)
    except OSError as exc:
        raise DecisionFileError(f"{path} can not be written: {exc.strerror or exc}") from exc


class _Lines(DecisionSink):
    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, decisions: Sequence[tuple[Decision, bytes]]) -> None:
        self._file.writelines(payload + b"\n" for _, payload in decisions)
        self._file.flush()  # whoever follows the file sees them at once

    def close(self) -> None:
        self._file.close()


class _Csv(DecisionSink):
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(_FIELDS)

    def write(self, decisions: Sequence[tuple[Decision, bytes]]) -> None:
        for decision, _ in decisions:
            row = _flat(decision)
            self._writer.writerow(
                json.dumps(value) if isinstance(value, bool) else value for value in row
            )

    def close(self) -> None:
        self._file.close()


class _Parquet(DecisionSink):
    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {"risk_score": pa.float64(), "confidence": pa.float64()}
        kinds |= {"is_fraud": pa.bool_(), "degraded": pa.bool_()}
        columns = [(name, kinds.get(name, pa.string())) for name in _FIELDS]
        self._schema = pa.schema([*columns, (PAYLOAD, pa.binary())])
        self._rows: list[tuple[Any, ...]] = []
        path.open("wb").close()  # Arrow's own error would not say what is wrong with the path
        self._writer = parquet.ParquetWriter(path, self._schema)

    def write(self, decisions: Sequence[tuple[Decision, bytes]]) -> None:
        """Keep rows until there are enough for a row group."""
        self._rows.extend((*_flat(decision), payload) for decision, payload in decisions)
        if len(self._rows) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


def _flat(decision: Decision) -> tuple[Any, ...]:
    return tuple(
        msgspec.json.encode(value).decode() if name in _NESTED else value
        for name in _FIELDS
        for value in (getattr(decision, name),)
    )
