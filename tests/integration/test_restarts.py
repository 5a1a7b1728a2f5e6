"""Workers that stop or are killed while there is work: nothing lost, nothing decided differently.

The oracle is an uninterrupted run of the same log in memory.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from dafu.features.state import MERCHANTS, USERS
from tests.integration.payments import (
    by_transaction,
    forwarded_from,
    in_memory,
    payments,
    replay_merchants,
    replay_users,
    stages,
    states,
)
from tests.integration.worker import BRISK, System, with_both_stores

pytestmark = pytest.mark.broker

N = 5_000


async def check(system: System, records: Sequence[tuple[bytes, bytes]]) -> None:
    """Decisions, forwarded records and both tables are those of the uninterrupted run."""
    expected, pipeline = in_memory(records)
    published = await system.decisions()
    found = by_transaction(published)
    assert len(found) == len(records)
    assert found == by_transaction(expected)
    # First publications come in the order of the log.
    assert list(dict.fromkeys(published)) == expected
    (transactions,) = await system.read(system.topics.transactions)
    (by_merchant,) = await system.read(system.topics.transactions_by_merchant)
    forwarded, user_records = replay_users(transactions, stages(rings=False)[0])
    assert forwarded_from(by_merchant) == {0: forwarded}
    decided, merchant_records = replay_merchants(by_merchant, stages(rings=False)[1])
    assert [payload for _, payload in decided] == expected
    (users,), (merchants,) = await system.rebuilt("users"), await system.rebuilt("merchants")
    state = states(USERS, users.data)
    assert state == states(USERS, user_records.data)
    assert state == states(USERS, pipeline.user_records.data)
    # Repeats on the merchant-keyed topic shift the offsets that a merchant's state refers to.
    assert states(MERCHANTS, merchants.data) == states(MERCHANTS, merchant_records.data)
    assert states(MERCHANTS, merchants.data, offsets=False) == states(
        MERCHANTS, pipeline.merchant_records.data, offsets=False
    )


async def stopped_half_way(bootstrap: str, directory: Path, store: str) -> None:
    records = payments(N, seed=31)
    system = System(bootstrap, directory, app=BRISK, DAFU_STORE=store, DAFU_RINGS="false")
    await system.create(system.topics.transactions)
    await system.publish(records)
    with system.worker(DAFU_BATCH_RECORDS="20") as worker:
        await system.decided(N // 8, worker)
        await asyncio.to_thread(worker.stop)
    committed = await system.committed(system.topics.transactions)
    assert 0 < committed[0] < N, "stopped too late for the test to mean anything"
    with system.worker() as worker:
        await system.drained(worker)
    await check(system, records)
    databases = {path.parent.name for path in system.data.rglob("CURRENT")}
    assert len(databases) == (1 if store == "rocksdb" else 0), "not the store that was asked for"
    # Who stops in order leaves nothing to do twice.
    assert len(await system.decisions()) == N
    (by_merchant,) = await system.read(system.topics.transactions_by_merchant)
    assert len(by_merchant) == N


async def killed_again_and_again(bootstrap: str, directory: Path, store: str) -> None:
    choose = random.Random(store)
    records = payments(N, seed=32)
    # Rare commits: every life repeats a part of the one before.
    system = System(
        bootstrap,
        directory,
        app=BRISK,
        DAFU_STORE=store,
        DAFU_COMMIT_INTERVAL="0.7",
        DAFU_RINGS="false",
    )
    await system.create(system.topics.transactions)
    await system.publish(records)
    at = 0
    for _ in range(3):
        at += choose.randrange(100, N // 10)
        with system.worker(DAFU_BATCH_RECORDS=str(choose.choice([10, 20, 30]))) as worker:
            await system.decided(at, worker)
            worker.kill()
        at = max(at, len(await system.decisions()))
        assert at < N, "killed too late for the test to mean anything"
    with system.worker() as worker:
        await system.drained(worker)
    await check(system, records)


async def test_a_worker_stopped_half_way_goes_on_where_it_was(
    bootstrap: str, tmp_path: Path
) -> None:
    await with_both_stores(stopped_half_way, bootstrap, tmp_path)


async def test_a_worker_killed_again_and_again_decides_the_same(
    bootstrap: str, tmp_path: Path
) -> None:
    await with_both_stores(killed_again_and_again, bootstrap, tmp_path)
