"""`dafu demo`: the whole thing on this machine, with simulated payments."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from dafu.cli.options import parse_rate


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds of traffic. [default: until Ctrl-C]"),
    ] = None,
    rate: Annotated[str, typer.Option(help="Transactions per second, or max.")] = "500",
    users: Annotated[int, typer.Option(min=10, max=200_000, help="Card holders.")] = 2000,
    merchants: Annotated[int, typer.Option(min=4, max=200_000, help="Merchants.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal payments.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the worker's log and data afterwards.")
    ] = False,
    picture: Annotated[
        Path, typer.Option(dir_okay=False, help="Where the picture of a fraud ring goes (SVG).")
    ] = Path("out/demo-ring.svg"),
) -> None:
    """Start a broker in memory and a worker, publish simulated payments, watch the decisions.

    The users get two weeks of history first. With --seconds it ends by itself, and fails unless
    every transaction was decided exactly once and none became a dead letter.
    """
    per_second = parse_rate(rate)
    from dafu.demo.run import Demo, Options
    from dafu.demo.view import make_view, summary

    options = Options(seconds, per_second, users, merchants, seed, keep, picture)
    view = make_view(options)

    async def run() -> Demo:
        job = Demo(options, view)
        await job.run()
        return job

    with view:
        job = asyncio.run(run())
    for line in summary(job):
        view.console.print(line, soft_wrap=isinstance(line, str))
