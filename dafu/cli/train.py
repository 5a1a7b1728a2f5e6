"""`dafu train`: a model package, from a file or from generated transactions."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

_SEED: Final = 20250101  # of the package that ships


class ModelName(StrEnum):
    """What `--model` takes."""

    isolation_forest = "isolation_forest"
    tails = "tails"
    xgboost = "xgboost"
    random_forest = "random_forest"
    gru = "gru"
    lstm = "lstm"
    ensemble = "ensemble"


def train(
    file: Annotated[
        Path | None, typer.Argument(help="Transactions in time order; without it, generated ones.")
    ] = None,
    mapping: Annotated[
        str, typer.Option(help="Whose columns these are: a name in conf/mappings, or a YAML file.")
    ] = "dafu",
    out: Annotated[Path, typer.Option(help="Directory of the model package.")] = Path("model"),
    model: Annotated[
        ModelName, typer.Option(help="What to train; all but the first two learn from labels.")
    ] = ModelName.isolation_forest,
    features: Annotated[
        str,
        typer.Option(
            help="What it looks at: behavior, unsupervised, tails, supervised, general, or names "
            "separated by commas."
        ),
    ] = "",
    sequence: Annotated[
        Path | None,
        typer.Option(help="Package of a sequence model, whose score becomes a feature."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the training.")] = _SEED,
    contamination: Annotated[
        float, typer.Option(help="Share of the training rows that counts as anomalous.")
    ] = 0.01,
    delay_days: Annotated[int, typer.Option(min=0, help="Days until labels are known.")] = 7,
    holdout: Annotated[
        float | None,
        typer.Option(
            help="Latest share that calibrates, chooses thresholds and measures. Default: 0.25, "
            "none for models that learn from no labels."
        ),
    ] = None,
    alerts_per_day: Annotated[
        int | None, typer.Option(min=1, help="Choose a threshold for so many alerts a day.")
    ] = None,
    false_positive_rate: Annotated[
        float | None, typer.Option(help="Choose a threshold for this share of the genuine.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of a sequence model, at the most.")] = 20,
) -> None:
    r"""Train a model on the features of past transactions.

    The first third of the transactions only fills windows. Models that learn from labels leave
    out the delay before the holdout, and their risk is a probability; the others' is a rank.

    A package in the --out directory is replaced. Workers serve it once MODEL_STORAGE_PATH names
    it; it never takes the place of the package in use by itself. The package that ships was made
    by `dafu train --out dafu/models/default`. Needs the train extra: pip install 'dafu\[train]';
    gru and lstm need sequence instead.
    """
    if not 0.0 < contamination <= 0.5:
        raise typer.BadParameter("--contamination is above 0 and at most 0.5")
    if holdout is not None and not 0.0 <= holdout <= 0.9:
        raise typer.BadParameter("--holdout is within 0..0.9")
    if false_positive_rate is not None and not 0.0 < false_positive_rate < 1.0:
        raise typer.BadParameter("--false-positive-rate is above 0 and below 1")
    from dafu.features.catalogue import CATALOGUE_HASH
    from dafu.ingest import TransactionReader, load_mapping
    from dafu.training import Plan, check_before, load_sequence, train_default, train_file
    from dafu.training.plan import feature_names

    check_before(model.value, out)
    plan = Plan(
        model=model.value,
        seed=seed,
        features=feature_names(features),
        contamination=contamination,
        delay_days=delay_days,
        holdout=holdout,
        alerts_per_day=alerts_per_day,
        false_positive_rate=false_positive_rate,
        epochs=epochs,
        sequence=None if sequence is None else load_sequence(str(sequence), CATALOGUE_HASH),
    )
    begin = time.perf_counter()
    if file is None:
        typer.echo("training on generated transactions; this takes about half a minute")
        made = train_default(out, plan)
    else:
        made = train_file(TransactionReader(file, load_mapping(mapping)), out, plan)
    typer.echo(f"{made.name} {made.version}, trained in {time.perf_counter() - begin:.0f} s")
    typer.echo(f"data      {made.provenance.data}")
    typer.echo(f"features  {len(made.feature_names)}: {', '.join(made.feature_names)}")
    for name, version in sorted(made.requires.items()):
        typer.echo(f"requires  {name} {version}")
    for title, figures in (("metrics", made.metrics), ("threshold", made.thresholds)):
        for name, value in sorted(figures.items()):
            typer.echo(f"{title:<9} {name} {value:,.6g}")
    if model in (ModelName.gru, ModelName.lstm):
        typer.echo(f"wrote {out}; build on it with dafu train --model ensemble --sequence {out}")
    else:
        typer.echo(f"wrote {out}; serve it with MODEL_STORAGE_PATH={out}")
