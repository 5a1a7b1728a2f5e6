"""Workers that can not go on, or can not stop, end all the same; stopping is quick otherwise."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from dafu.broker import EmbeddedBroker
from tests.asking import ask
from tests.integration.payments import payments
from tests.integration.worker import BRISK, System, eventually

pytestmark = pytest.mark.broker

PAUSED = "tests.integration.paused"
BLOCKED = "tests.integration.blocked"
N = 3000
FEW = "2"
"""Records a batch, so that a worker is in the middle of N for seconds, however fast it is."""


async def test_a_consumer_that_stops_without_a_word_ends_its_worker(
    bootstrap: str, tmp_path: Path
) -> None:
    records = payments(N, seed=71)
    system = System(bootstrap, tmp_path, app=PAUSED, DAFU_WATCHDOG="4", DAFU_RINGS="false")
    await system.create(system.topics.transactions)
    await system.publish(records)
    with system.worker(DAFU_BATCH_RECORDS="100") as worker:
        status = await asyncio.to_thread(worker.exited, 60.0)
    assert status == 1, worker.describe(f"ended with {status}")
    log = worker.output
    assert "no progress for" in log
    assert f"{system.topics.transactions}[0] has" in log
    assert "records to go" in log
    assert "has not stopped within" not in log, "it left in order"
    # Its successor does what it has left.
    with system.worker(app=BRISK) as worker:
        await system.drained(worker)
    assert len(await system.decisions()) == N


async def test_an_idle_worker_is_left_in_peace(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, app=BRISK, DAFU_WATCHDOG="6")
    await system.create(system.topics.transactions)
    with system.worker() as worker:
        await worker.ready()
        await asyncio.sleep(10.0)
        await system.publish(payments(400, seed=72))
        await system.drained(worker)
        assert "no progress" not in worker.output


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("sleep", "the main event loop has not turned for"),
        ("consumer", "the consumer's event loop has not turned for"),
        ("lock", "Timeout (0:00:08)!"),
    ],
)
async def test_a_blocked_event_loop_ends_its_worker_and_says_where(
    how: str, said: str, bootstrap: str, tmp_path: Path
) -> None:
    system = System(bootstrap, tmp_path, app=BLOCKED, DAFU_WATCHDOG="3", TEST_BLOCK=how)
    with system.worker() as worker:
        status = await asyncio.to_thread(worker.exited, 60.0)
    assert status == 1, worker.describe(f"ended with {status}")
    assert said in worker.output, worker.describe("said something else")
    if how != "consumer":  # which is in C code, without a frame of its own
        assert "blocked.py" in worker.output


async def test_a_stop_during_a_rebalance_is_a_stop_in_order(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, 2, app=BRISK, DAFU_RINGS="false")
    with system.worker() as leader:
        await leader.ready()
        joins = leader.output.count("(Re-)joining group")
        with system.worker() as newcomer:

            async def rebalancing() -> bool:
                return leader.output.count("(Re-)joining group") > joins

            await eventually(rebalancing, "a rebalance", 30.0, leader, newcomer)
            leader.stop()
            await newcomer.ready()
    assert "has not stopped within" not in leader.output


async def test_a_stop_without_a_broker_ends_at_its_deadline_and_loses_nothing(
    tmp_path: Path,
) -> None:
    with EmbeddedBroker() as broker:
        system = System(broker.bootstrap, tmp_path, app="dafu.app", DAFU_STOP_DEADLINE="4")
        await system.create(system.topics.transactions)
        await system.publish(payments(N, seed=73))
        with system.worker(DAFU_BATCH_RECORDS=FEW) as worker:
            await system.decided(100, worker)
            broker.stop()
            await asyncio.sleep(1.0)
            began = time.monotonic()
            worker.process.send_signal(signal.SIGTERM)
            status = await asyncio.to_thread(worker.exited, 15.0)
            took = time.monotonic() - began
    assert status == 1, worker.describe(f"ended with {status}")
    assert took < 8.0
    assert "has not stopped within 4 s" in worker.output


async def test_a_stop_under_load_commits_what_was_in_work(bootstrap: str, tmp_path: Path) -> None:
    records = payments(N, seed=74)
    system = System(bootstrap, tmp_path, app="dafu.app")
    await system.create(system.topics.transactions)
    await system.publish(records)
    with system.worker(DAFU_BATCH_RECORDS=FEW, DAFU_COMMIT_INTERVAL="20") as worker:
        await system.decided(N // 10, worker)
        began = time.monotonic()
        await asyncio.to_thread(worker.stop)
        took = time.monotonic() - began
    assert took < 8.0, worker.describe(f"took {took:.1f} s to stop")
    committed = await system.committed(system.topics.transactions)
    by_merchant = await system.read_flat(system.topics.transactions_by_merchant)
    assert 0 < committed[0] < N
    assert committed[0] == len(by_merchant), "nothing to do twice"


async def test_a_restart_does_not_wait_for_the_session_to_expire(
    bootstrap: str, tmp_path: Path
) -> None:
    system = System(bootstrap, tmp_path, app="dafu.app")
    for _ in range(2):
        with system.worker() as worker:
            began = time.monotonic()
            await worker.ready()
            took = time.monotonic() - began
    # Time to be ready depends on the machine; that the member has left does not.
    assert "LeaveGroup request succeeded" in worker.output
    assert took < 30.0, worker.describe(f"took {took:.1f} s until it was ready")


async def test_readiness_says_that_the_consumer_stands(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, app=PAUSED, DAFU_READY_STALL="2", DAFU_WATCHDOG="0")
    await system.create(system.topics.transactions)
    await system.publish(payments(N, seed=75))
    worker = system.worker(DAFU_BATCH_RECORDS="100", DAFU_STOP_DEADLINE="2")
    with worker:

        async def not_ready() -> bool:
            try:
                code, body = await asyncio.to_thread(ask, f"{worker.base}/health/ready")
            except OSError:
                return False
            return code == 503 and "has not moved for" in str(body)

        await eventually(not_ready, "not ready", 60.0, worker)
        assert (await asyncio.to_thread(ask, f"{worker.base}/health/live"))[0] == 200
        worker.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(worker.exited, 15.0)
