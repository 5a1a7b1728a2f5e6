"""Checked expressions: a node of the syntax tree with its type, its unit and how to run it.

`Typed` is what the checker builds, the engine runs and the explanations walk. The coercions here
say which type can stand where. Nothing here knows rules or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NoReturn

import numpy as np

from dafu.rules import operations as ops
from dafu.rules.batch import Batch, as_flag, as_float
from dafu.rules.errors import RuleTypeError, RuleUnitError
from dafu.rules.syntax import Node, Span, unparse
from dafu.rules.units import BARE, PLAIN, Quantity, common, factor

Run = Callable[[Batch], Any]

Type = Literal["number", "text", "flag", "verdict", "dynamic"]
"""A `flag` is true, false or missing (a float 1, 0 or NaN); a `verdict` is true or false."""

Form = Literal[
    "constant", "name", "truth", "negate", "arithmetic", "compare", "member", "and", "or", "not",
    "call",
]  # fmt: skip

_CALLED: Final[dict[str, str]] = {
    "number": "a number",
    "text": "text",
    "flag": "true or false",
    "verdict": "a condition (true or false)",
    "dynamic": "an attribute",
}


@dataclass(frozen=True, slots=True)
class Typed:
    """A checked expression.

    Attributes
    ----------
    form : str
        What kind of expression, for those who show it.
    node : Node
        Where it came from.
    type : str
        What `run` returns: "number" and "flag" float64[n] with NaN for missing, "text" a list of
        str or None, "verdict" bool[n], "dynamic" a list of anything. Constants may be scalars.
    run : callable
        Evaluates it on a batch.
    operands : tuple of Typed
    quantity : Quantity
        What a number measures.
    constant : float or str or bool or None
        The value of a "constant".
    name : str
        Canonical column of a "name"; operator or function of the others.
    slow : bool
        Whether it runs Python code for each row; evaluated last, and only if it still matters.
    """

    form: Form
    node: Node
    type: Type
    run: Run
    operands: tuple[Typed, ...] = ()
    quantity: Quantity = PLAIN
    constant: float | str | bool | None = None
    name: str = ""
    slow: bool = False

    @property
    def span(self) -> Span:
        """Where it stands in the source."""
        return self.node.span


def called(x: Typed) -> str:
    """`amount is a number`, for messages."""
    if x.form == "name":
        return f"{x.name} is {_CALLED[x.type]}"
    text = unparse(x.node)
    return f"{text if len(text) <= 60 else text[:57] + '...'} is {_CALLED[x.type]}"


def fail(message: str, at: Typed, hint: str = "") -> NoReturn:
    """Raise a type error that points at an expression."""
    raise RuleTypeError(message, hint=hint, span=at.span)


def constant(node: Node, value: float | str | bool, quantity: Quantity = BARE) -> Typed:
    """A literal."""
    if isinstance(value, bool):
        verdict = np.bool_(value)
        return Typed("constant", node, "verdict", lambda _: verdict, constant=value)
    if isinstance(value, str):
        return Typed("constant", node, "text", lambda b: [value] * b.n, constant=value)
    number = np.float64(value)
    return Typed("constant", node, "number", lambda _: number, quantity=quantity, constant=value)


def is_truth(x: Typed) -> bool:
    """Whether it can stand where true or false is meant without being read as such."""
    return x.type in ("verdict", "flag")


def as_number(x: Typed, where: str) -> Typed:
    """Read an expression as a number; flags count 1 and 0.

    Raises
    ------
    RuleTypeError
        For texts and conditions; `where` completes "..., needed as".
    """
    if x.type == "number":
        return x
    if x.type == "flag":
        return replace(x, type="number")
    if x.type == "dynamic":
        run = x.run
        return replace(
            x,
            type="number",
            slow=True,
            run=lambda b: np.array([as_float(v) for v in run(b)], dtype=np.float64),
        )
    hint = "if_else(condition, 1, 0) makes a number of a condition" if x.type == "verdict" else ""
    fail(f"{called(x)}, {where} needs a number", x, hint)


def as_text(x: Typed, where: str) -> Typed:
    """Read an expression as text."""
    if x.type == "text":
        return x
    if x.type == "dynamic":
        run = x.run
        return replace(
            x,
            type="text",
            slow=True,
            run=lambda b: [v if isinstance(v, str) else None for v in run(b)],
        )
    fail(f"{called(x)}, {where} needs text", x)


def as_flag_value(x: Typed, where: str) -> Typed:
    """Read an expression as true, false or missing."""
    if x.type == "flag":
        return x
    run = x.run
    if x.type == "verdict":
        return replace(x, type="flag", run=lambda b: np.asarray(run(b), dtype=np.float64))
    if x.type == "dynamic":
        return replace(
            x,
            type="flag",
            slow=True,
            run=lambda b: np.array([as_flag(v) for v in run(b)], dtype=np.float64),
        )
    fail(f"{called(x)}, {where} needs true or false", x)


def as_verdict(x: Typed, where: str) -> Typed:
    """Read an expression as a condition; what is missing counts as false."""
    if x.type == "verdict":
        return x
    if x.type in ("number", "text"):
        example = "== ..." if x.type == "text" else "> ..."
        fail(f"{called(x)}, {where} needs a condition", x, f"compare it with something: {example}")
    flag = as_flag_value(x, where)
    run = flag.run
    return Typed(
        "truth", x.node, "verdict", lambda b: np.equal(run(b), 1.0), (flag,), slow=flag.slow
    )


def convert(x: Typed, target: Quantity) -> Typed:
    """The number in the unit of `target`; constants are converted once, exactly rounded."""
    by = factor(x.quantity, target)
    if by == 1:
        return replace(x, quantity=target)
    times = float(by)
    if x.form == "constant" and isinstance(x.constant, float):
        return constant(x.node, times_exactly(x.constant, x.quantity, target), target)
    run = x.run
    return replace(x, quantity=target, run=lambda b: np.multiply(run(b), times))


def times_exactly(value: float, source: Quantity, target: Quantity) -> float:
    """A constant in another unit, rounded once."""
    by = factor(source, target)
    try:
        numerator, denominator = value.as_integer_ratio()
        return (numerator * by.numerator) / (denominator * by.denominator)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def align(left: Typed, right: Typed, at: Typed, doing: str) -> tuple[Typed, Typed, Quantity]:
    """Bring two numbers to one unit.

    Raises
    ------
    RuleUnitError
        If their dimensions do not go together; points at `at`.
    """
    quantity = common(left.quantity, right.quantity)
    if quantity is None:
        raise RuleUnitError(
            f"{_measure(left, ' is')}, {doing} {_measure(right, ',')}",
            hint=_unit_hint(left, right),
            span=at.span,
        )
    return convert(left, quantity), convert(right, quantity), quantity


def _measure(x: Typed, link: str) -> str:
    text = x.name if x.form == "name" else unparse(x.node)
    if x.quantity == PLAIN and x.name.startswith("attributes."):
        return f"{text}{link} an attribute without a unit"
    return f"{text if len(text) <= 60 else text[:57] + '...'}{link} {x.quantity}"


def _unit_hint(left: Typed, right: Typed) -> str:
    for x, other in ((left, right), (right, left)):
        written = getattr(x.node, "unit", "")
        if written == "m" and other.quantity.dimension == (("time", 1),):
            return "'m' is metres; minutes are written 'min'"
        if written and not other.quantity.dimension:
            return "write a number without a unit"
    return "compare like with like; a number without a unit fits anything"


def operation(form: Form, node: Node, kind: Type, run: Run, *operands: Typed, **more: Any) -> Typed:
    """An expression over operands, slow if one of them is."""
    slow = bool(more.pop("slow", False)) or any(o.slow for o in operands)
    return Typed(form, node, kind, run, operands, slow=slow, **more)


def unify(a: Typed, b: Typed, where: str) -> tuple[Typed, Typed, Type, Quantity]:
    """Bring two alternatives (of `coalesce`, of `if_else`) to one type and unit."""
    if a.type == b.type == "dynamic":
        fail(
            f"{where} can not tell the type of {a.name or 'its operands'}",
            a,
            "give one alternative a known type: a number, text, true or false",
        )
    lead = b if a.type == "dynamic" else a
    if lead.type == "text":
        return as_text(a, where), as_text(b, where), "text", PLAIN
    if is_truth(lead) and "number" not in (a.type, b.type):
        return as_flag_value(a, where), as_flag_value(b, where), "flag", PLAIN
    x, y, quantity = align(as_number(a, where), as_number(b, where), b, "alternative")
    return x, y, "number", quantity


def compare(op: str, node: Node, left: Typed, right: Typed) -> Typed:
    """A comparison, checked and in one unit.

    Raises
    ------
    RuleTypeError
        For operands of different types, or an order of truth values.
    """
    if left.type == right.type == "dynamic":
        return _compare_dynamic(op, node, left, right)
    text = "text" in (left.type, right.type)
    truth = "verdict" in (left.type, right.type) or {left.type, right.type} <= {"flag", "dynamic"}
    allowed = {"text"} if text else {"verdict", "flag"} if truth else {"number", "flag"}
    if not {left.type, right.type} <= allowed | {"dynamic"}:
        swap = left.form == "constant" and right.form != "constant"
        x, other = (right, left) if swap else (left, right)
        raise RuleTypeError(
            f"{called(x)}, compared with {_CALLED[other.type]}",
            hint=_compare_hint(x, other),
            span=x.span,
        )
    if text:
        return _compare_texts(op, node, as_text(left, op), as_text(right, op))
    if truth:
        if op not in ("==", "!="):
            raise RuleTypeError(
                f"true and false have no order for {op!r}",
                hint="use == or !=",
                span=node.span,
            )
        a, b = as_flag_value(left, op), as_flag_value(right, op)
    else:
        a, b, _ = align(
            as_number(left, op), as_number(right, op), _blamed(left, right), "compared with"
        )
    test, f, g = ops.NUMBER_TESTS[op], a.run, b.run
    return operation(
        "compare", node, "verdict", lambda batch: test(f(batch), g(batch)), a, b, name=op
    )


def _blamed(left: Typed, right: Typed) -> Typed:
    """The operand that a unit error points at: the one written with a unit."""
    return left if left.quantity.explicit and not right.quantity.explicit else right


def _compare_hint(x: Typed, other: Typed) -> str:
    if x.type in ("number", "flag") and other.type == "text":
        value = other.constant
        if isinstance(value, str) and value.replace(".", "", 1).isdigit():
            return f"write the number without quotes: {value}"
        return "numbers are compared with numbers"
    if x.type == "text" and other.type == "number":
        return "put the value in quotes"
    return ""


def _compare_texts(op: str, node: Node, a: Typed, b: Typed) -> Typed:
    f, g = a.run, b.run

    def run(batch: Batch) -> Any:
        return ops.text_test(op, f(batch), g(batch))

    if isinstance(b.constant, str):
        fixed = b.constant

        def run(batch: Batch) -> Any:
            return ops.text_test_constant(op, f(batch), fixed)

    return operation("compare", node, "verdict", run, a, b, name=op, slow=True)


def _compare_dynamic(op: str, node: Node, a: Typed, b: Typed) -> Typed:
    f, g = a.run, b.run
    return operation(
        "compare",
        node,
        "verdict",
        lambda batch: ops.dynamic_test(op, f(batch), g(batch)),
        a,
        b,
        name=op,
        slow=True,
    )


# The order of evaluation changes no verdict: tests that loop over rows in Python run last, and
# only if some row still depends on them.


def all_of(operands: Sequence[Typed]) -> Run:
    """How a conjunction of verdicts runs."""
    first, *rest = [o.run for o in sorted(operands, key=lambda o: o.slow)]

    def run(b: Batch) -> Any:
        verdict = first(b)
        for other in rest:
            if not np.count_nonzero(verdict):
                break
            verdict = np.logical_and(verdict, other(b))
        return verdict

    return run


def any_of(operands: Sequence[Typed]) -> Run:
    """How a disjunction of verdicts runs."""
    first, *rest = sorted(operands, key=lambda o: o.slow)

    def run(b: Batch) -> Any:
        verdict = first.run(b)
        for other in rest:
            if other.slow and np.all(verdict):
                break
            verdict = np.logical_or(verdict, other.run(b))
        return verdict

    return run
