"""Charts as SVG, each with a title, a description in words and its figures for a table beside it.

Pure: the same figures give the same text. Colours are classes of the console's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from markupsafe import Markup, escape

__all__ = ["Chart", "Line", "Stack", "bars", "lines", "stacked"]

_WIDTH: Final = 640.0
_HEIGHT: Final = 220.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 8.0, 10.0, 26.0
_TICKS: Final = 4
_LABELS: Final = 5
_MAX: Final = 1e15

Value = float | None


class Line(NamedTuple):
    """A line: what it is called, its class (``stroke-...``), a value for each label or None."""

    name: str
    style: str
    values: Sequence[Value]


class Stack(NamedTuple):
    """A layer of stacked bars: what it is called, its class (``fill-...``), values from 0 on."""

    name: str
    style: str
    values: Sequence[float]


class Chart(NamedTuple):
    """A chart to be put into a page.

    Attributes
    ----------
    ident : str
        Unique in its page.
    title, unit, description : str
    svg : Markup
    head : list of str
        Of the table with the same figures: what labels are, then a column each.
    rows : list of (str, list of str)
        Of the table.
    legend : list of (str, str)
        Names and classes, where there is more than one.
    """

    ident: str
    title: str
    unit: str
    description: str
    svg: Markup
    head: list[str]
    rows: list[tuple[str, list[str]]]
    legend: list[tuple[str, str]]


def lines(ident: str, title: str, unit: str, labels: Sequence[str], drawn: Sequence[Line]) -> Chart:
    """Lines over labels that are equally far apart; where a value is missing a line is broken."""
    top = _ceiling(max((_bounded(v) for line in drawn for v in line.values), default=0.0))
    parts = [_path(line, top) for line in drawn]
    columns = [list(line.values) for line in drawn]
    names = [(line.name, line.style) for line in drawn]
    return _chart(ident, title, unit, labels, parts, top, columns, names)


def stacked(
    ident: str, title: str, unit: str, labels: Sequence[str], layers: Sequence[Stack]
) -> Chart:
    """Bars of layers on top of each other."""
    count = len(labels)
    sums = [math.fsum(_bounded(layer.values[i]) for layer in layers) for i in range(count)]
    top = _ceiling(max(sums, default=0.0))
    base = [0.0] * count
    step = (_WIDTH - _LEFT - _RIGHT) / max(count, 1)
    parts = []
    for layer in layers:
        corners = []
        for i, value in enumerate(layer.values):
            high = _bounded(value)
            if high > 0.0:
                y, below = _y(base[i] + high, top), _y(base[i], top)
                x = _LEFT + i * step + step * 0.1
                corners.append(f"M{x:.1f} {below:.1f}V{y:.1f}h{step * 0.8:.1f}V{below:.1f}z")
            base[i] += high
        parts.append(f'<path class="{escape(layer.style)}" d="{"".join(corners)}"/>')
    columns: list[list[Value]] = [list(layer.values) for layer in layers]
    names = [(layer.name, layer.style) for layer in layers]
    return _chart(ident, title, unit, labels, parts, top, columns, names)


def bars(
    ident: str, title: str, unit: str, labels: Sequence[str], values: Sequence[float], style: str
) -> Chart:
    """Bars of one kind."""
    return stacked(ident, title, unit, labels, [Stack(unit, style, values)])


def _chart(
    ident: str,
    title: str,
    unit: str,
    labels: Sequence[str],
    parts: Sequence[str],
    top: float,
    columns: Sequence[Sequence[Value]],
    names: Sequence[tuple[str, str]],
) -> Chart:
    description = _description(unit, labels, columns, names)
    svg = (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-labelledby="{ident}-title {ident}-desc">'
        f'<title id="{ident}-title">{escape(title)}</title>'
        f'<desc id="{ident}-desc">{escape(description)}</desc>'
        f"{_axes(labels, top)}{''.join(parts)}</svg>"
    )
    rows = [(label, [_told(column[i]) for column in columns]) for i, label in enumerate(labels)]
    legend = list(names) if len(names) > 1 else []
    head = ["", *(name for name, _ in names)]
    return Chart(ident, title, unit, description, Markup(svg), head, rows, legend)  # noqa: S704


def _axes(labels: Sequence[str], top: float) -> str:
    found = []
    for tick in range(_TICKS + 1):
        value = top * tick / _TICKS
        y = _y(value, top)
        found.append(
            f'<path class="{"axis" if tick == 0 else "grid"}" '
            f'd="M{_LEFT:g} {y:.1f}H{_WIDTH - _RIGHT:g}"/>'
            f'<text class="end" x="{_LEFT - 6:g}" y="{y + 4:.1f}">{_told(value)}</text>'
        )
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    every = max(1, math.ceil(len(labels) / _LABELS))
    for i in range(0, len(labels), every):
        x = _LEFT + (i + 0.5) * step
        found.append(
            f'<text class="centre" x="{x:.1f}" y="{_HEIGHT - 8:g}">{escape(labels[i])}</text>'
        )
    return "".join(found)


def _path(line: Line, top: float) -> str:
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(line.values), 1)
    moves, pen = [], "M"
    for i, value in enumerate(line.values):
        if value is None or not math.isfinite(value):
            pen = "M"
            continue
        moves.append(f"{pen}{_LEFT + (i + 0.5) * step:.1f} {_y(_bounded(value), top):.1f}")
        if pen == "M":
            moves.append("h0.1")  # a value between two missing ones is a dot
        pen = "L"
    return f'<path class="line {escape(line.style)}" d="{"".join(moves)}"/>'


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top


def _bounded(value: Value) -> float:
    """What can be drawn: from 0 on, and finite."""
    return min(max(value, 0.0), _MAX) if value is not None and math.isfinite(value) else 0.0


def _ceiling(value: float) -> float:
    """A round number at or above a value, above 0.

    Examples
    --------
    >>> _ceiling(437.0), _ceiling(0.03), _ceiling(0.0)
    (500.0, 0.04, 1.0)
    """
    if value <= 0.0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    if unit == 0.0:
        return 1.0  # next to nothing
    for round_one in (1.0, 2.0, 4.0, 5.0, 8.0):
        if value <= round_one * unit:
            return round_one * unit
    return 10.0 * unit


def _told(value: Value) -> str:
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    if value == 0.0 or abs(value) >= 100.0 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.3g}"


def _description(
    unit: str,
    labels: Sequence[str],
    columns: Sequence[Sequence[Value]],
    names: Sequence[tuple[str, str]],
) -> str:
    if not labels:
        return "There are no figures yet."
    told = []
    for (name, _), column in zip(names, columns, strict=True):
        known = [v for v in column if v is not None and math.isfinite(v)]
        if known:
            told.append(
                f"{name}: from {_told(min(known))} to {_told(max(known))}, "
                f"{_told(known[-1])} in the end"
            )
    span = f"From {labels[0]} to {labels[-1]}, {unit}. "
    return span + ("; ".join(told) + "." if told else "There are no figures yet.")
