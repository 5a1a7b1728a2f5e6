"""What can be wrong with a rule, and how it is shown to the person who wrote it.

Every error names the file and the rule, points at the line and column of the expression with a
caret, and says what to do. This module knows neither the language nor the file format.
"""

from __future__ import annotations

from collections.abc import Iterable

from dafu.errors import DafuError

_SHOWN = 100
"""Characters of an expression line that are shown around the caret."""


class RuleError(DafuError):
    """Something is wrong with a rule.

    Attributes
    ----------
    message : str
        What is wrong, in one sentence.
    hint : str
        What to do about it; may be empty.
    rule_id, source : str or None
        The rule and the file it came from, as far as they are known.
    expression : str or None
        The condition that `span` points into.
    span : (int, int) or None
        Offsets of the first character at fault and of the one after the last.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        rule_id: str | None = None,
        source: str | None = None,
        expression: str | None = None,
        span: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.rule_id = rule_id
        self.source = source
        self.expression = expression
        self.span = span

    @property
    def line(self) -> int | None:
        """Line of the fault in the expression, from 1."""
        if self.expression is None or self.span is None:
            return None
        return self.expression.count("\n", 0, self.span[0]) + 1

    @property
    def column(self) -> int | None:
        """Column of the fault in its line, from 1."""
        if self.expression is None or self.span is None:
            return None
        return self.span[0] - (self.expression.rfind("\n", 0, self.span[0]) + 1) + 1

    def __str__(self) -> str:
        where = []
        if self.source:
            where.append(self.source)
        if self.rule_id:
            where.append(f"rule {self.rule_id!r}")
        if self.line is not None:
            where.append(f"line {self.line}, column {self.column}")
        lines = [f"{', '.join(where)}: {self.message}" if where else self.message]
        lines += self._caret()
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)

    def _caret(self) -> list[str]:
        if self.expression is None or self.span is None or self.column is None:
            return []
        begin = self.span[0] - (self.column - 1)
        end = self.expression.find("\n", begin)
        line = self.expression[begin : end if end >= 0 else len(self.expression)]
        at = self.column - 1
        width = max(1, min(self.span[1] - self.span[0], len(line) - at))
        cut = max(0, at - _SHOWN // 2)
        shown = line[cut : cut + _SHOWN].replace("\t", " ").replace("\r", " ")
        mark = " " * (at - cut) + "^" + "~" * (min(width, _SHOWN - (at - cut)) - 1)
        return ["    " + shown, "    " + mark]


class RuleSyntaxError(RuleError):
    """The text of a condition is not an expression of the rule language."""


class RuleNameError(RuleError):
    """A condition names a field, feature, list or function that does not exist."""


class RuleTypeError(RuleError):
    """Operands do not go together: a number with text, a condition where a number belongs."""


class RuleUnitError(RuleTypeError):
    """Operands are numbers of different dimensions: a distance with a duration."""


class RuleDefinitionError(RuleError):
    """A rule or a rule file is put together wrongly: unknown keys, wrong types, a repeated id."""


class RuleColumnError(RuleError):
    """The caller of an evaluation left out a column, or gave one of another length."""


class RuleSetError(RuleError):
    """Everything that is wrong with a set of rules, at once.

    Attributes
    ----------
    errors : tuple of RuleError
        One or more errors, in the order of the file.
    """

    def __init__(self, errors: Iterable[RuleError], *, source: str | None = None) -> None:
        self.errors = tuple(errors)
        count = len(self.errors)
        super().__init__(
            f"{count} error{'s' if count != 1 else ''} in {source or 'the rules'}", source=source
        )

    def __str__(self) -> str:
        return "\n\n".join([self.message, *map(str, self.errors)])
