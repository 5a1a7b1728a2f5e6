"""A stretch of one partition, read by a client of its own: for the rare look at what others wrote.

It knows offsets, and nothing of what records mean.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from dafu.streaming.records import RecordBatch

__all__ = ["read_stretch"]

FETCH_WAIT_MS: Final = 50
DEADLINE: Final = 20.0


async def read_stretch(
    tp: TopicPartition, first: int, end: int, **client_options: Any
) -> RecordBatch:
    """Read the records of a partition from one offset to another.

    Parameters
    ----------
    tp : TopicPartition
    first, end : int
        Offsets from `first` to before `end`, all of which have been written. What compaction has
        removed is missing; records from `end` on that came with the last fetch are included.
    client_options
        Of aiokafka's consumer.

    Raises
    ------
    KafkaTimeoutError
        If the partition's leader does not give them out within 20 seconds.
    """
    found: list[ConsumerRecord] = []
    if first >= end:
        return RecordBatch.of(tp.topic, tp.partition, found)
    consumer = AIOKafkaConsumer(
        **client_options,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    await consumer.start()
    try:
        consumer.assign([tp])
        consumer.seek(tp, first)
        async with asyncio.timeout(DEADLINE):
            while await consumer.position(tp) < end:
                for records in (await consumer.getmany(tp, timeout_ms=FETCH_WAIT_MS)).values():
                    found += records
    except TimeoutError:
        raise KafkaTimeoutError(
            f"{tp.topic}[{tp.partition}] gave out nothing up to offset {end} within "
            f"{DEADLINE:.0f} s"
        ) from None
    finally:
        await consumer.stop()
    return RecordBatch.of(tp.topic, tp.partition, found)
