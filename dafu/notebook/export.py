"""Results as CSV and JSON files whose names say when they were written."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dafu.offline import OutputFileError

Clock = Callable[[], datetime]
Row = Mapping[str, Any]


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def stamped(directory: Path, name: str, suffix: str, clock: Clock) -> Path:
    """A path that is not taken: `name-20260102T030405Z.csv`, with -2 and so on behind if need be.

    Raises
    ------
    OutputFileError
        If the directory can not be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputFileError(f"{directory} can not be made: {exc.strerror or exc}") from exc
    stem = f"{name}-{clock().astimezone(UTC):%Y%m%dT%H%M%SZ}"
    path, number = directory / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = directory / f"{stem}-{number}{suffix}"
    return path


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of equal keys as CSV or, by the suffix, as a JSON array.

    In CSV a list is one cell, its parts divided by semicolons; what is missing is an empty cell.

    Raises
    ------
    OutputFileError
        For another suffix, or if the file can not be written.
    """
    if path.suffix not in (".csv", ".json"):
        raise OutputFileError(f"{path}: results are written to .csv and .json files")
    try:
        if path.suffix == ".json":
            write_json(path, list(rows))
            return
        with path.open("w", newline="", encoding="utf-8") as file:
            names = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
    except OSError as exc:
        raise OutputFileError(f"{path} can not be written: {exc.strerror or exc}") from exc


def write_json(path: Path, document: Any) -> None:
    """Write a document as JSON, indented.

    Raises
    ------
    OutputFileError
        If the file can not be written.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    except OSError as exc:
        raise OutputFileError(f"{path} can not be written: {exc.strerror or exc}") from exc


def _cell(value: Any) -> Any:
    return "; ".join(str(v) for v in value) if isinstance(value, list | tuple) else value
