"""Records for benchmarks, and the way they get to a broker and are counted there.

The one place in `bench` that uses the product's sender and its record types.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.brokers import BenchError
from dafu.columns import ByteColumn
from dafu.generator import generate_traffic, write
from dafu.ingest import TransactionReader, load_mapping, to_records
from dafu.partitioner import partitions_for
from dafu.streaming.offsets import end_offsets
from dafu.streaming.records import encode_headers
from dafu.streaming.sender import BatchSender

Record = tuple[bytes, bytes | None]
"""Key and value."""

USERS: Final = 5000
MERCHANTS: Final = 1000
_PIECE: Final = 5000


def transactions(count: int, seed: int = 42) -> list[Record]:
    """At least `count` generated transactions as records, cut to that number."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "transactions.parquet"
        days = max(10, count // USERS)
        write(generate_traffic(USERS, MERCHANTS, days, seed).batches, path)
        records: list[Record] = []
        for batch in TransactionReader(path, load_mapping("dafu"), limit=count):
            records.extend((key or b"", value) for key, value in to_records(batch))
    if len(records) < count:
        raise BenchError(f"{len(records)} transactions were generated, {count} were asked for")
    return records


class Publisher:
    """Sends lists of records; `publisher` makes one."""

    def __init__(self, sender: BatchSender) -> None:
        self._sender = sender

    async def prepare(self, topic: str) -> None:
        """Learn about a topic and compile what sending needs, so that the first send is quick."""
        partitions_for(ByteColumn.of([b"a"]), await self._sender.partition_count(topic))

    def post(
        self,
        topic: str,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        *,
        partition: int | None = None,
        headers: Sequence[Sequence[tuple[str, bytes]]] | None = None,
    ) -> asyncio.Future[Any]:
        """Start sending; the future is done when the broker has acknowledged all of them."""
        sections = None if headers is None else ByteColumn.of([encode_headers(h) for h in headers])
        return self._sender.post(
            topic,
            ByteColumn.of(keys),
            ByteColumn.of(values),
            partition=partition,
            headers=sections,
        )

    async def publish(
        self, topic: str, records: Sequence[Record], partition: int | None = None
    ) -> None:
        """Send any number of records, some thousands at a time."""
        for at in range(0, len(records), _PIECE):
            piece = records[at : at + _PIECE]
            await self.post(
                topic, [k for k, _ in piece], [v for _, v in piece], partition=partition
            )


@asynccontextmanager
async def publisher(bootstrap: str) -> AsyncIterator[Publisher]:
    """A publisher with a producer set up as a worker's."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        linger_ms=0,
        max_batch_size=900_000,
        max_request_size=1_048_576,
    )
    await producer.start()
    try:
        yield Publisher(BatchSender(producer))
    finally:
        await producer.stop()


async def create_topics(bootstrap: str, names: Sequence[str], partitions: int) -> None:
    """Create topics that do not exist yet."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(name, partitions, 1) for name in names])
    finally:
        await admin.close()
    failed = [error for error in response.topic_errors if error[1]]
    if failed:
        raise BenchError(f"topics could not be created: {failed}")


async def fill(bootstrap: str, topic: str, partitions: int, records: Sequence[Record]) -> None:
    """Create a topic and publish records to it."""
    await create_topics(bootstrap, [topic], partitions)
    async with publisher(bootstrap) as out:
        await out.publish(topic, records)


@asynccontextmanager
async def reader(bootstrap: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=5
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


def partitions_of(topic: str, partitions: int) -> list[TopicPartition]:
    """The partitions of a topic."""
    return [TopicPartition(topic, number) for number in range(partitions)]


async def until_filled(
    consumer: AIOKafkaConsumer,
    topic: str,
    partitions: int,
    count: int,
    *,
    within: float,
    alive: Callable[[], None],
) -> dict[TopicPartition, int]:
    """Wait until a topic holds `count` records and return its partitions' ends.

    `alive` is called now and then, and raises if there is nothing left to wait for.
    """
    deadline = time.monotonic() + within
    tps = partitions_of(topic, partitions)
    while True:
        alive()
        ends: dict[TopicPartition, int] = await end_offsets(consumer, tps)
        if sum(ends.values()) >= count:
            return ends
        if time.monotonic() > deadline:
            raise BenchError(
                f"{topic} holds {sum(ends.values())} records after {within:.0f} s, not {count}"
            )
        await asyncio.sleep(0.25)


async def span(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> float:
    """Seconds between the first and the last record of a topic, by their own timestamps."""
    stamps: list[int] = []
    for tp, end in ends.items():
        for at in {0, end - 1} if end else ():
            consumer.assign([tp])
            consumer.seek(tp, at)
            stamps.append((await consumer.getone(tp)).timestamp)
    return (max(stamps) - min(stamps)) / 1000.0
