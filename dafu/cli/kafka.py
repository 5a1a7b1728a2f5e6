"""Kafka for commands: clients that say within seconds that nobody answers, topics, whole reads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from dafu.errors import DafuError
from dafu.settings import Settings
from dafu.streaming.offsets import FETCH_WAIT_MS, end_offsets, partitions_of
from dafu.topics import LARGEST_BATCH, stream_config

__all__ = [
    "BrokerUnreachableError",
    "TopicError",
    "ensure_topic",
    "opened_producer",
    "read_topic",
    "topic_ends",
]

_CONNECT_SECONDS: Final = 5.0


class BrokerUnreachableError(DafuError):
    """No broker answers at the configured address."""


class TopicError(DafuError):
    """A topic that does not exist or can not be created."""


class _Heard(logging.Handler):
    """What aiokafka said last."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage()


_heard = _Heard(logging.ERROR)


def _options(settings: Settings) -> dict[str, Any]:
    # What goes wrong is raised and said once; aiokafka would log it for every attempt as well.
    logger = logging.getLogger("aiokafka")
    logger.propagate = False
    logger.addHandler(_heard)
    return settings.client_options()


async def _start(client: Any, stop: Any, settings: Settings) -> None:
    _heard.said = ""
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await client.start()
    except (KafkaError, OSError, TimeoutError) as exc:
        await stop()
        # Why it has no connection, such as a wrong password, aiokafka says in its log only.
        why = _heard.said or ("no answer" if isinstance(exc, TimeoutError) else str(exc))
        raise BrokerUnreachableError(
            f"no Kafka broker can be reached at {settings.broker} with "
            f"{settings.security.protocol} ({why}). Start one with `dafu broker`, or say where "
            "yours is with DAFU_BROKER=host:port, and what it asks for with DAFU_SECURITY_PROTOCOL"
        ) from exc


@asynccontextmanager
async def opened_producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """A started producer for batches."""
    producer = AIOKafkaProducer(
        **_options(settings),
        acks="all",
        max_batch_size=LARGEST_BATCH,
        request_timeout_ms=30_000,
    )
    await _start(producer, producer.stop, settings)
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def _opened_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**_options(settings))
    await _start(admin, admin.close, settings)
    try:
        yield admin
    finally:
        await admin.close()


async def ensure_topic(settings: Settings, topic: str) -> None:
    """Create a topic of the stream as the settings want it, unless it exists.

    Raises
    ------
    BrokerUnreachableError, TopicError
    """
    async with _opened_admin(settings) as admin:
        try:
            if topic in await admin.list_topics():
                return
            new = NewTopic(
                topic,
                settings.topics.partitions,
                settings.topics.replication_factor,
                topic_configs=stream_config(settings.topics, topic),
            )
            response = await admin.create_topics([new])
        except KafkaError as exc:
            raise TopicError(f"topic {topic} can not be created: {exc}") from exc
        for name, code, *why in response.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                reason = next((text for text in why if text), error.__name__)
                raise TopicError(f"topic {name} can not be created: {reason}")


async def topic_ends(settings: Settings, topic: str) -> dict[int, int]:
    """Where the next record of each partition will be; empty if there is no such topic.

    Raises
    ------
    BrokerUnreachableError, TopicError
    """
    consumer = AIOKafkaConsumer(**_options(settings), enable_auto_commit=False)
    await _start(consumer, consumer.stop, settings)
    try:
        if topic not in await consumer.topics():
            return {}
        tps = [
            TopicPartition(topic, p) for p in await partitions_of(topic, settings.client_options())
        ]
        return {tp.partition: end for tp, end in (await end_offsets(consumer, tps)).items()}
    except KafkaError as exc:
        raise TopicError(f"topic {topic} can not be read: {exc}") from exc
    finally:
        await consumer.stop()


async def read_topic(
    settings: Settings,
    topic: str,
    *,
    follow: bool = False,
    timeout: float | None = None,
    start: Mapping[int, int] | None = None,
) -> AsyncGenerator[Sequence[Any], None]:
    """Records of a topic from its beginning, in lists.

    Without `follow`: one partition after the other, each up to its end at the time of the call, so
    that equal topics read alike. With `follow`: all partitions as records come, the topic need
    not exist yet. Stops after `timeout` seconds. `start` are offsets by partition to begin at
    instead, not with `follow`.

    Raises
    ------
    BrokerUnreachableError, TopicError
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    consumer = AIOKafkaConsumer(
        **_options(settings),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=settings.fetch_max_wait_ms or FETCH_WAIT_MS,
        max_partition_fetch_bytes=4 << 20,
    )
    await _start(consumer, consumer.stop, settings)
    try:
        while topic not in await consumer.topics():
            if not follow:
                raise TopicError(
                    f"there is no topic {topic} at {settings.broker} yet: it comes with the first "
                    "worker (or set DAFU_TOPIC_PREFIX to the one in use)"
                )
            if _left(deadline) <= 0:
                return
            await asyncio.sleep(min(0.5, _left(deadline)))
        tps = [
            TopicPartition(topic, p) for p in await partitions_of(topic, settings.client_options())
        ]
        if follow:
            consumer.assign(tps)
            while _left(deadline) > 0:
                wait = min(0.2, _left(deadline))
                for records in (await consumer.getmany(timeout_ms=int(wait * 1000))).values():
                    yield records
            return
        ends = await end_offsets(consumer, tps)
        for tp in tps:
            consumer.assign([tp])
            if start is not None and tp.partition in start:
                consumer.seek(tp, start[tp.partition])
            else:
                await consumer.seek_to_beginning(tp)
            while await consumer.position(tp) < ends[tp]:
                if _left(deadline) <= 0:
                    return
                for records in (await consumer.getmany(tp, timeout_ms=100)).values():
                    yield [r for r in records if r.offset < ends[tp]]
    except KafkaError as exc:
        raise TopicError(f"topic {topic} can not be read: {exc}") from exc
    finally:
        await consumer.stop()


def _left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()
