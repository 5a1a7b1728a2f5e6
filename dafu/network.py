"""Fraud rings of a file, without a broker: the stream's own stages on its rows.

A file passes as one partition would, in file order. What is found about rings is told to the
stages that decide, as in the stream, after every `CHUNK_ROWS` rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct, structs

from dafu.ingest import to_records
from dafu.offline import OutputFileError, RejectedRowError
from dafu.rings.likeness import alike
from dafu.rings.picture import draw
from dafu.rings.records import RingAlert
from dafu.rings.truth import Truth, TruthError, decode_truth
from dafu.schema import Label, encode_label
from dafu.stages.batch import Rejected
from dafu.stages.ring_pipeline import RingPipeline

IS_FRAUD: Final = "is_fraud"
"""The label of a file that says which transactions are frauds."""

CHUNK_ROWS: Final = 500
"""Rows that are decided before they know of the rings that the rows before them made.

Part of the result, and therefore no option.
"""


class FoundRing(RingAlert, frozen=True, gc=False, omit_defaults=True):
    """A ring as it was told of last; one that ended, as it was when it was largest.

    `ended` is when, in epoch milliseconds.
    """

    ended: int | None = None


class RingDocument(Struct, frozen=True):
    """Rings of a file, those with the highest score first, and what was asked for."""

    file: str
    transactions: int
    similarity: float
    min_size: int
    rings: list[FoundRing]


class Findings(Struct):
    """What `find_rings` found: alerts in order, and pairs of users and identifiers.

    `last_seen` is the latest time of a sighting. `rejected` counts rows by reason, `duplicates`
    those that repeat a transaction.
    """

    alerts: list[RingAlert] = []
    pairs: dict[tuple[str, str], None] = {}
    transactions: int = 0
    last_seen: int = 0
    duplicates: int = 0
    rejected: dict[str, int] = {}

    def selected(self, similarity: float, min_size: int) -> list[RingAlert]:
        """Alerts of rings that are large enough without members who are too unlike the others.

        Those that close a ring are kept if it was told of before.
        """
        told: set[str] = set()
        kept: list[RingAlert] = []
        for alert in self.alerts:
            if alert.event == "closed":
                kept += [alert] * (alert.ring_id in told)
                continue
            ring = alike(alert, similarity, min_size)
            if ring is not None:
                told.add(ring.ring_id)
                kept.append(ring)
        return kept


def rings_of(alerts: Iterable[RingAlert]) -> list[FoundRing]:
    """The rings that alerts tell of, the highest score first.

    One that went on as part of another is not told of apart.
    """
    last: dict[str, RingAlert] = {}
    largest: dict[str, RingAlert] = {}
    for alert in alerts:
        last[alert.ring_id] = alert
        known = largest.get(alert.ring_id)
        if alert.event != "closed" and (known is None or alert.size >= known.size):
            largest[alert.ring_id] = alert
    found = []
    for ring_id, alert in last.items():
        if alert.event == "closed" and alert.related:
            continue
        ended = alert.time if alert.event == "closed" else None
        ring = alert if ended is None else largest[ring_id]
        found.append(FoundRing(**structs.asdict(ring), ended=ended))
    return sorted(found, key=lambda ring: (-ring.score, -ring.size, ring.ring_id))


def find_rings(
    batches: Iterable[Any],
    pipeline: RingPipeline,
    *,
    label_delay_ms: int | None = None,
    skip_bad: bool = False,
    on_chunk: Callable[[Findings], None] | None = None,
) -> Findings:
    """Pass transactions through all stages.

    Parameters
    ----------
    batches
        Arrow batches of a `TransactionReader`.
    pipeline
        The stages, usually with empty state.
    label_delay_ms
        How long after a transaction it is told to be a fraud, if the file says so; None: never.
    skip_bad
        Count rows that the engine refuses instead of stopping at the first.
    on_chunk
        Called with what was found so far after every chunk.

    Raises
    ------
    RejectedRowError
        On the first row that the engine refuses, unless `skip_bad`.
    """
    found = Findings()
    due: list[tuple[int, str, str]] = []
    for chunk in _chunks(batches):
        told = _labels_until(due, chunk[0].time)
        passed = pipeline.run_chunk(
            [*(key for key, _ in told), *(row.key for row in chunk)],
            [*(value for _, value in told), *(row.value for row in chunk)],
        )
        if label_delay_ms is not None:
            for row in chunk:
                if row.fraud is not None and row.key is not None:
                    heappush(due, (row.time + label_delay_ms, row.key.decode(), row.fraud))
        rejected: list[Rejected] = [*passed.users.rejected, *passed.merchants.rejected]
        if rejected and not skip_bad:
            raise RejectedRowError(
                f"a row is no valid transaction: {rejected[0].reason}: {rejected[0].detail}. "
                "Correct it, or leave such rows out with --skip-bad"
            )
        for why in rejected:
            found.rejected[why.reason] = found.rejected.get(why.reason, 0) + 1
        found.transactions += len(passed.merchants.decisions)
        found.duplicates += passed.users.duplicates
        found.alerts += passed.alerts
        for sighting in passed.sightings:
            found.pairs[sighting.user_id, f"{sighting.kind}:{sighting.value}"] = None
            found.last_seen = max(found.last_seen, sighting.facts.as_of)
        if on_chunk is not None:
            on_chunk(found)
    return found


class _Row(NamedTuple):
    """A record, its time (epoch milliseconds) and, of a fraud, the id of the transaction."""

    key: bytes | None
    value: bytes
    time: int
    fraud: str | None


def _labels_until(due: list[tuple[int, str, str]], time: int) -> list[tuple[bytes, bytes]]:
    """Take labels out of a heap that are due by now; as they stand among the transactions."""
    labels = []
    while due and due[0][0] <= time:
        observed, user, name = heappop(due)
        label = Label(name, user, is_fraud=True, source="chargeback", observed_at=observed)
        labels.append((user.encode(), encode_label(label)))
    return labels


def _chunks(batches: Iterable[Any]) -> Iterator[list[_Row]]:
    """Rows by `CHUNK_ROWS`, however the batches were cut."""
    waiting: list[_Row] = []
    for batch in batches:
        waiting += _rows(batch)
        whole = len(waiting) - len(waiting) % CHUNK_ROWS
        for start in range(0, whole, CHUNK_ROWS):
            yield waiting[start : start + CHUNK_ROWS]
        del waiting[:whole]
    if waiting:
        yield waiting


def _rows(batch: Any) -> list[_Row]:
    times = batch.column("timestamp").cast("int64").to_pylist()
    frauds: list[str | None] = [None] * len(times)
    if IS_FRAUD in batch.schema.names:
        marks = batch.column(IS_FRAUD).to_pylist()
        names = batch.column("transaction_id").to_pylist()
        frauds = [name if mark else None for name, mark in zip(names, marks, strict=True)]
    return [
        _Row(key, value, time or 0, fraud)
        for (key, value), time, fraud in zip(to_records(batch), times, frauds, strict=True)
    ]


def read_truth(path: Path) -> Truth:
    """Read what is known of the groups in a file.

    Raises
    ------
    TruthError
        If there is no such file, or something else in it.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise TruthError(f"{path} can not be read: {exc.strerror or exc}") from exc
    return decode_truth(content, str(path))


def write_rings(document: RingDocument, out: Path) -> None:
    """Write rings as JSON.

    Raises
    ------
    OutputFileError
        If the file can not be written.
    """
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    _write(out, text + b"\n")


def draw_rings(rings: Iterable[FoundRing], directory: Path) -> int:
    """Write a picture of each ring, `<ring_id>.svg`, and return how many there are.

    Raises
    ------
    OutputFileError
        If the directory or a file can not be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputFileError(f"{directory} can not be made: {exc.strerror or exc}") from exc
    count = 0
    for count, ring in enumerate(rings, 1):  # noqa: B007
        _write(directory / f"{ring.ring_id}.svg", draw(ring).encode())
    return count


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as exc:
        unfinished.unlink(missing_ok=True)
        raise OutputFileError(f"{path} can not be written: {exc.strerror or exc}") from exc
