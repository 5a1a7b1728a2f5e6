"""`dafu performance`: how good the decisions were, once it is known what was fraud."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dafu.cli.options import parse_moment
from dafu.cli.progress import show_left_out

if TYPE_CHECKING:
    from dafu.ingest import TransactionReader
    from dafu.performance import Performance, Report, Row
    from dafu.schema import Decision
    from dafu.settings import Settings

_PIPED_WIDTH: Final = 160
_PERIODS: Final = ("day", "week")


def performance(
    decisions: Annotated[
        Path | None,
        typer.Argument(
            help="Decisions that `dafu decisions --out` or `dafu score --out` wrote. "
            "[default: the topic]"
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labelled transactions, also for amounts. [default: the topics]"),
    ] = None,
    mapping: Annotated[
        str,
        typer.Option(help="Whose columns --labels has: a name in conf/mappings, or a YAML file."),
    ] = "dafu",
    delay_days: Annotated[
        float, typer.Option(min=0, help="Days until a label of that file is known.")
    ] = 7.0,
    as_of: Annotated[
        str | None, typer.Option(help="Judge by what was known at this time (UTC). [default: now]")
    ] = None,
    maturity_days: Annotated[
        float, typer.Option(min=0, help="Days after which what has no label counts as genuine.")
    ] = 7.0,
    period: Annotated[str, typer.Option(help="day or week.")] = "week",
    horizon_days: Annotated[
        float, typer.Option(help="Only transactions so many days before the latest; bounds memory.")
    ] = 90.0,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows of --labels out.")
    ] = False,
) -> None:
    """Join decisions with their labels; show figures by model version and week.

    Only mature decisions are judged: those at least --maturity-days old, so that a label would have
    come. Of these, what no label calls fraud counts as genuine; younger ones are counted apart. A
    later observed label corrects an earlier one. Candidates, which decide nothing, count as
    alerting from thresholds.fraud on. Without --labels, labels come from the labels topic and
    amounts from the transactions topic, as far back as it goes.
    """
    if period not in _PERIODS:
        raise typer.BadParameter(f"--period is {' or '.join(_PERIODS)}")
    moment = parse_moment(as_of)
    now = int(time.time() * 1000) if moment is None else moment
    from dafu.cli.backtest import check_writable
    from dafu.cli.drift import write_json
    from dafu.ingest import TransactionReader, load_mapping
    from dafu.performance import Performance
    from dafu.settings import load_settings

    settings = load_settings()
    if json_out is not None:
        check_writable(json_out)
    joined = Performance(horizon_days)
    notes: list[str] = []
    take = _Taker(joined, now)
    if decisions is None:
        asyncio.run(_read_decisions(settings, take))
    else:
        from dafu.decision_reading import read_decisions

        for decision in read_decisions(decisions):
            take(decision)
    if labels is None:
        asyncio.run(_read_labels(settings, joined, notes))
    elif take.last:
        # Other transactions have no decision that their labels could say anything of.
        span = {"since": take.first, "until": take.last + 1}
        reader = TransactionReader(labels, load_mapping(mapping), **span, skip_bad=skip_bad)
        _label_file(joined, reader, round(delay_days * 86_400_000))
    threshold = settings.thresholds.fraud
    report = joined.report(
        now,
        maturity_days=maturity_days,
        period=period,  # type: ignore[arg-type]
        candidate_threshold=threshold,
    )
    counts = joined.counts
    if counts.repeats:
        notes.append(f"{counts.repeats:,} repeats of decisions were left out")
    if counts.waiting:
        notes.append(f"{counts.waiting:,} labelled transactions have no decision here")
    unpriced = sum(r.frauds_without_amount for r in report.totals if r.role == "champion")
    if unpriced:
        notes.append(f"{unpriced:,} frauds are not in the value: their amounts are not known")
    _show(report)
    for note in notes:
        typer.echo(f"note: {note}")
    if json_out is not None:
        config = {
            "horizon_days": horizon_days,
            "candidate_threshold": threshold,
            "decisions": "topic" if decisions is None else decisions.name,
            "labels": "topic" if labels is None else labels.name,
            "delay_days": None if labels is None else delay_days,
        }
        write_json(json_out, {"config": config, "counts": counts._asdict(), "report": report})
        typer.echo(f"wrote {json_out}")


class _Taker:
    """Takes decisions on transactions until now; later ones would move the horizon.

    `first` and `last` are the times of those taken, in epoch milliseconds.
    """

    def __init__(self, joined: Performance, now: int) -> None:
        self._joined = joined
        self._now = now
        self.first = now
        self.last = 0

    def __call__(self, decision: Decision) -> None:
        from dafu.performance.accumulator import decision_time

        time = decision_time(decision)
        if time <= self._now:
            self._joined.take_decision(decision)
            self.first, self.last = min(self.first, time), max(self.last, time)


async def _read_decisions(settings: Settings, take: _Taker) -> None:
    from dafu.cli.kafka import read_topic
    from dafu.schema import decode_decision

    async with aclosing(read_topic(settings, settings.topics.decisions)) as batches:
        async for records in batches:
            for record in records:
                if record.value is not None:
                    take(decode_decision(record.value))


async def _read_labels(settings: Settings, joined: Performance, notes: list[str]) -> None:
    """Labels, and the amounts of the transactions if those can be read."""
    from dafu.cli.kafka import TopicError, read_topic
    from dafu.schema import InvalidRecordError, parse_label, parse_transaction

    bad = 0
    async with aclosing(read_topic(settings, settings.topics.labels)) as batches:
        async for records in batches:
            for record in records:
                try:
                    joined.take_label(parse_label(record.value)[0])
                except InvalidRecordError:
                    bad += 1
    if bad:
        notes.append(f"{bad:,} records on {settings.topics.labels} are no labels")
    topic = settings.topics.transactions
    try:
        async with aclosing(read_topic(settings, topic)) as batches:
            async for records in batches:
                for record in records:
                    try:
                        made, at = parse_transaction(record.value)
                    except InvalidRecordError:
                        continue  # a dead letter, which has no decision
                    joined.take_amount(made.user_id, made.transaction_id, at, made.amount)
    except TopicError as exc:
        notes.append(f"no amounts, so no value but what labels tell: {exc}")


def _label_file(joined: Performance, reader: TransactionReader, delay: int) -> None:
    """Take the labels and amounts of a file; `delay` in milliseconds."""
    from dafu.ingest import ReadError
    from dafu.schema import Label

    wanted = ("user_id", "transaction_id", "timestamp", "amount", "is_fraud")
    known = 0
    for batch in reader:
        present = batch.schema.names
        if "is_fraud" not in present:
            raise ReadError(
                f"{reader.path} has no labels: the mapping's `labels` say where they are"
            )
        columns = [_values(batch.column(name), name) for name in wanted]
        for user, transaction, at, amount, fraud in zip(*columns, strict=True):
            if user is None or transaction is None or at is None:
                continue  # a line of JSON that is no transaction
            if amount is not None:
                joined.take_amount(user, transaction, at, amount)
            if fraud is not None:
                known += 1
                joined.take_label(Label(transaction, user, bool(fraud), "analyst", at + delay))
    show_left_out(reader, {})
    if not known:
        raise ReadError(f"{reader.path} has no labels of the time of the decisions")


def _values(column: Any, name: str) -> list[Any]:
    import pyarrow as pa

    if name == "timestamp":
        column = column.cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64())
    return column.to_pylist()  # type: ignore[no-any-return]


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    from dafu.performance.report import Group

    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    if not report.totals:
        typer.echo("there are no decisions to judge")
        return
    typer.echo(
        f"as of {report.as_of}; judged: decisions at least {report.maturity_days:g} days old"
    )
    titles = (
        *(report.period, "decisions", "reviewed", "blocked", "immature", "mature", "frauds"),
        *("TP", "FP", "FN", "precision", "recall", "value", "AP", "AUC"),
    )
    for total in report.totals:
        group = Group(total.role, total.model, total.version)
        rules = ", ".join(total.rules)
        table = Table(
            title=f"{group.role} {group.model} {group.version or '(no model)'}, rules {rules}",
            title_justify="left",
        )
        for title in titles:
            table.add_column(title, justify="left" if title == report.period else "right")
        own = [r for r in report.rows if Group(r.role, r.model, r.version) == group]
        for row in own:
            table.add_row(*_cells(row))
        if len(own) > 1:
            table.add_section()
            table.add_row(*_cells(total))
        console.print(table)


def _cells(row: Row) -> list[str]:
    counts = (
        *(row.decisions, row.reviewed, row.blocked, row.immature, row.mature, row.frauds),
        *(row.true_positives, row.false_positives, row.false_negatives),
    )
    figures = (
        *(row.precision, row.recall, row.value_detected),
        *(row.average_precision, row.auc_roc),
    )
    return [
        row.period or "all",
        *("-" if count is None else f"{count:,}" for count in counts),
        *("-" if figure is None else f"{figure:.3f}" for figure in figures),
    ]
