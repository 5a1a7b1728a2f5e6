"""A dafu installation for tests: topics and state of its own, and workers as real processes.

`System` publishes to and reads from one set of topics and tells when its workers are done;
`Worker` starts, watches, stops and kills one process. Both work on any Kafka broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from dafu.broker import free_port
from dafu.cli.kafka import read_topic
from dafu.columns import ByteColumn
from dafu.settings import Settings, Topics
from dafu.streaming.offsets import end_offsets
from dafu.streaming.records import RecordBatch, encode_headers
from dafu.streaming.sender import BatchSender
from dafu.tables.ownership import PartitionLog, log_page
from dafu.tables.records import MemoryRecords
from tests.asking import ADMIN_KEY, ask

START_SECONDS: Final = 90.0
DRAIN_SECONDS: Final = 90.0
STOP_SECONDS: Final = 30.0
_TAIL: Final = 6000

ROOT: Final = Path(__file__).resolve().parents[2]
NARROW: Final = "tests.integration.narrow"
"""The same app with a producer that sends no record larger than `NARROW_LARGEST` bytes."""
NARROW_LARGEST: Final = 40_000
BRISK: Final = "tests.integration.brisk"
"""The app with short timeouts."""

Record = tuple[bytes | None, bytes | None]
"""Key and value."""


class Worker:
    """One worker process; leaving its context stops it and demands exit status 0.

    Parameters
    ----------
    directory
        Where its log goes.
    environment
        Variables on top of the tests' own, of which those of dafu are left out.
    app
        The module whose app it runs.
    """

    def __init__(self, directory: Path, environment: dict[str, str], app: str = "dafu.app") -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.log = directory / f"worker-{uuid.uuid4().hex[:6]}.log"
        self._app = app
        self._environment = {
            **os.environ,
            "DAFU_ADMIN_KEY": ADMIN_KEY,
            **environment,
            "DAFU_WEB_PORT": str(self.port),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._end_seen = False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "this worker has not been started"
        return self._process

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def start(self) -> Self:
        command = [sys.executable, "-m", "faust", "-A", self._app, "worker", "-l", "info"]
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=out, stderr=out, cwd=ROOT
            )
        return self

    def stop(self) -> int:
        """Ask it to stop, as a deployment does; returns the exit status, which must be 0."""
        self.process.send_signal(signal.SIGTERM)
        status = self.exited(STOP_SECONDS)
        assert status == 0, self.describe(f"stopped with exit status {status}")
        return status

    def kill(self) -> None:
        """End it where it stands; it must not have ended by itself before."""
        self.process.kill()
        status = self.exited(STOP_SECONDS)
        assert status == -signal.SIGKILL, self.describe(f"had exited with {status} before")

    def exited(self, within: float) -> int:
        """Wait until it ends and return the exit status."""
        try:
            status = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.describe(f"did not exit within {within:.0f} s")) from None
        self._end_seen = True
        return status

    async def ready(self) -> Self:
        """Wait until it says that it can decide."""
        await eventually(lambda: is_ready(self.base), "ready", START_SECONDS, self)
        return self

    def describe(self, what: str) -> str:
        """A message about this worker that ends with its last output."""
        return f"the worker {what}; its last output:\n{self.output[-_TAIL:]}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        status = self.process.poll()
        if status is not None:
            # A test that waits for the end says what it has to be.
            assert error or self._end_seen or status == 0, self.describe(f"exited with {status}")
            return
        try:
            if error is None:
                self.stop()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


async def is_ready(base: str) -> bool:
    """Whether the worker at this address says that it can decide."""
    try:
        return bool((await asyncio.to_thread(ask, f"{base}/health/ready"))[0] == 200)
    except OSError:
        return False  # it does not listen yet


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, within: float, *workers: Worker
) -> None:
    """Poll until the condition holds; fails when it takes too long or a worker ends meanwhile."""
    deadline = time.monotonic() + within
    while not await condition():
        for worker in workers:
            status = worker.process.poll()
            assert status is None, worker.describe(f"exited with {status} before: {what}")
        if time.monotonic() > deadline:
            logs = "\n".join(worker.describe("is running") for worker in workers)
            raise AssertionError(f"not within {within:.0f} s: {what}\n{logs}")
        await asyncio.sleep(0.03)


class System:
    """Topics, consumer group and data directory of one installation.

    Parameters
    ----------
    bootstrap
        The broker.
    directory
        For data and logs.
    environment
        What all of its workers get in their environment.
    """

    def __init__(
        self,
        bootstrap: str,
        directory: Path,
        partitions: int = 1,
        *,
        app: str = "dafu.app",
        **environment: str,
    ) -> None:
        name = f"{directory.name[:60]}-{uuid.uuid4().hex[:8]}"
        self.directory = directory
        self.settings = Settings(
            app_id=f"{name}-app",
            broker=bootstrap,
            topics=Topics(
                prefix=f"{name}-",
                partitions=partitions,
                replication_factor=int(environment.get("DAFU_REPLICATION_FACTOR", "1")),
            ),
        )
        self.topics = self.settings.topics
        self._app = app
        self.data = directory / "data"
        self._environment = {
            "DAFU_BROKER": bootstrap,
            "DAFU_APP_ID": self.settings.app_id,
            "DAFU_TOPIC_PREFIX": self.topics.prefix,
            "DAFU_PARTITIONS": str(partitions),
            "DAFU_DATA_DIR": str(self.data),
            "DAFU_AUTH_FILE": str(directory / "auth" / "auth.yaml"),
            "DAFU_COMMIT_INTERVAL": "0.2",
            **environment,
        }

    def worker(self, app: str | None = None, **environment: str) -> Worker:
        """A worker that has not been started."""
        return Worker(self.directory, self._environment | environment, app or self._app)

    async def create(self, *topics: str, **config: str) -> None:
        """Create topics, before a worker would, with these settings."""
        async with self._admin() as admin:
            copies = self.topics.replication_factor
            new = [
                NewTopic(t, self.topics.partitions, copies, topic_configs=config) for t in topics
            ]
            response = await admin.create_topics(new)
        assert [error[1] for error in response.topic_errors] == [0] * len(topics)

    async def publish(
        self,
        records: Sequence[Record],
        headers: Sequence[Sequence[tuple[str, bytes]]] | None = None,
        topic: str | None = None,
    ) -> None:
        """Publish to the transactions topic (or another), which must exist."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.broker,
            acks="all",
            max_batch_size=900_000,
            max_request_size=1_048_576,
        )
        await producer.start()
        try:
            await BatchSender(producer).send(
                topic or self.topics.transactions,
                ByteColumn.of([key for key, _ in records]),
                ByteColumn.of([value for _, value in records]),
                headers=None if headers is None else ByteColumn.of([*map(encode_headers, headers)]),
            )
        finally:
            await producer.stop()

    async def read(self, topic: str) -> list[list[Any]]:
        """All records of a topic, by partition."""
        found: list[list[Any]] = [[] for _ in range(self.topics.partitions)]
        async for records in read_topic(self.settings, topic):
            for record in records:
                found[record.partition].append(record)
        return found

    async def read_flat(self, topic: str) -> list[Any]:
        """All records of a topic, partition after partition."""
        return [record for part in await self.read(topic) for record in part]

    async def decisions(self) -> list[bytes]:
        """All payloads on the decisions topic."""
        return [record.value for record in await self.read_flat(self.topics.decisions)]

    async def rebuilt(self, table: str) -> list[MemoryRecords]:
        """A table as its changelog describes it, by partition."""
        out = []
        for number, log in enumerate(await self.read(self.changelog(table))):
            records = MemoryRecords()
            page = log_page(RecordBatch.of(self.changelog(table), number, log))
            records.write(PartitionLog().recover(page))
            out.append(records)
        return out

    def changelog(self, table: str) -> str:
        """The name of a table's changelog topic."""
        return f"{self.settings.app_id}-{table}-changelog"

    async def decided(self, count: int, *workers: Worker) -> None:
        """Wait until the decisions topic holds at least so many records."""
        topic = self.topics.decisions
        async with self._consumer() as consumer:

            async def enough() -> bool:
                return sum((await self._ends(consumer, topic)).values()) >= count

            await eventually(enough, f"{count} decisions", DRAIN_SECONDS, *workers)

    async def committed(self, topic: str) -> dict[int, int]:
        """Committed offsets by partition, 0 where there is none."""
        async with self._consumer(group_id=self.settings.app_id) as consumer:
            return await self._committed(consumer, topic, self.topics.partitions)

    async def drained(self, *workers: Worker, within: float = DRAIN_SECONDS) -> None:
        """Wait until the group has committed the ends of all of its input topics."""
        topics = (
            self.topics.control,
            self.topics.labels,
            self.topics.ring_membership,
            self.topics.transactions,
            self.topics.transactions_by_merchant,
            self.topics.identifiers,
            self.topics.links,
        )
        async with (
            self._consumer() as reader,
            self._consumer(group_id=self.settings.app_id) as member,
        ):

            async def done() -> bool:
                there = await reader.topics()
                if self.topics.transactions_by_merchant not in there:
                    return False  # the others may have had no reason to come into being
                ends = {}
                for topic in there.intersection(topics):
                    ends[topic] = await self._ends(reader, topic)
                    if await self._committed(member, topic, len(ends[topic])) != ends[topic]:
                        return False
                # What was committed had arrived at the next topic before: it must be counted in.
                return ends == {topic: await self._ends(reader, topic) for topic in ends}

            await eventually(done, "everything committed", within, *workers)

    async def _committed(
        self, consumer: AIOKafkaConsumer, topic: str, partitions: int
    ) -> dict[int, int]:
        numbers = range(partitions)
        return {p: await consumer.committed(TopicPartition(topic, p)) or 0 for p in numbers}

    async def _ends(self, consumer: AIOKafkaConsumer, topic: str) -> dict[int, int]:
        if topic not in await consumer.topics():
            return {}
        count = 1 if topic == self.topics.links else self.topics.partitions
        tps = [TopicPartition(topic, p) for p in range(count)]
        return {tp.partition: end for tp, end in (await end_offsets(consumer, tps)).items()}

    @contextlib.asynccontextmanager
    async def _consumer(self, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.broker,
            enable_auto_commit=False,
            fetch_max_wait_ms=5,
            **options,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.broker)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


async def with_both_stores(
    scenario: Callable[[str, Path, str], Coroutine[Any, Any, None]], bootstrap: str, directory: Path
) -> None:
    """Play a scenario with each store, at the same time, since most of it is waiting.

    It takes the broker, a directory of its own and the name of the store.
    """
    async with asyncio.TaskGroup() as tasks:
        for store in ("memory", "rocksdb"):
            (directory / store).mkdir()
            tasks.create_task(scenario(bootstrap, directory / store, store), name=store)
