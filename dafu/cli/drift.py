"""`dafu drift`: whether transactions still look as they did when a model was trained."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dafu.cli.options import parse_moment
from dafu.cli.progress import progress_bar, show_left_out

if TYPE_CHECKING:
    from dafu.evaluation.drift import Drift
    from dafu.history import History
    from dafu.ingest import TransactionReader
    from dafu.models.model import Model
    from dafu.settings import Settings

_PIPED_WIDTH: Final = 120
_STYLES: Final = {"stable": "green", "watch": "yellow", "shifted": "bold red"}


def drift(
    file: Annotated[Path, typer.Argument(help="Recent transactions in time order.")],
    mapping: Annotated[
        str, typer.Option(help="Whose columns these are: a name in conf/mappings, or a YAML file.")
    ] = "dafu",
    model: Annotated[
        str | None,
        typer.Option(
            help="Model package, a directory or URL. [default: the one that workers serve]"
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Compare from this date or time on (UTC); what is before only fills the "
            "windows. [default: the first third does]"
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only before this date or time.")] = None,
    delay_days: Annotated[
        int, typer.Option(min=0, help="Days until labels are known to features.")
    ] = 7,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")
    ] = False,
) -> None:
    """Compare the features and scores of transactions with those of a model's training.

    PSI is the population stability index: below 0.1 a figure is stable, from 0.25 on it has
    shifted, in between watch it. KS is the largest distance of the distribution functions. Features
    are computed as the stream does, so FILE needs some history before what is compared: a user's
    first transactions look like nobody's in training. Labels are not needed.
    """
    start, end = parse_moment(since), parse_moment(until)
    import numpy as np

    from dafu.cli.backtest import check_writable
    from dafu.evaluation.drift import DriftError, model_drifts, psi_by_chance, verdict
    from dafu.features.catalogue import CATALOGUE_HASH, INDEX
    from dafu.ingest import TransactionReader, load_mapping
    from dafu.models.errors import ModelPackageError
    from dafu.models.package import load_model
    from dafu.settings import load_settings
    from dafu.training.periods import WARM_UP_SHARE

    settings = load_settings()
    place = model or settings.model_path
    if place is None:
        raise ModelPackageError("workers serve no model package; name one with --model")
    package = load_model(place, CATALOGUE_HASH)
    if package.reference is None:
        raise DriftError(
            f"{place}: the package does not say how the training data was distributed; train the "
            "model again, packages have a reference since"
        )
    if json_out is not None:
        check_writable(json_out)
    reader = TransactionReader(file, load_mapping(mapping), until=end, skip_bad=skip_bad)
    history = _history(reader, package, settings, delay_days, skip_bad)
    if start is None:
        rows = np.arange(int(len(history) * WARM_UP_SHARE), len(history))
    else:
        rows = np.flatnonzero(history.times >= start)
    if not len(rows):
        raise DriftError("there are no transactions to compare; --since and --until say which are")
    index = package.column_index(INDEX)
    x = history.features[rows]
    found = model_drifts(package.reference, x[:, index], package.score(x, index).raw)
    chance = psi_by_chance(package.reference.score, len(rows))
    times = history.times[rows]
    span = (_day(int(times.min())), _day(int(times.max())))
    _show(package, found, len(rows), span, chance)
    if json_out is not None:
        document = {
            "model": {"name": package.name, "version": package.version},
            "file": file.name,
            "mapping": mapping,
            "transactions": len(rows),
            "first_day": span[0],
            "last_day": span[1],
            "psi_by_chance": chance,
            "score": _described(found[-1], verdict(found[-1])),
            "features": [_described(one, verdict(one)) for one in found[:-1]],
        }
        write_json(json_out, document)
        typer.echo(f"wrote {json_out}")


def write_json(path: Path, document: Any) -> None:
    """Write a document to a file, indented; NaN becomes null.

    Raises
    ------
    OutputFileError
        If the file can not be written.
    """
    import msgspec

    from dafu.offline import OutputFileError

    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    except OSError as exc:
        raise OutputFileError(f"{path} can not be written: {exc.strerror or exc}") from exc


def _history(
    reader: TransactionReader, package: Model, settings: Settings, delay_days: int, skip_bad: bool
) -> History:
    from dafu.evaluation.drift import DriftError
    from dafu.features.catalogue import CATALOGUE_HASH, DAY
    from dafu.history import read_history
    from dafu.models.package import load_package
    from dafu.models.recurrent import RecurrentModel

    sequence: RecurrentModel | None = None
    if package.requires:
        if settings.sequence_model is not None:
            found = load_package(settings.sequence_model, CATALOGUE_HASH)
            sequence = found if isinstance(found, RecurrentModel) else None
        if sequence is None or package.requires != {sequence.name: sequence.version}:
            wanted = ", ".join(f"{name} {version}" for name, version in package.requires.items())
            raise DriftError(
                f"among the features of {package.name} is the output of {wanted}; set "
                "DAFU_SEQUENCE_MODEL to its package"
            )
    with progress_bar("features") as update:
        history = read_history(
            reader,
            label_delay=delay_days * DAY,
            sequence=sequence,
            skip_bad=skip_bad,
            on_batch=update,
        )
    show_left_out(reader, history.rejected)
    return history


def _day(time: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time / 1000, UTC).date().isoformat()


def _described(found: Drift, word: str) -> dict[str, Any]:
    return {**found._asdict(), "verdict": word}


def _show(package: Model, found: list[Drift], n: int, span: tuple[str, str], chance: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from dafu.evaluation.drift import STABLE, verdict

    score, features = found[-1], found[:-1]
    table = Table(
        title=f"{n:,} transactions, {span[0]} to {span[1]}, beside the training of "
        f"{package.name} {package.version}",
        title_justify="left",
    )
    table.add_column("figure", no_wrap=True)
    for name in ("PSI", "KS", "missing", "in training"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for one in (score, *sorted(features, key=lambda d: (-d.psi, d.name))):
        word = verdict(one)
        table.add_row(
            one.name,
            f"{one.psi:.3f}",
            "-" if math.isnan(one.ks) else f"{one.ks:.3f}",
            f"{one.missing:.1%}",
            f"{one.missing_before:.1%}",
            f"[{_STYLES[word]}]{word}[/]",
        )
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)
    words = [verdict(one) for one in features]
    typer.echo(
        f"the score: {verdict(score)}; of {len(words)} features {words.count('shifted')} shifted, "
        f"{words.count('watch')} to watch, {words.count('stable')} stable"
    )
    if chance >= STABLE / 2:
        typer.echo(
            f"note: with so few transactions chance alone makes a PSI of about {chance:.2f}; "
            "compare more"
        )
