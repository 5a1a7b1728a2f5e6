"""`dafu publish`: a file of transactions onto the topic, as fast as wanted."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dafu.cli.options import parse_moment, parse_rate

if TYPE_CHECKING:
    from dafu.ingest import TransactionReader
    from dafu.settings import Settings

_CHUNK: Final = 1000
_IN_FLIGHT: Final = 8  # chunks without acknowledgement
_TICK_S: Final = 0.02  # of a paced publication

_Chunk = tuple[list[tuple[bytes | None, bytes]], float]  # records, event time in s (NaN: none)


def publish(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON lines; by its name.")],
    mapping: Annotated[
        str, typer.Option(help="Whose columns these are: a name in conf/mappings, or a YAML file.")
    ] = "dafu",
    rate: Annotated[str, typer.Option(help="Transactions per second, or max.")] = "max",
    speedup: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Keep the gaps between timestamps, so many times faster."),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only from this date or time on (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Only before this date or time.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most so many.")] = None,
    topic: Annotated[str | None, typer.Option(help="Another topic than transactions.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Publish the transactions of a file. The topic is created if it is missing."""
    per_second = parse_rate(rate)
    if speedup is not None and rate != "max":
        raise typer.BadParameter("give either --rate or --speedup")
    window = {"since": parse_moment(since), "until": parse_moment(until)}
    from dafu.ingest import TransactionReader, load_mapping
    from dafu.settings import load_settings

    settings = load_settings()
    reader = TransactionReader(
        file,
        load_mapping(mapping),
        **window,
        limit=limit,
        skip_bad=skip_bad,
        batch_rows=20_000,
    )
    job = _Publication(settings, reader, topic or settings.topics.transactions)
    job.run(per_second, speedup, show=not quiet)
    if not quiet:
        typer.echo(job.summary())
    if reader.skipped:
        sys.stderr.write(f"left out {reader.skipped:,} bad rows, such as:\n")
        sys.stderr.writelines(f"  {example}\n" for example in reader.examples)
    if job.interrupted:
        raise typer.Exit(130)


class _Publication:
    """One run: what was sent, and whether somebody pressed Ctrl-C."""

    def __init__(self, settings: Settings, reader: TransactionReader, topic: str) -> None:
        self.settings = settings
        self.reader = reader
        self.topic = topic
        self.acknowledged = 0
        self.seconds = 0.0
        self.interrupted = False

    def summary(self) -> str:
        """What was done, in one line."""
        rate = self.acknowledged / self.seconds if self.seconds else 0.0
        end = ", stopped before the end" if self.interrupted else ""
        return (
            f"published {self.acknowledged:,} transactions to {self.topic} "
            f"in {self.seconds:.1f} s ({rate:,.0f}/s){end}"
        )

    def run(self, rate: float, speedup: float | None, *, show: bool) -> None:
        """Publish everything; returns early on Ctrl-C, when all that was sent is acknowledged."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("publishing"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[sent]:,} ({task.fields[rate]:,.0f}/s)"),
        )
        with Progress(*columns, console=console, disable=not (show and console.is_terminal)) as bar:
            task = bar.add_task("", total=1.0, sent=0, rate=0.0)

            def progress() -> None:
                per_second = self.acknowledged / max(self.seconds, 1e-9)
                bar.update(
                    task,
                    completed=self.reader.fraction,
                    sent=self.acknowledged,
                    rate=per_second,
                )

            asyncio.run(self._publish(rate, speedup, progress))

    async def _publish(self, rate: float, speedup: float | None, progress: Any) -> None:
        from dafu.cli.kafka import ensure_topic, opened_producer
        from dafu.columns import ByteColumn
        from dafu.streaming.sender import BatchSender

        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        await ensure_topic(self.settings, self.topic)
        async with opened_producer(self.settings) as producer:
            sender = BatchSender(producer)
            pending: deque[tuple[int, asyncio.Future[Any]]] = deque()
            begin = time.perf_counter()

            async def settle(most: int) -> None:
                while len(pending) > most:
                    count, done = pending.popleft()
                    await done
                    self.acknowledged += count
                    self.seconds = time.perf_counter() - begin
                    progress()

            size = _CHUNK
            if rate < float("inf"):
                size = max(1, min(_CHUNK, round(rate * _TICK_S)))
            chunks = self._chunks(size, by_time=speedup)
            sent, first_event = 0, None
            try:
                while chunk := await asyncio.to_thread(next, chunks, None):
                    records, event = chunk
                    due = begin + sent / rate
                    if speedup is not None and not math.isnan(event):
                        first_event = event if first_event is None else first_event
                        due = begin + (event - first_event) / speedup
                    if await _wait(stop, due):
                        self.interrupted = True
                        break
                    keys = ByteColumn.of([key for key, _ in records])
                    values = ByteColumn.of([value for _, value in records])
                    pending.append((len(keys), sender.post(self.topic, keys, values)))
                    sent += len(keys)
                    await settle(_IN_FLIGHT)
            finally:
                await settle(0)

    def _chunks(self, size: int, by_time: float | None) -> Iterator[_Chunk]:
        """Records to send together, at most `size`, with the time of the first of them."""
        import numpy as np

        from dafu.ingest import to_records

        for batch in self.reader:
            records = to_records(batch)
            if by_time is None:
                for start in range(0, len(records), size):
                    yield records[start : start + size], float("nan")
                continue
            times = batch.column("timestamp").cast("int64").to_numpy(zero_copy_only=False) / 1000.0
            # A record goes out with the last that was due before it, never before it.
            times = np.fmax.accumulate(times)
            ticks = np.floor_divide(times, _TICK_S * by_time)
            cuts = np.flatnonzero(np.diff(ticks)) + 1
            edges = [0, *cuts.tolist(), len(records)]
            for start, end in pairwise(edges):
                for begin in range(start, end, size):
                    yield records[begin : min(begin + size, end)], float(times[begin])


async def _wait(stop: asyncio.Event, due: float) -> bool:
    """Wait until it is `due` (perf_counter); true at once when asked to stop."""
    left = due - time.perf_counter()
    if left > 0 and not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), left)
        except TimeoutError:
            return False
    return stop.is_set()
