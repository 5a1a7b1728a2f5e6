"""The command line, `dafu`. One module a command group; this one puts them together.

Commands import what they need when they run, so that `dafu --help` answers at once. To add one,
write a module with a function and add a line to `_register`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from dafu.cli import (
    access,
    backtest,
    broker,
    catalogue,
    config,
    dead_letters,
    decisions,
    demo,
    drift,
    evaluate,
    generate,
    lists,
    models,
    performance,
    publish,
    rings,
    rules,
    score,
    train,
)
from dafu.errors import DafuError

__all__ = ["app", "main"]

app = typer.Typer(
    name="dafu",
    help="Real-time payment-fraud decisions on Apache Kafka. Settings: `dafu config`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _register() -> None:
    app.command("demo")(demo.demo)
    app.command("broker")(broker.broker)
    app.command("publish")(publish.publish)
    app.command("decisions")(decisions.decisions)
    app.command("dead-letters")(dead_letters.dead_letters)
    app.add_typer(rules.app, name="rules")
    app.add_typer(lists.app, name="lists")
    app.command("score")(score.score)
    app.command("rings")(rings.rings)
    app.command("train")(train.train)
    app.command("backtest")(backtest.backtest)
    app.command("evaluate")(evaluate.evaluate)
    app.add_typer(models.app, name="models")
    app.command("performance")(performance.performance)
    app.command("drift")(drift.drift)
    app.command("generate")(generate.generate)
    app.command("features")(catalogue.features)
    app.command("schema")(catalogue.schema)
    app.add_typer(access.keys, name="keys")
    app.add_typer(access.users, name="users")
    app.add_typer(access.clients, name="clients")
    app.command("config")(config.config)


_register()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exits with 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        app(None if arguments is None else list(arguments), prog_name="dafu")
    except DafuError as exc:
        sys.stderr.write(f"error: {exc}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
