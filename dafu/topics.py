"""Which settings dafu's topics are given, and what endangers a promise about those that exist.

dafu creates its topics with these settings if they are missing and never changes one that exists:
its settings may be somebody's decision. It says what is dangerous about them, and which command
mends it. Pure but for `report_dangers`, which asks the broker. Nothing here knows Faust.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from dafu.settings import Settings, Topics
from dafu.streaming.metadata import ask_about

__all__ = [
    "LARGEST_BATCH",
    "changelog_config",
    "dangers",
    "describe_topics",
    "report_dangers",
    "stream_config",
]

logger = logging.getLogger(__name__)

LARGEST_BATCH: Final = 900_000
"""Bytes of the largest record batch that dafu's producers make."""

LARGEST_MESSAGE: Final = 1_048_588
"""What a topic must take at least: Kafka's own default, which fits a batch and, since a record
may exceed a batch, the producer's largest request (1,000,000). Set so that a cluster with a lower
default does not refuse a batch later."""

_DAY_MS: Final = 86_400_000
_FOREVER: Final = "-1"

_SEGMENT_BYTES: Final = 64 * 1024 * 1024
_SEGMENT_MS: Final = 4 * 3_600_000
_DIRTY_RATIO: Final = 0.2
"""A changelog is read as a whole when a worker recovers, and what compaction has not seen yet is
read as often as it was written. The active segment is never compacted: so segments are small and
do not stay active for long. The broker compacts once a fifth of the log is dirty (default: half).
"""

_DESCRIBE_SECONDS: Final = 10.0

_said: Final[set[str]] = set()
"""Warnings of this process: agents share topics, and once is enough."""


def stream_config(topics: Topics, name: str) -> dict[str, str]:
    """Settings of a topic of the stream: transactions, decisions and what lies between.

    Parameters
    ----------
    topics : Topics
    name : str
        The topic's full name; it decides how long records are kept.
    """
    days = {
        topics.transactions: topics.transactions_retention_days,
        topics.labels: topics.transactions_retention_days,
        topics.fraud_rings: topics.transactions_retention_days,
        topics.control: 0.0,
        topics.dead_letters: topics.dead_letters_retention_days,
        topics.audit: topics.audit_retention_days,
    }.get(name, topics.retention_days)
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(int(days * _DAY_MS)) if days else _FOREVER,
        **_common(topics),
    }


def changelog_config(topics: Topics) -> dict[str, str]:
    """Settings of a table's changelog: compacted only, and quick to recover from."""
    return {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": str(int(topics.compaction_lag_s * 1000)),
        # The lag counts from here: a record that a suspended worker sends late is not an old one.
        "message.timestamp.type": "LogAppendTime",
        "min.cleanable.dirty.ratio": str(_DIRTY_RATIO),
        "segment.bytes": str(_SEGMENT_BYTES),
        "segment.ms": str(_SEGMENT_MS),
        **_common(topics),
    }


def _common(topics: Topics) -> dict[str, str]:
    config = {"max.message.bytes": str(LARGEST_MESSAGE)}
    if topics.replication_factor > 1:
        config["min.insync.replicas"] = str(topics.insync_replicas)
    return config


def dangers(
    config: Mapping[str, str], *, changelog: bool, replicas: int
) -> Iterator[tuple[str, dict[str, str]]]:
    """What endangers dafu's promises about a topic that exists.

    Parameters
    ----------
    config : mapping
        The topic's settings as the broker reports them; those not in it are not judged.
    changelog : bool
        Whether it is a table's changelog, or else a topic of the stream.
    replicas : int
        How many replicas its partitions have.

    Yields
    ------
    tuple
        What is wrong, in words, and the settings that mend it.
    """
    policy = {part.strip() for part in config.get("cleanup.policy", "").split(",")}
    if changelog and "delete" in policy:
        yield (
            "its cleanup.policy deletes by age or size: state of users and merchants will be lost",
            {"cleanup.policy": "compact"},
        )
    if not changelog and "compact" in policy:
        yield (
            "its cleanup.policy compacts: only the last record of each key will be kept",
            {"cleanup.policy": "delete"},
        )
    largest = config.get("max.message.bytes")
    if largest is not None and int(largest) < LARGEST_MESSAGE:
        yield (
            f"its max.message.bytes is {largest}: the worker's batches may be refused, and stop it",
            {"max.message.bytes": str(LARGEST_MESSAGE)},
        )
    if replicas > 1 and config.get("min.insync.replicas") == "1":
        yield (
            f"it has {replicas} replicas and min.insync.replicas is 1: what only one broker has "
            "written counts as acknowledged, and is lost with that broker",
            {"min.insync.replicas": "2"},
        )
    if replicas > 1 and config.get("unclean.leader.election.enable") == "true":
        yield (
            "its unclean.leader.election.enable is true: a replica that lacks acknowledged records "
            "may become the leader",
            {"unclean.leader.election.enable": "false"},
        )


def repair_command(servers: str, topic: str, config: Mapping[str, str]) -> str:
    """The command of Apache Kafka that gives a topic these settings."""
    # Brackets, since some values are lists.
    changes = ",".join(f"{name}=[{value}]" for name, value in config.items())
    return (
        f"kafka-configs.sh --bootstrap-server {servers} --alter --entity-type topics "
        f"--entity-name {topic} --add-config '{changes}'"
    )


async def describe_topics(
    settings: Settings, names: Iterable[str]
) -> dict[str, tuple[dict[str, str], int]]:
    """Settings and number of replicas of topics, as the broker reports them.

    Topics that do not exist or may not be described are left out, and not created.

    Raises
    ------
    KafkaError, OSError
        If no broker answers.
    """
    admin = AIOKafkaAdminClient(**settings.client_options())
    try:
        await admin.start()
        found = {
            topic["topic"]: min((len(p["replicas"]) for p in topic["partitions"]), default=0)
            for topic in (await ask_about(admin._client, list(names)))["topics"]
            if topic["error_code"] == 0
        }
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
        out = {}
        for response in await admin.describe_configs(resources):
            for error, _message, _kind, name, entries in response.resources:
                if error == 0:
                    config = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
                    out[name] = (config, found[name])
        return out
    finally:
        await admin.close()


async def report_dangers(settings: Settings, changelog: str, streams: Iterable[str]) -> None:
    """Log a warning for every setting of an existing topic that endangers a promise.

    A broker that does not tell (it does not know the request, or does not allow it) is no reason
    not to start.
    """
    try:
        async with asyncio.timeout(_DESCRIBE_SECONDS):
            described = await describe_topics(settings, [changelog, *streams])
    except (KafkaError, OSError, TimeoutError) as exc:
        logger.info("The settings of topics can not be checked: %r", exc)
        return
    for name, (config, replicas) in described.items():
        for what, repair in dangers(config, changelog=name == changelog, replicas=replicas):
            command = repair_command(settings.broker, name, repair)
            warning = f"topic {name}: {what}. Run: {command}"
            if warning not in _said:
                _said.add(warning)
                logger.warning("%s", warning)
