"""Payments from a topic of somebody else's, in its words, decided by a worker that is killed."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from dafu.schema import decode_decision
from dafu.streaming.dead_letters import read_headers
from tests.integration.payments import by_transaction, payments
from tests.integration.worker import BRISK, System
from tests.schema_registry import Registry, framed, in_avro

pytestmark = pytest.mark.broker

MAPPING = """
fields:
  transaction_id: ref
  user_id: holder.id
  merchant_id: shop
  amount: amount.value
  timestamp: booked
  country: {column: holder.country, optional: true}
"""
HALF = 300
IMPATIENT: Final = "tests.integration.impatient"
"""The app with short timeouts, which gives a schema registry up after a second."""


def schema(shop: str, *more: dict[str, Any]) -> dict[str, Any]:
    """Of the payments in Avro; how they call the merchant has changed."""
    amount = {"type": "bytes", "logicalType": "decimal", "precision": 15, "scale": 6}
    fields = [
        {"name": "ref", "type": "string"},
        {"name": "holder", "type": "core.Holder"},
        {"name": shop, "type": "string"},
        {"name": "amount", "type": amount},
        {"name": "booked", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        *more,
    ]
    return {"type": "record", "name": "core.Payment", "fields": fields}


HOLDER: Final = {
    "type": "record",
    "name": "core.Holder",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "country", "type": ["null", "string"], "default": None},
    ],
}
OLD: Final = schema("shop")
NEW: Final = schema("merchant", {"name": "channel", "type": "string", "default": "pos"})


def in_their_avro(value: bytes, number: int) -> bytes:
    """A payment as the schema with this id has it: 1 the old one, 2 the new."""
    said: dict[str, Any] = json.loads(value)
    shop, kind = ("shop", OLD) if number == 1 else ("merchant", NEW)
    fields = [f | {"type": HOLDER} if f["name"] == "holder" else f for f in kind["fields"]]
    payment = {
        "ref": said["transaction_id"],
        "holder": {"id": said["user_id"], "country": said.get("country")},
        shop: said["merchant_id"],
        "amount": Decimal(str(said["amount"])),
        "booked": datetime.fromisoformat(said["timestamp"]),
        "channel": "app",
    }
    return in_avro(number, kind | {"fields": fields}, payment)


def in_other_words(value: bytes) -> bytes:
    said: dict[str, Any] = json.loads(value)
    return json.dumps(
        {
            "ref": said["transaction_id"],
            "holder": {"id": said["user_id"], "country": said.get("country")},
            "shop": said["merchant_id"],
            "amount": {"value": said["amount"]},
            "booked": said["timestamp"],
        }
    ).encode()


async def test_every_payment_is_decided_and_the_rest_set_aside(
    bootstrap: str, tmp_path: Path
) -> None:
    (tmp_path / "core.yaml").write_text(MAPPING)
    system = System(bootstrap, tmp_path, partitions=3, app=BRISK)
    topic = f"{system.topics.prefix}core.payments"
    environment = {
        "DAFU_SOURCE_TOPIC": topic,
        "DAFU_SOURCE_MAPPING": str(tmp_path / "core.yaml"),
    }
    await system.create(topic)
    made = payments(2 * HALF, seed=11)
    # By merchant: it does not matter how others choose partitions.
    said = [(json.loads(v)["merchant_id"].encode(), in_other_words(v)) for _, v in made]
    wrong = [(b"x", b"{"), (b"y", b'{"ref": "r", "holder": {"id": "u"}}')]
    with system.worker(**environment) as worker:
        await worker.ready()
        await system.publish([*said[:HALF], *wrong], topic=topic)
        await system.decided(HALF // 2, worker)
        worker.kill()
        worker.start()
        await system.publish(said[HALF:], topic=topic)
        await system.decided(len(made), worker)
        await system.drained(worker)
    decided = by_transaction(await system.decisions())
    users = {json.loads(v)["transaction_id"]: json.loads(v)["user_id"] for _, v in made}
    assert {name: decode_decision(d).user_id for name, d in decided.items()} == users

    letters = await system.read_flat(system.topics.dead_letters)
    origins = {origin for r in letters if (origin := read_headers(r.headers)) is not None}
    assert {(origin.topic, origin.reason) for origin in origins} == {
        (topic, "not_json"),
        (topic, "missing_field"),
    }
    assert any("`merchant_id` is missing: there is no `shop`" in o.detail for o in origins)


AVRO_MAPPING = """
fields:
  transaction_id: ref
  user_id: holder.id
  merchant_id: {column: [merchant, shop]}
  amount: amount
  timestamp: booked
  country: {column: holder.country, optional: true}
  channel: {column: channel, optional: true}
