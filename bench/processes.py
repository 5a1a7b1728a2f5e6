"""Workers as processes of their own: started, watched and stopped from outside, like any other.

What is measured is what the operating system says of the process, what it logs, and what its web
server answers; nothing inside it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import psutil

from bench.brokers import BenchError
from bench.machine import ROOT
from dafu.broker import free_port
from dafu.processes import dying_with_parent

READY_SECONDS: Final = 600.0
FAUST_READY: Final = "Worker ready"
ADMIN_KEY: Final = secrets.token_hex(32)
"""Of the workers that this process starts."""

_STOP_SECONDS: Final = 60.0
_TAIL: Final = 3000


class Process:
    """A child process with its log in a file; as a context it is stopped at the end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._command = command
        self._environment = environment
        self._child: psutil.Popen | None = None
        self._output: IO[bytes] | None = None
        self.started_at = 0.0

    @property
    def child(self) -> psutil.Popen:
        """The process."""
        if self._child is None:
            raise BenchError("the process has not been started")
        return self._child

    def __enter__(self) -> Self:
        self._output = self.log.open("wb")
        # Epoch seconds, as log lines have them.
        self.started_at = time.time()
        self._child = psutil.Popen(
            dying_with_parent(self._command),
            env={**_neutral_environment(), **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(_STOP_SECONDS)
            except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
                self.child.kill()
                self.child.wait()
        if self._output is not None:
            self._output.close()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def alive(self) -> None:
        """Raise if it has ended."""
        status = self.child.poll()
        if status is not None:
            raise BenchError(f"the process ended with {status}:\n{self.output[-_TAIL:]}")

    def until_logged(self, text: str, within: float = READY_SECONDS) -> None:
        """Wait until it has printed something."""
        deadline = time.monotonic() + within
        while text not in self.output:
            self.alive()
            if time.monotonic() > deadline:
                raise BenchError(f"no {text!r} after {within:.0f} s:\n{self.output[-_TAIL:]}")
            time.sleep(0.05)

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        times = self.child.cpu_times()
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        """Resident set size."""
        return int(self.child.memory_info().rss)


class DafuWorker(Process):
    """One worker of dafu.

    Parameters
    ----------
    bootstrap : str
    name : str
        Its app id; topics carry it as their prefix.
    directory : Path
        For data and log.
    partitions : int
    port : int, optional
        Of its web server; a free one if omitted.
    **environment
        More of its environment variables.
    """

    def __init__(
        self,
        bootstrap: str,
        name: str,
        directory: Path,
        partitions: int,
        *,
        app: str = "dafu.app",
        **environment: str,
    ) -> None:
        self.base = f"http://127.0.0.1:{free_port()}"
        super().__init__(
            [sys.executable, "-m", "faust", "-A", app, "worker", "-l", "info"],
            {
                "DAFU_BROKER": bootstrap,
                "DAFU_APP_ID": name,
                "DAFU_TOPIC_PREFIX": f"{name}-",
                "DAFU_PARTITIONS": str(partitions),
                "DAFU_DATA_DIR": str(directory / "data"),
                "DAFU_WEB_PORT": self.base.rpartition(":")[2],
                "DAFU_ADMIN_KEY": ADMIN_KEY,
                **environment,
            },
            directory / f"worker-{self.base.rpartition(':')[2]}.log",
        )

    def is_ready(self) -> bool:
        """Whether it answers /health/ready with 200."""
        try:
            with urllib.request.urlopen(f"{self.base}/health/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def until_ready(self, within: float = READY_SECONDS) -> float:
        """Wait until it is ready and return when it was, in epoch seconds."""
        deadline = time.monotonic() + within
        while not self.is_ready():
            self.alive()
            if time.monotonic() > deadline:
                raise BenchError(f"not ready after {within:.0f} s:\n{self.output[-_TAIL:]}")
            time.sleep(0.02)
        return time.time()

    def status(self) -> dict[str, Any]:
        """What /v1/status says."""
        request = urllib.request.Request(
            f"{self.base}/v1/status", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            status: dict[str, Any] = json.load(answer)
        return status


def until_shared(workers: Sequence[DafuWorker], topic: str, partitions: int) -> None:
    """Wait until all workers are ready and have their share of a topic's partitions."""
    deadline = time.monotonic() + READY_SECONDS
    share = partitions // len(workers)
    while True:
        for worker in workers:
            worker.until_ready()
        held = [len(worker.status()["assignment"].get(topic, ())) for worker in workers]
        if sum(held) == partitions and min(held) >= share:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"{topic} is not shared among the workers: they hold {held}")
        time.sleep(0.2)


def _neutral_environment() -> dict[str, str]:
    """This process's environment without what would change the settings of a worker."""
    ours = ("DAFU_", "MODEL_STORAGE_PATH", "FRAUD_THRESHOLD", "BLOCK_THRESHOLD", "LOG_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)}
