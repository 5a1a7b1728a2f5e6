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
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind of fraud, repeatable: stolen_card, account_takeover, card_testing, "
            "compromised_merchant, large_amount (the default ones), limit_probing."
        ),
    ] = None,
) -> None:
    """Generate payments with labelled fraud, deterministically; `dafu publish` reads them."""
    from dafu.generator import DEFAULT_SCENARIOS, generate_batches, write

    batches = generate_batches(
        users,
        merchants,
        days,
        seed,
        fraud_rate=fraud_rate,
        scenarios=scenario or DEFAULT_SCENARIOS,
    )
    rows = write(batches, out)
    typer.echo(f"wrote {rows:,} transactions to {out}")
