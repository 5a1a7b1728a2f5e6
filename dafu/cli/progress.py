"""What commands that work through a file show: a bar on a terminal, and what was left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dafu.ingest import TransactionReader


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, float | None], None]]:
    """A bar on standard error if that is a terminal.

    Call what it gives with (done, total), None while the total is not known.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(what),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def update(done: int, total: float | None) -> None:
            bar.update(task, completed=done, total=total)

        yield update


@contextmanager
def reading_bar(what: str, reader: TransactionReader) -> Iterator[Callable[[int], None]]:
    """As `progress_bar`, of a file that is read; call what it gives with how many are done."""
    with progress_bar(what) as update:
        yield lambda done: update(done, done / reader.fraction if reader.fraction else None)


def show_left_out(reader: TransactionReader, rejected: Mapping[str, int]) -> None:
    """Say on standard error which rows of a file were left out, and why."""
    if reader.skipped:
        sys.stderr.write(f"left out {reader.skipped:,} bad rows, such as:\n")
        sys.stderr.writelines(f"  {example}\n" for example in reader.examples)
    if rejected:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejected.items())
        sys.stderr.write(f"left out rows that are no valid transactions: {reasons}\n")
