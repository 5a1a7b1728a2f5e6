"""An Apache Kafka of its own for a test, or a cluster: run through `scripts/kafka`."""

from __future__ import annotations

import abc
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from dafu.broker import free_port

SCRIPT: Final = Path(__file__).resolve().parents[1] / "scripts" / "kafka"


class _Running(abc.ABC):
    """What runs inside a `with`."""

    @abc.abstractmethod
    def start(self) -> Self: ...

    @abc.abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class ApacheKafka(_Running):
    """One node on loopback that keeps its port and its records over restarts.

    Parameters
    ----------
    directory
        For records, log and pid file.
    options
        More of `scripts/kafka start`.
    """

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        self.directory = directory
        self.port = free_port()
        self._options = options or ("--controller-port", str(free_port()))

    @property
    def nodes(self) -> list[ApacheKafka]:
        """Itself, as that of a cluster."""
        return [self]

    @property
    def bootstrap(self) -> str:
        """What a client calls `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it, with the records that it had, and wait until it is ready."""
        self._run("start", "--port", str(self.port), *self._options)
        return self

    def stop(self) -> None:
        """Stop it in order."""
        said = self._run("stop")
        assert "stopped" in said, f"Kafka did not stop: {said}"

    def kill(self) -> None:
        """End it where it stands."""
        pid = int((self.directory / "kafka.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        # It is nobody's child here, so that it can not be waited for; its port can.
        with contextlib.suppress(OSError):
            while True:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
                time.sleep(0.02)

    def _run(self, command: str, *options: str) -> str:
        done = subprocess.run(
            [str(SCRIPT), command, "--dir", str(self.directory), *options],
            text=True,
            capture_output=True,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"scripts/kafka {command} failed:\n{said}"
        return said


class KafkaCluster(_Running):
    """Some nodes, of which one may fail at a time.

    Parameters
    ----------
    directory
        For a directory of each.
    count
        How many.
    """

    def __init__(self, directory: Path, count: int = 3) -> None:
        ports = [str(free_port()) for _ in range(count)]
        voters = ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(ports, 1))
        self.nodes = [
            ApacheKafka(
                directory / f"node-{n}",
                ("--controller-port", port, "--node", str(n), "--voters", voters),
            )
            for n, port in enumerate(ports, 1)
        ]

    @property
    def bootstrap(self) -> str:
        """What a client calls `bootstrap.servers`."""
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self) -> Self:
        """Start all of them, together: none is ready before most of them run."""
        try:
            with ThreadPoolExecutor(len(self.nodes)) as threads:
                list(threads.map(ApacheKafka.start, self.nodes))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End those that run; the last ones could not stop in order, without most of the others."""
        for node in self.nodes:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                node.kill()
