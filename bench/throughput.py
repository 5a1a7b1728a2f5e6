"""How fast one worker drains a backlog: dafu beside the same kind of job on other engines.

Knows topics and processes; nothing of what is inside a worker.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench.brokers import TITLES, BenchError
from bench.machine import ROOT, package_version
from bench.packages import recurrent_package
from bench.processes import FAUST_READY, DafuWorker, Process
from bench.records import Record, create_topics, fill, reader, span, transactions, until_filled
from bench.results import Cell, Figure, Section, Table, figure
from dafu.demo.deployment import CHALLENGER
from dafu.features.catalogue import FEATURES

METHOD: Final = """\
A backlog of generated transactions is on its topic before one worker starts. Rate: decisions on
the decisions topic over the time between the first and the last of them, by the records' own
timestamps; start-up, compilation and joining the group are left out for every job. CPU: the
worker process's user and system time from its being ready to the last decision, over the
decisions. Every job gets the first records of one and the same list, on the same broker, in
topics of its own; the runs of the jobs take turns. The baselines do the job in
bench/tutorial.py: two keyed stages, user and merchant windows, travel speed, eleven rules and
scikit-learn's isolation forest asked for one row at a time, or no model. "Faust" is stock
faust-streaming (bench/baseline_faust.py), "Quix Streams" bench/baseline_quix.py; each is written
as its documentation shows it."""

BIASES: Final = [
    "Broker and worker share the machine, so a slow broker costs all, and the fastest most.",
    "The baselines do less than dafu: no fences, no late events, no retries, no dead letters, "
    f"31 features against {len(FEATURES)}, no model contributions. That favours them.",
    "dafu answers by batches and compiles its kernels; the baselines could be rewritten to batch, "
    "and would no longer be what their documentation shows.",
    "The baselines drain fewer transactions, since at their pace the whole backlog takes minutes; "
    "histories are shorter then, which favours them.",
    "Quix Streams keeps its state in RocksDB, its only store; Faust keeps it in memory here.",
]


class Sizes(Struct, frozen=True):
    """How much each job drains, 0 to leave it out, and how often."""

    transactions: int = 300_000
    runs: int = 3
    faust: int = 10_000
    faust_per_row: int = 2_000
    quix: int = 30_000
    quix_per_row: int = 2_000
    partitions: int = 4


QUICK: Final = Sizes(
    transactions=60_000, runs=1, faust=3_000, faust_per_row=500, quix=6_000, quix_per_row=500
)


class Drained(Struct, frozen=True):
    """One drained backlog."""

    decisions: int
    seconds: float
    worker_cpu_seconds: float

    @property
    def rate(self) -> float:
        """Decisions a second."""
        return self.decisions / self.seconds

    @property
    def cpu_us(self) -> float:
        """Worker CPU per decision, in microseconds."""
        return self.worker_cpu_seconds / self.decisions * 1e6


StartWorker = Callable[[str, str, Path, int], Process]
"""Makes the worker of a job from broker, name, directory and number of partitions."""


class Job(Struct, frozen=True):
    """Something that drains a backlog: its title, its share of the records, its worker."""

    title: str
    count: int
    worker: StartWorker
    ready: str = FAUST_READY


def drain(job: Job, bootstrap: str, records: Sequence[Record], partitions: int) -> Drained:
    """Publish a backlog, run a worker on it, and measure."""
    name = f"bench-{time.time_ns()}"
    asyncio.run(create_topics(bootstrap, [f"{name}-decisions"], partitions))
    asyncio.run(fill(bootstrap, f"{name}-transactions", partitions, records))
    with tempfile.TemporaryDirectory(prefix="dafu-bench-") as directory:
        worker = job.worker(bootstrap, name, Path(directory), partitions)
        with worker:
            worker.until_logged(job.ready)
            before = worker.cpu_seconds()

            async def wait() -> tuple[float, float]:
                topic, n = f"{name}-decisions", len(records)
                async with reader(bootstrap) as consumer:
                    ends = await until_filled(
                        consumer, topic, partitions, n, within=600.0, alive=worker.alive
                    )
                    used = worker.cpu_seconds() - before
                    return await span(consumer, ends), used

            seconds, used = asyncio.run(wait())
    if seconds <= 0:
        raise BenchError(f"{len(records)} decisions within a millisecond: too few to time")
    return Drained(len(records), seconds, used)


def dafu_worker(store: str, *, rings: bool = True) -> StartWorker:
    """Workers of dafu with this store, that look for fraud rings or not."""
    return partial(DafuWorker, DAFU_STORE=store, DAFU_RINGS="true" if rings else "false")


def dafu_with_all_models(bootstrap: str, name: str, directory: Path, partitions: int) -> DafuWorker:
    """A worker with boosted trees and an isolation forest in an ensemble, and a GRU before them."""
    return DafuWorker(
        bootstrap,
        name,
        directory,
        partitions,
        MODEL_STORAGE_PATH=str(CHALLENGER),
        DAFU_SEQUENCE_MODEL=str(recurrent_package(directory)),
    )


def baseline(command: Sequence[str], model: str) -> StartWorker:
    """Workers of a baseline with this model."""

    def start(bootstrap: str, name: str, directory: Path, partitions: int) -> Process:
        environment = {
            "DAFU_BROKER": bootstrap,
            "DAFU_TOPIC_PREFIX": f"{name}-",
            "DAFU_PARTITIONS": str(partitions),
            "DAFU_DATA_DIR": str(directory / "state"),
            "DAFU_BASELINE_MODEL": model,
        }
        return Process(command, environment, directory / "worker.log")

    return start


def jobs(sizes: Sizes, quix: Path | None) -> list[Job]:
    """What is measured, dafu first; without an environment for Quix Streams, all but that."""
    faust = [sys.executable, "-m", "faust", "-A", "bench.baseline_faust"]
    faust += ["worker", "--without-web", "-l", "info"]
    found = [
        Job("dafu, memory", sizes.transactions, dafu_worker("memory")),
        Job("dafu, no rings", sizes.transactions, dafu_worker("memory", rings=False)),
        Job("dafu, RocksDB", sizes.transactions, dafu_worker("rocksdb")),
        Job("dafu, three models", sizes.transactions, dafu_with_all_models),
        Job("Faust, no model", sizes.faust, baseline(faust, "none")),
        Job("Faust, forest per row", sizes.faust_per_row, baseline(faust, "per-row")),
    ]
    if quix is not None:
        # Written out, because this environment need not have the package.
        ready = "The application started and is now processing incoming messages"
        command = [str(quix), "-m", "bench.baseline_quix"]
        found += [
            Job("Quix Streams, no model", sizes.quix, baseline(command, "none"), ready),
            Job(
                "Quix Streams, forest per row",
                sizes.quix_per_row,
                baseline(command, "per-row"),
                ready,
            ),
        ]
    return [job for job in found if job.count]


def measure(kind: str, bootstrap: str, sizes: Sizes, quix: Path | None) -> Section:
    """Run every job in turn, as often as asked for."""
    every = jobs(sizes, quix)
    records = transactions(max(job.count for job in every))
    results: dict[str, list[Drained]] = {job.title: [] for job in every}
    notes: list[str] = []
    for _ in range(sizes.runs):
        for job in every:
            try:
                drained = drain(job, bootstrap, records[: job.count], sizes.partitions)
            except BenchError as error:
                if job.title.startswith("dafu"):
                    raise
                last = str(error).strip().splitlines()[-1]
                notes.append(f"{job.title} did not finish on {TITLES[kind]}: {last[:300]}")
                continue
            results[job.title].append(drained)
            print(
                f"  {job.title:<30} {drained.rate:>9,.0f}/s {drained.cpu_us:>8,.1f} us", flush=True
            )
    if quix is None:
        notes.append("Quix Streams was left out: its environment is missing (make bench makes it).")
    else:
        notes.append(f"Quix Streams {package_version(quix, 'quixstreams')}.")
    return Section(
        f"throughput-{kind}",
        f"Throughput on {TITLES[kind]}",
        METHOD,
        BIASES,
        [_table(every, results, sizes)],
        notes,
    )


def _table(every: Sequence[Job], results: dict[str, list[Drained]], sizes: Sizes) -> Table:
    reference = results[every[0].title]
    rows: list[list[Cell]] = []
    for job in every:
        done = results[job.title]
        if not done:
            continue
        rows.append(
            [
                job.title,
                f"{job.count:,}",
                figure([d.rate for d in done]),
                figure([d.cpu_us for d in done], 1),
                _ratio(reference, done),
            ]
        )
    columns = [
        "job",
        "backlog",
        "decisions/s",
        "worker CPU, us/decision",
        f"{every[0].title} to it",
    ]
    runs = f"{sizes.runs} run{'s' if sizes.runs > 1 else ''} each"
    return Table(f"One worker, {sizes.partitions} partitions, {runs}", columns, rows)


def _ratio(reference: Sequence[Drained], done: Sequence[Drained]) -> Figure:
    """Rates run by run, of those that took turns; medians where some did not finish."""
    if len(reference) == len(done):
        return figure([a.rate / b.rate for a, b in zip(reference, done, strict=True)], 1)
    return figure(figure([d.rate for d in reference]).median / done[0].rate, 1)


def quix_python() -> Path | None:
    """The interpreter of the environment that `make bench` makes for Quix Streams."""
    found = ROOT / ".venv-quix" / "bin" / "python"
    return found if found.exists() else None
