"""`dafu config`: the settings in force."""

from __future__ import annotations

import typer


def config() -> None:
    """Print all settings, where each came from, and check them. Secrets stay hidden."""
    from dafu.settings import load_settings

    typer.echo(load_settings().describe())
