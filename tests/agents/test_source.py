"""Payments of others' topics: written on as transactions, with the time that they came with."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiokafka.errors import UnknownTopicOrPartitionError

from dafu.agents import source
from dafu.agents.source import SourceAgent, SourceMissingError
from dafu.loading import source_payments
from dafu.settings import SchemaRegistry, Settings
from dafu.settings.model import Source
from dafu.streaming import schema_registry
from dafu.streaming.records import RecordBatch
from dafu.streaming.schema_registry import SchemaRegistryError
from tests.agents.recording import Sender, topic
from tests.schema_registry import Registry, framed, in_avro

TIME = 1_700_000_000_000


def agent(sender: Sender, settings: Settings | None = None) -> SourceAgent:
    payments = source_payments(settings or Settings(source=Source(topic="core")))
    assert payments is not None
    return SourceAgent(
        lambda: sender,  # type: ignore[arg-type,return-value]
        payments,
        topic=topic("transactions"),
        dead_letters=topic("dead"),
    )


def chunk(values: Sequence[bytes | None]) -> RecordBatch:
    records = [
        SimpleNamespace(offset=n, timestamp=TIME, key=b"any", value=value, headers=())
        for n, value in enumerate(values)
    ]
    return RecordBatch.of("core", 0, records)


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


FIELDS: list[tuple[str, Any]] = [
    ("transaction_id", "string"),
    ("user_id", "string"),
    ("merchant_id", "string"),
    ("amount", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
    ("timestamp", {"type": "long", "logicalType": "timestamp-millis"}),
]


def schema(*more: tuple[str, Any]) -> dict[str, Any]:
    fields = [{"name": name, "type": kind} for name, kind in (*FIELDS, *more)]
    return {"type": "record", "name": "Payment", "fields": fields}


OLD, NEW = schema(), schema(("country", ["null", "string"]))


def avro_payment(number: int) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(payment(number))
    return made | {"amount": Decimal("12.35"), "country": "DE"}


def avro(registry: Registry) -> Settings:
    return Settings(
        source=Source(topic="core", format="avro"),
        schema_registry=SchemaRegistry(urls=(registry.url,)),
    )


async def test_schemas_are_asked_for_once_and_what_is_unknown_is_set_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schema_registry, "GRACE_SECONDS", 0.01)
    sender = Sender()
    async with Registry().running() as registry:
        registry.register(1, OLD)
        registry.register(2, NEW)
        own = agent(sender, avro(registry))
        good = [in_avro(n % 2 + 1, (OLD, NEW)[n % 2], avro_payment(n)) for n in range(4)]
        wrong = [payment(9), framed(3, b"?"), framed(1, b"?"), None]
        await own.process([chunk([*good[:2], *wrong])])
        await own.process([chunk(good[2:])])
        assert sorted(registry.asked) == [f"/schemas/ids/{n}" for n in (1, 2, 3, 3)]
    sent = [json.loads(value or b"") for _, value, _ in sender.sent["transactions"]]
    assert [each["transaction_id"] for each in sent] == ["t0", "t1", "t2", "t3"]
    assert [each.get("country") for each in sent] == [None, "DE"] * 2
    assert {(each["amount"], each["timestamp"]) for each in sent} == {(12.35, TIME)}
    assert [letter for _, letter, _ in sender.sent["dead"]] == wrong
    origins = [(o.reason, o.topic, o.partition, o.offset) for o in sender.origins("dead")]
    assert origins == [
        ("not_framed", "core", 0, 2),
        ("unknown_schema", "core", 0, 3),
        ("not_avro", "core", 0, 4),
        ("empty", "core", 0, 5),
    ]


async def test_a_registry_without_an_answer_sets_nothing_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schema_registry, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(schema_registry, "FIRST_PAUSE_SECONDS", 0.01)
    sender = Sender()
    async with Registry().running() as registry:
        registry.register(1, OLD)
        registry.failing = lambda: web.Response(status=503)
        own = agent(sender, avro(registry))
        records = chunk([b"{", in_avro(1, OLD, avro_payment(1))])
        with pytest.raises(SchemaRegistryError, match="503"):
            await own.process([records])
        assert sender.sent == {}
        registry.failing = lambda: None
        await own.process([records])
    assert {name: len(records) for name, records in sender.sent.items()} == {
        "transactions": 1,
        "dead": 1,
    }


async def test_known_schemas_need_no_registry() -> None:
    sender = Sender()
    async with Registry().running() as registry:
        registry.register(1, OLD)
        own = agent(sender, avro(registry))
        await own.process([chunk([in_avro(1, OLD, avro_payment(1))])])
    await own.process([chunk([in_avro(1, OLD, avro_payment(2)), payment(9)])])
    assert len(sender.sent["transactions"]) == 2
    assert len(sender.sent["dead"]) == 1
