"""What a cluster says of itself and of topics that are named; never of all its topics.

A cluster may have many topics that are none of dafu's business, and while an answer about all of
them is decoded, the event loop stands still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

__all__ = ["ask_about", "ask_once", "exists"]


async def ask_about(client: AIOKafkaClient, topics: Sequence[str]) -> dict[str, Any]:
    """The answer of the first broker that gives one, about the cluster and these topics, none of
    which it creates.

    Parameters
    ----------
    client : AIOKafkaClient
        One that has been started.
    topics : sequence of str
        May be empty.

    Raises
    ------
    KafkaError
        If none of the brokers answers: what the last one failed with.
    """
    request = MetadataRequest(list(topics), allow_auto_topic_creation=False)
    failure = KafkaConnectionError("no broker is known")
    for broker in client.cluster.brokers():
        try:
            answer = await client.send(broker.nodeId, request)
        except KafkaError as exc:
            failure = exc
        else:
            described: dict[str, Any] = answer.to_object()
            return described
    raise failure


async def ask_once(topics: Sequence[str], client_options: Mapping[str, Any]) -> dict[str, Any]:
    """`ask_about` with a client of its own, made with these aiokafka options."""
    client = AIOKafkaClient(**client_options)
    try:
        await client.bootstrap()
        return await ask_about(client, topics)
    finally:
        await client.close()


async def exists(client: AIOKafkaClient, topic: str) -> bool:
    """Whether there is a topic of this name.

    Raises
    ------
    KafkaError
        Of the kind that the broker names, such as a topic that may not be described.
    """
    error = for_code((await ask_about(client, [topic]))["topics"][0]["error_code"])
    if error is UnknownTopicOrPartitionError:
        return False
    if error not in (NoError, LeaderNotAvailableError):  # no leader yet: it has just been created
        raise error(f"topic {topic}")
    return True
