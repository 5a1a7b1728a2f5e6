"""Where partitions end: the one figure that recovery must not get wrong.

Brokers answer the question in two ways, ListOffsets and the high-water mark of a fetch. Apache
Kafka says the same in both; the embedded broker's ListOffsets counts the last record batch as a
single record, however many it holds. So the end is taken from a fetch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError, NoError, for_code

from dafu.streaming.metadata import ask_once

FETCH_WAIT_MS: Final = 50
DEADLINE: Final = 20.0


async def end_offsets(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, int]:
    """Offset that the next record of each partition will get.

    Parameters
    ----------
    consumer
        A started consumer without a group, for this use alone: its assignment and its positions
        are changed.
    partitions
        Partitions that exist.

    Raises
    ------
    KafkaTimeoutError
        If a partition's leader does not answer within 20 seconds.
    """
    # All at once: left to itself, aiokafka learns of a topic, waits 0.1 s, and learns of the next.
    await consumer._client.set_topics({tp.topic for tp in partitions})
    ends: dict[TopicPartition, int] = dict(await consumer.end_offsets(list(partitions)))
    begins = await consumer.beginning_offsets(list(partitions))
    unknown = {tp for tp, end in ends.items() if end > begins[tp]}
    if not unknown:
        return ends
    consumer.assign(list(unknown))
    for tp in unknown:
        consumer.seek(tp, ends[tp] - 1)
    try:
        async with asyncio.timeout(DEADLINE):
            while unknown:
                await consumer.getmany(timeout_ms=FETCH_WAIT_MS)
                for tp in list(unknown):
                    high = consumer.highwater(tp)
                    if high is not None:
                        ends[tp] = max(ends[tp], high)
                        unknown.discard(tp)
    except TimeoutError:
        lost = ", ".join(f"{tp.topic}[{tp.partition}]" for tp in sorted(unknown))
        raise KafkaTimeoutError(
            f"no answer within {DEADLINE:.0f} s about the end of {lost}"
        ) from None
    return ends


async def probe_end_offsets(
    partitions: Collection[TopicPartition], **client_options: Any
) -> dict[TopicPartition, int]:
    """`end_offsets` with a consumer of its own, made with these aiokafka options."""
    if not partitions:
        return {}
    consumer = AIOKafkaConsumer(
        **client_options, enable_auto_commit=False, fetch_max_wait_ms=FETCH_WAIT_MS
    )
    await consumer.start()
    try:
        return await end_offsets(consumer, partitions)
    finally:
        await consumer.stop()


async def partitions_of(topic: str, client_options: Mapping[str, Any]) -> list[int]:
    """Partitions of a topic that exists; a consumer knows only those of topics it reads.

    Raises
    ------
    KafkaError
        Of the kind that the broker names.
    """
    described = (await ask_once([topic], client_options))["topics"][0]
    error = for_code(described["error_code"])
    if error is not NoError:
        raise error(f"topic {topic}")
    return sorted(p["partition"] for p in described["partitions"])
