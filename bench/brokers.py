"""A broker for a benchmark: the embedded one, or an Apache Kafka with a directory of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.machine import ROOT
from dafu.broker import EmbeddedBroker, free_port
from dafu.errors import DafuError

EMBEDDED: Final = "embedded"
KAFKA: Final = "kafka"
TITLES: Final = {EMBEDDED: "the embedded broker", KAFKA: "Apache Kafka"}


class BenchError(DafuError):
    """Something that is measured did not do what was expected of it."""


def kafka_available() -> bool:
    """Whether scripts/kafka can start one here."""
    return shutil.which("java") is not None and (
        shutil.which("mvn") is not None or any((ROOT / ".kafka").glob("libs-*"))
    )


@contextmanager
def broker(kind: str) -> Iterator[str]:
    """A fresh broker without records; gives its address and removes it in the end.

    Parameters
    ----------
    kind : str
        `embedded` or `kafka`, or the `host:port` of one that runs already and stays.
    """
    if ":" in kind:
        yield kind
    elif kind == EMBEDDED:
        with EmbeddedBroker() as embedded:
            yield embedded.bootstrap
    elif kind == KAFKA:
        with tempfile.TemporaryDirectory(prefix="dafu-bench-kafka-") as directory:
            yield from _apache_kafka(directory)
    else:
        raise BenchError(f"there is no broker {kind!r}: give embedded, kafka or host:port")


def _apache_kafka(directory: str) -> Iterator[str]:
    port = free_port()
    script = str(ROOT / "scripts" / "kafka")
    where = ["--dir", directory]
    ports = ["--port", str(port), "--controller-port", str(free_port())]
    started = subprocess.run(
        [script, "start", *where, *ports], text=True, capture_output=True, check=False
    )
    if started.returncode != 0:
        raise BenchError(f"Apache Kafka did not start:\n{started.stdout}{started.stderr}")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([script, "stop", *where], capture_output=True, check=False)
