"""Payments of others' topics: written on as transactions, with the time that they came with."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import UnknownTopicOrPartitionError

from dafu.agents import source
from dafu.agents.source import SourceAgent, SourceMissingError, admit_payment
from dafu.ingest import load_mapping
from dafu.streaming.records import RecordBatch
from tests.agents.recording import Sender, topic

TIME = 1_700_000_000_000


def agent(sender: Sender) -> SourceAgent:
    return SourceAgent(
        lambda: sender,  # type: ignore[arg-type,return-value]
        admit_payment(load_mapping("dafu")),
        topic=topic("transactions"),
        dead_letters=topic("dead"),
    )


def payment(number: int) -> bytes:
    return json.dumps(
        {
            "transaction_id": f"t{number}",
            "user_id": f"u{number}",
            "merchant_id": "m",
            "amount": 1,
            "timestamp": TIME,
        }
    ).encode()


async def test_records_keep_their_times_and_get_the_users_key() -> None:
    sender = Sender()
    records = [
        SimpleNamespace(offset=n, timestamp=at, key=b"any", value=value, headers=())
        for n, (at, value) in enumerate(
            [(TIME, payment(0)), (TIME + 1, b"{"), (-1, payment(2)), (TIME + 3, payment(3))]
        )
    ]
    before = time.time() * 1000
    await agent(sender).process([RecordBatch.of("core", 0, records)])
    sent = [(key, json.loads(value or b"")) for key, value, _ in sender.sent["transactions"]]
    assert [key for key, _ in sent] == [b"u0", b"u2", b"u3"]
    assert [payment["transaction_id"] for _, payment in sent] == ["t0", "t2", "t3"]
    times = sender.times["transactions"]
    assert times is not None
    first, unknown, last = times
    assert (first, last) == (TIME, TIME + 3)
    assert before - 1 <= unknown <= time.time() * 1000
    ((_, letter, _),) = sender.sent["dead"]
    (origin,) = sender.origins("dead")
    assert (letter, origin.reason, origin.topic, origin.offset) == (b"{", "not_json", "core", 1)


async def test_a_topic_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def partitions_of(topic: str, options: Any) -> list[int]:
        raise UnknownTopicOrPartitionError(f"{topic} at {options['bootstrap_servers']}")

    monkeypatch.setattr(source, "partitions_of", partitions_of)
    settings = SimpleNamespace(client_options=lambda: {"bootstrap_servers": "b:1"})
    app = SimpleNamespace(settings=settings)
    channel = SimpleNamespace(get_topic_name=lambda: "core.payments", app=app)
    why = r"core\.payments \(DAFU_SOURCE_TOPIC\).* core\.payments at b:1"
    with pytest.raises(SourceMissingError, match=why):
        await agent(Sender()).prepare(channel)
