"""Records of many requests into few batches: what arrives while one is under way goes together.

The worker's own sender has one batch of a partition under way at a time. Without this each request
would be a batch of its own and wait for all before it; here a request waits for two at most.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Final, NamedTuple

from dafu.columns import ByteColumn
from dafu.partitioner import partitions_for
from dafu.streaming.sender import BatchSender, SendError

__all__ = ["Place", "Publisher"]

_MOST: Final = 2_000
"""Records in one batch."""


class Place(NamedTuple):
    """Where a record was written; the offset is None if others' records came in between."""

    topic: str
    partition: int
    offset: int | None


class _Lane:
    """What waits for its turn to a partition."""

    def __init__(self) -> None:
        self.waiting: list[tuple[bytes, bytes, asyncio.Future[Place]]] = []
        self.task: asyncio.Task[None] | None = None


class Publisher:
    """Publishes single records with a key, by Kafka's default partitioner.

    Parameters
    ----------
    sender : callable
        Gives the worker's sender once the producer has started.
    """

    def __init__(self, sender: Callable[[], BatchSender]) -> None:
        self._sender = sender
        self._counts: dict[str, int] = {}
        self._lanes: defaultdict[tuple[str, int], _Lane] = defaultdict(_Lane)

    async def publish(self, topic: str, key: bytes, value: bytes) -> Place:
        """Return once the broker has acknowledged a record.

        Records of a partition arrive in the order of calls.

        Raises
        ------
        SendError
            When it did not, or nobody knows whether it has.
        """
        partition = await self.partition(topic, key)
        lane = self._lanes[topic, partition]
        done: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        lane.waiting.append((key, value, done))
        if lane.task is None:
            lane.task = asyncio.create_task(self._drain(topic, partition, lane))
        return await done

    async def partition(self, topic: str, key: bytes) -> int:
        """The partition that a key belongs to.

        Raises
        ------
        SendError
            When the broker does not know the topic.
        """
        count = self._counts.get(topic)
        if count is None:
            count = self._counts[topic] = await self._sender().partition_count(topic)
        return int(partitions_for(ByteColumn.of([key]), count)[0])

    async def _drain(self, topic: str, partition: int, lane: _Lane) -> None:
        try:
            while lane.waiting:
                batch = lane.waiting[:_MOST]
                del lane.waiting[:_MOST]
                await self._send(topic, partition, batch)
        finally:
            lane.task = None

    async def _send(
        self, topic: str, partition: int, batch: list[tuple[bytes, bytes, asyncio.Future[Place]]]
    ) -> None:
        try:
            written = await self._sender().send(
                topic,
                ByteColumn.of([key for key, _, _ in batch]),
                ByteColumn.of([value for _, value, _ in batch]),
                partition=partition,
            )
        except SendError as exc:
            for _, _, done in batch:
                if not done.done():
                    done.set_exception(exc)
            return
        first, last = written[partition]
        alone = last - first + 1 == len(batch)
        for i, (_, _, done) in enumerate(batch):
            if not done.done():
                done.set_result(Place(topic, partition, first + i if alone else None))
