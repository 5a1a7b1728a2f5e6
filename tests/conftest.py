"""What every test may ask for: a Kafka broker, and topic names that are nobody else's."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from dafu.broker import EmbeddedBroker
from dafu.settings import ENVIRONMENT
from tests.kafka import ApacheKafka

# A first example may have to wait for a compiler, and a busy machine for anything.
settings.register_profile("dafu", deadline=None)
settings.load_profile("dafu")

# Settings of whoever runs the tests are none of theirs.
for _name in ("DAFU_CONF", *ENVIRONMENT):
    os.environ.pop(_name, None)

WHICH = "DAFU_TEST_BROKER"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Repeat a test once if a worker got no part in its group, on the embedded broker.

    That broker waits for its group's leader for good if it has died while the group formed.
    """
    if (os.environ.get(WHICH) or "embedded") == "embedded":
        for item in items:
            if item.get_closest_marker("broker"):
                item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=r"not within \d+ s: ready"))


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
        with ApacheKafka(tmp_path_factory.mktemp("kafka")) as kafka:
            yield kafka.bootstrap
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
