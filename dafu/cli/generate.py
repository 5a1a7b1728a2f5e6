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
            "compromised_merchant, large_amount (the default ones), limit_probing, "
            "collusive_merchant."
        ),
    ] = None,
    rings: Annotated[
        int, typer.Option(min=0, help="Fraud rings in addition: accounts that share things.")
    ] = 0,
    look_alikes: Annotated[
        int, typer.Option(min=0, help="Families, offices and others that share and are honest.")
    ] = 0,
    truth: Annotated[
        Path | None,
        typer.Option(help="Also write who is in which ring or look-alike, as JSON, to this file."),
    ] = None,
) -> None:
    """Generate payments with labelled fraud, deterministically; `dafu publish` reads them.

    With rings or look-alikes the file has two more label columns, ring_id and look_alike_id.
    """
    from dafu.generator import DEFAULT_SCENARIOS, generate_traffic, write, write_truth

    if truth is not None and not rings and not look_alikes:
        raise typer.BadParameter("--truth needs --rings or --look-alikes")
    generated = generate_traffic(
        users,
        merchants,
        days,
        seed,
        fraud_rate=fraud_rate,
        scenarios=scenario or DEFAULT_SCENARIOS,
        rings=rings,
        look_alikes=look_alikes,
    )
    rows = write(generated.batches, out)
    typer.echo(f"wrote {rows:,} transactions to {out}")
    if truth is not None:
        write_truth(generated.truth, truth)
        typer.echo(f"wrote {len(generated.truth.groups):,} groups to {truth}")
