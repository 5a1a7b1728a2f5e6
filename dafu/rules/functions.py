"""The functions of the rule language: their arguments, their types, what they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, Final

import numpy as np
from msgspec import Struct

from dafu.rules import operations as ops
from dafu.rules.batch import Batch, Texts, is_missing
from dafu.rules.syntax import Call
from dafu.rules.typed import (
    Typed,
    align,
    as_number,
    as_text,
    as_verdict,
    convert,
    fail,
    operation,
    unify,
)
from dafu.rules.units import BARE, common

Arguments = Sequence[Typed]


class Function(Struct, frozen=True):
    """A function: how it is called, how many arguments it takes, what it means, how it is built."""

    signature: str
    minimum: int
    maximum: int
    doc: str
    build: Callable[[Call, Arguments], Typed]


def _numeric(kernel: Callable[[Any], Any], keeps_unit: bool) -> Callable[[Call, Arguments], Typed]:
    def build(call: Call, arguments: Arguments) -> Typed:
        x = as_number(arguments[0], call.function)
        run = x.run
        quantity = x.quantity if keeps_unit else BARE
        return operation(
            "call",
            call,
            "number",
            lambda b: kernel(run(b)),
            x,
            quantity=quantity,
            name=call.function,
            slow=kernel is ops.log,
        )

    return build


def _extreme(kernel: Callable[[Any, Any], Any]) -> Callable[[Call, Arguments], Typed]:
    def build(call: Call, arguments: Arguments) -> Typed:
        numbers = _aligned([as_number(a, call.function) for a in arguments], "together with")
        runs = [x.run for x in numbers]
        return operation(
            "call",
            call,
            "number",
            lambda b: reduce(kernel, [run(b) for run in runs]),
            *numbers,
            quantity=numbers[0].quantity,
            name=call.function,
        )

    return build


def _aligned(numbers: list[Typed], doing: str) -> list[Typed]:
    """All numbers in one unit that fits all of them."""
    lead = numbers[0]
    quantity = lead.quantity
    for x in numbers[1:]:
        fits = common(quantity, x.quantity)
        if fits is None:
            align(replace(lead, quantity=quantity), x, x, doing)
        elif fits != quantity:
            lead, quantity = x, fits
    return [convert(x, quantity) for x in numbers]


def _between(call: Call, arguments: Arguments) -> Typed:
    x, low, high = _aligned([as_number(a, call.function) for a in arguments], "compared with")

    def run(b: Batch) -> Any:
        value = x.run(b)
        return np.logical_and(
            np.greater_equal(value, low.run(b)), np.less_equal(value, high.run(b))
        )

    return operation("call", call, "verdict", run, x, low, high, name="between")


def _case(kernel: Callable[[str], str]) -> Callable[[Call, Arguments], Typed]:
    def build(call: Call, arguments: Arguments) -> Typed:
        x = as_text(arguments[0], call.function)

        def run(b: Batch) -> Texts:
            return [None if v is None else kernel(v) for v in x.run(b)]

        return operation("call", call, "text", run, x, name=call.function, slow=True)

    return build


def _text_test(kernel: Callable[[str, str], bool]) -> Callable[[Call, Arguments], Typed]:
    def build(call: Call, arguments: Arguments) -> Typed:
        text, part = (as_text(a, call.function) for a in arguments)

        def run(b: Batch) -> Any:
            pairs = zip(text.run(b), part.run(b), strict=True)
            return ops.verdicts(
                [v is not None and p is not None and kernel(v, p) for v, p in pairs]
            )

        return operation("call", call, "verdict", run, text, part, name=call.function, slow=True)

    return build


def _length(call: Call, arguments: Arguments) -> Typed:
    x = as_text(arguments[0], call.function)

    def run(b: Batch) -> Any:
        return np.array([np.nan if v is None else len(v) for v in x.run(b)], dtype=np.float64)

    return operation("call", call, "number", run, x, name="length", slow=True)


def _is_missing(call: Call, arguments: Arguments) -> Typed:
    x = arguments[0]
    if x.type == "verdict":
        fail("a condition is never missing", x, "ask is_missing of a field or feature")
    run: Callable[[Batch], Any]
    if x.type in ("number", "flag"):
        run = lambda b: np.logical_not(ops.known(x.run(b)))  # noqa: E731
    elif x.type == "text":
        run = lambda b: ops.verdicts([v is None for v in x.run(b)])  # noqa: E731
    else:
        run = lambda b: ops.verdicts([is_missing(v) for v in x.run(b)])  # noqa: E731
    slow = x.type in ("text", "dynamic")
    return operation("call", call, "verdict", run, x, name="is_missing", slow=slow)


def _coalesce(call: Call, arguments: Arguments) -> Typed:
    first, second, kind, quantity = unify(arguments[0], arguments[1], call.function)

    def numbers(b: Batch) -> Any:
        value = first.run(b)
        return np.where(ops.known(value), value, second.run(b))

    def texts(b: Batch) -> Texts:
        pairs = zip(first.run(b), second.run(b), strict=True)
        return [y if x is None else x for x, y in pairs]

    run: Callable[[Batch], Any] = texts if kind == "text" else numbers
    return operation("call", call, kind, run, first, second, quantity=quantity, name="coalesce")


def _if_else(call: Call, arguments: Arguments) -> Typed:
    test = as_verdict(arguments[0], call.function)
    yes, no, kind, quantity = unify(arguments[1], arguments[2], call.function)

    def numbers(b: Batch) -> Any:
        return np.where(test.run(b), yes.run(b), no.run(b))

    def texts(b: Batch) -> Texts:
        chosen = np.broadcast_to(test.run(b), b.n).tolist()
        return [x if t else y for t, x, y in zip(chosen, yes.run(b), no.run(b), strict=True)]

    run: Callable[[Batch], Any] = texts if kind == "text" else numbers
    return operation("call", call, kind, run, test, yes, no, quantity=quantity, name="if_else")


FUNCTIONS: Final[dict[str, Function]] = {
    "abs": Function("abs(x)", 1, 1, "magnitude of a number", _numeric(np.abs, True)),
    "min": Function("min(x, y, ...)", 2, 16, "smallest number", _extreme(np.minimum)),
    "max": Function("max(x, y, ...)", 2, 16, "largest number", _extreme(np.maximum)),
    "round": Function("round(x)", 1, 1, "nearest integer, ties to even", _numeric(np.rint, True)),
    "log": Function("log(x)", 1, 1, "natural logarithm", _numeric(ops.log, False)),
    "sqrt": Function("sqrt(x)", 1, 1, "square root", _numeric(np.sqrt, False)),
    "coalesce": Function("coalesce(x, default)", 2, 2, "x, or the default if missing", _coalesce),
    "is_missing": Function("is_missing(x)", 1, 1, "whether there is no value", _is_missing),
    "lower": Function("lower(text)", 1, 1, "text in lower case", _case(str.lower)),
    "upper": Function("upper(text)", 1, 1, "text in upper case", _case(str.upper)),
    "starts_with": Function(
        "starts_with(text, part)", 2, 2, "whether it begins so", _text_test(str.startswith)
    ),
    "ends_with": Function(
        "ends_with(text, part)", 2, 2, "whether it ends so", _text_test(str.endswith)
    ),
    "contains": Function(
        "contains(text, part)", 2, 2, "whether it holds the part", _text_test(str.__contains__)
    ),
    "length": Function("length(text)", 1, 1, "number of characters", _length),
    "between": Function("between(x, low, high)", 3, 3, "low <= x and x <= high", _between),
    "if_else": Function("if_else(condition, x, y)", 3, 3, "x if it holds, else y", _if_else),
}
