"""Where a decision's CPU time goes, part by part, in microseconds.

The pure parts are timed by wrapping functions from outside, named in `PARTS`; the product has no
hooks for it. The client's parts are measured as whole processes that do nothing else.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from bench.brokers import TITLES, BenchError
from bench.population import stages
from bench.processes import DafuWorker
from bench.records import Record, create_topics, fill, publisher, transactions
from bench.results import Cell, Section, Table, figure
from bench.throughput import Job, dafu_worker, drain
from dafu.stages.pipeline import Pipeline

PARTS: Final[dict[str, tuple[str, ...]]] = {
    "parse": (
        "dafu.stages.users:parse_batch",
        "dafu.stages.users:_inputs",
        "dafu.stages.merchants:unpack",
        "dafu.stages.merchants:_FieldReader.read",
    ),
    "state load": ("dafu.tables.working_set:WorkingSet.__init__",),
    "features": ("dafu.stages.users:step_users", "dafu.stages.merchants:step_merchants"),
    "rings": (
        "dafu.stages.users:_step_rings",
        "dafu.stages.users:_tell_sightings",
        "dafu.stages.users:_tell_activities",
        "dafu.stages.merchants:_ring_reasons",
        "dafu.stages.merchants:_tell_doubts",
    ),
    "rules": ("dafu.rules.engine:RuleSet.evaluate",),
    "model": ("dafu.models.isolation:IsolationForestModel.score",),
    "encode": (
        "dafu.stages.users:_forward",
        "dafu.stages.merchants:decide",
        "dafu.stages.decisions:DecisionWriter.write",
    ),
    "state pack": ("dafu.tables.working_set:WorkingSet.changes",),
    "store write": ("dafu.tables.records:MemoryRecords.write",),
    "rest of the stages": (
        "dafu.stages.users:UserStage.run",
        "dafu.stages.merchants:MerchantStage.run",
    ),
}
"""Part of the stages -> callables, as module:name. A part's time is that of its callables without
the callables of other parts that they call, so that nothing counts twice."""

METHOD: Final = """\
The parts of the stages: both stages run offline on a backlog by batches of {batch}, on a state
that earlier transactions have filled; the functions of each part are wrapped from outside and
timed with the thread's CPU clock, each without the wrapped functions that it calls. Fetch: the
CPU of a worker that reads the transactions and the forwarded records and does nothing with them.
Produce and changelog: the CPU of a process that sends, batch by batch and acknowledged, what the
stages made of these transactions: forwarded records and decisions with their headers, and all
changes. Whole worker: as in the throughput benchmark, memory store. The rest is the whole less
all parts: Faust, event loop, commits, status, and what parts cost each other (caches,
contention), which may make it negative."""

BIASES: Final = [
    "Parts are timed alone, with warmer caches than in the worker.",
    "A worker's batches are as large as its fetches, up to the batch size used here; smaller ones "
    "cost more for each decision.",
    "The wrappers cost about a microsecond a call, per batch.",
]
_BATCH: Final = 1000
READ: Final = "bench read"  # what bench.idle_worker prints; importing that starts an app
_HEADERS: Final = [
    ("dafu-source", bytes(12)),
    ("dafu-latency-ms", b"12"),
    ("dafu-worker", b"worker-00000000:00000"),
]


class Plan(Struct, frozen=True):
    """How much, how often."""

    filled: int = 100_000
    timed: int = 50_000
    runs: int = 5
    whole: int = 300_000
    whole_runs: int = 3
    partitions: int = 4


QUICK: Final = Plan(filled=20_000, timed=20_000, runs=3, whole=60_000, whole_runs=1)


class Clock:
    """CPU time by part, each without what it calls of other parts."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = [0.0]

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that does the same and is timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                took = time.thread_time() - began
                self.seconds[part] += took - self._inner.pop()
                self._inner[-1] += took

        return timed

    @contextmanager
    def watching(self, parts: dict[str, tuple[str, ...]]) -> Iterator[None]:
        """Wrap the callables of all parts, and put them back in the end."""
        replaced: list[tuple[Any, str, Any]] = []
        try:
            for part, names in parts.items():
                for name in names:
                    owner, attribute, original = _find(name)
                    wrapped: Any = self.wrap(part, getattr(owner, attribute))
                    if isinstance(original, staticmethod):
                        wrapped = staticmethod(wrapped)
                    setattr(owner, attribute, wrapped)
                    replaced.append((owner, attribute, original))
            yield
        finally:
            for owner, attribute, original in reversed(replaced):
                setattr(owner, attribute, original)


def _find(name: str) -> tuple[Any, str, Any]:
    """The module or class that holds a callable, its name there, and what is there."""
    module, _, path = name.partition(":")
    *outer, attribute = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for step in outer:
            owner = getattr(owner, step)
        return owner, attribute, inspect.getattr_static(owner, attribute)
    except (ImportError, AttributeError) as error:
        raise BenchError(f"bench.cpu.PARTS names {name}, which there is not: {error}") from error


