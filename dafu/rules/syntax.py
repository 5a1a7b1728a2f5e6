"""The syntax tree of a condition, and its canonical text.

Nodes compare equal when they say the same thing: their position in the source does not count.
Knows nothing of names, types or values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Number:
    """A number with its unit as written; "" without one."""

    value: float
    unit: str = ""
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted string."""

    value: str
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Boolean:
    """`true` or `false`."""

    value: bool
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Reference:
    """A name: a field, a feature, an alias, `attributes.x`, or behind `in` a named list."""

    name: str
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class ListLiteral:
    """Constants in brackets."""

    items: tuple[Number | Text, ...]
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Negate:
    """`-operand`."""

    operand: Node
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`left op right` with one of + - * / %."""

    op: str
    left: Node
    right: Node
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Compare:
    """`left op right` with one of == != < <= > >=."""

    op: str
    left: Node
    right: Node
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Membership:
    """`item in choices`, or `item not in choices` when negated."""

    item: Node
    choices: ListLiteral | Reference
    negated: bool
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Logical:
    """Two or more operands joined by `and`, or by `or`; chains are one node."""

    op: str
    operands: tuple[Node, ...]
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Not:
    """`not operand`."""

    operand: Node
    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Call:
    """`function(arguments)`."""

    function: str
    arguments: tuple[Node, ...]
    span: Span = field(compare=False, default=(0, 0))


Node = (
    Number
    | Text
    | Boolean
    | Reference
    | ListLiteral
    | Negate
    | Arithmetic
    | Compare
    | Membership
    | Logical
    | Not
    | Call
)

OR, AND, NOT, COMPARISON, SUM, TERM, UNARY, ATOM = 10, 20, 30, 40, 50, 60, 70, 80
"""Binding powers, loosest first."""

POWER: Final = {
    "or": OR,
    "and": AND,
    "==": COMPARISON,
    "!=": COMPARISON,
    "<": COMPARISON,
    "<=": COMPARISON,
    ">": COMPARISON,
    ">=": COMPARISON,
    "in": COMPARISON,
    "not in": COMPARISON,
    "+": SUM,
    "-": SUM,
    "*": TERM,
    "/": TERM,
    "%": TERM,
}

_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def children(node: Node) -> Iterator[Node]:
    """The direct operands of a node, left to right."""
    match node:
        case Negate() | Not():
            yield node.operand
        case Arithmetic() | Compare():
            yield node.left
            yield node.right
        case Membership():
            yield node.item
            yield node.choices
        case Logical():
            yield from node.operands
        case Call():
            yield from node.arguments
        case ListLiteral():
            yield from node.items
        case _:
            return


def quote(text: str) -> str:
    """A string literal that reads back as `text`."""
    return '"' + "".join(_ESCAPES.get(c, c) for c in text) + '"'


def number_text(value: float) -> str:
    """The shortest literal that reads back as `value`."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def power(node: Node) -> int:
    """How tightly a node binds, to know where parentheses are needed."""
    match node:
        case Logical():
            return OR if node.op == "or" else AND
        case Not():
            return NOT
        case Compare() | Membership():
            return COMPARISON
        case Arithmetic():
            return POWER[node.op]
        case Negate():
            return UNARY
        case _:
            return ATOM


def unparse(node: Node, resolve: Callable[[str], str] = lambda name: name) -> str:
    """Canonical text of a tree: parsing it gives an equal tree.

    Parameters
    ----------
    node : Node
    resolve : callable, optional
        Maps the names as written to those to print, such as aliases to what they stand for.
    """

    def wrap(child: Node, minimum: int) -> str:
        text = unparse(child, resolve)
        return f"({text})" if power(child) < minimum else text

    match node:
        case Number():
            return number_text(node.value) + node.unit
        case Text():
            return quote(node.value)
        case Boolean():
            return "true" if node.value else "false"
        case Reference():
            return resolve(node.name)
        case ListLiteral():
            return "[" + ", ".join(unparse(i) for i in node.items) + "]"
        case Negate():
            return "-" + wrap(node.operand, UNARY)
        case Arithmetic():
            level = POWER[node.op]
            return f"{wrap(node.left, level)} {node.op} {wrap(node.right, level + 1)}"
        case Compare():
            return f"{wrap(node.left, SUM)} {node.op} {wrap(node.right, SUM)}"
        case Membership():
            word = "not in" if node.negated else "in"
            return f"{wrap(node.item, SUM)} {word} {unparse(node.choices, resolve)}"
        case Logical():
            return f" {node.op} ".join(wrap(o, power(node) + 1) for o in node.operands)
        case Not():
            return f"not {wrap(node.operand, NOT)}"
        case Call():
            return f"{node.function}({', '.join(unparse(a, resolve) for a in node.arguments)})"
