"""From a condition's text to something that runs: names, types and units are settled here.

What passes this module can be evaluated on any batch without an error. It knows the language and
the names it is given; it knows neither rules, nor files, nor what a hit leads to.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from dafu.rules import operations as ops
from dafu.rules.batch import Batch
from dafu.rules.errors import RuleError, RuleNameError, RuleSyntaxError, RuleTypeError
from dafu.rules.functions import FUNCTIONS
from dafu.rules.lexer import KEYWORDS
from dafu.rules.model import Name
from dafu.rules.parser import parse
from dafu.rules.syntax import (
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
    Text,
    unparse,
)
from dafu.rules.typed import (
    Typed,
    align,
    all_of,
    any_of,
    as_number,
    as_text,
    as_verdict,
    called,
    compare,
    constant,
    convert,
    operation,
    times_exactly,
)
from dafu.rules.units import BARE, common, literal_quantity, product, quantity_of

ATTRIBUTES = "attributes."
"""Prefix of the producer's own fields."""

ListItem = str | float
Lists = Mapping[str, Sequence[ListItem]]


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition.

    Attributes
    ----------
    root : Typed
        Runs to bool[n] (or one bool where it is constant).
    names : frozenset of str
        Columns it reads, aliases resolved, attributes as `attributes.x`.
    text : str
        Canonical text, aliases resolved.
    """

    root: Typed
    names: frozenset[str]
    text: str


class Vocabulary:
    """The names, aliases and lists that conditions may use.

    Parameters
    ----------
    names : mapping of str to Name
    aliases : mapping of str to str
        From an alias to a name; aliases of names that do not exist are ignored.
    lists : mapping of str to sequence, optional
        Named lists, each all numbers or all texts.
    """

    def __init__(
        self,
        names: Mapping[str, Name],
        aliases: Mapping[str, str],
        lists: Lists | None = None,
    ) -> None:
        self.names = names
        self.aliases = {a: n for a, n in aliases.items() if n in names and a not in names}
        self.lists: Lists = lists or {}

    def resolve(self, name: str) -> str:
        """What a name stands for."""
        return self.aliases.get(name, name)

    def is_taken(self, name: str) -> bool:
        """Whether a list can not be called so."""
        return (
            name in self.names
            or name in self.aliases
            or name in FUNCTIONS
            or name.lower() in KEYWORDS
            or name == "attributes"
        )

    def compile(self, source: str) -> Condition:
        """Parse and check a condition.

        Raises
        ------
        RuleSyntaxError, RuleNameError, RuleTypeError, RuleUnitError
            With the place in the source and what to do.
        """
        try:
            checker = _Checker(self)
            root = as_verdict(checker.check(parse(source)), "a rule")
        except RuleError as exc:
            exc.expression = source
            raise
        text = unparse(root.node, self.resolve)
        return Condition(root, frozenset(checker.used), text)

    def compile_name(self, name: str) -> Typed:
        """A single name, for the templates of reasons."""
        return _Checker(self).reference(Reference(name, (0, len(name))))


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""


class _Checker:
    """Turns the nodes of one condition into `Typed` and collects the columns they read."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.used: set[str] = set()

    def check(self, node: Node) -> Typed:
        match node:
            case Number():
                return constant(node, node.value, literal_quantity(node.unit))
            case Text() | Boolean():
                return constant(node, node.value)
            case Reference():
                return self.reference(node)
            case Negate():
                return self._negate(node)
            case Arithmetic():
                return self._arithmetic(node)
            case Compare():
                left, right = self.check(node.left), self.check(node.right)
                return self._shared(compare(node.op, node, left, right))
            case Membership():
                return self._membership(node)
            case Logical():
                return self._logical(node)
            case Not():
                inner = as_verdict(self.check(node.operand), "'not'")
                run = inner.run
                return operation("not", node, "verdict", lambda b: np.logical_not(run(b)), inner)
            case Call():
                return self._call(node)
            case ListLiteral():
                raise RuleTypeError(
                    "a list can only stand behind 'in'",
                    hint='write: category in ["travel", "gaming"]',
                    span=node.span,
                )

    def reference(self, node: Reference) -> Typed:
        name = self._vocabulary.resolve(node.name)
        if name.startswith(ATTRIBUTES):
            if name.count(".") > 1:
                raise RuleNameError(
                    f"{name} has too many parts",
                    hint="attributes are read one level deep: attributes.some_name",
                    span=node.span,
                )
            self.used.add(name)
            return Typed("name", node, "dynamic", lambda b: b.objects(name), name=name, slow=True)
        known = self._vocabulary.names.get(name)
        if known is None:
            self._unknown(node)
        self.used.add(name)
        if known.kind == "string":
            return Typed("name", node, "text", lambda b: b.text(name), name=name, slow=True)
        flag = known.kind == "boolean" or known.unit == "0/1"
        return Typed(
            "name",
            node,
            "flag" if flag else "number",
            lambda b: b.number(name),
            quantity=quantity_of("" if flag else known.unit),
            name=name,
        )

    def _unknown(self, node: Reference) -> NoReturn:
        name, vocabulary = node.name, self._vocabulary
        if name in vocabulary.lists:
            message, hint = f"{name} is a list", f"write: some_field in {name}"
        elif name in FUNCTIONS:
            message, hint = f"{name} is a function", f"write: {FUNCTIONS[name].signature}"
        else:
            message = f"unknown name {name[:80]!r}"
            known = [*vocabulary.names, *vocabulary.aliases, *vocabulary.lists, "true", "false"]
            hint = suggestion(name, known) or (
                "fields of your own are read as attributes.some_name; text needs quotes"
            )
        raise RuleNameError(message, hint=hint, span=node.span)

    def _shared(self, x: Typed) -> Typed:
        """The same test, computed once a batch however many conditions contain it.

        Sound because conditions are pure and nothing writes to a verdict; the canonical text
        stands for the test because all conditions of a rule set share one vocabulary.
        """
        key, run = unparse(x.node, self._vocabulary.resolve), x.run

        def once(b: Batch) -> Any:
            found = b.shared.get(key)
            if found is None:
                found = b.shared[key] = run(b)
            return found

        return replace(x, run=once)

    def _negate(self, node: Negate) -> Typed:
        x = as_number(self.check(node.operand), "'-'")
        if isinstance(x.constant, float):
            return constant(node, -x.constant, x.quantity)
        run = x.run
        return operation(
            "negate", node, "number", lambda b: np.negative(run(b)), x, quantity=x.quantity
        )

    def _arithmetic(self, node: Arithmetic) -> Typed:
        op = node.op
        where = f"'{op}'"
        left = as_number(self.check(node.left), where)
        right = as_number(self.check(node.right), where)
        if op in ("*", "/"):
            left, right = _as_factor(left), _as_factor(right)
            quantity = product(left.quantity, right.quantity, 1 if op == "*" else -1)
        else:
            left, right, quantity = align(left, right, right, f"joined by {where} with")
        kernel, f, g = ops.ARITHMETIC[op], left.run, right.run
        return operation(
            "arithmetic",
            node,
            "number",
            lambda b: kernel(f(b), g(b)),
            left,
            right,
            quantity=quantity,
            name=op,
        )

    def _membership(self, node: Membership) -> Typed:
        item = self.check(node.item)
        values = self._choices(node)
        negated, word = node.negated, "not in" if node.negated else "in"
        if item.type == "verdict":
            raise RuleTypeError(f"{called(item)}, {word!r} needs a number or text", span=item.span)
        texts = bool(values) and isinstance(values[0][0], str)
        if not values:
            texts = item.type == "text"
        if texts and item.type in ("number", "flag"):
            raise RuleTypeError(
                f"{called(item)}, compared with a list of texts",
                hint="write the numbers of the list without quotes",
                span=item.span,
            )
        if not texts and values and item.type == "text":
            raise RuleTypeError(
                f"{called(item)}, compared with a list of numbers",
                hint="put the values of the list in quotes",
                span=item.span,
            )
        if not values and item.type == "dynamic":
            return self._in_nothing(node, item, word)
        if texts:
            x = as_text(item, word)
            chosen = frozenset(v for v, _ in values if isinstance(v, str))
            run = x.run
            if not chosen and not negated:  # the empty block list of a default rule costs nothing
                run = lambda _: []  # noqa: E731
            return operation(
                "member",
                node,
                "verdict",
                lambda b: ops.text_in(run(b), chosen, negated),
                x,
                name=word,
                slow=True,
            )
        x = as_number(item, word)
        among = ops.number_in(self._converted(x, values), negated)
        run = x.run
        return operation("member", node, "verdict", lambda b: among(run(b)), x, name=word)

    def _in_nothing(self, node: Membership, item: Typed, word: str) -> Typed:
        """Membership of an attribute in an empty list: not in it, if it is there at all."""
        negated, missing = node.negated, FUNCTIONS["is_missing"]
        test = missing.build(Call("is_missing", (node.item,), node.span), (item,)).run

        def run(b: Batch) -> Any:
            absent = test(b)
            return np.logical_not(absent) if negated else np.zeros_like(absent)

        return operation("member", node, "verdict", run, item, name=word, slow=True)

    def _choices(self, node: Membership) -> list[tuple[ListItem, Node]]:
        choices = node.choices
        if isinstance(choices, ListLiteral):
            kinds = {type(item) for item in choices.items}
            if len(kinds) > 1:
                raise RuleTypeError(
                    "the list mixes numbers and texts",
                    hint="a list holds either numbers or quoted texts",
                    span=choices.span,
                )
            return [(item.value, item) for item in choices.items]
        found = self._vocabulary.lists.get(choices.name)
        if found is not None:
            return [(v if isinstance(v, str) else float(v), choices) for v in found]
        name = self._vocabulary.resolve(choices.name)
        if name in self._vocabulary.names or name.startswith(ATTRIBUTES):
            raise RuleTypeError(
                f"{name} is no list",
                hint=f'to look for a part of a text write contains({name}, "...")',
                span=choices.span,
            )
        hint = suggestion(choices.name, self._vocabulary.lists)
        raise RuleNameError(
            f"unknown list {choices.name[:80]!r}",
            hint=hint or "define it under 'lists' in the rule file",
            span=choices.span,
        )

    def _converted(self, x: Typed, values: list[tuple[ListItem, Node]]) -> list[float]:
        numbers = []
        for value, node in values:
            quantity = literal_quantity(node.unit if isinstance(node, Number) else "")
            choice = constant(node, float(value), quantity)
            target = common(x.quantity, quantity)
            if target is None:
                align(x, choice, choice, "compared with")
            numbers.append(times_exactly(float(value), quantity, x.quantity))
        return numbers

    def _logical(self, node: Logical) -> Typed:
        operands = tuple(as_verdict(self.check(o), f"'{node.op}'") for o in node.operands)
        run = all_of(operands) if node.op == "and" else any_of(operands)
        return operation("and" if node.op == "and" else "or", node, "verdict", run, *operands)

    def _call(self, node: Call) -> Typed:
        function = FUNCTIONS.get(node.function)
        if function is None:
            hint = suggestion(node.function, FUNCTIONS)
            raise RuleNameError(
                f"unknown function {node.function[:80]!r}",
                hint=hint or f"functions are {', '.join(FUNCTIONS)}",
                span=node.span,
            )
        count = len(node.arguments)
        if not function.minimum <= count <= function.maximum:
            raise RuleSyntaxError(
                f"{node.function} does not take {count} argument{'s' if count != 1 else ''}",
                hint=f"write: {function.signature}",
                span=node.span,
            )
        return function.build(node, [self.check(a) for a in node.arguments])


def _as_factor(x: Typed) -> Typed:
    """A percentage as the fraction it stands for, so that `50% * amount` is half the amount."""
    percent = not x.quantity.dimension and x.quantity.scale != 1
    return convert(x, BARE) if percent else x
