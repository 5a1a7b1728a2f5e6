"""`dafu backtest`: how models would have done, trained and tested week after week."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dafu.cli.options import parse_moment
from dafu.cli.progress import progress_bar, show_left_out

if TYPE_CHECKING:
    from dafu.evaluation.backtest import Backtest, Searched
    from dafu.evaluation.contenders import Data
    from dafu.evaluation.metrics import Budget
    from dafu.evaluation.protocol import Fold
    from dafu.history import History
    from dafu.ingest import TransactionReader

_MODELS: Final = "baseline,tails,isolation_forest,random_forest,xgboost,ensemble"
_PIPED_WIDTH: Final = 176


def backtest(
    file: Annotated[Path, typer.Argument(help="Labelled transactions in time order.")],
    train_start: Annotated[
        str, typer.Option(help="First training day of the latest fold, such as 2018-07-11 (UTC).")
    ],
    mapping: Annotated[
        str, typer.Option(help="Whose columns these are: a name in conf/mappings, or a YAML file.")
    ] = "dafu",
    train_days: Annotated[int, typer.Option(min=1, help="Days of training.")] = 7,
    delay_days: Annotated[int, typer.Option(min=0, help="Days until labels are known.")] = 7,
    test_days: Annotated[int, typer.Option(min=1, help="Days of testing.")] = 7,
    folds: Annotated[
        int, typer.Option(min=1, help="Folds, each a test's length before the one after it.")
    ] = 1,
    models: Annotated[
        str, typer.Option(help="Names, separated by commas; the first is compared with.")
    ] = _MODELS,
    cards: Annotated[int, typer.Option(min=1, help="The k of card precision@k.")] = 100,
    alerts: Annotated[int, typer.Option(min=1, help="Transactions reviewed a day.")] = 100,
    review_cost: Annotated[float, typer.Option(min=0, help="Of one alert.")] = 5.0,
    loss_share: Annotated[
        float, typer.Option(min=0, help="Share of a missed fraud's amount that is lost.")
    ] = 1.0,
    replicates: Annotated[
        int, typer.Option(min=0, help="Bootstrap samples of users, for the intervals.")
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of models, search and bootstrap.")] = 0,
    search: Annotated[
        int, typer.Option(min=0, help="Search parameters first, with so many trials a model.")
    ] = 0,
    search_folds: Annotated[int, typer.Option(min=1, help="Folds to search on.")] = 2,
    search_metric: Annotated[
        str, typer.Option(help="What the search makes good.")
    ] = "average_precision",
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")
    ] = False,
) -> None:
    r"""Train and test models on past transactions, fold by fold, as if at that time.

    The whole file is replayed once, for its features. Each fold trains on some days, lets the
    delay of the labels pass, and tests on the days after; cards known to be compromised by a test
    day are left out of it. This is the protocol of the Fraud Detection Handbook, whose own
    features and random forest are the model `baseline`. Figures come with 95 % intervals over
    resampled users. A search looks only at folds whose labels are known when the earliest one
    trains. Needs the train extra: pip install 'dafu\[train]'.
    """
    start = parse_moment(train_start)
    assert start is not None
    names = [name for given in models.split(",") if (name := given.strip())]
    if not names or len(set(names)) < len(names):
        raise typer.BadParameter("--models takes different names, separated by commas")
    from dafu.evaluation.backtest import run_backtest
    from dafu.evaluation.contenders import Data, check_contender
    from dafu.evaluation.metrics import METRICS, Budget
    from dafu.evaluation.protocol import Fold, prequential
    from dafu.ingest import TransactionReader, load_mapping

    if search_metric not in METRICS:
        raise typer.BadParameter(f"--search-metric is one of {', '.join(METRICS)}")
    for name in names:
        check_contender(name)
    if json_out is not None:
        check_writable(json_out)
    reader = TransactionReader(file, load_mapping(mapping), skip_bad=skip_bad)
    history = replayed(reader, skip_bad, delay_days)
    data = Data(history, delay_days)
    latest = Fold(start, train_days, delay_days, test_days)
    budget = Budget(cards, alerts, review_cost, loss_share)
    searched: dict[str, Searched] = {}
    if search:
        earliest = prequential(latest, folds)[-1]
        searched = _search(data, earliest, names, search, search_folds, search_metric, budget, seed)
    result = run_backtest(
        data,
        latest,
        folds,
        names,
        budget=budget,
        replicates=replicates,
        seed=seed,
        clock=time.perf_counter,
        parameters={name: found.parameters for name, found in searched.items()},
        searched=searched,
        on_step=_say,
    )
    _show(result, budget)
    if json_out is not None:
        config = {
            "mapping": mapping,
            "models": names,
            "folds": folds,
            "latest": latest,
            "budget": budget,
            "replicates": replicates,
            "confidence": 0.95,
            "seed": seed,
            "search": {"trials": search, "folds": search_folds, "metric": search_metric},
        }
        _write(json_out, config, file, history, result)
        typer.echo(f"wrote {json_out}")


def replayed(reader: TransactionReader, skip_bad: bool, delay_days: int) -> History:
    """The history of a file, with a progress bar and what there is to say about it.

    Features know of a fraud so many days after it.
    """
    from dafu.features.catalogue import DAY
    from dafu.history import FRAUD, UNKNOWN, read_history

    begin = time.perf_counter()
    with progress_bar("features") as update:
        history = read_history(
            reader, label_delay=delay_days * DAY, skip_bad=skip_bad, on_batch=update
        )
    seconds = time.perf_counter() - begin
    n = len(history)
    frauds = int((history.labels == FRAUD).sum())
    known = int((history.labels != UNKNOWN).sum())
    typer.echo(
        f"replayed {n:,} transactions in {seconds:.1f} s ({n / max(seconds, 1e-9):,.0f}/s): "
        f"{known:,} with labels, {frauds:,} of them fraud"
    )
    show_left_out(reader, history.rejected)
    return history


def check_writable(path: Path) -> None:
    """Find out before the work whether a file can be written at its end.

    Raises
    ------
    OutputFileError
        If not.
    """
    from dafu.offline import OutputFileError

    there = path.exists()
    try:
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as exc:
        raise OutputFileError(f"{path} can not be written: {exc.strerror or exc}") from exc


def _search(
    data: Data,
    earliest: Fold,
    names: list[str],
    trials: int,
    n_folds: int,
    metric: str,
    budget: Budget,
    seed: int,
) -> dict[str, Searched]:
    from dafu.evaluation.backtest import search

    found: dict[str, Searched] = {}
    for name in names:
        _say(f"{name}: searching parameters")
        result = search(
            data,
            earliest,
            name,
            trials=trials,
            n_folds=n_folds,
            metric=metric,
            budget=budget,
            seed=seed,
        )
        if result is None:
            _say(f"{name}: has no parameters to search")
            continue
        found[name] = result
        chosen = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in result.parameters.items()
        )
        _say(f"{name}: {metric} {result.value:.4g} with {chosen}")
    return found


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _show(result: Backtest, budget: Budget) -> None:
    from rich.console import Console
    from rich.table import Table

    titles = {
        "auc_roc": "AUC ROC",
        "average_precision": "average precision",
        "card_precision": f"card precision@{budget.cards}",
        "alert_precision": f"precision@{budget.alerts} a day",
        "alert_recall": "recall",
        "value_detected": "value detected",
        "cost": "cost",
    }
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)

    def table(title: str) -> Table:
        made = Table(title=title, title_justify="left")
        made.add_column("model", no_wrap=True)
        for name in titles.values():
            made.add_column(name, justify="right")
        return made

    for part in result.folds:
        shown = table(
            f"{part.description}: {part.train_rows:,} training rows ({part.train_frauds:,} fraud), "
            f"{part.test_rows:,} test rows ({part.test_frauds:,} fraud; {part.left_out:,} of known "
            "compromised cards left out)"
        )
        for name, model in part.models.items():
            shown.add_row(name, *(_cell(m, model.metrics[m]) for m in titles))
        console.print(shown)
    if len(result.folds) > 1:
        shown = table(f"mean of {len(result.folds)} folds")
        for name, metrics in result.means.items():
            shown.add_row(name, *(_cell(m, metrics[m]) for m in titles))
        console.print(shown)
    if result.differences:
        first = next(iter(result.means))
        shown = table(f"difference to {first}, mean of folds")
        for name, metrics in result.differences.items():
            shown.add_row(name, *(_cell(m, metrics[m], sign="+") for m in titles))
        console.print(shown)


def _cell(metric: str, figure: Any, sign: str = "") -> str:
    if figure.value is None:
        return "-"
    style = f"{sign},.0f" if metric == "cost" else f"{sign}.3f"
    text = format(figure.value, style)
    if figure.low is None:
        return text
    return f"{text} [dim]({format(figure.low, style)}..{format(figure.high, style)})[/]"


def _write(
    path: Path, config: dict[str, Any], file: Path, history: History, result: Backtest
) -> None:
    import msgspec

    from dafu.evaluation.description import describe_data, versions
    from dafu.offline import OutputFileError

    document = {
        "config": config,
        "data": describe_data(file.name, history),
        "versions": versions(),
        "result": result,
    }
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    except OSError as exc:
        raise OutputFileError(f"{path} can not be written: {exc.strerror or exc}") from exc
