"""`dafu broker`: the embedded Kafka broker in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def broker(
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port to listen on. [default: 9092]")
    ] = None,
    log_file: Annotated[Path | None, typer.Option(help="Where to append what it prints.")] = None,
) -> None:
    """Run a Kafka broker in memory, for trying things out; it forgets everything when it stops."""
    from dafu.broker import serve

    def on_ready(address: str) -> None:
        typer.echo(f"broker on {address}, in memory; Ctrl-C stops it")

    serve(port, on_ready=on_ready, log_file=log_file)
