"""The demonstration as people start it: real broker, real worker, real traffic."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dafu.settings import ENVIRONMENT

pytestmark = pytest.mark.broker

SMALL = ("--users", "60", "--merchants", "20", "--rate", "200")
SECONDS = 180.0  # with kernels to compile on a busy machine


@contextmanager
def demo(directory: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    environment = {k: v for k, v in os.environ.items() if k not in {*ENVIRONMENT, "DAFU_CONF"}}
    command = [sys.executable, "-c", "from dafu.cli import main; main()", "demo", *arguments]
    process = subprocess.Popen(
        command,
        env=environment | {"TMPDIR": str(directory)} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def figures(out: str) -> dict[str, Any]:
    published = re.search(r"published ([\d,]+) transactions \(([\d,]+) of history, ([\d,]+)", out)
    decided = re.search(r"decided ([\d,]+), each once; repeats 0, dead letters 0", out)
    assert published is not None, out
    assert decided is not None, out
    numbers = [int(text.replace(",", "")) for text in (*published.groups(), *decided.groups())]
    return dict(zip(("published", "history", "live", "decided"), numbers, strict=True))


def test_it_ends_by_itself_and_every_transaction_is_decided(tmp_path: Path) -> None:
    with demo(tmp_path, "--seconds", "2", *SMALL) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, ""), out
    found = figures(out)
    assert found["decided"] == found["published"] == found["history"] + found["live"]
    assert found["live"] > 100
    assert re.search(r"latency .* p50 [\d.]+ ms, p99 [\d.]+ ms; by the worker's header", out)
    approved = re.search(r"approve\W+([\d,]+)", out[out.index("decisions against the labels") :])
    assert approved is not None
    assert int(approved[1].replace(",", "")) > found["live"] / 2
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    with demo(tmp_path, *SMALL, "--keep") as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("history decided"):
                break
        address, key = re.search(r"console: (\S+/console/)   key: (\S+)", "".join(lines)).groups()  # type: ignore[union-attr]
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=SECONDS) as page:
            assert "<h1>Decisions</h1>" in page.read().decode()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, ""), "".join(lines)
    found = figures(out)
    assert found["decided"] == found["published"]
    (kept,) = tmp_path.iterdir()
    assert f"kept {kept}" in out
    assert "Worker ready" in (kept / "worker.log").read_text()


def test_a_worker_that_dies_is_reported_with_its_log(tmp_path: Path) -> None:
    with demo(tmp_path, *SMALL, MODEL_STORAGE_PATH="no/such/model") as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.startswith("error: the worker ended by itself with status 1")
    assert "no/such/model" in err
    (kept,) = tmp_path.iterdir()
    assert f"The worker's log, {kept / 'worker.log'}, ends:" in err
