"""The columns of a batch as conditions read them: typed, converted once, missing made uniform.

Numbers and flags become float64[n] with NaN for missing; texts become lists of str or None. What
does not fit a column's type counts as missing, so that reading can not fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Texts = list[str | None]
Column = NDArray[Any] | Sequence[object]

_NUMBERS = (int, float, np.integer, np.floating)
_BOOLEANS = (bool, np.bool_)


def as_float(value: object) -> float:
    """The number that `value` is; NaN if it is none or beyond the range of a double."""
    if isinstance(value, _NUMBERS) and not isinstance(value, _BOOLEANS):
        try:
            return float(value)
        except OverflowError:
            return math.nan
    return math.nan


def as_flag(value: object) -> float:
    """1 for true, 0 for false, NaN for anything else."""
    return float(value) if isinstance(value, _BOOLEANS) else math.nan


def is_missing(value: object) -> bool:
    """Whether a dynamically typed value is neither text, nor a number, nor a truth value."""
    if isinstance(value, (str, *_BOOLEANS)):
        return False
    return math.isnan(as_float(value))


class Batch:
    """Rows `start` to `start + n` of some columns.

    Parameters
    ----------
    columns : mapping of name to array of at least `start + n` rows
        Must not change while the batch is in use. `attributes.x` may be absent: then no row has it.
    n : int
    start : int, optional
    """

    __slots__ = ("_columns", "_numbers", "_objects", "_start", "_texts", "n", "shared")

    def __init__(self, columns: Mapping[str, Column], n: int, start: int = 0) -> None:
        self.n = n
        self.shared: dict[str, Any] = {}
        """Verdicts of tests that occur in several conditions, by their canonical text."""
        self._columns = columns
        self._start = start
        self._numbers: dict[str, Floats] = {}
        self._texts: dict[str, Texts] = {}
        self._objects: dict[str, list[Any]] = {}

    def row(self, i: int) -> Batch:
        """The single row `i`."""
        return Batch(self._columns, 1, self._start + i)

    def number(self, name: str) -> Floats:
        """A number or flag column as float64[n], NaN where missing."""
        found = self._numbers.get(name)
        if found is None:
            found = self._numbers[name] = self._read_number(name)
        return found

    def text(self, name: str) -> Texts:
        """A text column, None where missing."""
        found = self._texts.get(name)
        if found is None:
            values = self.objects(name)
            found = [v if isinstance(v, str) else None for v in values]
            self._texts[name] = found
        return found

    def objects(self, name: str) -> list[Any]:
        """A column of whatever was sent."""
        found = self._objects.get(name)
        if found is None:
            column = self._columns.get(name)
            if column is None:
                found = [None] * self.n
            else:
                part = column[self._start : self._start + self.n]
                found = part.tolist() if isinstance(part, np.ndarray) else list(part)
            self._objects[name] = found
        return found

    def _read_number(self, name: str) -> Floats:
        column = self._columns.get(name)
        if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
            part = column[self._start : self._start + self.n]
            return np.ascontiguousarray(part, dtype=np.float64)
        values = self.objects(name)
        read = [as_flag(v) if isinstance(v, _BOOLEANS) else as_float(v) for v in values]
        return np.array(read, dtype=np.float64)
