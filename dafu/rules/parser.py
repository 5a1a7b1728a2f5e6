"""From tokens to the syntax tree: a Pratt parser (V. Pratt, POPL 1973).

Total on any text: it returns a tree or raises `RuleSyntaxError`. Nesting is bounded, so that
neither this parser nor anything that walks its trees can exhaust the stack.
"""

from __future__ import annotations

from typing import Final, NoReturn

from dafu.rules.errors import RuleSyntaxError
from dafu.rules.lexer import Token, tokenize
from dafu.rules.syntax import (
    COMPARISON,
    NOT,
    OR,
    POWER,
    UNARY,
    Arithmetic,
    Boolean,
    Call,
    Compare,
    ListLiteral,
    Logical,
    Membership,
    Negate,
    Node,
    Not,
    Number,
    Reference,
    Span,
    Text,
    children,
)

MAX_DEPTH: Final = 50
"""Levels of parentheses, calls, prefixes and chained arithmetic in a condition."""


def parse(source: str) -> Node:
    """Parse a condition.

    Raises
    ------
    RuleSyntaxError
        If the text is not an expression, is too long or too deeply nested.
    """
    return _Parser(source).parse()


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = tokenize(source)
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        if self._peek.kind == "end":
            self._fail("the condition is empty", (0, 1), "for example: amount > 10_000")
        node = self._expression(0)
        token = self._peek
        if token.kind != "end":
            self._unexpected(token)
        self._check_depth(node)
        return node

    @property
    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _is(self, *values: str) -> bool:
        token = self._peek
        return token.kind in ("op", "keyword") and token.value in values

    def _fail(self, message: str, span: Span, hint: str = "") -> NoReturn:
        raise RuleSyntaxError(message, hint=hint, expression=self._source, span=span)

    def _unexpected(self, token: Token) -> NoReturn:
        hint = ""
        previous = self._tokens[self._at - 1] if self._at else None
        following = self._tokens[min(self._at + 1, len(self._tokens) - 1)]
        if token.value == "," and previous and previous.kind == following.kind == "number":
            hint = "thousands are written with an underscore: 10_000"
        elif token.kind == "name" and token.value.lower() in POWER:
            hint = f"write {token.value.lower()!r} or {token.value.upper()!r}"
        elif token.kind in ("name", "number", "text") and previous is not None:
            hint = "an operator is missing here: and, or, ==, >, in, ..."
        self._fail(f"did not expect {_shown(token)} here", token.span, hint)

    def _expect(self, value: str, opened: Token) -> Token:
        if not self._is(value):
            self._fail(
                f"expected {value!r}, found {_shown(self._peek)}",
                self._peek.span,
                f"{opened.value!r} was opened in column {opened.span[0] + 1}",
            )
        return self._next()

    def _expression(self, minimum: int) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._too_deep(self._peek.span)
        left = self._prefix()
        while (operator := self._operator()) is not None and POWER[operator] >= minimum:
            left = self._infix(left, operator)
        self._depth -= 1
        return left

    def _operator(self) -> str | None:
        token = self._peek
        if token.kind not in ("op", "keyword"):
            return None
        if token.value == "not":
            following = self._tokens[self._at + 1]
            is_in = following.kind == "keyword" and following.value == "in"
            return "not in" if is_in else None
        return token.value if token.value in POWER else None

    def _infix(self, left: Node, operator: str) -> Node:
        token = self._next()
        if operator in ("and", "or"):
            operands = [left, self._expression(POWER[operator] + 1)]
            while self._is(operator):
                self._next()
                operands.append(self._expression(POWER[operator] + 1))
            return Logical(operator, tuple(operands), _from_to(left, operands[-1]))
        if operator in ("in", "not in"):
            if operator == "not in":
                self._next()
            choices = self._choices()
            node: Node = Membership(left, choices, operator == "not in", _from_to(left, choices))
            self._not_chained()
            return node
        right = self._expression(POWER[operator] + 1)
        span = _from_to(left, right)
        if POWER[operator] != COMPARISON:
            return Arithmetic(operator, left, right, span)
        node = Compare(operator, left, right, (token.span[0], token.span[1]))
        self._not_chained()
        return node

    def _not_chained(self) -> None:
        operator = self._operator()
        if operator is not None and POWER[operator] == COMPARISON:
            self._fail(
                "comparisons can not be chained",
                self._peek.span,
                "write between(x, low, high), or join two comparisons with 'and'",
            )

    def _choices(self) -> ListLiteral | Reference:
        token = self._next()
        if token.kind == "name":
            return Reference(token.value, token.span)
        if token.kind == "op" and token.value == "[":
            return self._list(token)
        return self._fail(
            f"'in' needs a list, found {_shown(token)}",
            token.span,
            'write [1, 2, 3], ["a", "b"] or the name of a list of the rule file',
        )

    def _list(self, opened: Token) -> ListLiteral:
        items: list[Number | Text] = []
        while not self._is("]"):
            negative = self._is("-") and self._next().value == "-"
            token = self._next()
            if token.kind == "number":
                value = -token.number if negative else token.number
                items.append(Number(value, token.unit, token.span))
            elif token.kind == "text" and not negative:
                items.append(Text(token.value, token.span))
            else:
                hint = "lists hold numbers or quoted strings, separated by commas"
                self._fail(f"a list can not hold {_shown(token)}", token.span, hint)
            if not self._is(","):
                break
            self._next()
        closed = self._expect("]", opened)
        return ListLiteral(tuple(items), (opened.span[0], closed.span[1]))

    def _prefix(self) -> Node:
        token = self._next()
        if token.kind == "number":
            return Number(token.number, token.unit, token.span)
        if token.kind == "text":
            return Text(token.value, token.span)
        if token.kind == "name":
            return self._call(token) if self._is("(") else Reference(token.value, token.span)
        match token.value:
            case "true" | "false" if token.kind == "keyword":
                return Boolean(token.value == "true", token.span)
            case "not" if token.kind == "keyword":
                operand = self._expression(NOT)
                return Not(operand, (token.span[0], _end(operand)))
            case "-":
                operand = self._expression(UNARY)
                return Negate(operand, (token.span[0], _end(operand)))
            case "(":
                inner = self._expression(OR)
                self._expect(")", token)
                return inner
            case "[":
                return self._list(token)
            case _:
                hint = "the condition ends too early" if token.kind == "end" else ""
                return self._fail(f"expected a value, found {_shown(token)}", token.span, hint)

    def _call(self, name: Token) -> Call:
        opened = self._next()
        arguments: list[Node] = []
        while not self._is(")"):
            arguments.append(self._expression(OR))
            if not self._is(","):
                break
            self._next()
        closed = self._expect(")", opened)
        return Call(name.value, tuple(arguments), (name.span[0], closed.span[1]))

    def _too_deep(self, span: Span) -> NoReturn:
        hint = "split the rule in two, or name the parts by rules of their own"
        self._fail(f"the condition is nested more than {MAX_DEPTH} levels deep", span, hint)

    def _check_depth(self, root: Node) -> None:
        """Chains such as 1+1+1+... recurse to the left without nesting; bound these as well."""
        pending = [(root, 1)]
        while pending:
            node, depth = pending.pop()
            if depth > 2 * MAX_DEPTH:
                self._too_deep(node.span)
            pending.extend((child, depth + 1) for child in children(node))


def _shown(token: Token) -> str:
    if token.kind == "end":
        return "the end of the condition"
    return f"the string {token.value[:40]!r}" if token.kind == "text" else repr(token.value[:40])


def _end(node: Node) -> int:
    return node.span[1]


def _from_to(left: Node, right: Node) -> Span:
    return (min(left.span[0], right.span[0]), right.span[1])
