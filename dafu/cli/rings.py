"""`dafu rings`: the fraud rings in a file, without a broker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dafu.cli.options import parse_moment
from dafu.cli.progress import reading_bar, show_left_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dafu.network import Findings, FoundRing
    from dafu.rings.evaluation import RingFigures
    from dafu.rings.records import RingAlert
    from dafu.rings.truth import Truth

_SHOWN = 10


def rings(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON lines; by its name.")],
    out: Annotated[Path, typer.Option(help="Rings with members and evidence: a .json file.")],
    mapping: Annotated[
        str, typer.Option(help="Whose columns these are: a name in conf/mappings, or a YAML file.")
    ] = "dafu",
    min_size: Annotated[int, typer.Option(min=3, help="Members that a ring has at least.")] = 3,
    similarity: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Leave out members who are less alike than this to every other one: 1 minus the "
            "product, over all that two share, of 1 minus its weight. A device has up to 1, a "
            "card 0.9, an address 0.6. 0: nobody is left out.",
        ),
    ] = 0.0,
    pictures: Annotated[
        Path | None, typer.Option(help="Also draw every ring, as an .svg file in this directory.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Compare with what `dafu generate --truth` wrote, and print figures. Needs the "
            "train extra: pip install 'dafu\\[train]'."
        ),
    ] = None,
    labels_after: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="DAYS",
            help="Tell the stages so many days after a transaction that it was fraudulent, if the "
            "file says so, as chargebacks do. Left out: labels are not used.",
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only from this date or time on (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Only before this date or time.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most so many.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")
    ] = False,
) -> None:
    """Find the fraud rings in a file: users tied by devices, addresses, cards or emails.

    The rows pass in file order through the stream's own stages, with its rules and model, with no
    history before the first; alerts are those that a worker would have published. The file lists
    rings that are there in the end and rings that ended before.
    """
    if out.suffix != ".json":
        raise typer.BadParameter("--out takes a name that ends with .json")
    window = {"since": parse_moment(since), "until": parse_moment(until)}
    from dafu.features.catalogue import DAY
    from dafu.ingest import TransactionReader, load_mapping
    from dafu.loading import load_stages
    from dafu.network import (
        RingDocument,
        draw_rings,
        find_rings,
        read_truth,
        rings_of,
        write_rings,
    )
    from dafu.settings import load_settings
    from dafu.stages.ring_pipeline import RingPipeline

    known = None if truth is None else read_truth(truth)
    reader = TransactionReader(
        file, load_mapping(mapping), **window, limit=limit, skip_bad=skip_bad, batch_rows=20_000
    )
    pipeline = RingPipeline(*load_stages(load_settings(), rings=True))
    with reading_bar("looking for rings", reader) as show:
        begin = time.perf_counter()
        found = find_rings(
            reader,
            pipeline,
            label_delay_ms=None if labels_after is None else round(labels_after * DAY),
            skip_bad=skip_bad,
            on_chunk=lambda so_far: show(so_far.transactions),
        )
        seconds = time.perf_counter() - begin
    alerts = found.selected(similarity, min_size)
    listed = rings_of(alerts)
    write_rings(RingDocument(file.name, found.transactions, similarity, min_size, listed), out)
    _show(found, listed, seconds, out)
    if pictures is not None:
        typer.echo(f"drew {draw_rings(listed, pictures):,} rings in {pictures}")
    if known is not None:
        _compare(found, alerts, known)
    show_left_out(reader, found.rejected)


def _show(found: Findings, listed: Sequence[FoundRing], seconds: float, out: Path) -> None:
    members = sum(ring.size for ring in listed)
    ended = sum(ring.ended is not None for ring in listed)
    typer.echo(
        f"looked at {found.transactions:,} transactions in {seconds:.1f} s "
        f"({found.transactions / max(seconds, 1e-9):,.0f}/s): {len(listed):,} rings with "
        f"{members:,} members, {ended:,} of them over"
    )
    for ring in listed[:_SHOWN]:
        why = "; ".join(ring.reasons[:2])
        typer.echo(f"  {ring.score:.2f}  {ring.ring_id}  {ring.size} members: {why}")
    if len(listed) > _SHOWN:
        typer.echo(f"  and {len(listed) - _SHOWN:,} more")
    typer.echo(f"wrote {out}")


def _compare(found: Findings, alerts: Sequence[RingAlert], truth: Truth) -> None:
    from dafu.rings.evaluation import complete, components, evaluate_rings, reports_of

    truth = complete(truth, found.last_seen)
    _figures("rings", evaluate_rings(reports_of(alerts), truth))
    baseline = components(found.pairs, truth.min_size)
    _figures("baseline, connected components", evaluate_rings(baseline, truth))


def _figures(name: str, figures: RingFigures) -> None:
    kinds = ", ".join(f"{kind} {k.found} of {k.rings}" for kind, k in figures.kinds.items())
    mistaken = ", ".join(f"{kind} {count}" for kind, count in figures.mistaken.items())
    typer.echo(f"{name}, against the truth:")
    typer.echo(
        f"  found {figures.found} of {figures.rings} ({_percent(figures.recall)}), "
        f"{figures.isolated} of them by themselves: {kinds or 'none'}"
    )
    typer.echo(
        f"  {_percent(figures.precision)} of {figures.reported} reported rings are rings, "
        f"{_percent(figures.member_precision)} of their members are members; "
        f"mistaken: {mistaken or 'none'}"
    )
    typer.echo(
        f"  apart from these, {figures.reported_campaigns} reported rings are parts of campaigns "
        f"of card testing; {figures.campaigns.found} of {figures.campaigns.rings} were found whole"
    )
    if figures.delay_median is not None:
        typer.echo(
            f"  noticed {figures.noticed}, after {figures.delay_median:.0f} more transactions of "
            f"the ring (median; {figures.delay_p90:.0f} at the 90th percentile)"
        )


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"
