"""Single records gathered into batches: how many, in which order, and where each one went."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dafu.columns import ByteColumn
from dafu.partitioner import partitions_for
from dafu.streaming.sender import SendError, Written
from dafu.web.decisions.publishing import Place, Publisher

PARTITIONS = 3


class Sender:
    """A broker that acknowledges when it is told to, with others' records in between if wanted."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[bytes]]] = []
        self.ends = [0] * PARTITIONS
        self.open = asyncio.Event()
        self.failing = False
        self.between = 0

    async def partition_count(self, topic: str) -> int:
        await asyncio.sleep(0)
        return PARTITIONS

    async def send(
        self, topic: str, keys: ByteColumn, values: ByteColumn, *, partition: int
    ) -> dict[int, Written]:
        assert set(partitions_for(keys, PARTITIONS).tolist()) == {partition}
        self.batches.append((partition, values.present()))
        await self.open.wait()
        if self.failing:
            raise SendError(topic, partition, "no")
        first = self.ends[partition]
        self.ends[partition] = last = first + len(values) + self.between
        return {partition: Written(first, last - 1)}


def key_of(partition: int) -> bytes:
    keys = [b"%d" % n for n in range(100)]
    partitions = partitions_for(ByteColumn.of(keys), PARTITIONS)
    return next(key for key, p in zip(keys, partitions, strict=True) if p == partition)


@pytest.fixture
def sender() -> Sender:
    return Sender()


async def test_what_comes_while_a_batch_is_under_way_goes_together(sender: Sender) -> None:
    publisher = Publisher(lambda: sender)  # type: ignore[arg-type,return-value]
    key = key_of(1)
    tasks: list[asyncio.Task[Place]] = []
    for n in range(6):
        tasks.append(asyncio.create_task(publisher.publish("t", key, b"%d" % n)))
        await asyncio.sleep(0.001)
    tasks.append(asyncio.create_task(publisher.publish("t", key_of(2), b"other")))
    await asyncio.sleep(0.001)
    assert sender.batches == [(1, [b"0"]), (2, [b"other"])], "partitions do not wait for another"
    tasks[3].cancel()
    sender.open.set()
    places: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert sender.batches[2:] == [(1, [b"1", b"2", b"3", b"4", b"5"])]
    assert isinstance(places.pop(3), asyncio.CancelledError)
    assert places == [*(Place("t", 1, n) for n in (0, 1, 2, 4, 5)), Place("t", 2, 0)]


async def test_an_offset_that_is_not_certain_is_not_told(sender: Sender) -> None:
    sender.open.set()
    sender.between = 1
    publisher = Publisher(lambda: sender)  # type: ignore[arg-type,return-value]
    assert await publisher.publish("t", key_of(0), b"x") == Place("t", 0, None)


async def test_a_failure_is_told_to_all_of_its_batch_and_the_next_one_is_tried(
    sender: Sender,
) -> None:
    publisher = Publisher(lambda: sender)  # type: ignore[arg-type,return-value]
    sender.failing = True
    tasks = [asyncio.create_task(publisher.publish("t", key_of(0), b"x")) for _ in range(3)]
    await asyncio.sleep(0.01)
    sender.open.set()
    for task in tasks:
        with pytest.raises(SendError):
            await task
    sender.failing = False
    assert (await publisher.publish("t", key_of(0), b"y")).offset == 0
