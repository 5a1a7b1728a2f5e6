"""From a transaction's being due to its decision's arriving, at a constant rate.

Drives workers, a load generator and a consumer, each a process of its own, and knows none of them
from the inside.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from hdrh.histogram import HdrHistogram
from msgspec import Struct
from numpy.typing import NDArray

from bench.arrivals import Arrivals, Watch
from bench.brokers import TITLES, BenchError
from bench.load import Load, Sent
from bench.machine import ROOT
from bench.processes import DafuWorker, until_shared
from bench.records import Record, create_topics, transactions
from bench.results import Cell, Figure, Section, Table, figure
from bench.throughput import Job, dafu_worker, drain
from dafu.processes import dying_with_parent

METHOD: Final = """\
Open loop: transaction i is due at start + i/rate, whatever became of those before it, and its
latency runs from that moment to the arrival of its decision at a consumer. If anything stalls,
the transactions that fell due meanwhile count with their whole wait (no coordinated omission).
Load generator, consumer, workers and broker are processes of their own on one machine, with one
clock. What was due in the warm-up is left out; before the first run a worker drains a backlog,
so that the broker, a Java program that compiles as it goes, is warm as well. Percentiles come
from an HDR histogram of all measured transactions (three digits); in brackets the lowest and
highest of the same percentile over the slices of the run. "silence" is the longest time without
any decision arriving, slices and workers together: a stall of the event loop or of the broker
shows there. "loop stood still" is the longest time by which a worker's event loop kept a clock
waiting that asks to be woken every 5 ms. "late" is by how much the generator's own event loop
missed its ticks; where it did by more than 5 ms at the 99th percentile, the row says that it fell
behind. "published" is from a
transaction's being due (the oldest of each batch) to the broker's acknowledgement, the part of a
latency that passes before a worker can know of it."""

BIASES: Final = [
    "Everything shares the machine's cores, generator and consumer included; at the higher rates "
    "they compete with the worker, which on a machine of its own would not see that.",
    "The generator sends what is due every few milliseconds (see the table), and the next request "
    "when the one before is acknowledged: both waits are in the latencies.",
    "The consumer polls with aiokafka; the time until it has parsed a fetch is in every latency.",
    "Partitions are as many as the most workers here; each one more costs a worker time for every "
    "batch, and so everybody's latency, when the cores are busy.",
    "Apache Kafka runs without the JVM's second compiler (scripts/kafka), which competes for the "
    "cores while the broker warms up; a broker that has run for long has that behind it.",
    "The embedded broker sleeps through empty fetches, for up to the fetch_max_wait_ms of worker "
    "and consumer: 5 ms each, on three hops. It also gets slower with every batch that its topics "
    "hold, so that after a minute of small ones the latencies are its own.",
]

PERCENTILES: Final = (50.0, 99.0, 99.9)
_HIGHEST_US: Final = 600_000_000
_GRACE_S: Final = 20.0
_START_IN_S: Final = 1.0
_WATCHED: Final = "bench.watched_worker"
_STOOD: Final = "bench loop stood still"  # what it prints; importing it would start an app


class Plan(Struct, frozen=True):
    """Which rates and numbers of workers, and for how long."""

    rates: tuple[int, ...] = (1_000, 2_000, 5_000, 10_000)
    workers: tuple[int, ...] = (1, 2)
    seconds: float = 60.0
    warm_up: float = 15.0
    slices: int = 6
    tick_s: float = 0.005
    broker_warm_up: int = 100_000
    partitions: int = 2


QUICK: Final = Plan(
    rates=(1_000, 5_000), workers=(1,), seconds=10.0, warm_up=5.0, slices=5, broker_warm_up=30_000
)


class Measured(Struct, frozen=True):
    """One run: latencies in microseconds of what was due after the warm-up, by due time."""

    rate: int
    workers: int
    latencies: NDArray[np.float64]
    due: NDArray[np.float64]
    undecided: int
    silence_ms: float
    sent: Sent
    cpu_share: float
    stood_ms: float


def run(
    bootstrap: str, records: Sequence[Record], file: Path, rate: int, workers: int, plan: Plan
) -> Measured:
    """Let workers decide at one rate; `file` holds the records as `bench.load` wants them."""
    name = f"bench-{time.time_ns()}"
    topic = f"{name}-transactions"
    names = [topic, f"{name}-transactions-by-merchant", f"{name}-decisions"]
    asyncio.run(create_topics(bootstrap, names, plan.partitions))
    with tempfile.TemporaryDirectory(prefix="dafu-bench-") as path, ExitStack() as stack:
        directory = Path(path)
        started = []
        for number in range(workers):
            (directory / str(number)).mkdir()
            worker = DafuWorker(
                bootstrap, name, directory / str(number), plan.partitions, app=_WATCHED
            )
            started.append(stack.enter_context(worker))
        until_shared(started, topic, plan.partitions)
        out = directory / "arrivals"
        watch = Watch(bootstrap, names[2], plan.partitions, len(records), str(out))
        load = Load(bootstrap, str(file), topic, rate, plan.tick_s, plan.warm_up)
        consumer = stack.enter_context(Helper("bench.arrivals", watch, directory))
        generator = stack.enter_context(Helper("bench.load", load, directory))
        start = time.monotonic_ns() + int(_START_IN_S * 1e9)
        generator.tell(start)
        time.sleep(_START_IN_S + plan.warm_up)
        used = -sum(w.cpu_seconds() for w in started)
        began = time.monotonic()
        sent = msgspec.json.decode(generator.line(), type=Sent)
        used += sum(w.cpu_seconds() for w in started)
        share = used / (time.monotonic() - began)
        consumer.tell(time.monotonic_ns() + int(_GRACE_S * 1e9))
        consumer.finish()
        for worker in started:
            worker.alive()
        warm = start / 1e9 + plan.warm_up
        stood = max(_longest_stop(w.output, warm, warm + plan.seconds) for w in started)
        arrivals = msgspec.msgpack.decode(out.read_bytes(), type=Arrivals)
    return _evaluate(records, arrivals, start, rate, workers, plan, sent, share, stood)


def _longest_stop(output: str, begin: float, end: float) -> float:
    """Longest stop of an event loop, in milliseconds, that a watched worker told of in a time."""
    found = re.findall(rf"{_STOOD} ([0-9.]+) ms at ([0-9.]+)", output)
    stops = [float(ms) for ms, at in found if begin < float(at) <= end]
    if not stops:
        raise BenchError("the worker has said nothing of its event loop")
    return max(stops)


def _evaluate(
    records: Sequence[Record],
    arrivals: Arrivals,
    start: int,
    rate: int,
    workers: int,
    plan: Plan,
    sent: Sent,
    share: float,
    stood: float,
) -> Measured:
    first: dict[str, int] = {}
    for transaction, at in zip(arrivals.transactions, arrivals.at, strict=True):
        first.setdefault(transaction, at)
    decode = msgspec.json.Decoder(_Transaction).decode
    arrived = np.array(
        [first.get(decode(value or b"").transaction_id, -1) for _, value in records], np.int64
    )
    due = np.arange(len(records)) / rate
    measured = due >= plan.warm_up
    decided = measured & (arrived >= 0)
    latencies = (arrived[decided] - start) / 1e3 - due[decided] * 1e6
    times = np.array(arrivals.at)
    after = times[times >= start + int(plan.warm_up * 1e9)]
    silence = float(np.diff(after).max(initial=0)) / 1e6
    return Measured(
        rate,
        workers,
        latencies,
        due[decided],
        int(measured.sum() - decided.sum()),
        silence,
        sent,
        share,
        stood,
    )


class _Transaction(Struct):
    transaction_id: str


def histogram(latencies: NDArray[np.float64]) -> HdrHistogram:
    """Latencies in microseconds as a histogram of three significant digits."""
    found = HdrHistogram(1, _HIGHEST_US, 3)
    clipped = np.clip(latencies, 1, _HIGHEST_US).astype(np.int64)
    values, counts = np.unique(clipped, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        found.record_value(value, count)
    return found


def _percentile(measured: Measured, parts: Sequence[NDArray[np.float64]], at: float) -> Figure:
    whole = histogram(measured.latencies).get_value_at_percentile(at) / 1e3
    slices = [histogram(p).get_value_at_percentile(at) / 1e3 for p in parts]
    return Figure(slices, 1, whole)


def _row(measured: Measured, plan: Plan) -> list[Cell]:
    edges = plan.warm_up + plan.seconds * np.arange(1, plan.slices) / plan.slices
    parts = [
        p for p in np.split(measured.latencies, np.searchsorted(measured.due, edges)) if p.size
    ]
    sent = measured.sent
    behind = sent.late_p99_ms > 5.0
    over = float((measured.latencies > 50_000).mean() * 100)
    return [
        f"{measured.rate:,}",
        str(measured.workers),
        *[_percentile(measured, parts, p) for p in PERCENTILES],
        figure(float(measured.latencies.max()) / 1e3, 1),
        figure(over, 2),
        figure(measured.silence_ms, 1),
        figure(measured.stood_ms, 1),
        figure(measured.cpu_share * 100),
        f"{sent.late_p99_ms:.1f} / {sent.late_max_ms:.1f}" + (" FELL BEHIND" if behind else ""),
        f"{sent.published_p99_ms:.1f} / {sent.published_max_ms:.1f}",
        str(measured.undecided),
    ]


COLUMNS: Final = [
    "transactions/s", "workers", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "over 50 ms, %",
    "silence ms", "loop stood still ms", "worker CPU, %", "generator late p99 / max ms",
    "due to published p99 / max ms", "undecided",
]  # fmt: skip


def measure(kind: str, bootstrap: str, plan: Plan) -> Section:
    """Every rate with every number of workers."""
    everything = transactions(int(max(plan.rates) * (plan.warm_up + plan.seconds)))
    if plan.broker_warm_up:
        job = Job("warm-up", plan.broker_warm_up, dafu_worker("memory"))
        drain(job, bootstrap, transactions(plan.broker_warm_up), plan.partitions)
    rows: list[list[Cell]] = []
    raw: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="dafu-bench-load-") as directory:
        for rate in plan.rates:
            records = everything[: int(rate * (plan.warm_up + plan.seconds))]
            file = Path(directory) / "records"
            file.write_bytes(
                msgspec.msgpack.encode(([k for k, _ in records], [v for _, v in records]))
            )
            for workers in plan.workers:
                measured = run(bootstrap, records, file, rate, workers, plan)
                if not measured.latencies.size:
                    raise BenchError(
                        f"no decision in {_GRACE_S:.0f} s after {len(records)} records"
                    )
                rows.append(_row(measured, plan))
                encoded = histogram(measured.latencies).encode()
                raw[f"{rate}/s, {workers} workers"] = (
                    encoded.decode() if isinstance(encoded, bytes) else str(encoded)
                )
                print("  " + "  ".join(str(c) for c in rows[-1]), flush=True)
    title = (
        f"{plan.partitions} partitions, {plan.seconds:.0f} s after {plan.warm_up:.0f} s of "
        f"warm-up, {plan.slices} slices, groups every {plan.tick_s * 1000:.0f} ms"
    )
    return Section(
        f"latency-{kind}",
        f"Latency on {TITLES[kind]}",
        METHOD,
        BIASES,
        [Table(title, COLUMNS, rows)],
        raw=raw,
    )


class Helper:
    """A helper process that takes lines on its standard input and answers on its output."""

    def __init__(self, module: str, specification: Struct, directory: Path) -> None:
        self._module = module
        self._specification = specification
        self._errors = directory / f"{module}.log"

    def __enter__(self) -> Helper:
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                dying_with_parent([sys.executable, "-m", self._module]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
            )
        self._write(msgspec.json.encode(self._specification))
        self.line()
        return self

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def tell(self, number: int) -> None:
        """Send a number."""
        self._write(b"%d" % number)

    def line(self) -> bytes:
        """The next line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise BenchError(f"{self._module} ended:\n{self._errors.read_text()[-3000:]}")
        return line

    def finish(self) -> None:
        """Wait for its end."""
        if self._process.wait():
            raise BenchError(f"{self._module} failed:\n{self._errors.read_text()[-3000:]}")

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
