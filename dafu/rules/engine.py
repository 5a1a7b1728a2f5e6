"""Rule sets: compile rules once, evaluate them on batches of transactions.

Live rules and shadow rules are two separate programs. Risk, outcome and group risk are computed
from the live program alone, by a function that never sees the other; the shadow program only
says what would have fired. Pure: no clock, no I/O, no state between calls.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from dafu.rules.batch import Batch, Column, Floats
from dafu.rules.compiler import ATTRIBUTES, Condition, Lists, Vocabulary
from dafu.rules.describe import describe
from dafu.rules.errors import (
    RuleColumnError,
    RuleDefinitionError,
    RuleError,
    RuleSetError,
)
from dafu.rules.model import APPROVE, GROUPS, FiredMode, Name, Rule, RuleHit
from dafu.rules.template import Template, compile_template

LANGUAGE_VERSION: Final = 1
"""Part of every rule set's version: raised when the meaning of an expression changes."""

FILE_VERSION: Final = 1
"""Of the documents that rule files hold."""


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with its checked condition. `groups` are the risk groups of the names it reads."""

    rule: Rule
    condition: Condition
    reason: Template
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Program:
    """Rules that are evaluated together; `positions` are their places in the rule set."""

    rules: tuple[CompiledRule, ...]
    positions: tuple[int, ...]

    def run(self, batch: Batch) -> NDArray[np.bool_]:
        """bool[len(rules), n]: what fires."""
        fired = np.empty((len(self.rules), batch.n), dtype=np.bool_)
        for k, compiled in enumerate(self.rules):
            fired[k] = compiled.condition.root.run(batch)
        return fired


@dataclass(frozen=True, slots=True)
class _Policy:
    """How fired live rules become a risk and an outcome.

    `rank` orders rules by (priority, outcome class), from 1; `outcomes[rank]` is the class.
    """

    risk: tuple[float, ...]
    rank: tuple[int, ...]
    groups: tuple[frozenset[str], ...]
    outcomes: NDArray[np.int8]

    def decide(
        self, fired: NDArray[np.bool_], n: int
    ) -> tuple[Floats, NDArray[np.int8], dict[str, Floats]]:
        risk = np.zeros(n, dtype=np.float64)
        rank = np.zeros(n, dtype=np.int32)
        group_risk = {group: np.zeros(n, dtype=np.float64) for group in GROUPS}
        for k in np.flatnonzero(fired.any(axis=1)).tolist():
            rows = fired[k]
            np.maximum(rank, self.rank[k], out=rank, where=rows)
            if self.risk[k] > 0.0:
                np.maximum(risk, self.risk[k], out=risk, where=rows)
                for group in self.groups[k]:
                    of_group = group_risk[group]
                    np.maximum(of_group, self.risk[k], out=of_group, where=rows)
        return risk, self.outcomes[rank], group_risk


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a rule set says about a batch of n transactions.

    Attributes
    ----------
    risk : float64[n]
        Largest risk score of the live rules that fired, 0 if none; approving rules add none.
    outcome : int8[n]
        0 none, 1 approve, 2 review, 3 block: of the live rules that fired, the one with the
        highest priority decides; on equal priority block before review before approve.
    group_risk : dict of group to float64[n]
        Like `risk`, over the rules that read a name of that group: amount, behavior, merchant.
    """

    risk: Floats
    outcome: NDArray[np.int8]
    group_risk: dict[str, Floats]
    _ruleset: RuleSet
    _batch: Batch
    _live: NDArray[np.bool_]
    _shadow: NDArray[np.bool_]

    @property
    def fired(self) -> NDArray[np.bool_]:
        """bool[n_rules, n], in the order of `ruleset.rules`; False for rules that are off."""
        fired = np.zeros((len(self._ruleset.rules), self._batch.n), dtype=np.bool_)
        live, shadow = self._ruleset.programs
        fired[list(live.positions)] = self._live
        fired[list(shadow.positions)] = self._shadow
        return fired

    def counts(self) -> list[tuple[str, FiredMode, int]]:
        """Of each rule that fired: its id, its mode, and on how many rows."""
        live, shadow = self._ruleset.programs
        found: list[tuple[str, FiredMode, int]] = []
        for compiled, rows in zip(live.rules, self._live.sum(axis=1).tolist(), strict=True):
            if rows:
                found.append((compiled.rule.id, "live", rows))
        for compiled, rows in zip(shadow.rules, self._shadow.sum(axis=1).tolist(), strict=True):
            if rows:
                found.append((compiled.rule.id, "shadow", rows))
        return found

    def rows_with_hits(self) -> NDArray[np.intp]:
        """Ascending numbers of the rows on which any rule fired, live or shadow."""
        return np.flatnonzero(self._live.any(axis=0) | self._shadow.any(axis=0))

    def hits(self, i: int) -> list[RuleHit]:
        """The rules that fired on row `i`, live and shadow, in the order of the rule set.

        Reads the columns given to `evaluate`: they must not have changed since.
        """
        live, shadow = self._ruleset.programs
        found = [
            (program.positions[k], program.rules[k])
            for program, fired in ((live, self._live), (shadow, self._shadow))
            for k in np.flatnonzero(fired[:, i]).tolist()
        ]
        if not found:
            return []
        row = self._batch.row(i)
        with np.errstate(all="ignore"):
            return [_hit(compiled, row) for _, compiled in sorted(found, key=lambda f: f[0])]


