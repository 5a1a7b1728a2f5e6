"""`dafu rules`: check a rule file, and see what its rules make of one transaction."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from dafu.errors import DafuError

app = typer.Typer(help="Check rule files and try them.", no_args_is_help=True)

_File = Annotated[Path, typer.Argument(help="A rule file, YAML or JSON.")]


class TransactionArgumentError(DafuError):
    """What was given as a transaction is none."""


def _load(path: Path) -> Any:
    from dafu.features.catalogue import ALIASES
    from dafu.rules import load_rules
    from dafu.stages.names import RULE_NAMES

    return load_rules(path, RULE_NAMES, ALIASES)


@app.command("check")
def check(file: _File) -> None:
    """Check a rule file; every error is shown with its place."""
    ruleset = _load(file)
    modes: dict[str, int] = {}
    for rule in ruleset.rules:
        modes[rule.mode] = modes.get(rule.mode, 0) + 1
    counts = ", ".join(f"{count} {mode}" for mode, count in modes.items()) or "none"
    typer.echo(f"{file}: {len(ruleset.rules)} rules ({counts}), version {ruleset.version}")


@app.command("explain")
def explain(
    file: _File,
    transaction: Annotated[
        str, typer.Option(help="A transaction as JSON, or @FILE that holds one.")
    ],
) -> None:
    """Show for one transaction which rules fire, and the value of every part of each condition.

    Features are those of a first transaction, because there is no history here; name a feature in
    the JSON ("user_count_5m": 14) to give it another value.
    """
    import dafu.rules

    ruleset = _load(file)
    typer.echo(str(dafu.rules.explain(ruleset, _row(ruleset, transaction))))


def _row(ruleset: Any, text: str) -> dict[str, object]:
    """Values of fields, features and attributes, by the names that rules use."""
    import numpy as np

    from dafu.features.catalogue import ALIASES, FEATURES
    from dafu.schema import InvalidRecordError, parse_transaction
    from dafu.stages.decide import Thresholds
    from dafu.stages.merchants import MerchantStage
    from dafu.stages.names import RULE_NAMES
    from dafu.stages.pipeline import Pipeline
    from dafu.stages.users import UserStage

    raw = text.encode()
    if text.startswith("@"):
        try:
            raw = Path(text[1:]).read_bytes()
        except OSError as exc:
            raise TransactionArgumentError(f"{text[1:]} can not be read: {exc}") from exc
    try:
        transaction, _ = parse_transaction(raw)
    except InvalidRecordError as exc:
        raise TransactionArgumentError(f"--transaction: {exc.reason}: {exc.detail}") from exc
    # Only the features count here; the record has no time of its own that a skew could refer to.
    pipeline = Pipeline(UserStage(0), MerchantStage(ruleset, None, Thresholds()))
    _, decided = pipeline.run([transaction.user_id.encode()], [raw])
    values = np.asarray(decided.features)[0]
    row: dict[str, object] = {
        feature.name: None if math.isnan(value) else float(value)
        for feature, value in zip(FEATURES, values, strict=True)
    }
    for name, value in json.loads(raw).items():
        known = ALIASES.get(name, name)
        row[known if known in RULE_NAMES else f"attributes.{name}"] = value
    return row
