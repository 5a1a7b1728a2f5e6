"""The topics that a worker creates, and what it says of those it finds: on Apache Kafka.

The embedded broker takes topic settings and forgets them.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from dafu.topics import changelog_config, describe_topics, stream_config
from tests.conftest import WHICH
from tests.integration.worker import BRISK, System, eventually

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(
        os.environ.get(WHICH, "embedded") in ("", "embedded"),
        reason=f"the embedded broker reports no topic settings: {WHICH}=kafka",
    ),
]


async def test_topics_are_created_with_fitting_settings(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, partitions=2, app=BRISK)
    topics = system.topics
    streams = [
        topics.transactions,
        topics.transactions_by_merchant,
        topics.decisions,
        topics.dead_letters,
    ]
    changelogs = [f"{system.settings.app_id}-{name}-changelog" for name in ("users", "merchants")]
    with system.worker() as worker:
        await worker.ready()
    described = await describe_topics(system.settings, [*streams, *changelogs, "no-such-topic"])
    assert sorted(described) == sorted([*streams, *changelogs])
    for name, (config, replicas) in described.items():
        wanted = changelog_config(topics) if name in changelogs else stream_config(topics, name)
        assert {key: config[key] for key in wanted} == wanted
        assert replicas == 1
    assert "Run: kafka-configs.sh" not in worker.output


async def test_dangerous_settings_are_named_with_what_to_run(
    bootstrap: str, tmp_path: Path
) -> None:
    system = System(bootstrap, tmp_path, app=BRISK)
    changelog = f"{system.settings.app_id}-users-changelog"
    await system.create(changelog)  # the broker's own default deletes
    await system.create(system.topics.decisions, **{"cleanup.policy": "compact"})
    with system.worker() as worker:
        await worker.ready()

        async def said() -> bool:
            return worker.output.count("Run: kafka-configs.sh") >= 2

        await eventually(said, "both warnings", 10.0, worker)
        await asyncio.to_thread(worker.stop)
    (about_state,) = [line for line in worker.output.splitlines() if f"topic {changelog}:" in line]
    assert "WARNING" in about_state
    assert f"--entity-name {changelog} --add-config 'cleanup.policy=[compact]'" in about_state
    assert f"topic {system.topics.decisions}: its cleanup.policy compacts" in worker.output
    # Said, not changed: it may be somebody's decision.
    described = await describe_topics(system.settings, [changelog])
    assert described[changelog][0]["cleanup.policy"] == "delete"
