"""Payments from a topic of somebody else's, in its words, decided by a worker that is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dafu.schema import decode_decision
from dafu.streaming.dead_letters import read_headers
from tests.integration.payments import by_transaction, payments
from tests.integration.worker import BRISK, System

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


async def test_a_worker_says_what_it_lacks(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, app=BRISK)
    topic = f"{system.topics.prefix}nobody.made.it"
    with system.worker(DAFU_SOURCE_TOPIC=topic) as worker:
        assert worker.exited(60) == 1
    assert f"payments are to come from the topic {topic} (DAFU_SOURCE_TOPIC)" in worker.output
    with system.worker(DAFU_SOURCE_TOPIC=topic, DAFU_SOURCE_MAPPING="nobodys") as worker:
        assert worker.exited(60) == 1
    assert "there is no mapping `nobodys`" in worker.output
