"""An independent reading of the rule language: one row at a time, plain Python, None for missing.

It shares the syntax tree with the product and nothing else: no compiler, no units module, no NumPy.
"""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any

from dafu.rules import syntax as ast

_UNIT = {"km": "1000", "m": "1", "mi": "1609.344", "s": "1", "min": "60", "h": "3600", "d": "86400"}
_COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COLUMN_UNIT = {"km_from_home": "km", "seconds_since_last": "s", "account_age_days": "d"}


def truth(node: ast.Node, row: dict[str, Any]) -> bool:
    value = evaluate(node, row)
    return value is True or (isinstance(value, float) and value == 1.0)


def evaluate(node: ast.Node, row: dict[str, Any]) -> Any:
    match node:
        case ast.Number() | ast.Text() | ast.Boolean():
            return node.value
        case ast.Reference():
            value = row.get(node.name)
            if isinstance(value, int) and not isinstance(value, bool):
                return float(value)
            return None if isinstance(value, float) and math.isnan(value) else value
        case ast.Negate():
            return _number(lambda x: -x, evaluate(node.operand, row))
        case ast.Arithmetic():
            return _arithmetic(node.op, evaluate(node.left, row), evaluate(node.right, row))
        case ast.Compare():
            return _compare(node, row)
        case ast.Membership():
            item = evaluate(node.item, row)
            assert isinstance(node.choices, ast.ListLiteral)
            values = [i.value for i in node.choices.items]
            if item is None:
                return False
            return (item in values) != node.negated
        case ast.Logical():
            verdicts = [truth(o, row) for o in node.operands]
            return all(verdicts) if node.op == "and" else any(verdicts)
        case ast.Not():
            return not truth(node.operand, row)
        case ast.Call():
            return _call(node, row)
    raise AssertionError(node)


def _number(kernel: Any, *values: Any) -> float | None:
    if any(v is None for v in values):
        return None
    result = float(kernel(*values))
    return None if math.isnan(result) else result


def _arithmetic(op: str, a: Any, b: Any) -> float | None:
    if a is None or b is None or (op in "/%" and b == 0):
        return None
    if op == "%" and math.isinf(a):
        return None
    kernels = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    return _number({**kernels, "%": operator.mod}[op], a, b)


def _compare(node: ast.Compare, row: dict[str, Any]) -> bool:
    a, b = evaluate(node.left, row), evaluate(node.right, row)
    if isinstance(node.right, ast.Number) and node.right.unit and b is not None:
        assert isinstance(node.left, ast.Reference)
        written, wanted = node.right.unit, _COLUMN_UNIT[node.left.name]
        b = float(Fraction(b) * Fraction(_UNIT[written]) / Fraction(_UNIT[wanted]))
    if a is None or b is None:
        return False
    if isinstance(a, bool) != isinstance(b, bool):
        a, b = _as_bool(a), _as_bool(b)
        if a is None or b is None:
            return False
    if isinstance(a, str) != isinstance(b, str):
        return False
    return bool(_COMPARE[node.op](a, b))


def _as_bool(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return bool(value) if value in (0.0, 1.0) else None


def _call(node: ast.Call, row: dict[str, Any]) -> Any:
    if node.function == "if_else":
        test, yes, no = node.arguments
        return evaluate(yes if truth(test, row) else no, row)
    values = [evaluate(a, row) for a in node.arguments]
    x = values[0]
    match node.function:
        case "is_missing":
            return x is None
        case "coalesce":
            return values[1] if x is None else x
        case "abs":
            return _number(abs, x)
        case "round":
            return None if x is None else x if math.isinf(x) else float(round(x))
        case "min":
            return _number(min, *values)
        case "max":
            return _number(max, *values)
        case "sqrt":
            return None if x is None or x < 0 else math.sqrt(x)
        case "log":
            return None if x is None or x <= 0 else math.log(x)
        case "between":
            return None not in values and values[1] <= x <= values[2]
        case "length":
            return None if x is None else float(len(x))
        case "lower":
            return None if x is None else x.lower()
        case "upper":
            return None if x is None else x.upper()
        case "starts_with":
            return None not in values and x.startswith(values[1])
        case "ends_with":
            return None not in values and x.endswith(values[1])
        case "contains":
            return None not in values and values[1] in x
    raise AssertionError(node.function)
