"""Numbers from a table's own columns, for tables that are no payments.

What is learned of a column comes from training rows alone. Missing values stay missing (NaN):
trainers fill them, and standardise where a model needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dafu.features.catalogue import HOUR
from dafu.ingest.mapping import TimeFormat
from dafu.notebook.columns import Column
from dafu.notebook.errors import NotebookError
from dafu.notebook.tables import array_of, converted, milliseconds, numbers

F64 = NDArray[np.float64]

ONE_HOT: Final = 12
"""Categories up to which each gets a column of its own; of more only their shares are told."""

_DISTINCT: Final = 0.5
"""Share of different values from which text is a name of something and no category."""
_LAST: Final = np.iinfo(np.int64).max


class Encoded(NamedTuple):
    """One column of the matrix: where it comes from and what it tells."""

    name: str
    source: str
    how: str
    categories: Mapping[str, float]


class Encoder:
    """Turns tables into matrices, the same way for every table.

    Parameters
    ----------
    table
        Rows to learn from, an Arrow table.
    profile
        What its columns are; those that are empty are left out.
    exclude
        Columns that are no inputs: labels, ids.

    Raises
    ------
    NotebookError
        If no column can be made a number.
    """

    def __init__(self, table: Any, profile: Mapping[str, Column], exclude: set[str]) -> None:
        self.outputs: list[Encoded] = []
        self._formats: dict[str, TimeFormat] = {}
        for name, column in profile.items():
            if name in exclude or column.kind == "empty":
                continue
            if column.kind == "time":
                self._formats[name] = column.time_format or "iso"
                self._add(name, "hour")
                self._add(name, "weekday")
            elif column.kind == "text":
                self._categories(table, name)
            else:
                self._add(name, column.kind)
        if not self.outputs:
            raise NotebookError(
                f"none of the columns {', '.join(profile)} can be made a number to learn from"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrix's columns."""
        return tuple(output.name for output in self.outputs)

    @property
    def sources(self) -> tuple[str, ...]:
        """Columns of the table that are used."""
        return tuple(dict.fromkeys(output.source for output in self.outputs))

    def _add(self, source: str, how: str, **categories: float) -> None:
        name = source if how in ("number", "truth") else f"{source}:{how}"
        self.outputs.append(Encoded(name, source, how, categories))

    def _categories(self, table: Any, name: str) -> None:
        texts = _texts(table, name).drop_null()
        counts = pc.value_counts(texts).to_pylist()
        if not counts or len(counts) >= _DISTINCT * len(texts):
            return
        shares = {c["values"]: c["counts"] / len(texts) for c in counts}
        if len(shares) > ONE_HOT:
            self.outputs.append(Encoded(f"{name}:share", name, "share", shares))
            return
        for value in sorted(shares):
            self.outputs.append(Encoded(f"{name}={value}", name, "is", {value: 1.0}))

    def encode(self, table: Any) -> F64:
        """The matrix [n, F] of a table's rows; a category that is new has the share 0.

        Raises
        ------
        NotebookError
            Naming the columns that the table lacks.
        """
        lacking = [name for name in self.sources if name not in table.column_names]
        if lacking:
            raise NotebookError(f"the table lacks the columns {', '.join(lacking)}")
        x = np.empty((table.num_rows, len(self.outputs)))
        for k, output in enumerate(self.outputs):
            x[:, k] = self._values(table, output)
        return x

    def _values(self, table: Any, output: Encoded) -> F64:
        if output.how == "number":
            return numbers(table, output.source)
        if output.how == "truth":
            truths = converted(table, output.source, "bool").cast(pa.float64())
            return np.asarray(truths.to_numpy(zero_copy_only=False), dtype=np.float64)
        if output.how in ("hour", "weekday"):
            return self._clock(table, output)
        texts = _texts(table, output.source).to_pylist()
        nothing = np.nan if output.how == "share" else 0.0
        return np.array([nothing if t is None else output.categories.get(t, 0.0) for t in texts])

    def _clock(self, table: Any, output: Encoded) -> F64:
        times = milliseconds(table, output.source, self._formats[output.source])
        hours = times // HOUR
        # The first of January 1970 was a Thursday.
        values = hours % 24 if output.how == "hour" else (hours // 24 + 3) % 7
        return np.where(times == _LAST, np.nan, values.astype(np.float64))


def _texts(table: Any, name: str) -> Any:
    array = array_of(table, name)
    if isinstance(array.type, pa.DictionaryType):
        array = array.dictionary_decode()
    if pa.types.is_nested(array.type):
        return pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string())
    text = pc.utf8_trim_whitespace(array.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
