"""What is asked of a cluster: about topics by name, and nothing is created by asking."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.admin import CreateTopicsRequest
from aiokafka.protocol.metadata import MetadataRequest

from dafu.streaming.metadata import exists
from dafu.streaming.waiting import LONG_MS, SHORT_MS, fetch_wait_ms


def answering(*answers: int | KafkaError) -> Any:
    """A client one broker of which after the other says this of every topic, or does not answer."""

    async def send(node_id: int, request: MetadataRequest) -> Any:
        answer = answers[node_id]
        if isinstance(answer, KafkaError):
            raise answer
        return SimpleNamespace(to_object=lambda: {"topics": [{"error_code": answer}]})

    brokers = [SimpleNamespace(nodeId=n) for n in range(len(answers))]
    return SimpleNamespace(cluster=SimpleNamespace(brokers=lambda: brokers), send=send)


@pytest.mark.parametrize(("error_code", "there"), [(0, True), (3, False), (5, True)])
async def test_a_topic_is_there_with_a_leader_or_without(error_code: int, there: bool) -> None:
    assert await exists(answering(error_code), "topic") is there


async def test_another_broker_is_asked_if_one_is_away() -> None:
    away = NodeNotReadyError("away")
    assert await exists(answering(away, away, 0), "topic")
    with pytest.raises(NodeNotReadyError, match="away"):
        await exists(answering(away, away), "topic")
    with pytest.raises(KafkaConnectionError, match="no broker is known"):
        await exists(answering(), "topic")


async def test_a_topic_that_may_not_be_described_is_named() -> None:
    with pytest.raises(TopicAuthorizationFailedError, match="topic payments"):
        await exists(answering(29), "payments")


@pytest.mark.broker
async def test_asking_creates_nothing(bootstrap: str, unique: Callable[[str], str]) -> None:
    name = unique("asked")
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        assert not await exists(client, name)
        assert not await exists(client, name)
    finally:
        await client.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        assert name not in await admin.list_topics()
    finally:
        await admin.close()


@pytest.mark.broker
async def test_a_topic_is_created_once_and_no_other_asked_about(
    bootstrap: str, unique: Callable[[str], str]
) -> None:
    name = unique("created")
    app = faust.App("metadata", broker=f"dafu://{bootstrap}")
    producer: Any = app.transport.create_producer()
    await producer.on_start()
    client = producer._producer.client
    send, requests = client.send, list[Any]()

    async def noting(node_id: int, request: Any, **options: Any) -> Any:
        requests.append(request)
        return await send(node_id, request, **options)

    client.send = noting
    try:
        for _ in range(2):
            await producer.create_topic(name, 3, 1, config={"max.message.bytes": "2000000"})
        # As another process does, which knows nothing of it.
        producer.transport._topic_waiters.clear()
        await producer.create_topic(name, 5, 1)
        assert len(await producer._producer.partitions_for(name)) == 3
    finally:
        await producer.on_stop()
    created = [request for request in requests if isinstance(request, CreateTopicsRequest)]
    asked = [request._topics for request in requests if isinstance(request, MetadataRequest)]
    assert len(created) == 1
    assert asked.count([name]) >= 3
    assert None not in asked, "asked about all topics"


@pytest.mark.broker
async def test_the_wait_suits_the_broker_unless_it_is_configured(bootstrap: str) -> None:
    embedded = os.environ.get("DAFU_TEST_BROKER", "embedded") == "embedded"
    options = {"bootstrap_servers": bootstrap}
    assert await fetch_wait_ms(None, options) == (SHORT_MS if embedded else LONG_MS)
    assert await fetch_wait_ms(7, {"bootstrap_servers": "127.0.0.1:9"}) == 7
