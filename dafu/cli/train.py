"""`dafu train`: a model package, from a file or from generated transactions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

_SEED: Final = 20250101  # of the package that ships


def train(
    file: Annotated[
        Path | None, typer.Argument(help="Transactions in time order; without it, generated ones.")
    ] = None,
    mapping: Annotated[
        str, typer.Option(help="Whose columns these are: a name in conf/mappings, or a YAML file.")
    ] = "dafu",
    out: Annotated[Path, typer.Option(help="Directory of the model package.")] = Path("model"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the forest.")] = _SEED,
    contamination: Annotated[
        float, typer.Option(help="Share of the training rows that counts as anomalous.")
    ] = 0.01,
) -> None:
    r"""Train the isolation forest on the features of past transactions; labels play no part.

    A package in the --out directory is replaced. Workers serve it once MODEL_STORAGE_PATH names
    it; it never takes the place of the package in use by itself. The package that ships was made
    by `dafu train --out dafu/models/default`. Needs the train extra: pip install 'dafu\[train]'.
    """
    if not 0.0 < contamination <= 0.5:
        raise typer.BadParameter("--contamination is above 0 and at most 0.5")
    from dafu.ingest import TransactionReader, load_mapping
    from dafu.training import check_before, train_default, train_file

    check_before(out)
    begin = time.perf_counter()
    if file is None:
        typer.echo("training on generated transactions; this takes about half a minute")
        model = train_default(out, seed=seed, contamination=contamination)
    else:
        reader = TransactionReader(file, load_mapping(mapping))
        model = train_file(reader, out, seed=seed, contamination=contamination)
    typer.echo(f"{model.name} {model.version}, trained in {time.perf_counter() - begin:.0f} s")
    typer.echo(f"data      {model.provenance.data}")
    typer.echo(f"features  {len(model.feature_names)}: {', '.join(model.feature_names)}")
    for title, figures in (("metrics", model.metrics), ("threshold", model.thresholds)):
        for name, value in sorted(figures.items()):
            typer.echo(f"{title:<9} {name} {value:,.6g}")
    typer.echo(f"wrote {out}; serve it with MODEL_STORAGE_PATH={out}")
