"""The embedded broker as its users meet it: a process, a port and the Kafka protocol."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from dafu.broker import BrokerError, EmbeddedBroker, free_port

pytestmark = pytest.mark.broker

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's")


async def create_topic(bootstrap: str, topic: str, partitions: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(topic, partitions, 1)])
        assert [error[1] for error in response.topic_errors] == [0]
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, values: list[bytes]) -> list[int]:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        sent = [
            await producer.send_and_wait(
                topic,
                value,
                key=b"k",
                partition=0,
                timestamp_ms=1_700_000_000_000 + number,
                headers=[("n", str(number).encode())],
            )
            for number, value in enumerate(values)
        ]
        return [record.offset for record in sent]
    finally:
        await producer.stop()


async def consume(
    bootstrap: str, topic: str, count: int
) -> list[tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, fetch_max_wait_ms=20)
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        records = [await asyncio.wait_for(consumer.getone(), 20) for _ in range(count)]
        return [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records]
    finally:
        await consumer.stop()


async def end_offset(bootstrap: str, topic: str) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        offsets = await consumer.end_offsets([TopicPartition(topic, 0)])
        return int(offsets[TopicPartition(topic, 0)])
    finally:
        await consumer.stop()


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def dies(pid: int, within: float = 5.0) -> bool:
    deadline = time.monotonic() + within
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


async def test_records_come_back_as_they_were_sent(
    bootstrap: str, unique: Callable[[str], str]
) -> None:
    topic = unique("records")
    values = [b"%d" % n for n in range(20)]
    await create_topic(bootstrap, topic)
    assert await produce(bootstrap, topic, values) == list(range(20))
    assert await consume(bootstrap, topic, 20) == [
        (n, 1_700_000_000_000 + n, b"k", b"%d" % n, (("n", b"%d" % n),)) for n in range(20)
    ]


async def test_a_group_resumes_where_it_committed(
    bootstrap: str, unique: Callable[[str], str]
) -> None:
    topic = unique("group")
    await create_topic(bootstrap, topic)
    await produce(bootstrap, topic, [b"a", b"b", b"c"])
    seen: list[bytes | None] = []
    for take in (2, 1):
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=unique("members"),
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=6_000,
            rebalance_timeout_ms=2_000,
            fetch_max_wait_ms=20,
        )
        await consumer.start()
        try:
            for _ in range(take):
                record = await asyncio.wait_for(consumer.getone(), 30)
                seen.append(record.value)
                await consumer.commit({TopicPartition(topic, 0): record.offset + 1})
        finally:
            await consumer.stop()
    assert seen == [b"a", b"b", b"c"]


async def test_starts_again_on_the_same_port_without_its_records() -> None:
    broker = EmbeddedBroker()
    async with broker:
        port = broker.port
        await create_topic(broker.bootstrap, "t")
        assert await produce(broker.bootstrap, "t", [b"old"]) == [0]
        assert await end_offset(broker.bootstrap, "t") == 1
    assert not broker.running
    async with EmbeddedBroker(port) as again:
        assert again.port == port
        await create_topic(again.bootstrap, "t")
        assert await end_offset(again.bootstrap, "t") == 0


async def test_one_object_starts_twice() -> None:
    broker = EmbeddedBroker()
    pids = set()
    for _ in range(2):
        with broker:
            assert broker.running
            pids.add(broker.pid)
            await create_topic(broker.bootstrap, "t")
    assert len(pids) == 2


async def test_two_brokers_keep_their_records_apart() -> None:
    with EmbeddedBroker() as one, EmbeddedBroker() as two:
        assert one.port != two.port
        await create_topic(one.bootstrap, "t")
        await create_topic(two.bootstrap, "t")
        await produce(one.bootstrap, "t", [b"1", b"2"])
        assert await end_offset(one.bootstrap, "t") == 2
        assert await end_offset(two.bootstrap, "t") == 0


def test_refuses_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        broker = EmbeddedBroker(port)
        with pytest.raises(BrokerError, match=rf"port {port} .* is taken.*--port"):
            broker.start()
        assert broker.pid is None, "it must find out before it starts a process"


def test_refuses_to_start_twice() -> None:
    with EmbeddedBroker() as broker:
        pid = broker.pid
        with pytest.raises(BrokerError, match="runs already"):
            broker.start()
        assert broker.running
        assert broker.pid == pid


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_refuses_what_is_no_port(port: int) -> None:
    with pytest.raises(BrokerError, match="not a TCP port"):
        EmbeddedBroker(port)


def test_says_that_the_binary_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "nothing"))
    with pytest.raises(BrokerError, match=r"no binary for this machine .*Apache Kafka"):
        EmbeddedBroker().start()


def test_shows_the_last_output_of_a_broker_that_exits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = tmp_path / "tansu"
    binary.write_text("#!/bin/sh\necho out of ideas >&2\nexit 7\n")
    binary.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(binary))
    with pytest.raises(BrokerError, match=r"exited at once with status 7.*\n.*out of ideas"):
        EmbeddedBroker().start()


def test_gives_up_on_a_broker_that_never_listens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = tmp_path / "tansu"
    binary.write_text("#!/bin/sh\nexec sleep 60\n")
    binary.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(binary))
    broker = EmbeddedBroker(ready_seconds=0.3)
    with pytest.raises(BrokerError, match=r"does not listen after 0\.3 s"):
        broker.start()
    assert not broker.running


def test_a_broker_that_dies_is_noticed() -> None:
    with EmbeddedBroker() as broker:
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        assert broker.wait(5) == -signal.SIGKILL
        assert not broker.running


def test_the_log_file_gets_what_the_broker_prints(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "broker.log"
    with EmbeddedBroker(log_file=log) as broker:
        port = broker.port
    assert f"tcp://127.0.0.1:{port}" in log.read_text()


@linux_only
def test_goes_with_a_parent_that_is_killed() -> None:
    program = (
        "import sys, time\n"
        "from dafu.broker import EmbeddedBroker\n"
        "print(EmbeddedBroker().start().pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    assert dies(pid)


@linux_only
def test_outlives_the_thread_that_asked_for_it() -> None:
    broker = asyncio.run(asyncio.wait_for(EmbeddedBroker().__aenter__(), 20))
    try:
        # The worker threads of that event loop are gone; the kernel must not have noticed.
        assert broker.wait(0.3) is None
    finally:
        broker.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_runs_until_it_is_told_to_stop(number: signal.Signals) -> None:
    program = (
        "import sys\n"
        "from dafu.broker import serve\n"
        "serve(int(sys.argv[1]), on_ready=lambda at: print(at, flush=True))\n"
        "print('stopped')\n"
    )
    port = free_port()
    command = [sys.executable, "-c", program, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        try:
            assert served.stdout.readline() == f"127.0.0.1:{port}\n"
            asyncio.run(create_topic(f"127.0.0.1:{port}", "t"))
            served.send_signal(number)
            assert served.communicate(timeout=10)[0] == "stopped\n"
            assert served.returncode == 0
        finally:
            served.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
