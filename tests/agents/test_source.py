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
from dafu.columns import ByteColumn
from dafu.ingest import load_mapping
from dafu.streaming.records import RecordBatch

TIME = 1_700_000_000_000


class Sender:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}

    async def send(self, topic: str, keys: ByteColumn, values: ByteColumn, **more: Any) -> None:
        self.sent[topic] = keys.tolist(), values.tolist(), more

    post = send


def agent(sender: Sender) -> SourceAgent:
    def topic(name: str) -> Any:
        return SimpleNamespace(get_topic_name=lambda: name)

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
    keys, values, more = sender.sent["transactions"]
    assert keys == [b"u0", b"u2", b"u3"]
    assert [json.loads(value)["transaction_id"] for value in values] == ["t0", "t2", "t3"]
    first, unknown, last = more["timestamps"].tolist()
    assert (first, last) == (TIME, TIME + 3)
    assert before - 1 <= unknown <= time.time() * 1000
    assert sender.sent["dead"][1] == [b"{"]


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
