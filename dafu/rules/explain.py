"""What every rule makes of one transaction, sub-expression by sub-expression.

For the analyst who asks why a rule fired or did not: each part with its value and its verdict,
missing values included. Runs the same compiled expressions as the engine, on a batch of one row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from dafu.rules.batch import Batch
from dafu.rules.describe import describe, format_value, value_of
from dafu.rules.engine import CompiledRule, RuleSet
from dafu.rules.model import Mode
from dafu.rules.syntax import unparse
from dafu.rules.typed import Typed


class Step(Struct, frozen=True):
    """A sub-expression with its value; `holds` is None where it is no condition."""

    text: str
    value: str
    holds: bool | None
    steps: tuple[Step, ...] = ()


class RuleTrace(Struct, frozen=True):
    """A rule on one transaction; `fired` is whether the condition holds, whatever the mode."""

    rule_id: str
    mode: Mode
    action: str
    risk_score: float
    fired: bool
    text: str
    root: Step


class Explanation(Struct, frozen=True):
    """Every rule of a set on one transaction; `str()` of it is for people."""

    version: str
    rules: tuple[RuleTrace, ...]

    def __str__(self) -> str:
        lines = [f"rules {self.version}"]
        for rule in self.rules:
            verdict = "FIRED" if rule.fired else "did not fire"
            mode = "" if rule.mode == "live" else f", {rule.mode}"
            lines += ["", f"{rule.rule_id} ({rule.action}, {rule.risk_score:g}{mode}): {verdict}"]
            if rule.fired:
                lines.append(f"  {rule.text}")
            lines += _render(rule.root, 1)
        return "\n".join(lines)


def explain(ruleset: RuleSet, row: Mapping[str, object]) -> Explanation:
    """Trace every rule, those in shadow and those that are off included, on one transaction.

    Parameters
    ----------
    ruleset : RuleSet
    row : mapping of name to value
        Fields and features by their canonical names, `attributes.x` for the producer's own.
        None, NaN and names that are absent are missing.
    """
    batch = Batch({name: [value] for name, value in row.items()}, 1)
    with np.errstate(all="ignore"):
        traces = tuple(_trace(compiled, batch) for compiled in ruleset.compiled)
    return Explanation(ruleset.version, traces)


def _trace(compiled: CompiledRule, batch: Batch) -> RuleTrace:
    rule, root = compiled.rule, compiled.condition.root
    fired = bool(value_of(root, batch))
    text = ""
    if fired:
        reason, why = compiled.reason.render(batch), describe(root, batch)
        text = f"{reason}: {why}" if reason else why
    return RuleTrace(
        rule.id,
        rule.mode,
        rule.canonical_action,
        rule.risk_score,
        fired,
        text,
        _step(root, batch),
    )


def _step(x: Typed, batch: Batch) -> Step:
    operands = x.operands
    if x.form == "truth" and operands[0].form == "name":
        inner = operands[0]
        value = format_value(inner, batch)
        return Step(inner.name, value, bool(value_of(x, batch)))
    text = x.name if x.form == "name" else unparse(x.node)
    return Step(
        text,
        format_value(x, batch),
        bool(value_of(x, batch)) if x.type == "verdict" else None,
        tuple(_step(o, batch) for o in operands if o.form != "constant"),
    )


def _render(step: Step, depth: int) -> list[str]:
    mark = {True: "[x]", False: "[ ]", None: " = "}[step.holds]
    shown = step.holds is None or step.value not in ("true", "false")
    value = f"  {step.value}" if shown else ""
    line = f"{'  ' * depth}{mark} {step.text}{value}"
    return [line, *(text for part in step.steps for text in _render(part, depth + 1))]
