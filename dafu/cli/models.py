"""`dafu models`: what is deployed, what is in a package, and asking for another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

import typer

from dafu.cli.backtest import replayed
from dafu.cli.control import By, Json, Wait, Why, ask, read_registry, signature

if TYPE_CHECKING:
    from dafu.evaluation.evaluate import Evaluation
    from dafu.models.model import Manifest, Packaged
    from dafu.registry import Level, Lineup, ModelRef, Role

app = typer.Typer(help="Deploy models, and see what is deployed.", no_args_is_help=True)

_ROLES: Final = ("champion", "challenger", "shadow")
_LEVELS: Final = ("scoring", "sequence")

_Package = Annotated[str, typer.Argument(help="Directory or URL of a model package.")]
_Version = Annotated[str, typer.Argument(help="Version of a deployed model.")]
_LevelOption = Annotated[str, typer.Option(help="scoring or sequence.")]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """Show what is deployed: champions, challengers, shadows, and the champions before."""
    import msgspec

    from dafu.settings import load_settings

    settings = load_settings()
    registry = asyncio.run(read_registry(settings))
    if as_json:
        typer.echo(msgspec.json.encode(registry).decode())
        return
    if registry is None:
        typer.echo(
            "nothing was ever deployed: workers decide with the package that they are configured "
            f"with, {settings.model_path or 'none'}"
        )
        return
    for level in _LEVELS:
        typer.echo(level)
        for line in _lineup_lines(registry.of(level)):
            typer.echo(f"  {line}")


@app.command("show")
def show(package: _Package, as_json: Json = False) -> None:
    """Verify a package's checksums and show its manifest."""
    import msgspec

    from dafu.features.catalogue import CATALOGUE_HASH

    manifest, _ = _opened(package)
    if as_json:
        typer.echo(msgspec.json.encode(manifest).decode())
        return
    for name, value in _facts(manifest).items():
        typer.echo(f"{name:<14} {value or 'not given'}")
    size = sum(entry.bytes for entry in manifest.files.values())
    typer.echo(f"{'checksums':<14} good: {len(manifest.files)} files, {size:,} bytes")
    if manifest.catalogue_hash != CATALOGUE_HASH:
        typer.echo(
            f"{'not servable':<14} this code computes feature catalogue {CATALOGUE_HASH}: retrain"
        )


@app.command("compare")
def compare(
    a: Annotated[str, typer.Argument(help="Directory or URL of a model package.")],
    b: Annotated[str, typer.Argument(help="Of another one.")],
    on: Annotated[
        Path | None, typer.Option(help="Labelled transactions in time order: figures of both.")
    ] = None,
    mapping: Annotated[
        str, typer.Option(help="Whose columns these are: a name in conf/mappings, or a YAML file.")
    ] = "dafu",
    delay_days: Annotated[
        int, typer.Option(min=0, help="Days until labels are known to features.")
    ] = 7,
    replicates: Annotated[
        int, typer.Option(min=0, help="Bootstrap samples of users, for the intervals.")
    ] = 200,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")
    ] = False,
) -> None:
    """Show two packages beside each other, and how both score known fraud.

    With --on the file is replayed once, from its beginning, and both models score its labelled
    transactions. Intervals are those of `dafu evaluate`.
    """
    opened = [_opened(a), _opened(b)]
    facts = [_facts(manifest) for manifest, _ in opened]
    features = [set(manifest.features) for manifest, _ in opened]
    rows = [(name, facts[0].get(name, ""), facts[1].get(name, "")) for name in _names(facts)]
    rows = [row for row in rows if row[0] != "features"]
    rows.append(("features", str(len(features[0])), str(len(features[1]))))
    _table(rows)
    for which, other in ((0, 1), (1, 0)):
        if only := sorted(features[which] - features[other]):
            typer.echo(f"only {'AB'[which]} reads: {', '.join(only)}")
    if on is not None:
        models = [model for _, model in opened]
        _compare_on(models, on, mapping, delay_days, replicates, skip_bad=skip_bad)


