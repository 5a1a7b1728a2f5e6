"""`dafu evaluate`: a report on how a model, or a file of scores, tells known fraud."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from dafu.cli.backtest import replayed
from dafu.cli.options import parse_moment
from dafu.cli.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np

    from dafu.evaluation.evaluate import Evaluation, Learning
    from dafu.history import History

_LEARNING: Final = ("supervised", "unsupervised")
_DETECTION: Final = ("classic", "risk")


class _Scored(NamedTuple):
    """Scores of chosen rows of a history, and how to get them from features if that is known."""

    title: str
    learning: Learning
    rows: np.ndarray
    raw: np.ndarray
    risk: np.ndarray
    model: Any = None


def evaluate(
    file: Annotated[Path, typer.Argument(help="Labelled transactions in time order.")],
    out: Annotated[Path, typer.Option(help="Directory of the report; files in it are replaced.")],
    mapping: Annotated[
        str, typer.Option(help="Whose columns these are: a name in conf/mappings, or a YAML file.")
    ] = "dafu",
    model: Annotated[
        Path | None, typer.Option(help="Model package. [default: the one that workers serve]")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Evaluate a file of scores instead: .parquet or .csv, by transaction."),
    ] = None,
    score_column: Annotated[
        str, typer.Option(help="Its column of scores; transaction_id says whose.")
    ] = "risk_score",
    learning: Annotated[
        str | None,
        typer.Option(
            help="supervised: the risk is a probability; unsupervised: a rank. "
            "[default: as the model; scores are supervised]"
        ),
    ] = None,
    detection: Annotated[
        str | None,
        typer.Option(
            help="classic: alert the --contamination; risk: alert from a --threshold on. "
            "[default: classic for unsupervised, risk for supervised]"
        ),
    ] = None,
    contamination: Annotated[
        float, typer.Option(help="Share of the transactions that classic detection alerts.")
    ] = 0.01,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Risk of an alert. [default: thresholds.fraud]"),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Evaluate only from this date or time on (UTC).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only before this date or time.")] = None,
    cards: Annotated[int, typer.Option(min=1, help="The k of card precision@k.")] = 100,
    alerts: Annotated[int, typer.Option(min=1, help="Transactions reviewed a day.")] = 100,
    review_cost: Annotated[float, typer.Option(min=0, help="Of one alert.")] = 5.0,
    loss_share: Annotated[
        float, typer.Option(min=0, help="Share of a missed fraud's amount that is lost.")
    ] = 1.0,
    replicates: Annotated[
        int, typer.Option(min=0, help="Bootstrap samples of users, for the intervals.")
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap and the shuffling.")] = 0,
    delay_days: Annotated[
        int, typer.Option(min=0, help="Days until labels are known to features.")
    ] = 7,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")
    ] = False,
) -> None:
    r"""Write a report: figures, ROC and precision-recall curves, calibration, features.

    The file is replayed from its beginning, so that what comes before --since fills the windows;
    only labelled transactions are evaluated, each as it would have been scored. With --scores
    nothing is computed but figures: those may come from `dafu score --out`. The directory gets
    metrics.json, metrics.csv, PNG figures, and an index.html that needs none of them. Needs the
    train extra: pip install 'dafu\[train]'.
    """
    if learning not in (None, *_LEARNING) or detection not in (None, *_DETECTION):
        raise typer.BadParameter(
            f"--learning is {' or '.join(_LEARNING)}, --detection {' or '.join(_DETECTION)}"
        )
    if not 0.0 < contamination <= 0.5:
        raise typer.BadParameter("--contamination is above 0 and at most 0.5")
    if model is not None and scores is not None:
        raise typer.BadParameter("give either --model or --scores")
    start, end = parse_moment(since), parse_moment(until)
    from dafu.evaluation import evaluate as core
    from dafu.evaluation.contenders import check_libraries
    from dafu.evaluation.description import describe_data, versions
    from dafu.evaluation.metrics import Budget
    from dafu.evaluation.report import write_report
    from dafu.ingest import TransactionReader, load_mapping
    from dafu.settings import load_settings

    check_libraries("a report", ("matplotlib",), "train")
    settings = load_settings()
    reader = TransactionReader(file, load_mapping(mapping), until=end, skip_bad=skip_bad)
    if scores is not None:
        found = _from_file(scores, score_column, replayed(reader, skip_bad, delay_days), start)
    else:
        found = _from_model(model or settings.model_path, reader, skip_bad, delay_days, start)
    history, scored = found
    how = learning or scored.learning
    rules = core.Rules(
        how,  # type: ignore[arg-type]
        detection or ("risk" if how == "supervised" else "classic"),  # type: ignore[arg-type]
        contamination,
        settings.thresholds.fraud if threshold is None else threshold,
    )
    rows = scored.rows
    labelled = core.Labelled(
        history.labels[rows],
        history.users[rows],
        history.times[rows],
        history.amounts[rows],
        scored.raw,
        scored.risk,
    )
    result = core.evaluate(
        scored.title,
        labelled,
        rules,
        budget=Budget(cards, alerts, review_cost, loss_share),
        replicates=replicates,
        seed=seed,
        data=describe_data(file.name, history),
        versions=versions(),
        config={
            "mapping": mapping,
            "learning": rules.learning,
            "detection": rules.detection,
            "contamination": contamination,
            "risk threshold": rules.threshold,
            "since": since or "the beginning",
            "until": until or "the end",
            "cards": cards,
            "alerts": alerts,
            "review cost": review_cost,
            "loss share": loss_share,
            "replicates": replicates,
            "seed": seed,
        },
        importances=_importances(scored, history, labelled.labels, seed),
    )
    write_report(out, result, labelled.labels, core.scores_of(labelled, rules.detection))
    _show(result)
    typer.echo(f"wrote {out}; open {out / 'index.html'}")


def _evaluated(history: History, since: int | None) -> np.ndarray:
    """Positions of the transactions to evaluate."""
    import numpy as np

    from dafu.evaluation.metrics import EvaluationError
    from dafu.history import UNKNOWN

    chosen = history.labels != UNKNOWN
    if since is not None:
        chosen &= history.times >= since
    if not chosen.any():
        raise EvaluationError(
            "no labelled transactions to evaluate: the mapping's `labels` say where labels are, "
            "--since and --until which transactions count"
        )
    return np.flatnonzero(chosen)


def _from_model(
    path: Path | str | None, reader: Any, skip_bad: bool, delay_days: int, since: int | None
) -> tuple[History, _Scored]:
    from dafu.features.catalogue import CATALOGUE_HASH, INDEX
    from dafu.models.errors import ModelPackageError
    from dafu.models.isolation import IsolationForestModel
    from dafu.models.package import load_model
    from dafu.models.tails import TailsModel

    if path is None:
        raise ModelPackageError("workers serve no model package; name one with --model")
    package = load_model(path, CATALOGUE_HASH)
    history = replayed(reader, skip_bad, delay_days)
    rows = _evaluated(history, since)
    found = package.score(history.features[rows], package.column_index(INDEX))
    learning: Learning = (
        "unsupervised" if isinstance(package, (IsolationForestModel, TailsModel)) else "supervised"
    )
    title = f"{package.name} {package.version}"
    return history, _Scored(title, learning, rows, found[0], found.risk, package)


def _from_file(
    path: Path, column: str, history: History, since: int | None
) -> tuple[History, _Scored]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from dafu.evaluation.metrics import EvaluationError

    table = _read_scores(path, column)
    rows = _evaluated(history, since)
    ids = history.transaction_ids.take(pa.array(rows))
    at = pc.index_in(ids, table.column("transaction_id").combine_chunks())
    missing = at.null_count
    if missing:
        which = ids.filter(pc.is_null(at))[0].as_py()
        raise EvaluationError(
            f"{path} has no score for {missing:,} of the {len(rows):,} labelled transactions, such "
            f"as {which!r}"
        )
    values = np.asarray(table.column(column).cast(pa.float64()).take(at), dtype=np.float64)
    return history, _Scored(f"{column} of {path.name}", "supervised", rows, values, values)


def _read_scores(path: Path, column: str) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    from dafu.evaluation.metrics import EvaluationError

    wanted = ["transaction_id", column]
    text = {"transaction_id": pa.string()}
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        elif path.suffix == ".csv":
            table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=text))
        else:
            raise EvaluationError(f"{path}: scores are read from .parquet and .csv files")
    except (pa.ArrowException, OSError) as exc:
        raise EvaluationError(f"{path} can not be read: {exc}") from exc
    lacking = [name for name in wanted if name not in table.column_names]
    if lacking:
        raise EvaluationError(
            f"{path} has no column {' and '.join(lacking)}; it has {', '.join(table.column_names)}"
        )
    table = table.select(wanted)
    try:
        return table.set_column(0, wanted[0], table.column(0).cast(pa.string()))
    except pa.ArrowException as exc:
        raise EvaluationError(f"{path}: {exc}") from exc


def _importances(
    scored: _Scored, history: History, labels: np.ndarray, seed: int
) -> dict[str, float]:
    from dafu.evaluation.evaluate import permutation_importances
    from dafu.features.catalogue import INDEX

    if scored.model is None:
        return {}
    columns = scored.model.column_index(INDEX)
    with progress_bar("importances") as update:
        return permutation_importances(
            lambda x: scored.model.score(x, columns)[0],
            history.features[scored.rows],
            labels,
            {name: INDEX[name] for name in scored.model.feature_names},
            seed,
            update,
        )


def _show(result: Evaluation) -> None:
    c = result.confusion
    typer.echo(f"{result.title}: {sum(c):,} transactions, {result.rules.learning}")
    for name, figure in result.metrics.items():
        value = "none" if figure.value is None else f"{figure.value:,.4g}"
        between = "" if figure.low is None else f"  ({figure.low:,.4g} to {figure.high:,.4g})"
        typer.echo(f"  {name:<18} {value}{between}")
    typer.echo(
        f"{result.rules.detection} detection, threshold {result.threshold:.4g}: "
        f"{c.true_positives + c.false_positives:,} alerts, {c.true_positives:,} of "
        f"{c.true_positives + c.false_negatives:,} frauds (precision {c.precision:.3f}, "
        f"recall {c.recall:.3f})"
    )
