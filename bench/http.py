"""From a request's being due to its answer: `POST /v1/score` at a constant rate.

Drives a worker and a client, each a process of its own, and knows neither from the inside.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bench.brokers import TITLES, BenchError
from bench.checkout import Answers, Visit
from bench.latency import Helper, histogram
from bench.processes import ADMIN_KEY, DafuWorker, until_shared
from bench.records import transactions
from bench.results import Cell, Figure, Section, Table, figure

METHOD: Final = """\
Open loop: request i is due at start + i/rate, whatever became of those before it, and its latency
runs from that moment to the last byte of the answer. If anything stalls, the requests that fell due
meanwhile count with their whole wait (no coordinated omission). Every request is a payment of its
own, checked, published to Kafka, decided by both stages with the model and the rules that come with
dafu, and answered with its decision. Client, worker and broker are processes of their own on one
machine. What was due in the warm-up is left out. Percentiles come from an HDR histogram of all
measured requests (three digits), those without a decision included; in brackets the lowest and
highest of the same percentile over the slices of the run. "no decision" counts answers other than
200. "late" is by how much the client sent requests after they were due."""

BIASES: Final = [
    "Everything shares the machine's cores, the client included.",
    "A request passes four hops of the log, each acknowledged by the broker: one replica here, "
    "three in production.",
    "The embedded broker sleeps through empty fetches, for up to fetch_max_wait_ms: 5 ms each, on "
    "three hops.",
    "Connections are kept alive, and there is no TLS.",
]

PERCENTILES: Final = (50.0, 99.0, 99.9)
_START_IN_S: Final = 1.0


class Plan(Struct, frozen=True):
    """Which rates, and for how long."""

    rates: tuple[int, ...] = (50, 200, 500)
    workers: int = 1
    seconds: float = 60.0
    warm_up: float = 15.0
    slices: int = 6
    partitions: int = 2


QUICK: Final = Plan(rates=(50, 200), seconds=10.0, warm_up=5.0, slices=5)


class Measured(Struct, frozen=True):
    """One run, of what was due after the warm-up: microseconds by request, in order."""

    rate: int
    latencies: NDArray[np.float64]
    late: NDArray[np.float64]
    statuses: dict[int, int]
    cpu_share: float


def bodies(count: int, rate: float) -> list[bytes]:
    """Generated payments, made at the time at which they are sent."""
    now = time.time_ns() // 1_000_000
    out = []
    for i, (_, value) in enumerate(transactions(count)):
        document = msgspec.json.decode(value or b"")
        document["timestamp"] = now + int(i / rate * 1000)
        out.append(msgspec.json.encode(document))
    return out


def run(bootstrap: str, rate: int, plan: Plan) -> Measured:
    """Ask at one rate."""
    name = f"bench-{time.time_ns()}"
    with tempfile.TemporaryDirectory(prefix="dafu-bench-") as path, ExitStack() as stack:
        directory = Path(path)
        workers = [
            stack.enter_context(DafuWorker(bootstrap, name, directory, plan.partitions))
            for _ in range(plan.workers)
        ]
        until_shared(workers, f"{name}-transactions", plan.partitions)
        file, out = directory / "bodies", directory / "answers"
        count = int(rate * (plan.warm_up + plan.seconds))
        file.write_bytes(msgspec.msgpack.encode(bodies(count, rate)))
        visit = Visit([w.base for w in workers], ADMIN_KEY, str(file), rate, str(out))
        client = stack.enter_context(Helper("bench.checkout", visit, directory))
        start = time.monotonic_ns() + int(_START_IN_S * 1e9)
        client.tell(start)
        time.sleep(_START_IN_S + plan.warm_up)
        used, began = -sum(w.cpu_seconds() for w in workers), time.monotonic()
        client.finish()
        used += sum(w.cpu_seconds() for w in workers)
        share = used / (time.monotonic() - began)
        for worker in workers:
            worker.alive()
        answers = msgspec.msgpack.decode(out.read_bytes(), type=Answers)
    return evaluate(answers, start, rate, plan.warm_up, share)


def evaluate(
    answers: Answers, start: int, rate: int, warm_up: float, share: float = 0.0
) -> Measured:
    """What was due from `warm_up` seconds on, each from the moment it was due."""
    due = start + np.arange(len(answers.at)) * (1e9 / rate)
    measured = due >= start + warm_up * 1e9
    at, sent = np.array(answers.at, np.float64), np.array(answers.sent, np.float64)
    statuses = np.array(answers.status)[measured].tolist()
    return Measured(
        rate,
        ((at - due) / 1e3)[measured],
        ((sent - due) / 1e3)[measured],
        dict(Counter(statuses)),
        share,
    )


def _row(measured: Measured, plan: Plan) -> list[Cell]:
    parts = [p for p in np.array_split(measured.latencies, plan.slices) if p.size]
    whole = histogram(measured.latencies)
    wrong = {status: n for status, n in sorted(measured.statuses.items()) if status != 200}
    return [
        f"{measured.rate:,}",
        *(
            Figure(
                [histogram(p).get_value_at_percentile(at) / 1e3 for p in parts],
                1,
                whole.get_value_at_percentile(at) / 1e3,
            )
            for at in PERCENTILES
        ),
        figure(float(measured.latencies.max()) / 1e3, 1),
        figure(float((measured.latencies > 50_000).mean() * 100), 2),
        ", ".join(f"{n:,} x {status or 'none'}" for status, n in wrong.items()) or "0",
        figure(measured.cpu_share * 100),
        f"{np.percentile(measured.late, 99) / 1e3:.1f} / {measured.late.max() / 1e3:.1f}",
    ]


COLUMNS: Final = [
    "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "over 50 ms, %", "no decision",
    "worker CPU, %", "client late p99 / max ms",
]  # fmt: skip


def measure(kind: str, bootstrap: str, plan: Plan) -> Section:
    """Every rate, each with topics and a worker of its own."""
    rows: list[list[Cell]] = []
    raw: dict[str, str] = {}
    for rate in plan.rates:
        measured = run(bootstrap, rate, plan)
        if not measured.statuses.get(200):
            raise BenchError(f"no decision at {rate}/s: {measured.statuses}")
        rows.append(_row(measured, plan))
        encoded = histogram(measured.latencies).encode()
        raw[f"{rate}/s"] = encoded.decode() if isinstance(encoded, bytes) else str(encoded)
        print("  " + "  ".join(str(c) for c in rows[-1]), flush=True)
    title = (
        f"{plan.workers} worker{'s' if plan.workers > 1 else ''}, {plan.partitions} partitions, "
        f"{plan.seconds:.0f} s after {plan.warm_up:.0f} s of warm-up, {plan.slices} slices"
    )
    return Section(
        f"http-{kind}",
        f"POST /v1/score on {TITLES[kind]}",
        METHOD,
        BIASES,
        [Table(title, COLUMNS, rows)],
        raw=raw,
    )
