"""Why a condition holds, in words: its operands with the values of one transaction.

`amount 12,400 > 10,000 and user_count_1h 14 > 10`. Numbers are formatted the same on every
machine and locale. Knows checked expressions and a single row; knows no rules.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numpy as np

from dafu.rules.batch import Batch, is_missing
from dafu.rules.syntax import ListLiteral, Membership, Number, power, quote
from dafu.rules.typed import Typed
from dafu.rules.units import Quantity

MISSING: Final = "missing"

_MAX_TEXT: Final = 60
_MAX_ITEMS: Final = 5
_ALIKE: Final = 1e-4
"""Numbers farther apart than this fraction of the larger one differ within six digits."""


def format_number(value: float, quantity: Quantity | None = None) -> str:
    """A number for people: thousands separated, six significant digits of what is not whole.

    >>> format_number(12400.0), format_number(1234.5678), format_number(0.000123456789)
    ('12,400', '1,234.57', '0.000123457')
    """
    if math.isnan(value):
        return MISSING
    unit = quantity.label if quantity is not None else ""
    return _digits(value) + (unit if unit == "%" else f" {unit}" if unit else "")


@functools.lru_cache(maxsize=4096)
def _digits(value: float) -> str:
    size = abs(value)
    if math.isinf(value) or size >= 1e15 or 0.0 < size < 1e-6:
        return f"{value:.6g}"
    if value.is_integer():
        return f"{int(value):,}"
    places = max(2, 5 - math.floor(math.log10(size)))
    text = f"{value:,.{places}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def format_text(value: str) -> str:
    """A text in quotes, on one line, shortened, and safe to encode."""
    shown = value if len(value) <= _MAX_TEXT else value[: _MAX_TEXT - 3] + "..."
    return quote("".join(c if c.isprintable() else _escaped(c) for c in shown))


def _escaped(char: str) -> str:
    return char if char in "\n\t\r" else f"<U+{ord(char):04X}>"


def format_value(x: Typed, row: Batch) -> str:
    """The value of an expression on a one-row batch."""
    value = value_of(x, row)
    match x.type:
        case "verdict":
            return "true" if value else "false"
        case "number":
            return format_number(value, x.quantity)
        case "flag":
            return MISSING if math.isnan(value) else "true" if value == 1.0 else "false"
        case "text":
            return MISSING if value is None else format_text(value)
        case "dynamic":
            return _format_dynamic(value)


def _format_dynamic(value: object) -> str:
    if is_missing(value):
        return MISSING
    if isinstance(value, str):
        return format_text(value)
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    return format_number(float(value))  # type: ignore[arg-type]


def value_of(x: Typed, row: Batch) -> Any:
    """The Python value of an expression on a one-row batch."""
    value = x.run(row)
    if isinstance(value, list):
        return value[0]
    return value.item() if isinstance(value, (np.ndarray, np.generic)) else value


def describe(x: Typed, row: Batch) -> str:
    """Why a condition that holds on this row holds: of an `or`, only what is true.

    Parameters
    ----------
    x : Typed
        Of type "verdict".
    row : Batch
        One row.
    """
    return _why(x, row, True)[0]


def _why(x: Typed, row: Batch, holds: bool) -> tuple[str, str]:
    """The explanation of a condition known to hold or not, and what joins its parts if several."""
    if x.form in ("and", "or"):
        parts = list(x.operands)
        if (x.form == "or") == holds:
            parts = [o for o in parts if bool(value_of(o, row)) == holds]
        whys = [_why(o, row, holds) for o in parts]
        if len(whys) == 1:
            return whys[0]
        texts = [f"({text})" if join not in ("", x.form) else text for text, join in whys]
        return f" {x.form} ".join(texts), x.form
    if x.form == "not":
        text, join = _why(x.operands[0], row, not holds)
        simple = not join and x.operands[0].form == "call"
        return f"not {text}" if simple else f"not ({text})", ""
    return _with_values(x, row), ""


def _with_values(x: Typed, row: Batch) -> str:
    match x.form:
        case "constant":
            return _constant(x)
        case "truth":
            inner = x.operands[0]
            text = _with_values(inner, row)
            return text if inner.form == "name" else f"{text} is {format_value(inner, row)}"
        case "name":
            return f"{x.name} {format_value(x, row)}"
        case "negate":
            return f"-{_nested(x.operands[0], x, row)}"
        case "arithmetic":
            left, right = x.operands
            return f"{_nested(left, x, row)} {x.name} {_nested(right, x, row, 1)}"
        case "compare":
            left, right = x.operands
            return _precise(x, row) or f"{_side(left, row)} {x.name} {_side(right, row)}"
        case "member":
            return f"{_side(x.operands[0], row)} {x.name} {_choices(x)}"
        case "call":
            return f"{x.name}({', '.join(_with_values(o, row) for o in x.operands)})"
        case "and" | "or":
            return f" {x.form} ".join(_nested(o, x, row, 1) for o in x.operands)
        case "not":
            return f"not {_nested(x.operands[0], x, row)}"


def _nested(x: Typed, within: Typed, row: Batch, more: int = 0) -> str:
    text = _with_values(x, row)
    return f"({text})" if power(x.node) < power(within.node) + more else text


def _side(x: Typed, row: Batch) -> str:
    """An operand of a comparison; what is computed shows its result as well."""
    text = _with_values(x, row)
    if x.form in ("constant", "name") or x.type == "verdict":
        return text
    return f"{text} (= {format_value(x, row)})"


def _precise(x: Typed, row: Batch) -> str:
    """A comparison whose two numbers look alike when rounded, in full; else nothing."""
    left, right = x.operands
    if left.form != "name" or right.form != "constant" or left.type != "number":
        return ""
    a, b = value_of(left, row), value_of(right, row)
    if a == b or abs(a - b) > _ALIKE * max(abs(a), abs(b)):
        return ""
    if format_number(a) != format_number(b):
        return ""
    return f"{left.name} {a!r} {x.name} {b!r}"


def _constant(x: Typed) -> str:
    if isinstance(x.constant, bool):
        return "true" if x.constant else "false"
    if isinstance(x.constant, str):
        return format_text(x.constant)
    return format_number(float(x.constant or 0.0), x.quantity)


def _choices(x: Typed) -> str:
    node = x.node
    if not isinstance(node, Membership):
        return ""
    if not isinstance(node.choices, ListLiteral):
        return node.choices.name
    items = [
        _digits(i.value) + i.unit if isinstance(i, Number) else format_text(i.value)
        for i in node.choices.items[:_MAX_ITEMS]
    ]
    more = ["..."] if len(node.choices.items) > _MAX_ITEMS else []
    return f"[{', '.join(items + more)}]"
