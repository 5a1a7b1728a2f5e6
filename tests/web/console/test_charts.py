"""Charts: what is drawn is finite and within the picture, and told in words and in a table."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.web.console.charts import Chart, Line, Stack, bars, lines, stacked

VALUES = st.one_of(
    st.none(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(0, 10**9).map(float),
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?|nan|inf")


def drawn(chart: Chart) -> list[tuple[float, float]]:
    """Where each move of each path ends, from its letters."""
    points = []
    root = ET.fromstring(str(chart.svg))
    for path in root.iter("path"):
        x = y = 0.0
        for letter, numbers in re.findall(r"([MLHVhz])([^MLHVhz]*)", path.get("d", "")):
            found = [float(n) for n in NUMBER.findall(numbers)]
            if letter in "ML":
                x, y = found
            elif letter == "H":
                (x,) = found
            elif letter == "V":
                (y,) = found
            elif letter == "h":
                x += found[0]
            points.append((x, y))
    return points


def check(chart: Chart) -> None:
    root = ET.fromstring(str(chart.svg))
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for x, y in drawn(chart):
        assert math.isfinite(x) and math.isfinite(y)
        assert -0.1 <= x <= width + 0.2
        assert -0.1 <= y <= height + 0.1
    title, described = root.get("aria-labelledby", "").split()
    assert root.find(f"title[@id='{title}']") is not None
    found = root.find(f"desc[@id='{described}']")
    assert found is not None and found.text == chart.description


@given(st.lists(st.tuples(VALUES, VALUES), max_size=70))
def test_lines_stay_within_the_picture(values: list[tuple[float | None, float | None]]) -> None:
    labels = [str(i) for i in range(len(values))]
    drawn_lines = [Line(n, "s", [v[k] for v in values]) for k, n in enumerate(("a", "b"))]
    chart = lines("c", "Title", "unit", labels, drawn_lines)
    check(chart)
    assert [label for label, _ in chart.rows] == labels
    assert all(len(cells) == 2 for _, cells in chart.rows)


@given(st.lists(st.tuples(*[st.floats(0, 1e300)] * 3), max_size=70))
def test_bars_stay_within_the_picture(values: list[tuple[float, float, float]]) -> None:
    layers = [Stack(str(k), "s", [v[k] for v in values]) for k in range(3)]
    check(stacked("c", "Title", "unit", [str(i) for i in range(len(values))], layers))


def test_bars_are_as_high_as_their_values() -> None:
    layers = [Stack("a", "fill-a", [1.0, 2.0]), Stack("b", "fill-b", [3.0, 0.0])]
    chart = stacked("c", "T", "u", ["x", "y"], layers)
    root = ET.fromstring(str(chart.svg))
    paths = {p.get("class"): p.get("d", "") for p in root.iter("path")}
    heights = {}
    for name in ("fill-a", "fill-b"):
        bars_of = re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)h", paths[name])
        heights[name] = [float(below) - float(above) for below, above in bars_of]
    unit = heights["fill-a"][0]
    assert heights["fill-a"] == pytest.approx([unit, 2 * unit], abs=0.2)
    assert heights["fill-b"] == pytest.approx([3 * unit], abs=0.2), "nothing is drawn for nothing"


def test_a_missing_value_breaks_the_line() -> None:
    chart = lines("c", "T", "u", list("abcd"), [Line("p", "stroke-p", [1.0, None, 2.0, 3.0])])
    (path,) = (
        p for p in ET.fromstring(str(chart.svg)).iter("path") if "stroke-p" in p.get("class", "")
    )
    assert path.get("d", "").count("M") == 2
    assert path.get("d", "").count("L") == 1
    assert chart.rows[1] == ("b", ["\N{EN DASH}"])


def test_it_is_told_in_words() -> None:
    chart = lines("c", "Latency", "ms", ["10:00", "10:01"], [Line("p50", "s", [3.0, 5.0])])
    assert chart.description == "From 10:00 to 10:01, ms. p50: from 3 to 5, 5 in the end."
    assert lines("c", "T", "u", [], []).description == "There are no figures yet."


def test_text_is_escaped() -> None:
    chart = bars("c", "<script>", 'a"b<', ["<b>"], [1.0], "s")
    assert "<script>" not in chart.svg
    assert "<b>" not in chart.svg
    ET.fromstring(str(chart.svg))