"""


async def test_avro_of_two_schemas_while_the_registry_comes_and_goes(
    bootstrap: str, tmp_path: Path
) -> None:
    (tmp_path / "core.yaml").write_text(AVRO_MAPPING)
    system = System(bootstrap, tmp_path, partitions=2, app=IMPATIENT)
    topic = f"{system.topics.prefix}core.payments"
    await system.create(topic)
    made = payments(2 * HALF, seed=11)
    said = [
        (json.loads(v)["merchant_id"].encode(), in_their_avro(v, 1 + (n >= HALF)))
        for n, (_, v) in enumerate(made)
    ]
    wrong = [
        (b"x", b'{"ref": "r"}'),
        (b"y", framed(1, b"?")),
        (b"z", framed(99, b"")),
        (b"w", framed(-1, b"")),
    ]
    async with Registry().running() as registry:
        registry.add_version("holders", 1, HOLDER)
        registry.register(1, OLD, ("core.Holder", "holders", 1))
        registry.register(2, NEW, ("core.Holder", "holders", 1))
        environment = {
            "DAFU_SOURCE_TOPIC": topic,
            "DAFU_SOURCE_MAPPING": str(tmp_path / "core.yaml"),
            "DAFU_SOURCE_FORMAT": "avro",
            "DAFU_SCHEMA_REGISTRY_URLS": registry.url,
        }
        with system.worker(**environment) as worker:
            await worker.ready()
            await system.publish([*said[:HALF], *wrong], topic=topic)
            await system.decided(HALF, worker)
            # What it knows it needs nobody for; of the others nothing is lost or set aside.
            registry.failing = lambda: web.Response(status=503)
            await system.publish(said[HALF:], topic=topic)
            assert await asyncio.to_thread(worker.exited, 60.0) == 1
            assert f"no schema from {registry.url}/schemas/ids/2: 503" in worker.output
            registry.failing = lambda: None
            worker.start()
            await system.decided(len(made), worker)
            await system.drained(worker)
    decided = by_transaction(await system.decisions())
    found = {name: decode_decision(payload) for name, payload in decided.items()}
    told = [json.loads(value) for _, value in made]
    assert {d.transaction_id: (d.user_id, d.merchant_id, d.timestamp) for d in found.values()} == {
        t["transaction_id"]: (t["user_id"], t["merchant_id"], t["timestamp"]) for t in told
    }
    written = [json.loads(r.value) for r in await system.read_flat(system.topics.transactions)]
    amounts = {t["transaction_id"]: t["amount"] for t in written if "amount" in t}
    assert amounts == {t["transaction_id"]: t["amount"] for t in told}

    letters = await system.read_flat(system.topics.dead_letters)
    origins = {r.value: origin for r in letters if (origin := read_headers(r.headers)) is not None}
    reasons = ("not_framed", "not_avro", "unknown_schema", "not_framed")
    assert {value: origin.reason for value, origin in origins.items()} == {
        value: reason for (_, value), reason in zip(wrong, reasons, strict=True)
    }
    assert {origin.topic for origin in origins.values()} == {topic}


async def test_a_worker_says_what_it_lacks(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, app=BRISK)
    topic = f"{system.topics.prefix}nobody.made.it"
    with system.worker(DAFU_SOURCE_TOPIC=topic) as worker:
        assert worker.exited(60) == 1
    assert f"payments are to come from the topic {topic} (DAFU_SOURCE_TOPIC)" in worker.output
    with system.worker(DAFU_SOURCE_TOPIC=topic, DAFU_SOURCE_MAPPING="nobodys") as worker:
        assert worker.exited(60) == 1
    assert "there is no mapping `nobodys`" in worker.output
