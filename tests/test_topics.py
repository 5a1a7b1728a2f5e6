"""The settings dafu gives its topics, and what it says about those of others."""

from __future__ import annotations

import asyncio
import logging
import shlex
from typing import Any

import pytest

from dafu import topics as module
from dafu.settings import Settings, Topics
from dafu.topics import (
    LARGEST_MESSAGE,
    changelog_config,
    dangers,
    repair_command,
    report_dangers,
    stream_config,
)

DAY_MS = 86_400_000


def test_each_topic_of_the_stream_keeps_records_as_long_as_its_setting_says() -> None:
    topics = Topics(
        prefix="eu-",
        transactions_retention_days=40.0,
        retention_days=0.5,
        dead_letters_retention_days=0.0,
    )
    kept = {
        name: stream_config(topics, name)["retention.ms"]
        for name in (
            topics.transactions,
            topics.transactions_by_merchant,
            topics.decisions,
            topics.dead_letters,
            topics.identifiers,
            topics.links,
            topics.fraud_rings,
            topics.ring_membership,
        )
    }
    assert kept == {
        "eu-transactions": str(40 * DAY_MS),
        "eu-transactions-by-merchant": str(DAY_MS // 2),
        "eu-decisions": str(DAY_MS // 2),
        "eu-dead-letters": "-1",
        "eu-identifiers": str(DAY_MS // 2),
        "eu-links": str(DAY_MS // 2),
        "eu-fraud-rings": str(40 * DAY_MS),
        "eu-ring-membership": str(DAY_MS // 2),
    }
    assert stream_config(topics, topics.decisions)["cleanup.policy"] == "delete"


def test_a_changelog_is_compacted_and_nothing_else() -> None:
    config = changelog_config(Topics(compaction_lag_s=90.0))
    assert config["cleanup.policy"] == "compact"
    assert config["min.compaction.lag.ms"] == "90000"
    assert config["message.timestamp.type"] == "LogAppendTime"
    assert not [name for name in config if name.startswith("retention")]


@pytest.mark.parametrize(
    ("replicas", "given", "expected"),
    [(1, 0, None), (2, 0, "1"), (3, 0, "2"), (5, 0, "2"), (3, 3, "3"), (3, 1, "1")],
)
def test_in_sync_replicas(replicas: int, given: int, expected: str | None) -> None:
    topics = Topics(replication_factor=replicas, min_insync_replicas=given)
    for config in (changelog_config(topics), stream_config(topics, topics.decisions)):
        assert config.get("min.insync.replicas") == expected


@pytest.mark.parametrize("changelog", [True, False])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_what_dafu_creates_is_not_dangerous(changelog: bool, replicas: int) -> None:
    topics = Topics(replication_factor=replicas)
    config = changelog_config(topics) if changelog else stream_config(topics, topics.decisions)
    found = list(dangers(config, changelog=changelog, replicas=replicas))
    # With two replicas one must do, or the loss of a broker would stop the worker.
    assert [repair for _, repair in found] == ([{"min.insync.replicas": "2"}] * (replicas == 2))


@pytest.mark.parametrize(
    ("config", "changelog", "replicas", "repair"),
    [
        ({"cleanup.policy": "delete"}, True, 1, {"cleanup.policy": "compact"}),
        ({"cleanup.policy": "compact,delete"}, True, 1, {"cleanup.policy": "compact"}),
        ({"cleanup.policy": "delete, compact"}, False, 1, {"cleanup.policy": "delete"}),
        ({"max.message.bytes": "100000"}, True, 1, {"max.message.bytes": str(LARGEST_MESSAGE)}),
        ({"min.insync.replicas": "1"}, False, 3, {"min.insync.replicas": "2"}),
        (
            {"unclean.leader.election.enable": "true"},
            True,
            3,
            {"unclean.leader.election.enable": "false"},
        ),
        # Of no consequence, or not known:
        ({"cleanup.policy": "compact"}, True, 1, None),
        ({"cleanup.policy": "delete"}, False, 1, None),
        ({"min.insync.replicas": "1"}, True, 1, None),
        ({"unclean.leader.election.enable": "true"}, True, 1, None),
        ({"max.message.bytes": "10000000"}, True, 1, None),
        ({}, True, 3, None),
    ],
)
def test_dangers(
    config: dict[str, str], changelog: bool, replicas: int, repair: dict[str, str] | None
) -> None:
    found = [r for _, r in dangers(config, changelog=changelog, replicas=replicas)]
    assert found == ([] if repair is None else [repair])
    # What is said mends it.
    if repair is not None:
        mended = config | repair
        assert not list(dangers(mended, changelog=changelog, replicas=replicas))


def test_the_command_survives_a_shell() -> None:
    words = shlex.split(repair_command("a:1,b:2", "t", {"cleanup.policy": "compact", "x": "1,2"}))
    assert words[words.index("--bootstrap-server") + 1] == "a:1,b:2"
    assert words[words.index("--entity-name") + 1] == "t"
    assert words[-1] == "cleanup.policy=[compact],x=[1,2]"


def test_warnings_name_topic_and_command_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def described(_settings: Settings, names: Any) -> dict[str, tuple[dict[str, str], int]]:
        return {name: ({"cleanup.policy": "delete"}, 1) for name in names}

    monkeypatch.setattr(module, "describe_topics", described)
    monkeypatch.setattr(module, "_said", set())
    caplog.set_level(logging.INFO, "dafu.topics")
    for _ in range(2):
        asyncio.run(report_dangers(Settings(broker="b:9"), "app-users-changelog", ["decisions"]))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "topic app-users-changelog: its cleanup.policy deletes" in record.message
    assert "--bootstrap-server b:9" in record.message
    assert "'cleanup.policy=[compact]'" in record.message


def test_a_broker_that_does_not_tell_is_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dafu.topics")
    asyncio.run(report_dangers(Settings(broker="127.0.0.1:1"), "changelog", []))
    assert "can not be checked" in caplog.text
    assert not [r for r in caplog.records if r.levelno > logging.INFO and r.name == "dafu.topics"]
