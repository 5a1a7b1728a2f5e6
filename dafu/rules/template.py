"""The reason that a rule's author wrote, with `{name}` replaced by values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from dafu.rules.batch import Batch
from dafu.rules.compiler import Vocabulary
from dafu.rules.describe import format_value
from dafu.rules.errors import RuleDefinitionError, RuleError
from dafu.rules.typed import Typed


@dataclass(frozen=True, slots=True)
class Template:
    """Parts of a reason: text as it is, and names whose values are filled in."""

    parts: Sequence[str | Typed] = ()

    @property
    def names(self) -> frozenset[str]:
        """Columns whose values are shown."""
        return frozenset(p.name for p in self.parts if isinstance(p, Typed))

    def render(self, row: Batch) -> str:
        """The reason for one row."""
        return "".join(p if isinstance(p, str) else format_value(p, row) for p in self.parts)


def compile_template(text: str, vocabulary: Vocabulary) -> Template:
    """Check the placeholders of a reason.

    Raises
    ------
    RuleDefinitionError
        For unbalanced braces, unknown names, and anything in braces that is no plain name.
    """
    parts: list[str | Typed] = []
    try:
        for literal, name, spec, conversion in Formatter().parse(text):
            if literal:
                parts.append(literal)
            if name is None:
                continue
            if spec or conversion:
                raise RuleDefinitionError(
                    f"the reason formats {name!r}", hint="write only the name: {amount}"
                )
            parts.append(vocabulary.compile_name(name))
    except ValueError as exc:
        raise RuleDefinitionError(
            f"the reason is no template: {exc}", hint="a brace as such is written twice: {{ or }}"
        ) from None
    except RuleError as exc:
        raise RuleDefinitionError(f"in the reason: {exc.message}", hint=exc.hint) from None
    return Template(tuple(parts))