def _hit(compiled: CompiledRule, row: Batch) -> RuleHit:
    rule = compiled.rule
    why = describe(compiled.condition.root, row)
    reason = compiled.reason.render(row)
    return RuleHit(
        rule.id,
        rule.canonical_action,
        rule.risk_score,
        "shadow" if rule.mode == "shadow" else "live",
        f"{reason}: {why}" if reason else why,
    )


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Compiled rules, immutable. Build it with `load_rules` or `compile_rules`.

    Attributes
    ----------
    compiled : tuple of CompiledRule
        All rules in the order of the file, those that are off included.
    version : str
        Twelve hex digits that change with any rule or list, not with spacing.
    names : frozenset of str
        Columns that `evaluate` needs; `attributes.x` for fields of the producer.
    deciding : frozenset of str
        Those of them that live rules read.
    lists : mapping of str to sequence
        The named lists.
    """

    compiled: tuple[CompiledRule, ...]
    version: str
    names: frozenset[str]
    deciding: frozenset[str]
    lists: Lists
    programs: tuple[_Program, _Program] = field(repr=False)
    _policy: _Policy = field(repr=False)
    _required: frozenset[str] = field(repr=False)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules as written, in the order of the file."""
        return tuple(c.rule for c in self.compiled)

    def document(self) -> dict[str, Any]:
        """What `parse_document` makes this rule set of again: plain data for JSON."""
        content = {"version": FILE_VERSION, "lists": self.lists, "rules": self.rules}
        document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(content))
        return document

    def evaluate(self, columns: Mapping[str, Column], n: int) -> Evaluation:
        """Evaluate every rule on a batch.

        Parameters
        ----------
        columns : mapping of name to array of n rows
            Float columns with NaN, object columns with None for missing. All of `names` must be
            there, except attributes, which no row has then. Unchanged, and kept by the result.
        n : int
            Number of rows.

        Raises
        ------
        RuleColumnError
            If a column is absent or has another length. Values can not cause an error.
        """
        self._check_columns(columns, n)
        batch = Batch(columns, n)
        live, shadow = self.programs
        with np.errstate(all="ignore"):
            fired = live.run(batch)
            risk, outcome, group_risk = self._policy.decide(fired, n)
            shadow_fired = shadow.run(batch)
        return Evaluation(risk, outcome, group_risk, self, batch, fired, shadow_fired)

    def _check_columns(self, columns: Mapping[str, Column], n: int) -> None:
        absent = [name for name in self._required if name not in columns]
        if absent:
            raise RuleColumnError(
                f"columns are absent: {', '.join(sorted(absent))}",
                hint="give every name in ruleset.names a column",
            )
        for name in self.names:
            column = columns.get(name)
            if column is not None and len(column) != n:
                raise RuleColumnError(f"column {name} has {len(column)} rows instead of {n}")


def compile_rules(
    rules: Iterable[Rule],
    lists: Lists,
    names: Mapping[str, Name],
    aliases: Mapping[str, str],
    *,
    source: str | None = None,
) -> RuleSet:
    """Compile rules into a rule set.

    Parameters
    ----------
    rules : iterable of Rule
    lists : mapping of str to sequence of str or of numbers
        Named lists for `in`.
    names, aliases : mapping
        What conditions may read.
    source : str, optional
        File name for error messages.

    Raises
    ------
    RuleSetError
        With every error there is.
    """
    ruleset, errors = compile_collecting(rules, lists, names, aliases, source)
    if ruleset is None:
        raise RuleSetError(errors, source=source)
    return ruleset


