"""Decisions and transactions looked up in the log itself, for what nobody remembers any more.

A partition is read from the offset that a time points to, with a consumer that lives as long as the
question; so this is for rare ones. How far it reads is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct

from dafu.columns import ByteColumn
from dafu.partitioner import key_hashes
from dafu.settings import Settings
from dafu.streaming.fetching import Intake, keep_record_sets
from dafu.streaming.offsets import FETCH_WAIT_MS
from dafu.streaming.records import RecordBatch
from dafu.web.decisions.memory import Made, begin_of, made_in
from dafu.web.decisions.publishing import Publisher

__all__ = ["SKEW_MS", "LogLookup"]

MOST_RECORDS: Final = 50_000
"""That one question reads from a point in time on."""

LATEST_RECORDS: Final = 20_000
"""That it reads from the end of the partition if no time is known."""

SKEW_MS: Final = 60_000
"""How far the clocks of producers and workers may be apart."""

ORIGINAL_RECORDS: Final = 5_000
"""Among which a decided transaction is, from the time on that its decision tells."""

TOGETHER: Final = 4
"""Questions at a time; others wait."""

_WAIT_SECONDS: Final = 0.2


class _Id(Struct):
    transaction_id: str


_id_of = msgspec.json.Decoder(_Id).decode


class LogLookup:
    """Looks transactions up in the log.

    Parameters
    ----------
    settings : Settings
    publisher : Publisher
        Knows which partition a user belongs to.
    """

    def __init__(self, settings: Settings, publisher: Publisher) -> None:
        self._settings = settings
        self._publisher = publisher
        self._turn = asyncio.Semaphore(TOGETHER)

    async def decision(
        self, user_id: str, transaction_id: str, timestamp: int | None
    ) -> Made | None:
        """The decision of a transaction of this time, in epoch milliseconds if it is known.

        Raises
        ------
        KafkaError, SendError
            If the log can not be read.
        """
        begin = begin_of(user_id, transaction_id)
        found: list[Made] = []

        def look(batch: RecordBatch, rows: list[int]) -> bool:
            made = made_in(batch) if rows else []
            found.extend(made[i] for i in rows if made[i].payload.startswith(begin))
            return bool(found)

        since = None if timestamp is None else timestamp - SKEW_MS
        await self._scan(self._settings.topics.decisions, user_id, since, MOST_RECORDS, look)
        return found[0] if found else None

    async def original(self, made: Made, user_id: str, transaction_id: str) -> bytes | None:
        """The transaction that a decision is about, as it was published; None: not to be found.

        Raises
        ------
        KafkaError, SendError
            If the log can not be read.
        """
        found: list[bytes] = []
        source = made.source

        def look(batch: RecordBatch, rows: list[int]) -> bool:
            for i in rows:
                if source is not None and source != (batch.partition, batch.offsets[i]):
                    continue
                value = batch.values[i] or b""
                try:
                    if _id_of(value).transaction_id == transaction_id:
                        found.append(value)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue  # it was set aside, whatever it was
            return bool(found)

        # It was published so long before the decision as the worker measured; it rounds.
        since = made.timestamp - (made.latency_ms or 0) - 10
        topic = self._settings.topics.transactions
        await self._scan(topic, user_id, since, ORIGINAL_RECORDS, look)
        return found[0] if found else None

    async def _scan(
        self,
        topic: str,
        user_id: str,
        since: int | None,
        most: int,
        look: Callable[[RecordBatch, list[int]], bool],
    ) -> None:
        """Show chunks, and the rows in them with the user's key, until `look` is content."""
        key = user_id.encode()
        tp = TopicPartition(topic, await self._publisher.partition(topic, key))
        async with self._turn:
            keep_record_sets()
            consumer = AIOKafkaConsumer(
                **self._settings.client_options(),
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=FETCH_WAIT_MS,
            )
            try:
                await consumer.start()
                end = (await consumer.end_offsets([tp]))[tp]
                start = await _start(consumer, tp, since, end)
                if start is None or start >= end:
                    return
                consumer.assign([tp])
                consumer.seek(tp, start)
                intake = Intake(consumer._fetcher)
                end = min(end, start + most)
                while intake.position(tp) < end:
                    for batch in await _next(consumer, intake, tp):
                        if look(batch, _rows(batch, key)):
                            return
            finally:
                await consumer.stop()


async def _start(
    consumer: AIOKafkaConsumer, tp: TopicPartition, since: int | None, end: int
) -> int | None:
    """Where to begin; None if nothing is as late as that."""
    if since is None:
        begin: int = (await consumer.beginning_offsets([tp]))[tp]
        return max(begin, end - LATEST_RECORDS)
    found = (await consumer.offsets_for_times({tp: max(since, 0)}))[tp]
    return None if found is None else int(found.offset)


async def _next(consumer: Any, intake: Intake, tp: TopicPartition) -> list[RecordBatch]:
    with consumer._fetcher._subscriptions.fetch_context():
        chunks = await intake.chunks({tp}, _WAIT_SECONDS, lambda _: None)
    return list(chunks.values())


def _rows(batch: RecordBatch, key: bytes) -> list[int]:
    wanted = key_hashes(ByteColumn.of([key]))[0]
    rows: list[int] = np.flatnonzero(key_hashes(batch.keys) == wanted).tolist()
    return [i for i in rows if batch.keys[i] == key]
