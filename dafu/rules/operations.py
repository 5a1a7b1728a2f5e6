"""The arithmetic and the tests of the language on whole batches.

Numbers are float64 arrays (or a float for a constant), texts are lists of str or None, verdicts
are bool arrays. The rules about missing values live here: a test of a missing operand is false,
arithmetic with one is missing, and so is a division by zero. Every function is elementwise, total
under `np.errstate(all="ignore")` and gives a row the same bits whatever batch the row is in.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from dafu.rules.batch import Texts, as_float

Numbers = Any
"""A float64 array, or a scalar where everything is constant."""

Verdicts = Any
"""A bool array, or a scalar where everything is constant."""

FEW: Final = 8
"""Up to this many numbers of a list are compared one by one instead of sorted."""


def not_equal(a: Numbers, b: Numbers) -> Verdicts:
    """`a != b`, false where either is missing."""
    different = np.not_equal(a, b)
    return np.logical_and(different, np.logical_and(np.equal(a, a), np.equal(b, b)))


NUMBER_TESTS: Final[dict[str, Callable[[Numbers, Numbers], Verdicts]]] = {
    "==": np.equal,
    "!=": not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}

VALUE_TESTS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def divide(a: Numbers, b: Numbers) -> Numbers:
    """`a / b`, missing where b is 0."""
    return np.where(np.equal(b, 0.0), np.nan, np.divide(a, b))


def remainder(a: Numbers, b: Numbers) -> Numbers:
    """`a % b` with the sign of b, missing where b is 0."""
    return np.where(np.equal(b, 0.0), np.nan, np.mod(a, b))


ARITHMETIC: Final[dict[str, Callable[[Numbers, Numbers], Numbers]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": divide,
    "%": remainder,
}


def log(a: Numbers) -> Numbers:
    """Natural logarithm; missing for 0 and below.

    By the C library row by row: NumPy's vectorised logarithm may differ in the last bit between
    the body and the tail of an array, which would make a decision depend on the batch.
    """
    array = np.asarray(a, dtype=np.float64)
    values = [math.log(v) if v > 0.0 else math.nan for v in array.ravel().tolist()]
    return np.array(values, dtype=np.float64).reshape(array.shape)


def known(a: Numbers) -> Verdicts:
    """Where a number is not missing."""
    return np.equal(a, a)


def verdicts(values: list[bool]) -> Verdicts:
    """A bool array of Python truth values."""
    return np.array(values, dtype=np.bool_)


def text_test(op: str, a: Texts, b: Texts) -> Verdicts:
    """A comparison of texts by code points, false where either is missing."""
    test = VALUE_TESTS[op]
    return verdicts(
        [x is not None and y is not None and test(x, y) for x, y in zip(a, b, strict=True)]
    )


def text_test_constant(op: str, a: Texts, b: str) -> Verdicts:
    """`text_test` against a constant."""
    if op == "==":
        return verdicts([x == b for x in a])
    if op == "!=":
        return verdicts([x is not None and x != b for x in a])
    test = VALUE_TESTS[op]
    return verdicts([x is not None and test(x, b) for x in a])


def dynamic_test(op: str, a: list[Any], b: list[Any]) -> Verdicts:
    """A comparison of attributes: true only for two numbers, two texts, or two truth values.

    Truth values are only equal or not; an order between them is false.
    """
    test = VALUE_TESTS[op]

    def holds(x: object, y: object) -> bool:
        if isinstance(x, str) and isinstance(y, str):
            return test(x, y)
        if isinstance(x, (bool, np.bool_)) and isinstance(y, (bool, np.bool_)):
            return op in ("==", "!=") and test(bool(x), bool(y))
        p, q = as_float(x), as_float(y)
        return not math.isnan(p) and not math.isnan(q) and test(p, q)

    return verdicts([holds(x, y) for x, y in zip(a, b, strict=True)])


def text_in(a: Texts, choices: frozenset[str], negated: bool) -> Verdicts:
    """Membership of texts, false where missing (negated or not)."""
    if negated:
        return verdicts([x is not None and x not in choices for x in a])
    return verdicts([x in choices for x in a]) if choices else np.False_


def number_in(choices: list[float], negated: bool) -> Callable[[Numbers], Verdicts]:
    """A membership test of numbers, false where missing (negated or not)."""
    ordered = np.array(sorted(set(choices)), dtype=np.float64)

    def among(a: Numbers) -> Verdicts:
        if len(ordered) > FEW:
            return np.isin(a, ordered)
        found = np.zeros(np.shape(a), dtype=np.bool_)
        for choice in ordered:
            found = np.logical_or(found, np.equal(a, choice))
        return found

    if not negated:
        return among
    return lambda a: np.logical_and(known(a), np.logical_not(among(a)))