class Outputs(Struct):
    """What the stages made, batch by batch, for the client's parts."""

    forwarded: list[list[Record]] = []
    decisions: list[list[Record]] = []
    changes: list[list[Record]] = []


def pure(records: Sequence[Record], plan: Plan) -> tuple[list[dict[str, float]], Outputs]:
    """Microseconds a decision by part, run by run, and the outputs of the last run."""
    pipeline = Pipeline(*stages())

    def feed(piece: Sequence[Record]) -> Outputs:
        made = Outputs()
        for at in range(0, len(piece), _BATCH):
            batch = piece[at : at + _BATCH]
            first, second = pipeline.run([k for k, _ in batch], [v for _, v in batch])
            made.forwarded.append(
                [*zip(first.forward_keys.present(), first.forward_values.tolist(), strict=True)]
            )
            made.decisions.append(
                [*zip(second.keys.present(), second.decisions.tolist(), strict=True)]
            )
            made.changes += [list(first.only_changes), list(second.only_changes)]
        return made

    feed(records[: plan.filled])
    runs = []
    for run in range(plan.runs):
        at = plan.filled + run * plan.timed
        clock = Clock()
        with clock.watching(PARTS):
            made = feed(records[at : at + plan.timed])
        runs.append({part: clock.seconds[part] / plan.timed * 1e6 for part in PARTS})
    return runs, made


async def _sending(
    bootstrap: str, batches: Sequence[Sequence[Record]], partitions: int, kind: str
) -> float:
    """CPU seconds that it takes to send batches: `keyed`, `decisions` or `changelog`."""
    topic = f"bench-{kind}-{time.time_ns()}"
    await create_topics(bootstrap, [topic], partitions)
    async with publisher(bootstrap) as out:
        await out.prepare(topic)
        began = time.process_time()
        for number, batch in enumerate(batches):
            await out.post(
                topic,
                [k for k, _ in batch],
                [v for _, v in batch],
                partition=number % partitions if kind == "changelog" else None,
                headers=[_HEADERS] * len(batch) if kind == "decisions" else None,
            )
        return time.process_time() - began


def fetching(bootstrap: str, made: Outputs, records: Sequence[Record], partitions: int) -> float:
    """CPU seconds of a worker that only reads what a worker reads for these decisions."""
    name = f"bench-{time.time_ns()}"
    forwarded = [r for batch in made.forwarded for r in batch]
    asyncio.run(fill(bootstrap, f"{name}-transactions", partitions, records))
    asyncio.run(fill(bootstrap, f"{name}-transactions-by-merchant", partitions, forwarded))
    count = len(records) + len(forwarded)
    with (
        tempfile.TemporaryDirectory(prefix="dafu-bench-") as directory,
        DafuWorker(
            bootstrap,
            name,
            Path(directory),
            partitions,
            app="bench.idle_worker",
            BENCH_RECORDS=str(count),
        ) as worker,
    ):
        worker.until_logged(READ)
        found = re.search(rf"{READ} \d+ records in ([0-9.]+) s", worker.output)
        assert found is not None
        return float(found[1])


def measure(kind: str, bootstrap: str, plan: Plan) -> Section:
    """All parts, and the whole."""
    records = transactions(max(plan.filled + plan.runs * plan.timed, plan.whole))
    runs, made = pure(records, plan)
    n = plan.timed
    last = records[plan.filled + (plan.runs - 1) * n :][:n]
    client: dict[str, list[float]] = defaultdict(list)
    whole = []
    job = Job("dafu, memory", plan.whole, dafu_worker("memory"))
    for _ in range(plan.whole_runs):
        client["fetch"].append(fetching(bootstrap, made, last, plan.partitions) / n * 1e6)
        keyed = asyncio.run(_sending(bootstrap, made.forwarded, plan.partitions, "keyed"))
        decided = asyncio.run(_sending(bootstrap, made.decisions, plan.partitions, "decisions"))
        client["produce"].append((keyed + decided) / n * 1e6)
        logged = asyncio.run(_sending(bootstrap, made.changes, plan.partitions, "changelog"))
        client["changelog"].append(logged / n * 1e6)
        whole.append(drain(job, bootstrap, records[: plan.whole], plan.partitions).cpu_us)
    figures = {part: figure([run[part] for run in runs], 2) for part in PARTS}
    figures |= {part: figure(values, 2) for part, values in client.items()}
    total = figure(whole, 2)
    order = ["fetch", *PARTS, "produce", "changelog"]
    rest = total.median - sum(figures[part].median for part in order)
    rows: list[list[Cell]] = [[part, figures[part]] for part in order]
    rows += [["rest (whole less parts)", figure(rest, 2)], ["whole worker", total]]
    changes = sum(map(len, made.changes)) / n
    return Section(
        "cpu",
        f"CPU of a decision, by part (clients on {TITLES[kind]})",
        METHOD.format(batch=_BATCH),
        BIASES,
        [
            Table(
                f"Stages: {plan.runs} runs of {n:,} transactions; the rest: {plan.whole_runs} runs",
                ["part", "us/decision"],
                rows,
            )
        ],
        [f"{changes:.2f} changelog records a decision in batches of {_BATCH}."],
    )
