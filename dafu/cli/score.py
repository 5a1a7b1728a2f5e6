"""`dafu score`: decide the transactions of a file, without a broker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from dafu.cli.options import parse_moment
from dafu.cli.progress import reading_bar, show_left_out
from dafu.decision_files import SUFFIXES


def score(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON lines; by its name.")],
    out: Annotated[Path, typer.Option(help="Decisions: a .parquet, .jsonl or .csv file.")],
    mapping: Annotated[
        str, typer.Option(help="Whose columns these are: a name in conf/mappings, or a YAML file.")
    ] = "dafu",
    features: Annotated[
        Path | None, typer.Option(help="Also write every feature, to this .parquet file.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only from this date or time on (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Only before this date or time.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most so many.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")
    ] = False,
    batch_records: Annotated[
        int | None,
        typer.Option(min=1, help="Rows decided together; for speed only. [default: as a worker]"),
    ] = None,
) -> None:
    """Decide the transactions of a file with the stream's own code, rules and model.

    They pass in file order, with no history before the first. The Parquet columns are those of
    `dafu decisions --out`; `payload`, or a line of .jsonl, is what a worker would publish, byte
    for byte, for the same transactions in one partition.
    """
    if out.suffix not in SUFFIXES:
        raise typer.BadParameter(f"--out takes a name that ends with {', '.join(SUFFIXES)}")
    if features is not None and (features.suffix != ".parquet" or features == out):
        raise typer.BadParameter("--features takes another name, which ends with .parquet")
    window = {"since": parse_moment(since), "until": parse_moment(until)}
    from dafu.ingest import TransactionReader, load_mapping
    from dafu.loading import load_stages
    from dafu.offline import score_file
    from dafu.settings import load_settings
    from dafu.stages.pipeline import Pipeline

    settings = load_settings()
    reader = TransactionReader(
        file, load_mapping(mapping), **window, limit=limit, skip_bad=skip_bad, batch_rows=20_000
    )
    pipeline = Pipeline(*load_stages(settings, rings=False))
    with reading_bar("scoring", reader) as show:
        begin = time.perf_counter()
        scored = score_file(
            reader,
            pipeline,
            out,
            features_out=features,
            batch_records=batch_records or settings.batch_records,
            skip_bad=skip_bad,
            on_batch=lambda so_far: show(so_far.decided),
        )
        seconds = time.perf_counter() - begin
    kinds = ", ".join(f"{name} {count:,}" for name, count in scored.by_decision.items())
    typer.echo(
        f"scored {scored.decided:,} transactions in {seconds:.1f} s "
        f"({scored.decided / max(seconds, 1e-9):,.0f}/s): {kinds or 'none'}"
    )
    if scored.duplicates:
        typer.echo(f"{scored.duplicates:,} rows repeat a transaction_id and got no second decision")
    typer.echo(f"wrote {out}" + (f" and {features}" if features is not None else ""))
    show_left_out(reader, scored.rejected)
