"""Two workers share four partitions: one comes later, one leaves, all is decided the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dafu.agents.shell import WORKER
from dafu.features.state import MERCHANTS, USERS
from dafu.stages.lists import ENTRIES_KEY
from dafu.stages.switches import LINEUP_KEY, RULES_STATE_KEY
from dafu.tables.records import MemoryRecords
from tests.asking import ask
from tests.integration.payments import (
    by_transaction,
    forwarded_from,
    payments,
    replay_merchants,
    replay_users,
    stages,
    states,
)
from tests.integration.worker import BRISK, System, Worker, eventually, with_both_stores

pytestmark = pytest.mark.broker

PARTITIONS = 4
PIECE = 100


async def status(worker: Worker) -> Any:
    return (await asyncio.to_thread(ask, f"{worker.base}/v1/status"))[1]


async def one_joins_and_one_leaves(bootstrap: str, directory: Path, store: str) -> None:
    records = payments(20_000, seed=41)
    system = System(bootstrap, directory, PARTITIONS, app=BRISK, DAFU_STORE=store)
    topic = system.topics.transactions
    await system.create(topic)
    sent = 0
    quiet = asyncio.Event()

    async def traffic() -> None:
        """Publish without a break while the group changes."""
        nonlocal sent
        while not quiet.is_set():
            assert sent < len(records), "the group took too long: generate more payments"
            await system.publish(records[sent : sent + PIECE])
            sent += PIECE
            await asyncio.sleep(0.1)

    def worker(name: str) -> Worker:
        return system.worker(DAFU_DATA_DIR=str(directory / name), DAFU_BATCH_RECORDS="50")

    async def shares(worker: Worker, count: int) -> bool:
        """Whether it owns so many partitions of each topic and has decided something."""
        try:
            told = await status(worker)
        except OSError:
            return False  # it does not listen yet
        owned = [
            told["assignment"].get(t, []) for t in (topic, system.topics.transactions_by_merchant)
        ]
        return [len(numbers) for numbers in owned] == [count] * 2 and any(
            told["agents"]["merchants"]["decisions"].values()
        )

    publishing = asyncio.create_task(traffic())
    with worker("first") as first, worker("second") as second:
        await eventually(lambda: shares(second, 2), "the second has its share", 60.0, first, second)
        await eventually(lambda: shares(first, 2), "the first keeps its share", 60.0, first, second)
        await asyncio.to_thread(first.stop)
        await eventually(lambda: shares(second, PARTITIONS), "it takes over", 60.0, second)
        quiet.set()
        await publishing
        await system.drained(second)
        pids = {first.process.pid, second.process.pid}
    published = await system.read_flat(system.topics.decisions)
    assert {int(dict(r.headers)[WORKER].split(b":")[1]) for r in published} == pids
    found = by_transaction(r.value for r in published)
    expected = {json.loads(value)["transaction_id"] for _, value in records[:sent]}
    assert found.keys() == expected
    await check_replay(system, found)


def switches_in(records: MemoryRecords) -> dict[bytes, bytes]:
    """What a state holds of models, rules and lists."""
    kinds = (LINEUP_KEY, RULES_STATE_KEY, b"D", ENTRIES_KEY)
    return {key: value for key, value in records.data.items() if key.startswith(kinds)}


async def check_replay(system: System, found: Mapping[str, bytes]) -> None:
    """Logs and tables are what the stages make of the logs, whoever worked on them."""
    by_merchant = await system.read(system.topics.transactions_by_merchant)
    forwarded = forwarded_from(r for part in by_merchant for r in part)
    users, merchants = await system.rebuilt("users"), await system.rebuilt("merchants")
    replayed: list[bytes] = []
    for p, log in enumerate(await system.read(system.topics.transactions)):
        pairs, user_records = replay_users(log, stages()[0])
        assert forwarded[p] == pairs
        assert states(USERS, users[p].data) == states(USERS, user_records.data)
        assert switches_in(users[p]) == switches_in(user_records)
        decided, merchant_records = replay_merchants(by_merchant[p], stages()[1])
        assert states(MERCHANTS, merchants[p].data) == states(MERCHANTS, merchant_records.data)
        assert switches_in(merchants[p]) == switches_in(merchant_records)
        replayed += [payload for _, payload in decided]
    assert len(replayed) == len(found)
    assert by_transaction(replayed) == found


async def test_one_joins_and_one_leaves(bootstrap: str, tmp_path: Path) -> None:
    await with_both_stores(one_joins_and_one_leaves, bootstrap, tmp_path)
