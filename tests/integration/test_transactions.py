"""Payments of transactional producers: decided when they are committed, and only then.

The embedded broker knows no transactions.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.asking import ask
from tests.conftest import WHICH
from tests.integration.payments import by_transaction, payments
from tests.integration.worker import BRISK, System, Worker, eventually

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(
        os.environ.get(WHICH, "embedded") in ("", "embedded"),
        reason=f"the embedded broker knows no transactions: {WHICH}=kafka",
    ),
]

Payments = Sequence[tuple[bytes, bytes]]


@asynccontextmanager
async def producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    """One that sends in transactions."""
    made = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"core-{uuid.uuid4()}")
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def names(some: Payments) -> list[str]:
    """Transaction ids."""
    return sorted(json.loads(value)["transaction_id"] for _, value in some)


async def worker_lag(worker: Worker) -> int:
    """Records that the worker says it has to go."""
    status, described = await asyncio.to_thread(ask, f"{worker.base}/v1/status")
    assert status == 200
    return sum(partition["lag"] for partition in described["consumer"]["partitions"])


async def send(sender: AIOKafkaProducer, topic: str, some: Payments) -> None:
    """Send payments, as part of the transaction under way."""
    for key, value in some:
        await sender.send_and_wait(topic, value, key)


async def test_what_was_aborted_is_not_decided(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, partitions=2, app=BRISK)
    topic = system.topics.transactions
    made = payments(60, seed=5)
    first, withdrawn, pending, behind = made[:20], made[20:40], made[40:50], made[50:]
    with system.worker() as worker:
        await worker.ready()
        async with producer(bootstrap) as core, producer(bootstrap) as slow:
            await slow.begin_transaction()
            await core.begin_transaction()
            await send(core, topic, first)
            await core.commit_transaction()
            await core.begin_transaction()
            await send(core, topic, withdrawn)
            await core.abort_transaction()
            await system.decided(20, worker)

            await send(slow, topic, pending)
            await core.begin_transaction()
            await send(core, topic, behind)
            await core.commit_transaction()

            async def has_nothing_to_do() -> bool:
                return await worker_lag(worker) == 0

            # What nobody has committed yet is not there, nor is what follows it.
            await asyncio.sleep(3)
            await eventually(has_nothing_to_do, "no lag beside an open transaction", 30, worker)
            decided = by_transaction(await system.decisions())
            assert sorted(decided) == names(first)
            await slow.commit_transaction()
            await system.decided(40, worker)
            await eventually(has_nothing_to_do, "no lag behind markers", 30, worker)
    decided = by_transaction(await system.decisions())
    assert sorted(decided) == names([*first, *pending, *behind])
