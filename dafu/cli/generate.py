"""`dafu generate`: a file of synthetic, labelled payments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def generate(
    out: Annotated[Path, typer.Option(help="File to write: .csv, .parquet, .jsonl or .ndjson.")],
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 1000,
    merchants: Annotated[int, typer.Option(min=1, help="Number of merchants.")] = 200,
    days: Annotated[int, typer.Option(min=1, help="Days to simulate.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal files.")] = 0,
    fraud_rate: Annotated[float, typer.Option(help="Share of fraudulent transactions.")] = 0.01,
) -> None:
    """Generate payments with labelled fraud, deterministically; `dafu publish` reads them."""
    from dafu.generator import generate_batches, write

    rows = write(generate_batches(users, merchants, days, seed, fraud_rate=fraud_rate), out)
    typer.echo(f"wrote {rows:,} transactions to {out}")
