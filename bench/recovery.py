"""How long a worker needs from its partitions' assignment to a recovered table.

Reads the worker's own log and asks its web server; knows nothing of how a store is filled.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench.brokers import TITLES, BenchError
from bench.population import EVENTS, user_changes
from bench.processes import FAUST_READY, DafuWorker, Process
from bench.records import Record, create_topics, publisher
from bench.results import Cell, Section, Table, figure
from dafu.features.state import USERS

METHOD: Final = f"""\
A changelog of user records is on the broker: one head for each user with its last {EVENTS}
events, as dafu's first stage made them from generated payments. A worker starts; recovery lasts
from the log line in which Faust begins to restore until the one that says it is done, both with
the worker's own timestamps, so that process start, compilation and joining the group are left
out. "ready" is the time from the start of the process until /health/ready answered 200 (stock
Faust: until its log says that the worker is ready), all of that included. The number of records
is checked against what the worker says it holds. Memory: an empty dictionary before. RocksDB
cold: no local database. RocksDB warm: the database of a worker that was stopped, after the given
number of records was added to the changelog; only those are read. Stock Faust recovers a plain
`faust.Table` of bytes from a changelog of the first of these records into its memory store. A
rate is records over seconds of recovery."""

BIASES: Final = [
    "The changelog was just written, so the broker answers from its page cache.",
    "Each user has one record; a changelog that is not compacted holds several, and recovery reads "
    "all of them.",
    "Stock Faust gets fewer records, since at its pace all of them take minutes.",
    "The warm case reads too few records for its rate to mean much; its seconds count.",
]
_BEGIN: Final = "Restoring state from changelog topics"
_END: Final = "Recovery complete"
_STAMP: Final = re.compile(r"^\[?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})")


class Plan(Struct, frozen=True):
    """How much is recovered, and how often."""

    users: int = 1_000_000
    added: int = 10_000
    partitions: int = 4
    runs: int = 3
    faust_users: int = 100_000


QUICK: Final = Plan(users=50_000, added=1_000, runs=1, faust_users=10_000)


class Recovered(Struct, frozen=True):
    """One recovery, in seconds; `ready` from the start of the process."""

    records: int
    seconds: float
    ready: float


def stamp(log: str, text: str) -> float:
    """The time of the first log line with a text, in epoch seconds."""
    for line in log.splitlines():
        if text in line and (found := _STAMP.match(line)):
            return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
    raise BenchError(f"the worker's log has no line with {text!r}:\n{log[-3000:]}")


async def fill_changelog(
    bootstrap: str,
    topic: str,
    partitions: int,
    changes: Iterable[tuple[int, list[Record]]],
    *,
    create: bool = True,
) -> tuple[int, int]:
    """Publish changes by partition; gives how many records and bytes of keys and values."""
    if create:
        await create_topics(bootstrap, [topic], partitions)
    count = size = 0
    async with publisher(bootstrap) as out:
        for partition, records in changes:
            await out.publish(topic, records, partition)
            count += len(records)
            size += sum(len(k) + len(v or b"") for k, v in records)
    return count, size


def recover(
    bootstrap: str, name: str, directory: Path, plan: Plan, store: str, read: int
) -> Recovered:
    """Start a worker on a changelog that is there and time its recovery of `read` records."""
    with DafuWorker(bootstrap, name, directory, plan.partitions, DAFU_STORE=store) as worker:
        ready = worker.until_ready()
        held = sum(p["records"] for p in worker.status()["tables"]["users"]["partitions"])
        if held != plan.users:
            raise BenchError(f"{held} records were recovered, {plan.users} had been written")
        return _times(worker, read, ready)


def recover_faust(bootstrap: str, name: str, directory: Path, plan: Plan) -> Recovered:
    """Let stock Faust recover the same changelog."""
    command = [sys.executable, "-m", "faust", "-A", "bench.recovery_faust"]
    command += ["worker", "--without-web", "-l", "info"]
    environment = {
        "DAFU_BROKER": bootstrap,
        "DAFU_APP_ID": name,
        "DAFU_TOPIC_PREFIX": f"{name}-",
        "DAFU_PARTITIONS": str(plan.partitions),
        "DAFU_DATA_DIR": str(directory / "faust"),
    }
    with Process(command, environment, directory / "faust.log") as worker:
        worker.until_logged(FAUST_READY)
        return _times(worker, plan.faust_users, stamp(worker.output, FAUST_READY))


def _times(worker: Process, records: int, ready: float) -> Recovered:
    log = worker.output
    return Recovered(records, stamp(log, _END) - stamp(log, _BEGIN), ready - worker.started_at)


def measure(kind: str, bootstrap: str, plan: Plan) -> Section:
    """Write the changelog once, recover it in each of the ways."""
    name = f"bench-{time.time_ns()}"
    changelog = f"{name}-users-changelog"
    count, size = asyncio.run(
        fill_changelog(
            bootstrap, changelog, plan.partitions, user_changes(plan.users, plan.partitions)
        )
    )
    results: dict[str, list[Recovered]] = {}

    def add(what: str, recovered: Recovered) -> None:
        results.setdefault(what, []).append(recovered)
        print(f"  {what:<16} {recovered.records:>9} in {recovered.seconds:.2f} s", flush=True)

    with ExitStack() as stack:
        directories = [
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dafu-bench-")))
            for _ in range(plan.runs)
        ]
        for directory in directories:
            add("dafu, memory", recover(bootstrap, name, directory, plan, "memory", count))
            add("RocksDB, cold", recover(bootstrap, name, directory, plan, "rocksdb", count))
        stock = f"{name}-stock"
        fewer = user_changes(plan.faust_users, plan.partitions)
        asyncio.run(fill_changelog(bootstrap, f"{stock}-users-changelog", plan.partitions, fewer))
        for directory in directories:
            add("Faust, memory", recover_faust(bootstrap, stock, directory, plan))
        again = list(user_changes(plan.added, plan.partitions, seed=2))
        added, _ = asyncio.run(
            fill_changelog(bootstrap, changelog, plan.partitions, again, create=False)
        )
        for directory in directories:
            add("RocksDB, warm", recover(bootstrap, name, directory, plan, "rocksdb", added))
    columns = ["store", "records", "recovery, s", "records/s", "process start to ready, s"]
    rows: list[list[Cell]] = [
        [
            what,
            f"{done[0].records:,}",
            figure([d.seconds for d in done], 2),
            figure([d.records / d.seconds for d in done]),
            figure([d.ready for d in done], 1),
        ]
        for what, done in results.items()
    ]
    title = (
        f"{plan.users:,} users, {size / 1e6:,.0f} MB of keys and values, "
        f"{plan.partitions} partitions, {plan.runs} runs"
    )
    return Section(
        "recovery",
        f"Recovery from {TITLES[kind]}",
        METHOD,
        BIASES,
        [Table(title, columns, rows)],
        [f"A user's head is {USERS.head.itemsize} bytes, an event {USERS.event.itemsize}."],
    )
