"""How fast one worker drains a backlog: dafu beside the same job written the tutorial way.

Both jobs get the same generated transactions on the same broker, published before the worker
starts. A rate is decisions between the first and the last one appended to the decisions topic,
over the time between them, both by the records' own timestamps: start-up, compilation and joining
the group are left out for both. The worker's CPU seconds are the operating system's, over the time
from its being ready to the last decision.

Biases: broker and worker share the machine, so a slower broker costs both, and costs the faster
job more. The tutorial job does less (see its module). It drains fewer transactions, because at its
pace the full backlog takes many minutes; its rate is steady, so that this favours neither.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from msgspec import Struct

from dafu.broker import free_port
from dafu.columns import ByteColumn
from dafu.generator import generate_batches, write
from dafu.ingest import TransactionReader, load_mapping, to_records
from dafu.streaming.offsets import end_offsets
from dafu.streaming.sender import BatchSender

Record = tuple[bytes | None, bytes]
READY: Final = b"Worker ready"
DEADLINE: Final = 600.0


class Result(Struct, frozen=True):
    """One drained backlog."""

    job: str
    decisions: int
    seconds: float
    worker_cpu_seconds: float

    @property
    def rate(self) -> float:
        """Decisions a second."""
        return self.decisions / self.seconds

    @property
    def cpu_microseconds(self) -> float:
        """Worker CPU per decision."""
        return self.worker_cpu_seconds / self.decisions * 1e6


def backlog(count: int, seed: int = 42) -> list[Record]:
    """At least `count` generated transactions as records, cut to that number."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "backlog.parquet"
        days = max(10, count // 5000)
        write(generate_batches(5000, 1000, days, seed), path)
        records: list[Record] = []
        for batch in TransactionReader(path, load_mapping("dafu"), limit=count):
            records.extend(to_records(batch))
    return records


async def publish(bootstrap: str, prefix: str, partitions: int, records: Sequence[Record]) -> None:
    """Create the topics of a job and put the backlog on its transactions topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        names = (f"{prefix}transactions", f"{prefix}decisions")
        await admin.create_topics([NewTopic(name, partitions, 1) for name in names])
    finally:
        await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=900_000)
    await producer.start()
    try:
        sender = BatchSender(producer)
        for start in range(0, len(records), 5000):
            piece = records[start : start + 5000]
            keys = ByteColumn.of([key for key, _ in piece])
            values = ByteColumn.of([value for _, value in piece])
            await sender.send(f"{prefix}transactions", keys, values)
    finally:
        await producer.stop()


@contextmanager
def worker(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[int]:
    """A worker process that is ready; yields its pid."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 120
            while READY not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = log.read_bytes()[-2000:].decode(errors="replace")
                    raise SystemExit(f"the worker did not become ready:\n{tail}")
                time.sleep(0.05)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def wait_for(bootstrap: str, topic: str, partitions: int, count: int) -> float:
    """Seconds between the first and the last of `count` records, once all are there."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, p) for p in range(partitions)]
        deadline = time.monotonic() + DEADLINE
        while sum((await end_offsets(consumer, tps)).values()) < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"{topic}: not {count} records within {DEADLINE:.0f} s")
            await asyncio.sleep(0.25)
        ends = await end_offsets(consumer, tps)
        stamps: list[int] = []
        for tp, end in ends.items():
            for at in {0, end - 1} if end else ():
                consumer.assign([tp])
                consumer.seek(tp, at)
                stamps.append((await consumer.getone(tp)).timestamp)
        return (max(stamps) - min(stamps)) / 1000.0
    finally:
        await consumer.stop()


def drain(
    job: str,
    command: Sequence[str],
    environment: dict[str, str],
    bootstrap: str,
    records: Sequence[Record],
    partitions: int,
) -> Result:
    """Publish a backlog, run a worker on it, and measure."""
    prefix = f"bench-{job.replace(' ', '-')}-{time.time_ns()}-"
    asyncio.run(publish(bootstrap, prefix, partitions, records))
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            **environment,
            "DAFU_TOPIC_PREFIX": prefix,
            "DAFU_APP_ID": f"{prefix}app",
            "DAFU_PARTITIONS": str(partitions),
            "DAFU_DATA_DIR": directory,
            "DAFU_WEB_PORT": str(free_port()),
        }
        with worker(command, environment, Path(directory) / "worker.log") as pid:
            before = cpu_seconds(pid)
            seconds = asyncio.run(
                wait_for(bootstrap, f"{prefix}decisions", partitions, len(records))
            )
            used = cpu_seconds(pid) - before
    return Result(job, len(records), seconds, used)


def run_dafu(bootstrap: str, records: Sequence[Record], partitions: int, store: str) -> Result:
    """Drain a backlog with dafu."""
    return drain(
        f"dafu {store}",
        [str(Path(sys.executable).with_name("faust")), "-A", "dafu.app", "worker", "-l", "info"],
        {"DAFU_BROKER": bootstrap, "DAFU_STORE": store},
        bootstrap,
        records,
        partitions,
    )


def run_tutorial(bootstrap: str, records: Sequence[Record], partitions: int, model: str) -> Result:
    """Drain a backlog with the tutorial job."""
    command = [sys.executable, "-m", "bench.baseline_tutorial", "--model", model]
    return drain(
        f"tutorial {model}",
        [*command, "worker", "--without-web", "-l", "info"],
        {"DAFU_BROKER": f"kafka://{bootstrap}"},
        bootstrap,
        records,
        partitions,
    )