def compile_collecting(
    rules: Iterable[Rule],
    lists: Lists,
    names: Mapping[str, Name],
    aliases: Mapping[str, str],
    source: str | None = None,
) -> tuple[RuleSet | None, list[RuleError]]:
    """`compile_rules` that returns the errors; the rule set is None if there are any."""
    vocabulary = Vocabulary(names, aliases, lists)
    errors = check_lists(vocabulary)
    compiled: list[CompiledRule] = []
    seen: set[str] = set()
    for rule in rules:
        try:
            compiled.append(_compile_rule(rule, vocabulary, seen))
        except RuleError as exc:
            exc.rule_id = str(rule.id)
            errors.append(exc)
    for error in errors:
        error.source = source
    if errors:
        return None, errors
    return _assemble(tuple(compiled), vocabulary), []


def check_lists(vocabulary: Vocabulary) -> list[RuleError]:
    """What is wrong with the named lists."""
    errors: list[RuleError] = []
    for name, values in vocabulary.lists.items():
        where = f"list {name!r}"
        kinds = {type(v) for v in values}
        if not (isinstance(name, str) and name.isidentifier() and name.isascii()):
            hint = "letters, digits and underscores, not a digit first"
            errors.append(RuleDefinitionError(f"{where} has no usable name", hint=hint))
        elif vocabulary.is_taken(name):
            hint = "choose a name that no field, feature, alias, function or keyword has"
            errors.append(RuleDefinitionError(f"{where}: the name is taken", hint=hint))
        if bool in kinds:
            hint = 'YAML reads NO and YES as false and true: put them in quotes ("NO")'
            errors.append(RuleDefinitionError(f"{where} holds true or false", hint=hint))
        elif not (kinds <= {str} or kinds <= {int, float}):
            names = ", ".join(sorted(k.__name__ for k in kinds))
            hint = "put texts in quotes"
            errors.append(
                RuleDefinitionError(
                    f"{where} must hold either texts or numbers, it holds {names}", hint=hint
                )
            )
        elif any(not isinstance(v, str) and not abs(v) < 1e300 for v in values):
            errors.append(RuleDefinitionError(f"{where} holds a number that is not finite"))
    return errors


def _compile_rule(rule: Rule, vocabulary: Vocabulary, seen: set[str]) -> CompiledRule:
    try:
        rule = msgspec.convert(msgspec.to_builtins(rule), Rule)
    except msgspec.ValidationError as exc:
        raise RuleDefinitionError(str(exc)) from None
    if rule.id in seen:
        raise RuleDefinitionError("there are two rules with this id", hint="rename one of them")
    seen.add(rule.id)
    condition = vocabulary.compile(rule.condition)
    found = {vocabulary.names[n].group for n in condition.names if n in vocabulary.names}
    return CompiledRule(
        rule,
        condition,
        compile_template(rule.reason, vocabulary),
        frozenset(found.intersection(GROUPS)),
    )


def _assemble(compiled: tuple[CompiledRule, ...], vocabulary: Vocabulary) -> RuleSet:
    live, shadow = _program(compiled, "live"), _program(compiled, "shadow")
    deciding, shadowed = (
        frozenset().union(*(c.condition.names | c.reason.names for c in program.rules))
        for program in (live, shadow)
    )
    names = deciding | shadowed
    return RuleSet(
        compiled,
        _version(compiled, vocabulary.lists),
        names,
        deciding,
        vocabulary.lists,
        (live, shadow),
        _policy(live.rules),
        frozenset(n for n in names if not n.startswith(ATTRIBUTES)),
    )


def _program(compiled: Sequence[CompiledRule], mode: Literal["live", "shadow"]) -> _Program:
    chosen = [(i, c) for i, c in enumerate(compiled) if c.rule.mode == mode]
    return _Program(tuple(c for _, c in chosen), tuple(i for i, _ in chosen))


def _policy(live: Sequence[CompiledRule]) -> _Policy:
    order = sorted({(c.rule.priority, c.rule.outcome) for c in live})
    rank = {key: k + 1 for k, key in enumerate(order)}
    return _Policy(
        risk=tuple(0.0 if c.rule.outcome == APPROVE else c.rule.risk_score for c in live),
        rank=tuple(rank[c.rule.priority, c.rule.outcome] for c in live),
        groups=tuple(c.groups for c in live),
        outcomes=np.array([0, *(outcome for _, outcome in order)], dtype=np.int8),
    )


def _version(compiled: Sequence[CompiledRule], lists: Lists) -> str:
    rules: list[dict[str, Any]] = []
    for c in compiled:
        plain = msgspec.to_builtins(c.rule)
        rules.append({**plain, "condition": c.condition.text, "action": c.rule.canonical_action})
    content = {
        "language": LANGUAGE_VERSION,
        "rules": rules,
        "lists": {k: sorted(set(v), key=lambda x: (str(type(x)), x)) for k, v in lists.items()},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
