"""What a user and a merchant cost in memory, and whether a worker grows beyond its state.

Resident memory as the operating system counts it, from outside the worker; what the state itself
must grow by is computed with the same stages offline.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec import Struct

from bench.brokers import TITLES, BenchError
from bench.population import (
    EVENTS,
    OFFSETS,
    START_MS,
    STEP_MS,
    by_partition,
    merchant_changes,
    payment,
    stages,
    user_changes,
    user_id,
)
from bench.processes import DafuWorker
from bench.records import Record, create_topics, publisher, reader, until_filled
from bench.recovery import fill_changelog
from bench.results import Cell, Section, Table, figure
from dafu.columns import ByteColumn
from dafu.partitioner import partitions_for
from dafu.stages.batch import InputBatch
from dafu.tables.records import MemoryRecords

METHOD: Final = f"""\
Workers with the memory store recover a changelog of users, and one of merchants, each entity
with {EVENTS} events; resident memory (RSS) a few seconds after they are ready, less that of a
worker with empty tables, over the number of records that it says it holds. "bytes of state" are
keys and values alone. Soak: further transactions of the same users, uniformly at random, at
merchants that are new, one payment every {{gap}} ms of event time; RSS after every tenth, when
all decisions are published. The state must grow: an event is 56 bytes at its user and 24 at its
merchant, until an entity has 384 of them or they are 37 days old. "state" is by how much keys
and values have grown, computed with the same stages on the same transactions offline; "beyond"
is what RSS has grown more than that, and what it comes to per transaction of the step. A leak
shows as a "beyond" that grows by the same amount in every step."""

BIASES: Final = [
    "RSS includes what the allocator keeps for later, after a recovery in particular.",
    "Values that grow are new objects: the allocator's size classes and the table's keys for "
    'closed chunks are in "beyond", and are no leak.',
]
_GAP_MS: Final = 800
_SETTLE_S: Final = 3.0
_PIECE: Final = 1000


class Plan(Struct, frozen=True):
    """How many entities, and how long the soak."""

    users: int = 1_000_000
    merchants: int = 100_000
    soak: int = 1_000_000
    steps: int = 10
    soak_merchants: int = 1000
    partitions: int = 4


QUICK: Final = Plan(users=50_000, merchants=10_000, soak=50_000, steps=5, soak_merchants=100)


class Held(Struct, frozen=True):
    """What a ready worker holds: its resident bytes and its records."""

    resident: int
    records: int


def held(worker: DafuWorker, table: str) -> Held:
    """Ask a worker that has had a moment to settle."""
    worker.until_ready()
    time.sleep(_SETTLE_S)
    records = sum(p["records"] for p in worker.status()["tables"][table]["partitions"])
    return Held(worker.resident_bytes(), records)


def _worker(bootstrap: str, name: str, path: Path, plan: Plan) -> DafuWorker:
    directory = path / name
    directory.mkdir()
    return DafuWorker(bootstrap, name, directory, plan.partitions, DAFU_STORE="memory")


class Offline:
    """The state as it must become, partition by partition."""

    def __init__(self, partitions: int) -> None:
        self._stages = stages()
        self.users = [MemoryRecords() for _ in range(partitions)]
        self._merchants = [MemoryRecords() for _ in range(partitions)]
        self._read = [OFFSETS] * partitions
        self._forwarded = [0] * partitions
        self.bytes = 0

    def preload(self, changes: Iterator[tuple[int, list[Record]]]) -> Iterator[Any]:
        """Pass users' changes on and keep them."""
        for partition, records in changes:
            self.users[partition].write(records)
            yield partition, records

    def apply(self, records: list[Record]) -> None:
        """Apply transactions and count how the bytes of the state change."""
        users, merchants = self._stages
        forwarded: list[Record] = []
        for partition, chosen in enumerate(by_partition([k for k, _ in records], len(self.users))):
            part = [records[i] for i in chosen]
            batch = _batch(partition, part, self._read[partition])
            self._read[partition] += len(part)
            first = users.run(batch, self.users.__getitem__)
            self._write(self.users[partition], first.only_changes)
            forwarded += zip(
                first.forward_keys.present(), first.forward_values.present(), strict=True
            )
        keys = [k for k, _ in forwarded]
        for partition, chosen in enumerate(by_partition(keys, len(self.users))):
            part = [forwarded[i] for i in chosen]
            batch = _batch(partition, part, self._forwarded[partition])
            self._forwarded[partition] += len(part)
            second = merchants.run(batch, self._merchants.__getitem__)
            self._write(self._merchants[partition], second.only_changes)

    def _write(self, records: MemoryRecords, changes: Any) -> None:
        for key, value in changes:
            old = records.data.get(key)
            self.bytes -= 0 if old is None else len(key) + len(old)
            self.bytes += 0 if value is None else len(key) + len(value)
        records.write(changes)


def _batch(partition: int, records: list[Record], offset: int) -> InputBatch:
    return InputBatch.of(partition, [k for k, _ in records], [v for _, v in records], offset)


