"""`dafu rules`: check and try rule files, and change the rules in force while workers run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from dafu.cli.control import By, Json, Wait, Why, ask, read_registry, signature
from dafu.errors import DafuError

if TYPE_CHECKING:
    from dafu.rules.model import Mode
    from dafu.rulesets import RulesState

app = typer.Typer(help="Check rule files, try them, and put them in force.", no_args_is_help=True)

_MODES: Final = ("live", "shadow", "off")

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
    the JSON ("user_count_5m": 14) to give it another value. So do "on_deny_list": true and the
    like for lists.
    """
    from dafu.schema import InvalidRecordError
    from dafu.trial import try_rules

    ruleset = _load(file)
    raw = transaction.encode()
    if transaction.startswith("@"):
        try:
            raw = Path(transaction[1:]).read_bytes()
        except OSError as exc:
            raise TransactionArgumentError(f"{transaction[1:]} can not be read: {exc}") from exc
    try:
        typer.echo(str(try_rules(ruleset, raw)))
    except InvalidRecordError as exc:
        raise TransactionArgumentError(f"--transaction: {exc.reason}: {exc.detail}") from exc


@app.command("list")
def list_rules(as_json: Json = False) -> None:
    """Show the rules in force, and how they changed."""
    import msgspec

    from dafu.settings import load_settings

    settings = load_settings()
    registry = asyncio.run(read_registry(settings))
    state = None if registry is None else registry.rules
    if as_json:
        typer.echo(msgspec.json.encode(state).decode())
        return
    if state is None or not state.history:
        typer.echo(
            "rules were never put in force: workers decide by the file that they are configured "
            f"with, {settings.rules_file}"
        )
        return
    for line in _lines(state):
        typer.echo(line)


@app.command("put")
def put(file: _File, why: Why = "", by: By = None, wait: Wait = 30.0) -> None:
    """Have the workers decide by a rule file, from a place in their logs that a replay finds again.

    The file is checked here first. From then on workers no longer look at the file that they are
    configured with.
    """
    from dafu.rulesets import RulesEvent

    rules = _load(file).document()
    _ask(RulesEvent(action="put_rules", rules=rules, **signature(by, why)), wait)


@app.command("mode")
def mode(
    rule_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a rule in force.")],
    to: Annotated[str, typer.Argument(metavar="MODE", help="live, shadow or off.")],
    why: Why = "",
    by: By = None,
    wait: Wait = 30.0,
) -> None:
    """Let one rule decide (live), only look on (shadow), or rest (off)."""
    if to not in _MODES:
        raise typer.BadParameter(f"a mode is one of {', '.join(_MODES)}")
    from dafu.rulesets import RulesEvent

    event = RulesEvent(
        action="set_rule_mode", rule_id=rule_id, mode=cast("Mode", to), **signature(by, why)
    )
    _ask(event, wait)


@app.command("rollback")
def rollback(why: Why = "", by: By = None, wait: Wait = 30.0) -> None:
    """Go back to the rules before."""
    from dafu.rulesets import RulesEvent

    _ask(RulesEvent(action="rollback_rules", **signature(by, why)), wait)


@app.command("reset")
def reset(why: Why = "", by: By = None, wait: Wait = 30.0) -> None:
    """Have each worker decide by the rule file again that it is configured with."""
    from dafu.rulesets import RulesEvent

    _ask(RulesEvent(action="reset_rules", **signature(by, why)), wait)


def _ask(event: Any, wait: float) -> None:
    registry = ask(event, wait)
    if registry is None:
        return
    typer.echo(f"{event.action}: done. From now on:")
    for line in _lines(registry.rules):
        typer.echo(f"  {line}")


def _lines(state: RulesState) -> list[str]:
    lines = [f"{'version':<10} {state.version or 'configured (each worker, its own file)'}"]
    rules = [] if state.current is None else state.current.rules
    lines += [f"{rule.get('mode', 'live'):<10} {rule['id']} ({rule['action']})" for rule in rules]
    lines += [
        f"{'former':<10} {'configured' if before is None else before.version}"
        for before in reversed(state.former)
    ]
    for change in reversed(state.history):
        what = f" {change.rule_id} {change.mode}" if change.rule_id else ""
        why = f": {change.why}" if change.why else ""
        at = datetime.fromtimestamp(change.at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines.append(
            f"{'changed':<10} {at} to {change.version or 'configured'} by "
            f"{change.by or 'somebody'}, {change.action}{what}{why}"
        )
    return lines