@app.command("deploy")
def deploy(
    package: _Package,
    role: Annotated[
        str, typer.Option(help="champion: decides. challenger, shadow: look on, decide nothing.")
    ],
    level: Annotated[
        str | None, typer.Option(help="scoring or sequence. [default: by the package's kind]")
    ] = None,
    why: Why = "",
    by: By = None,
    wait: Wait = 30.0,
) -> None:
    """Have the workers serve a package, from a place in their logs that a replay finds again.

    The package is loaded and checked here first. A directory must be there for all workers.
    """
    if role not in _ROLES:
        raise typer.BadParameter(f"--role is one of {', '.join(_ROLES)}")
    if level is not None:
        _level(level)
    from dafu.agents.shelf import load_for
    from dafu.models.recurrent import RecurrentModel
    from dafu.registry import ModelRef

    manifest, model = _opened(package)
    at = level or ("sequence" if isinstance(model, RecurrentModel) else "scoring")
    url = package if "://" in package else str(Path(package).resolve())
    ref = ModelRef(manifest.name, manifest.version, url)
    load_for(cast("Level", at), ref)
    _ask("deploy", at, by, why, wait, role=cast("Role", role), model=ref)


@app.command("promote")
def promote(
    version: _Version,
    level: _LevelOption = "scoring",
    why: Why = "",
    by: By = None,
    wait: Wait = 30.0,
) -> None:
    """Make a challenger or shadow the champion."""
    _ask("promote", level, by, why, wait, version=version)


@app.command("rollback")
def rollback(
    level: _LevelOption = "scoring", why: Why = "", by: By = None, wait: Wait = 30.0
) -> None:
    """Go back to the champion before."""
    _ask("rollback", level, by, why, wait)


@app.command("stop")
def stop(
    version: Annotated[str, typer.Argument(help="Its version, or `configured`.")],
    level: _LevelOption = "scoring",
    why: Why = "",
    by: By = None,
    wait: Wait = 30.0,
) -> None:
    """Serve a model no longer; without a champion, rules decide alone."""
    from dafu.registry import CONFIGURED

    found = CONFIGURED.version if version == CONFIGURED.name else version
    _ask("stop", level, by, why, wait, version=found)


def _level(level: str) -> None:
    if level not in _LEVELS:
        raise typer.BadParameter(f"--level is {' or '.join(_LEVELS)}")


def _ask(
    action: Literal["deploy", "promote", "rollback", "stop"],
    level: str,
    by: str | None,
    why: str,
    wait: float,
    **fields: Any,
) -> None:
    """Publish an event, and say what became of it."""
    _level(level)
    from dafu.registry import ControlEvent

    event = ControlEvent(action=action, level=cast("Level", level), **signature(by, why), **fields)
    registry = ask(event, wait)
    if registry is None:
        return
    typer.echo(f"{action}: done. At the level {level} from now on:")
    for line in _lineup_lines(registry.of(event.level)):
        typer.echo(f"  {line}")


def _lineup_lines(lineup: Lineup) -> list[str]:
    lines = [f"{'champion':<10} {_named(lineup.champion)}"]
    lines += [f"{c.role:<10} {_named(c.model)}" for c in lineup.candidates]
    lines += [f"{'former':<10} {_named(model)}" for model in reversed(lineup.former)]
    return lines


def _named(model: ModelRef | None) -> str:
    if model is None:
        return "none"
    if model.configured:
        return "configured (what each worker is started with)"
    return f"{model.name} {model.version} {model.url}"


def _opened(package: str) -> tuple[Manifest, Packaged]:
    """A package's manifest and model, every file verified; the feature catalogue is not."""
    from dafu.models.package import load_package, read_manifest

    return read_manifest(package), load_package(package, None)


def _facts(manifest: Manifest) -> dict[str, str]:
    """What a manifest says, line by line."""
    facts = {
        "kind": manifest.kind,
        "name": manifest.name,
        "version": manifest.version,
        "catalogue": manifest.catalogue_hash,
        "data": manifest.provenance.data,
        "code": manifest.provenance.code,
        "seed": str(manifest.provenance.seed),
        "requires": ", ".join(f"{k} {v}" for k, v in manifest.requires.items()) or "nothing",
        "features": f"{len(manifest.features)}: {', '.join(manifest.features)}",
    }
    for title, figures in (("threshold", manifest.thresholds), ("metric", manifest.metrics)):
        facts |= {f"{title} {name}": f"{value:,.6g}" for name, value in figures.items()}
    return facts


