"""Alerts of fraud rings through a broker: how soon after a ring has formed, at a constant rate.

Generated payments with rings are published open loop, and what a worker tells is read from its
topic of alerts. When an alert came is the time of its record, which shares the clock with the load
generator on this machine.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from bench.brokers import TITLES, BenchError
from bench.latency import Helper
from bench.load import Load, Sent
from bench.processes import DafuWorker, until_shared
from bench.records import create_topics, partitions_of, reader, until_filled
from bench.results import Cell, Figure, Section, Table, figure
from dafu.generator import generate_traffic, write
from dafu.ingest import TransactionReader, load_mapping, to_records
from dafu.loading import load_stages
from dafu.network import find_rings
from dafu.rings.evaluation import RingFigures, complete, evaluate_rings, reports_of
from dafu.rings.records import RingAlert, decode_alert
from dafu.rings.truth import Truth
from dafu.settings import load_settings
from dafu.stages.ring_pipeline import RingPipeline
from dafu.streaming.offsets import end_offsets

METHOD: Final = """\
Payments with rings and look-alikes (`dafu generate --users {users} --merchants {merchants} --days \
{days} --rings {rings} --look-alikes {look_alikes} --seed {seed}`) are published at a constant rate,
whatever becomes of those before, with the rules and the model that come with dafu and without
labels. "more transactions" are those that a ring made, by what had been published when the alert
was told, after the one that tied three of its members together, until three were in one report.
"from the file" is what `dafu rings` finds in the same transactions, without a broker: what is more
than that is the way through the topics. "until told" is from when the payment was due that moved
the clock of the rings to an alert's time, to the alert's record; alerts that open rings are
counted."""

BIASES: Final = [
    "Weeks pass in minutes: while an alert is on its way, hours of payments are published, so that "
    "more of them come before it than would in a stream that takes its time.",
    "Everything shares the machine's cores, the generator included.",
]

_GRACE_S: Final = 60.0
_QUIET_S: Final = 3.0
_START_IN_S: Final = 1.0


class Plan(Struct, frozen=True):
    """Which payments, and how many of them a second."""

    users: int = 4_000
    merchants: int = 400
    days: int = 28
    rings: int = 40
    look_alikes: int = 40
    seed: int = 11
    rate: float = 1_000.0
    tick_s: float = 0.005
    partitions: int = 2


QUICK: Final = Plan(users=800, merchants=100, days=14, rings=10, look_alikes=10)


class World(Struct, frozen=True):
    """Payments in the order of their times (epoch milliseconds), and who is in which ring."""

    path: Path
    keys: list[bytes]
    values: list[bytes]
    times: NDArray[np.int64]
    truth: Truth


class Told(Struct, frozen=True):
    """An alert, and when its record was sent, in epoch milliseconds."""

    alert: RingAlert
    at: int


def world(plan: Plan, directory: Path) -> World:
    """Generate the payments into a file in a directory."""
    generated = generate_traffic(
        plan.users,
        plan.merchants,
        plan.days,
        plan.seed,
        rings=plan.rings,
        look_alikes=plan.look_alikes,
    )
    path = directory / "payments.parquet"
    write(generated.batches, path)
    keys: list[bytes] = []
    values: list[bytes] = []
    times: list[NDArray[np.int64]] = []
    for batch in TransactionReader(path, load_mapping("dafu")):
        for key, value in to_records(batch):
            keys.append(key or b"")
            values.append(value)
        times.append(np.array(batch.column("timestamp").cast("int64")))
    every = np.maximum.accumulate(np.concatenate(times))
    return World(path, keys, values, every, complete(generated.truth, int(every[-1])))


def run(bootstrap: str, given: World, plan: Plan) -> tuple[list[Told], int, Sent]:
    """Let a worker look at the payments; its alerts, the start in epoch milliseconds, and how well
    the generator kept up."""
    name = f"bench-{time.time_ns()}"
    topic = f"{name}-transactions"
    asyncio.run(create_topics(bootstrap, [topic], plan.partitions))
    with tempfile.TemporaryDirectory(prefix="dafu-bench-") as path, ExitStack() as stack:
        directory = Path(path)
        file = directory / "records"
        file.write_bytes(msgspec.msgpack.encode((given.keys, given.values)))
        worker = stack.enter_context(DafuWorker(bootstrap, name, directory, plan.partitions))
        until_shared([worker], topic, plan.partitions)
        load = Load(bootstrap, str(file), topic, plan.rate, plan.tick_s, 0.0)
        generator = stack.enter_context(Helper("bench.load", load, directory))
        start = time.monotonic_ns() + int(_START_IN_S * 1e9)
        began = (time.time_ns() - time.monotonic_ns() + start) // 1_000_000
        generator.tell(start)
        sent = msgspec.json.decode(generator.line(), type=Sent)
        told = asyncio.run(_told(bootstrap, name, len(given.keys), plan.partitions, worker))
    return told, began, sent


async def _told(
    bootstrap: str, name: str, count: int, partitions: int, worker: DafuWorker
) -> list[Told]:
    """All alerts of rings of accounts, once every payment is decided and no more alerts come."""
    alerts = f"{name}-fraud-rings"
    async with reader(bootstrap) as consumer:
        await until_filled(
            consumer, f"{name}-decisions", partitions, count, within=_GRACE_S, alive=worker.alive
        )
        tps = partitions_of(alerts, partitions)
        ends: dict[TopicPartition, int] = await end_offsets(consumer, tps)
        while True:
            await asyncio.sleep(_QUIET_S)
            before, ends = ends, await end_offsets(consumer, tps)
            if ends == before:
                break
        found = [told for tp, end in ends.items() for told in await _read(consumer, tp, end)]
    return sorted(
        (told for told in found if told.alert.kind == "accounts"),
        key=lambda told: (told.at, told.alert.alert_id),
    )


async def _read(consumer: AIOKafkaConsumer, tp: TopicPartition, end: int) -> list[Told]:
    consumer.assign([tp])
    await consumer.seek_to_beginning(tp)
    found: list[Told] = []
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(tp, timeout_ms=200)).values():
            found += [Told(decode_alert(r.value), r.timestamp) for r in records]
    return found


def evaluate(
    told: Sequence[Told], given: World, began: int, rate: float
) -> tuple[RingFigures, NDArray[np.float64]]:
    """Figures of the rings, by what was published when each alert came; and milliseconds from a
    payment's being due until it opened a ring.

    Parameters
    ----------
    told : sequence of Told
        In the order in which they came.
    given : World
    began : int
        When the first payment was due, epoch milliseconds.
    rate : float
        Payments a second.
    """
    last = len(given.times) - 1
    reports = []
    for each in told:
        published = min(max(int((each.at - began) / 1000 * rate), 0), last)
        reports += [
            replace(report, time=int(given.times[published])) for report in reports_of([each.alert])
        ]
    opened = [each for each in told if each.alert.event == "opened"]
    moved = np.searchsorted(given.times, [each.alert.time for each in opened])
    due = began + moved / rate * 1000
    took = np.array([each.at for each in opened], np.float64) - due
    return evaluate_rings(reports, given.truth), took


def from_file(given: World) -> RingFigures:
    """Figures of the rings that are found without a broker."""
    stages = load_stages(load_settings(), rings=True)
    rows: Any = TransactionReader(given.path, load_mapping("dafu"), batch_rows=20_000)
    found = find_rings(rows, RingPipeline(*stages))
    return evaluate_rings(reports_of(found.alerts), given.truth)


def measure(kind: str, bootstrap: str, plan: Plan) -> Section:
    """Find the rings of one world, through the broker and from the file."""
    with tempfile.TemporaryDirectory(prefix="dafu-bench-world-") as directory:
        given = world(plan, Path(directory))
        alone = from_file(given)
        told, began, sent = run(bootstrap, given, plan)
    if not told:
        raise BenchError(f"no alert of a ring after {len(given.keys)} payments")
    found, took = evaluate(told, given, began, plan.rate)
    rows = [_row("through the broker", found), _row("from the file", alone)]
    times: list[list[Cell]] = [
        [f"p{at}", Figure([float(np.percentile(took, at))], 0)] for at in (50, 90, 99)
    ]
    times.append(["generator late, p99", figure(sent.late_p99_ms, 1)])
    title = (
        f"{len(given.keys):,} payments at {plan.rate:,.0f} a second, {plan.partitions} partitions"
    )
    columns = [
        "", "rings", "found", "reported", "of these rings, %", "noticed",
        "more transactions, median", "90th percentile",
    ]  # fmt: skip
    return Section(
        f"alerts-{kind}",
        f"Alerts of fraud rings on {TITLES[kind]}",
        METHOD.format(**msgspec.structs.asdict(plan)),
        BIASES,
        [Table(title, columns, rows), Table("Milliseconds until told", ["", "ms"], times)],
    )


def _row(name: str, found: RingFigures) -> list[Cell]:
    delays = [found.delay_median, found.delay_p90]
    return [
        name,
        str(found.rings),
        str(found.found),
        str(found.reported),
        figure(100.0 * (found.precision or 0.0), 1),
        str(found.noticed),
        *["" if delay is None else figure(delay) for delay in delays],
    ]