def soak_records(plan: Plan, seed: int = 3) -> list[Record]:
    """The further transactions."""
    draws = np.random.default_rng(seed)
    users = draws.integers(0, plan.users, plan.soak).tolist()
    # Beyond the recovered merchants, so that none of them has a fence.
    shops = (plan.merchants + draws.integers(0, plan.soak_merchants, plan.soak)).tolist()
    amounts = draws.random(plan.soak).tolist()
    first = START_MS + EVENTS * STEP_MS
    return [
        (user_id(u), payment(f"s{i}", u, m, first + i * _GAP_MS, draw))
        for i, (u, m, draw) in enumerate(zip(users, shops, amounts, strict=True))
    ]


def fillers(plan: Plan) -> list[Record]:
    """Payments of other users, for the offsets that the users' fences cover."""
    found: list[Record] = []
    counts = np.zeros(plan.partitions, np.int64)
    number = plan.users
    while counts.min() < OFFSETS:
        found += [
            (user_id(u), payment(f"f{u}", u, plan.merchants, START_MS, 0.5))
            for u in range(number, number + OFFSETS)
        ]
        number += OFFSETS
        counts = np.bincount(
            partitions_for(ByteColumn.of([k for k, _ in found]), plan.partitions),
            minlength=plan.partitions,
        )
    return found


async def _decide(
    bootstrap: str, name: str, records: list[Record], before: int, worker: DafuWorker, plan: Plan
) -> int:
    """Publish transactions and wait for their decisions; gives the decisions so far."""
    async with publisher(bootstrap) as out, reader(bootstrap) as consumer:
        await out.publish(f"{name}-transactions", records)
        ends = await until_filled(
            consumer,
            f"{name}-decisions",
            plan.partitions,
            before + len(records),
            within=1200.0,
            alive=worker.alive,
        )
    return sum(ends.values())


def measure(kind: str, bootstrap: str, plan: Plan) -> Section:
    """Empty, with users and a soak on top of them, with merchants."""
    run = f"bench-{time.time_ns()}"
    offline = Offline(plan.partitions)
    with tempfile.TemporaryDirectory(prefix="dafu-bench-") as directory:
        path = Path(directory)
        with _worker(bootstrap, f"{run}-empty", path, plan) as worker:
            empty = held(worker, "users").resident
        sizes: list[list[Cell]] = []
        name = f"{run}-merchants"
        changes = merchant_changes(plan.merchants, plan.partitions)
        _, size = asyncio.run(
            fill_changelog(bootstrap, f"{name}-merchants-changelog", plan.partitions, changes)
        )
        with _worker(bootstrap, name, path, plan) as worker:
            sizes.append(_size_row("merchant", held(worker, "merchants"), empty, size))
        name = f"{run}-users"
        changes = offline.preload(user_changes(plan.users, plan.partitions))
        _, size = asyncio.run(
            fill_changelog(bootstrap, f"{name}-users-changelog", plan.partitions, changes)
        )
        asyncio.run(create_topics(bootstrap, [f"{name}-decisions"], plan.partitions))
        with _worker(bootstrap, name, path, plan) as worker:
            users = held(worker, "users")
            sizes.insert(0, _size_row("user", users, empty, size))
            if users.records != plan.users:
                raise BenchError(f"{users.records} users were recovered, not {plan.users}")
            steps = _soak(bootstrap, name, worker, offline, plan)
    size_columns = ["entity", "number", "bytes of state each", "bytes of RSS each", "RSS, MB"]
    soak_columns = [
        "further transactions", "RSS, MB", "RSS growth, MB", "state growth, MB", "beyond, MB",
        "beyond, bytes/transaction of the step",
    ]  # fmt: skip
    return Section(
        "memory",
        f"Memory (changelogs on {TITLES[kind]})",
        METHOD.format(gap=_GAP_MS),
        BIASES,
        [
            Table(f"A worker with empty tables: {empty / 1e6:,.0f} MB", size_columns, sizes),
            Table(
                f"Soak: {plan.users:,} users, {plan.soak_merchants:,} merchants",
                soak_columns,
                steps,
            ),
        ],
    )


def _size_row(what: str, found: Held, empty: int, size: int) -> list[Cell]:
    return [
        what,
        f"{found.records:,}",
        figure(size / found.records),
        figure((found.resident - empty) / found.records),
        figure(found.resident / 1e6),
    ]


def _soak(
    bootstrap: str, name: str, worker: DafuWorker, offline: Offline, plan: Plan
) -> list[list[Cell]]:
    records = soak_records(plan)
    decided = asyncio.run(_decide(bootstrap, name, fillers(plan), 0, worker, plan))
    time.sleep(_SETTLE_S)
    first = worker.resident_bytes()
    rows: list[list[Cell]] = [["0", figure(first / 1e6), *[figure(0.0)] * 3, ""]]
    beyond = 0.0
    size = plan.soak // plan.steps
    for step in range(plan.steps):
        piece = records[step * size : (step + 1) * size]
        decided = asyncio.run(_decide(bootstrap, name, piece, decided, worker, plan))
        for at in range(0, size, _PIECE):
            offline.apply(piece[at : at + _PIECE])
        time.sleep(_SETTLE_S)
        now = worker.resident_bytes()
        more = now - first - offline.bytes
        rows.append(
            [
                f"{(step + 1) * size:,}",
                figure(now / 1e6),
                figure((now - first) / 1e6, 1),
                figure(offline.bytes / 1e6, 1),
                figure(more / 1e6, 1),
                figure((more - beyond) / size, 1),
            ]
        )
        beyond = more
        print("  " + "  ".join(str(c) for c in rows[-1]), flush=True)
    return rows
