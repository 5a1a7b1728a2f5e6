"""Labels through a broker: into both tables and into later decisions, as a replay has it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dafu.features.catalogue import USER_INDEX
from dafu.stages.batch import FORWARD, FORWARD_MAGIC, LABEL_MAGIC
from dafu.streaming.dead_letters import read_headers
from tests.asking import ask
from tests.integration.payments import by_transaction, payments
from tests.integration.test_rebalance import check_replay
from tests.integration.worker import BRISK, Record, System

pytestmark = pytest.mark.broker

N = 1500
BAD: list[tuple[bytes, str]] = [
    (b"{", "not_json"),
    (b"[]", "not_an_object"),
    (b'{"transaction_id":"t","user_id":"u","is_fraud":true}', "missing_field"),
]


def label(payment: bytes, **fields: Any) -> Record:
    document = json.loads(payment)
    known = {
        "transaction_id": document["transaction_id"],
        "user_id": document["user_id"],
        "is_fraud": True,
        "source": "chargeback",
        "observed_at": document["timestamp"],
        **fields,
    }
    return known["user_id"].encode(), json.dumps(known).encode()


async def test_labels_are_known_to_later_decisions_and_a_replay_agrees(
    bootstrap: str, tmp_path: Path
) -> None:
    records = payments(N, seed=23)
    first, later = records[: N // 2], records[N // 2 :]
    labels = [label(value) for _, value in first[::5]]
    labels += [label(value, is_fraud=False, source="analyst") for _, value in first[::10]]
    ahead = [label(value) for _, value in later[::9]]
    system = System(bootstrap, tmp_path, partitions=2, app=BRISK)
    await system.create(system.topics.transactions, system.topics.labels)
    await system.publish(first)
    with system.worker() as worker:
        await system.drained(worker)
        await system.publish(
            [*labels, *((b"u", value) for value, _ in BAD), *ahead], topic=system.topics.labels
        )
        await system.drained(worker)
        worker.kill()
    with system.worker() as worker:
        await worker.ready()
        await system.publish(later)
        await system.drained(worker)
        counters = (await asyncio.to_thread(ask, f"{worker.base}/v1/status"))[1]["agents"]
    assert counters["users"]["records"] >= len(later)
    found = by_transaction(await system.decisions())
    assert len(found) == N
    await check_replay(system, found)
    headers = [
        np.frombuffer(record.value, FORWARD, 1)[0]
        for record in await system.read_flat(system.topics.transactions_by_merchant)
    ]
    known = [
        h["features"][USER_INDEX["user_known_frauds"]]
        for h in headers
        if h["magic"] == FORWARD_MAGIC
    ]
    assert max(known) >= 1
    assert sum(h["magic"] == FORWARD_MAGIC and h["label"] > 0 for h in headers) == len(ahead)
    alone = {int(h["transaction"]) for h in headers if h["magic"] == LABEL_MAGIC}
    assert len(alone) == len(first[::5])
    letters = await system.read_flat(system.topics.dead_letters)
    origins = [read_headers(letter.headers) for letter in letters]
    assert sorted(origin.reason for origin in origins if origin) == sorted(why for _, why in BAD)
    assert {letter.value for letter in letters} == {value for value, _ in BAD}
