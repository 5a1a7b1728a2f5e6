"""What a benchmark hands back: figures with their spread, in tables, with the method beside them.

Knows neither how anything is measured nor where it is written; `bench.report` does the latter.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from msgspec import Struct, field


class Figure(Struct, frozen=True):
    """One quantity, measured as often as `values` is long.

    `value` is the figure itself when it is not the median of the values: a percentile of a whole
    run, say, with those of its parts as the values.
    """

    values: list[float]
    digits: int = 0
    value: float | None = None

    @property
    def median(self) -> float:
        """What the figure is quoted as."""
        return statistics.median(self.values) if self.value is None else self.value

    def __str__(self) -> str:
        text = f"{self.median:,.{self.digits}f}"
        if len(self.values) < 2:
            return text
        low, high = min(self.values), max(self.values)
        return f"{text} ({low:,.{self.digits}f}..{high:,.{self.digits}f})"


def figure(values: Iterable[float] | float, digits: int = 0) -> Figure:
    """A figure from one value or several."""
    return Figure([values] if isinstance(values, int | float) else [*values], digits)


Cell = str | Figure


class Table(Struct, frozen=True):
    """Rows of cells under their columns."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


class Context(Struct, frozen=True):
    """Where and when something was measured."""

    machine: dict[str, str]
    versions: dict[str, str]
    commit: str
    date: str
    quick: bool


class Section(Struct, frozen=True):
    """The outcome of one benchmark.

    `name` says which; a later run of the same name replaces it in a results file. `biases` are
    what speaks against taking the figures at their face value.
    """

    name: str
    title: str
    method: str
    biases: list[str]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    context: Context | None = None
    raw: dict[str, str] = field(default_factory=dict)
    """Histograms in the HdrHistogram V2 encoding, by run."""
