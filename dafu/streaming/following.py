"""Topics followed from near their ends, in the caller's event loop and without a consumer group.

For whoever wants to know what is being written, now and a little while ago, and who remembers
nothing once the process ends. It hands out columns (`RecordBatch`) and knows nothing of what they
hold. What was handed out once comes a second time only after the log itself was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from dafu.errors import DafuError
from dafu.streaming.fetching import PAUSE_SECONDS, Intake, keep_record_sets
from dafu.streaming.offsets import partitions_of, probe_end_offsets
from dafu.streaming.records import RecordBatch
from dafu.streaming.waiting import fetch_wait_ms

__all__ = ["Follower"]

logger = logging.getLogger(__name__)

TURN_SECONDS: Final = 0.2
"""How long one look waits for records; a stop waits for it no longer than that."""

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 5.0
"""Seconds before the next attempt after a failure, doubled each time."""

IDLE_WAIT_MS: Final = 100
"""How long a broker may keep a fetch that nobody waits for, at least."""

IDLE_PAUSE_SECONDS: Final = 0.1
"""Between two of those."""


class Follower:
    """Follows topics.

    Parameters
    ----------
    options : mapping
        How aiokafka's clients reach the broker.
    tails : mapping of str to int
        The topics, and with how many of a partition's last records to begin. They need not exist
        yet.
    begin : callable
        Takes what the tails held, in lists of one partition after the other, once all have been
        read.
    take : callable
        Takes what was written since, as it comes.
    wait_ms : int or None
        How long a broker may keep a fetch, see `fetch_wait_ms`.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        tails: Mapping[str, int],
        begin: Callable[[Sequence[RecordBatch]], None],
        take: Callable[[RecordBatch], None],
        *,
        wait_ms: int | None,
    ) -> None:
        self._options = dict(options)
        self._tails = dict(tails)
        self._begin = begin
        self._take = take
        self._configured_ms = wait_ms
        self._wait_ms = IDLE_WAIT_MS
        self._hurried = False
        self._positions: dict[TopicPartition, int] = {}
        self._fetcher: Any = None
        self._intake: Intake | None = None
        self._started = False

    def hurry(self, hurried: bool) -> None:
        """Whether somebody waits for what comes next; if nobody does, brokers are asked seldom."""
        self._hurried = hurried
        if self._intake is not None:
            idle_ms = max(IDLE_WAIT_MS, self._wait_ms)
            self._fetcher._fetch_max_wait_ms = self._wait_ms if hurried else idle_ms
            self._intake.pause = PAUSE_SECONDS if hurried else IDLE_PAUSE_SECONDS

    async def run(self) -> None:
        """Follow until cancelled; what goes wrong is logged, and tried again."""
        pause = FIRST_PAUSE
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._follow()
            except OffsetOutOfRangeError:
                # Retention was faster, or the log is another one: begin again near its end.
                self._positions.clear()
            except (KafkaError, OSError, DafuError) as exc:
                topics = ", ".join(self._tails)
                logger.warning("cannot follow %s, trying again: %s", topics, exc)
            if asyncio.get_running_loop().time() - began > 10 * LONGEST_PAUSE:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _follow(self) -> None:
        keep_record_sets()
        self._wait_ms = await fetch_wait_ms(self._configured_ms, self._options)
        consumer = AIOKafkaConsumer(
            **self._options,
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=self._wait_ms,
            max_partition_fetch_bytes=4 << 20,
        )
        try:
            await consumer.start()
            partitions = await self._partitions(consumer)
            ends = await probe_end_offsets(partitions, **self._options)
            begins = await consumer.beginning_offsets(partitions)
            consumer.assign(partitions)
            for tp in partitions:
                tail = max(begins[tp], ends[tp] - self._tails[tp.topic])
                consumer.seek(tp, self._positions.setdefault(tp, tail))
            self._fetcher = consumer._fetcher
            self._intake = intake = Intake(self._fetcher)
            if not self._started:
                await self._read_tails(intake, ends)
            self.hurry(self._hurried)
            while True:
                for batch in await self._next(intake, set(partitions)):
                    self._take(batch)
        finally:
            self._fetcher = self._intake = None
            await consumer.stop()

    async def _partitions(self, consumer: AIOKafkaConsumer) -> list[TopicPartition]:
        while not set(self._tails) <= await consumer.topics():
            await asyncio.sleep(TURN_SECONDS)  # whoever writes them will create them
        return [
            TopicPartition(topic, number)
            for topic in self._tails
            for number in await partitions_of(topic, self._options)
        ]

    async def _read_tails(self, intake: Intake, ends: Mapping[TopicPartition, int]) -> None:
        found: list[RecordBatch] = []
        behind = {tp for tp, end in ends.items() if self._positions[tp] < end}
        while behind:
            found += await self._next(intake, behind)
            behind = {tp for tp in behind if intake.position(tp) < ends[tp]}
        self._started = True
        self._begin(found)

    async def _next(self, intake: Intake, partitions: set[TopicPartition]) -> list[RecordBatch]:
        with self._fetcher._subscriptions.fetch_context():
            chunks = await intake.chunks(partitions, TURN_SECONDS, lambda _: None)
        for tp, batch in chunks.items():
            self._positions[tp] = int(batch.offsets[-1]) + 1
        return list(chunks.values())
