"""A worker is stopped before it logs, loses its partition, and wakes up: its late records come.

Reading the changelog must give the state that the other worker went on with, as if the frozen one
had died where it stood.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import pytest

from dafu.streaming.records import RecordBatch
from dafu.tables.ownership import PartitionLog, log_page
from tests.integration.payments import payments
from tests.integration.test_restarts import check
from tests.integration.worker import BRISK, System, Worker, eventually

pytestmark = pytest.mark.broker

FREEZING = "tests.integration.freezing"
N, MORE = 3_000, 500


async def frozen(worker: Worker) -> bool:
    state = subprocess.run(
        ["ps", "-o", "state=", "-p", str(worker.process.pid)], capture_output=True, text=True
    )
    return state.stdout.startswith("T")


async def exits(worker: Worker, within: float) -> None:
    """It ends by itself, not in good order, and says why."""
    status = await asyncio.to_thread(worker.exited, within)
    assert status > 0, worker.describe(f"exited with status {status}")
    # The other agent of the same worker may notice first that it was frozen, or that what it sent
    # before has been under way for too long.
    reasons = ("LostPartitionError", "FrozenError", "RequestTimedOutError")
    assert any(r in worker.output for r in reasons), worker.describe("did not say why it stopped")


async def repaired(system: System, table: str) -> bool:
    (log,) = await system.read(f"{system.settings.app_id}-{table}-changelog")
    partition = PartitionLog()
    partition.recover(log_page(RecordBatch.of(table, 0, log)))
    return not partition.stale


async def stale_records(system: System, table: str) -> int:
    """How many records of former owners there are behind a claim."""
    (log,) = await system.read(f"{system.settings.app_id}-{table}-changelog")
    partition = PartitionLog()
    live = claims = 0
    for record in log:
        before = partition.claim
        live += len(partition.recover(log_page(RecordBatch.of(table, 0, [record]))))
        claims += partition.claim != before
    return len(log) - live - claims


@pytest.mark.parametrize("table", ["users", "merchants"])
@pytest.mark.parametrize("store", ["memory", "rocksdb"])
async def test_a_frozen_worker_wakes_up_before_it_logs_a_batch(
    table: str, store: str, bootstrap: str, tmp_path: Path
) -> None:
    records = payments(N + MORE, seed=51)
    system = System(bootstrap, tmp_path, app=BRISK, DAFU_STORE=store, DAFU_RINGS="false")
    await system.create(system.topics.transactions)
    await system.publish(records[:N])
    first = system.worker(
        FREEZING,
        TEST_FREEZE=f"{table}:batch",
        DAFU_BATCH_RECORDS="20",
        DAFU_DATA_DIR=str(tmp_path / "first"),
    )
    second = system.worker(DAFU_DATA_DIR=str(tmp_path / "second"))
    with first:
        await eventually(lambda: frozen(first), "the worker freezes", 60.0, first)
        with second:
            await system.drained(second)
            first.process.send_signal(signal.SIGCONT)
            await exits(first, 30.0)
            assert await stale_records(system, table) > 0, "nothing came late"
            # Nothing is to be done meanwhile: the owner looks after its changelog by itself.
            await eventually(lambda: repaired(system, table), "it is repaired", 30.0, second)
            await system.publish(records[N:])
            await system.drained(second)
    await check(system, records)
    # The next owner finds what the last one left, on its disk or in the changelog.
    with system.worker(DAFU_DATA_DIR=str(tmp_path / "second")) as third:
        await third.ready()
    await check(system, records)


async def test_a_frozen_worker_wakes_up_before_it_claims(bootstrap: str, tmp_path: Path) -> None:
    """Its claim is the latest then. The owner reads that when the group changes once more, and
    claims anew; or it finds out when it writes, and stops."""
    records = payments(N + MORE, seed=52)
    system = System(bootstrap, tmp_path, app=BRISK, DAFU_RINGS="false")
    await system.create(system.topics.transactions)
    await system.publish(records[:N])
    first, second = system.worker(FREEZING, TEST_FREEZE="users:claim"), system.worker()
    with first:
        await eventually(lambda: frozen(first), "the worker freezes", 60.0, first)
        with second:
            await system.drained(second)
            first.process.send_signal(signal.SIGCONT)
            await exits(first, 30.0)
            await system.publish(records[N:])
            try:
                await system.drained(second)
            except AssertionError:
                await exits(second, 5.0)
    with system.worker() as third:
        await third.ready()
        await system.drained(third)
    await check(system, records)
