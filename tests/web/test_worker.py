"""The views of a real worker process with a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from dafu.broker import free_port
from dafu.columns import ByteColumn
from dafu.streaming.sender import BatchSender
from tests.asking import ADMIN_KEY, ask

pytestmark = pytest.mark.broker

START_SECONDS = 90.0
START = 1_700_000_000_000


def eventually(
    condition: Callable[[], bool], worker: subprocess.Popen[bytes], log: Path, within: float
) -> None:
    deadline = time.monotonic() + within
    while True:
        try:
            if condition():
                return
        except OSError:
            pass  # it does not listen yet
        status = worker.poll()
        if status is not None or time.monotonic() > deadline:
            why = "not in time" if status is None else f"the worker exited with {status}"
            pytest.fail(f"{why}; its last output:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


@contextmanager
def running_worker(
    bootstrap: str, unique: Callable[[str], str], directory: Path, port: int
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    environment = os.environ | {
        "DAFU_AUTH_FILE": str(directory / "auth.yaml"),
        "DAFU_BROKER": bootstrap,
        "DAFU_APP_ID": unique("app"),
        "DAFU_TOPIC_PREFIX": unique(""),
        "DAFU_PARTITIONS": "3",
        "DAFU_DATA_DIR": str(directory / "data"),
        "DAFU_WEB_PORT": str(port),
        "DAFU_ADMIN_KEY": ADMIN_KEY,
        "MODEL_STORAGE_PATH": "none",
    }
    log = directory / "worker.log"
    command = [sys.executable, "-m", "faust", "-A", "dafu.app", "worker", "-l", "info"]
    with log.open("wb") as out:
        worker = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        yield worker, log
    finally:
        worker.terminate()
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


async def publish(bootstrap: str, topic: str, payments: list[dict[str, Any]]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        await BatchSender(producer).send(
            topic,
            ByteColumn.of([p["user_id"].encode() for p in payments]),
            ByteColumn.of([json.dumps(p).encode() for p in payments]),
        )
    finally:
        await producer.stop()


async def test_a_worker_answers_for_what_it_has_decided(
    bootstrap: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    payments = [
        {
            "transaction_id": f"t{i}",
            "user_id": f"user {i % 4}",
            "merchant_id": f"m/{i % 2}",
            "amount": 10.0 + i,
            "timestamp": START + i * 1000,
        }
        for i in range(40)
    ]
    with running_worker(bootstrap, unique, tmp_path, port) as (worker, log):
        eventually(lambda: ask(f"{base}/health/live")[0] == 200, worker, log, START_SECONDS)
        eventually(lambda: ask(f"{base}/health/ready")[0] == 200, worker, log, START_SECONDS)
        assert ask(f"{base}/v1/users/user%200")[0] == 404

        await publish(bootstrap, f"{unique('')}transactions", payments)

        def all_committed() -> bool:
            status = ask(f"{base}/v1/status")[1]
            decided = sum(status["agents"]["merchants"]["decisions"].values())
            partitions = status["consumer"]["partitions"]
            committed = sum(p["committed"] for p in partitions)
            lag = sum(p["lag"] for p in partitions)
            return bool((decided, committed, lag) == (40, 80, 0))

        eventually(all_committed, worker, log, 30.0)

        status = ask(f"{base}/v1/status")[1]
        assert status["ready"]
        assert status["app_id"] == unique("app")
        assert status["worker"]["name"].endswith(f":{worker.pid}")
        assert status["worker"]["url"] == base
        assert status["model"]["degraded"]
        (rules,) = status["rules"]
        assert rules["live"] > 0
        assert status["assignment"][f"{unique('')}transactions"] == [0, 1, 2]
        assert status["consumer"]["error"] is None
        assert (
            len(status["consumer"]["partitions"]) == 19
        )  # of seven topics, one of them with one partition
        assert status["agents"]["users"]["records"] == 40
        assert status["agents"]["merchants"]["outputs"] == 40

        code, user = ask(f"{base}/v1/users/user%201")
        assert (code, user["user_id"], user["total_count"]) == (200, "user 1", 10)
        assert user["as_of"] == "2023-11-14T22:13:57.000Z"
        assert user["windows"][0]["count"] == 10
        assert user["windows"][0]["sum"] == sum(10.0 + i for i in range(1, 40, 4))
        assert ask(f"{base}/v1/users/user%201", key=None)[0] == 401
        assert ask(f"{base}/v1/users/user%201", key=ADMIN_KEY[:-1])[0] == 401
        code, merchant = ask(f"{base}/v1/merchants/m%2F1")
        assert (code, merchant["merchant_id"], merchant["total_count"]) == (200, "m/1", 20)
        assert merchant["windows"][0]["users"] == 2
        paths = ("/", "/table/", "/router/", "/table/users/")
        assert {ask(base + path)[0] for path in paths} == {404}
        assert ask(f"{base}/health/ready")[0] == 200
