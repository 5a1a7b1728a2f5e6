"""What every test may ask for: a Kafka broker, and topic names that are nobody else's."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from dafu.broker import EmbeddedBroker, free_port

# A first example may have to wait for a compiler, and a busy machine for anything.
settings.register_profile("dafu", deadline=None)
settings.load_profile("dafu")

ROOT = Path(__file__).resolve().parents[1]
WHICH = "DAFU_TEST_BROKER"


@pytest.fixture(scope="session")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running broker, "127.0.0.1:port".

    DAFU_TEST_BROKER says which: `embedded` (or unset), `kafka` for an Apache Kafka of its own,
    or the `host:port` of one that runs already.
    """
    which = os.environ.get(WHICH) or "embedded"
    if which == "embedded":
        with EmbeddedBroker() as broker:
            yield broker.bootstrap
    elif which == "kafka":
        yield from _apache_kafka(tmp_path_factory.mktemp("kafka"))
    elif ":" in which:
        yield which
    else:
        pytest.fail(f"{WHICH}={which}: give `embedded`, `kafka` or `host:port`")


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Turns a name into one that no other test, and no earlier run, has used for a topic."""
    prefix = f"{request.node.name[:40]}-{uuid.uuid4().hex[:8]}"
    prefix = "".join(c if c.isalnum() or c in "-_" else "-" for c in prefix)
    return lambda name: f"{prefix}-{name}"


def _apache_kafka(directory: Path) -> Iterator[str]:
    port = free_port()
    script = [str(ROOT / "scripts" / "kafka")]
    where = ["--dir", str(directory)]
    ports = ["--port", str(port), "--controller-port", str(free_port())]
    started = subprocess.run([*script, "start", *where, *ports], text=True, capture_output=True)
    if started.returncode != 0:
        pytest.fail(f"Apache Kafka did not start:\n{started.stdout}{started.stderr}")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stopped = subprocess.run([*script, "stop", *where], text=True, capture_output=True)
        assert "stopped" in stopped.stdout, f"Kafka did not stop: {stopped.stdout}{stopped.stderr}"