def _names(facts: Sequence[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for each in facts for name in each))


def _table(rows: Sequence[tuple[str, str, str]]) -> None:
    """Three columns, the last two headed A and B."""
    rows = [("", "A", "B"), *rows]
    widths = [max(len(row[k]) for row in rows) for k in range(2)]
    for name, left, right in rows:
        mark = "" if left == right or not name else "  *"
        typer.echo(f"{name:<{widths[0]}}  {left:<{widths[1]}}  {right}{mark}".rstrip())


def _compare_on(
    models: Sequence[Packaged],
    file: Path,
    mapping: str,
    delay_days: int,
    replicates: int,
    *,
    skip_bad: bool,
) -> None:
    from dafu.evaluation.metrics import EvaluationError
    from dafu.features.catalogue import CATALOGUE_HASH
    from dafu.ingest import TransactionReader, load_mapping
    from dafu.models.model import Model

    for model in models:
        if not isinstance(model, Model):
            raise EvaluationError(
                f"{model.name} {model.version}: a model of kind {model.kind} does not score "
                "transactions by itself; compare without --on"
            )
        if model.catalogue_hash != CATALOGUE_HASH:
            raise EvaluationError(
                f"{model.name} {model.version} was trained with feature catalogue "
                f"{model.catalogue_hash}, this code computes {CATALOGUE_HASH}"
            )
    reader = TransactionReader(file, load_mapping(mapping), skip_bad=skip_bad)
    history = replayed(reader, skip_bad, delay_days)
    results = [_evaluated(model, history, file.name, replicates) for model in models]
    rows = []
    figures: list[tuple[str, Callable[[Evaluation], str]]] = [
        (name, lambda result, name=name: _interval(result, name))  # type: ignore[misc]
        for name in results[0].metrics
    ]
    figures += [
        (f"{name} at the threshold", lambda result, name=name: f"{result.at_threshold[name]:,.4g}")  # type: ignore[misc]
        for name in results[0].at_threshold
    ]
    for name, tell in figures:
        rows.append((name, tell(results[0]), tell(results[1])))
    typer.echo("")
    _table(rows)


def _interval(result: Evaluation, name: str) -> str:
    figure = result.metrics[name]
    value = "none" if figure.value is None else f"{figure.value:,.4g}"
    return value if figure.low is None else f"{value} ({figure.low:,.4g} to {figure.high:,.4g})"


def _evaluated(model: Any, history: Any, name: str, replicates: int) -> Evaluation:
    """How a model scores the labelled transactions of a history."""
    import numpy as np

    from dafu.evaluation import evaluate as core
    from dafu.evaluation.description import describe_data, versions
    from dafu.evaluation.metrics import Budget, EvaluationError
    from dafu.features.catalogue import INDEX
    from dafu.history import UNKNOWN
    from dafu.models.isolation import IsolationForestModel
    from dafu.settings import load_settings

    rows = np.flatnonzero(history.labels != UNKNOWN)
    if not rows.size:
        raise EvaluationError("no labelled transactions: the mapping's `labels` say where they are")
    scores = model.score(history.features[rows], model.column_index(INDEX))
    labelled = core.Labelled(
        history.labels[rows],
        history.users[rows],
        history.times[rows],
        history.amounts[rows],
        scores.raw,
        scores.risk,
    )
    unsupervised = isinstance(model, IsolationForestModel)
    rules = core.Rules(
        "unsupervised" if unsupervised else "supervised",
        "risk",
        threshold=load_settings().thresholds.fraud,
    )
    return core.evaluate(
        f"{model.name} {model.version}",
        labelled,
        rules,
        budget=Budget(),
        replicates=replicates,
        seed=0,
        data=describe_data(name, history),
        versions=versions(),
        config={},
        importances={},
    )
