"""A Faust transport that delivers record batches instead of single records.

Registered with Faust as the scheme `dafu://`. Consumer group, rebalancing, recovery and commits
remain Faust's; what differs is the grain. One Faust message carries up to `batch_records`
records of one partition as columns (a `RecordBatch`) and the offset of the last of them. Faust's
own path costs some 80 microseconds a message, nothing for a thousand records and too much for one.

Hooks inside faust-streaming 0.15.3 and aiokafka 0.14.0 that this relies on; both versions are
pinned, and `docs/architecture.md` says how each is used:

* `Consumer._drain_messages`, `getmany`, `ack`, `_new_offset`, `_acked`,
  `_acked_index`, `_committed_offset`, `_read_offset`, `perform_seek`, `seek_wait`, `stop_flow`,
  `earliest_offsets`, `_is_changelog_tp`, `wait_empty`, `on_partitions_assigned` and `_revoked`,
  `_new_consumer_thread`
* that a recovery seeks before it lets records flow (`Recovery._seek_offsets` for changelogs,
  `on_recovery_completed` for the others), and empties the agents' queues in between
* `AIOKafkaConsumerThread.position`, `_create_worker_consumer`, and `_highwaters`, whose answer ends
  a recovery
* aiokafka's fetcher: `_fetch_max_wait_ms`, `_fetch_task`, and what `dafu.streaming.fetching` takes
  of it
* aiokafka's group coordinator, `_do_heartbeat`: whether this worker still belongs to its group
* `Producer._producer`, the aiokafka producer, for its settings and its client
  (`dafu.streaming.sender`, `dafu.streaming.produce`, `dafu.streaming.metadata`), and
  `Transport._create_topic`
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final

import aiokafka
from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

from dafu.streaming.fetching import Intake, keep_record_sets
from dafu.streaming.metadata import exists
from dafu.streaming.offsets import probe_end_offsets
from dafu.streaming.pulse import Pulse
from dafu.streaming.records import RecordBatch
from dafu.streaming.sender import BatchSender, SendError
from dafu.streaming.stretch import read_stretch
from dafu.streaming.waiting import fetch_wait_ms

logger = logging.getLogger(__name__)

DEFAULT_BATCH_RECORDS: Final = 1000

LOOK_SECONDS: Final = 0.2
"""How long to wait for news before looking again."""

CANCEL_AGAIN_SECONDS: Final = 0.1

NO_PARTITIONS_WAIT: Final = 0.1
"""Seconds between looks while no partition is assigned and active."""


async def insist_on_end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended.

    aiokafka's fetcher loses a cancellation that comes while it lets go of an assignment. Whoever
    stops the consumer then, as a worker that is to stop during a rebalance, would wait for good.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=CANCEL_AGAIN_SECONDS)


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread, tuned for latency and for batches."""

    _intake: Intake
    _beside: Sequence[asyncio.Task[None]] = ()

    async def on_start(self) -> None:
        """Start the consumer."""
        keep_record_sets()
        await super().on_start()
        consumer = self._ensure_consumer()
        # Faust fixes 1500 ms.
        consumer._fetcher._fetch_max_wait_ms = await fetch_wait_ms(
            getattr(self.consumer.app, "fetch_max_wait_ms", None), self.consumer.client_options()
        )
        self._intake = Intake(consumer._fetcher)
        loop, news = self.consumer.loop, self.consumer.news
        self._beside = [
            asyncio.create_task(self._beat(consumer._coordinator)),
            asyncio.create_task(self._intake.announce(lambda: loop.call_soon_threadsafe(news.set))),
        ]

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        """A consumer that reads what transactional producers have committed, and no more.

        Faust asks for that only if it writes in transactions itself. It also gives an app without
        tables an assignor that other workers of the group do not have, who keep some.
        """
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        self._assignor = self.consumer.app.assignor
        consumer._partition_assignment_strategy = (self._assignor,)
        return consumer

    async def on_thread_stop(self) -> None:
        """Stop the consumer."""
        for task in self._beside:
            task.cancel()
        # One that could not be started has no fetcher.
        if self._consumer is not None and self._consumer._fetcher is not None:
            await insist_on_end(self._consumer._fetcher._fetch_task)
        await super().on_thread_stop()

    async def _beat(self, coordinator: Any) -> None:
        """Keep the worker's pulse, here because this thread keeps its membership of the group."""
        pulse = self.consumer.pulse
        heartbeat = coordinator._do_heartbeat

        async def confirming_heartbeat() -> bool:
            success: bool = await heartbeat()
            if success:
                pulse.confirm()
            return success

        coordinator._do_heartbeat = confirming_heartbeat
        while True:
            pulse.beat()
            await asyncio.sleep(pulse.limit / 4)

    def hand_out(self, partitions: Collection[TP]) -> dict[TP, RecordBatch]:
        """A chunk of every partition that records have been fetched of; for the main thread.

        They have `batch_records` at most. A changelog's are as large as the fetch, since nothing
        but recovery reads them.
        """
        if not self.consumer.flow_active:
            return {}
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        changelogs = self.consumer.app.tables.changelog_topics
        most = consumer._max_poll_records

        with fetcher._subscriptions.fetch_context():  # somebody reads, says this to the group
            return self._intake.hand_out(
                partitions, lambda tp: None if tp.topic in changelogs else most
            )

    async def position(self, tp: TP) -> int:
        """Offset behind what has been handed out: of what the fetcher brought, some may wait."""
        position: int = await self.call_thread(self._position, tp)
        return position

    async def _position(self, tp: TP) -> int:
        await self._ensure_consumer().position(tp)  # waits until there is one
        return self._intake.position(tp)

    async def reported_ends(self, partitions: list[TP]) -> dict[TP, int]:
        """Ends of partitions as ListOffsets has them: cheap, to watch the lag by.

        The embedded broker's answer may be too low by the records of one batch.
        """
        ends: dict[TP, int] = await self.call_thread(super()._highwaters, partitions)
        return ends

    async def _highwaters(self, partitions: list[TP]) -> dict[TP, int]:
        """Ends of partitions, by which recovery knows when it is complete."""
        known = {aiokafka.TopicPartition(tp.topic, tp.partition): tp for tp in partitions}
        ends = await probe_end_offsets(known, **self.consumer.client_options())
        return {known[tp]: end for tp, end in ends.items()}


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Delivers one message a fetched chunk and commits by whole chunks, in order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Last offsets of delivered chunks that are not committed yet, oldest first.
        self._delivered: defaultdict[TP, deque[int]] = defaultdict(deque)
        # Records delivered and not acknowledged, by partition: a batch in work and one ready, since
        # more would only take memory.
        self._in_flight: Counter[TP] = Counter()
        # Something has come, or there is room for it.
        self.news = asyncio.Event()
        self._most_in_flight = 2 * (self.app.conf.broker_max_poll_records or DEFAULT_BATCH_RECORDS)
        # Held by whoever moves positions: what is handed out is so before a seek or after it.
        self._moving = asyncio.Lock()
        self._seeks = 0
        self.pulse = Pulse(self.app.conf.broker_session_timeout)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def reported_ends(self, *partitions: TP) -> dict[TP, int]:
        """Ends of partitions, see `ConsumerThread.reported_ends`."""
        ends: dict[TP, int] = await self._thread.reported_ends(list(partitions))
        return ends

    def client_options(self) -> dict[str, Any]:
        """How clients of their own reach the broker."""
        conf = self.app.conf
        return {
            "bootstrap_servers": driver.server_list(
                self.transport.url, self.transport.default_port
            ),
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        }

    async def read_stretch(self, tp: TP, first: int, end: int) -> RecordBatch:
        """Records of any partition, see `dafu.streaming.stretch`."""
        where = aiokafka.TopicPartition(tp.topic, tp.partition)
        return await read_stretch(where, first, end, **self.client_options())

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield one message for every partition that records have been fetched of.

        What a rebalance or a seek overtakes is dropped: there is a seek at the end of every
        rebalance, and what was read before a seek is read again or was not wanted.
        """
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        self.news.clear()
        active = self._get_active_partitions()
        wanted = {tp for tp in active if self._in_flight[tp] < self._most_in_flight}
        # At the end of a recovery partitions go on one turn of the loop before the flow is closed.
        await asyncio.sleep(0)
        # Waiters get the lock in their turn: a seek that is counted from here on comes after this.
        seeks, generation = self._seeks, self.app.consumer_generation_id
        async with self._moving:
            fetched = self._thread.hand_out(wanted)
        if not fetched:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout if active else NO_PARTITIONS_WAIT):
                    await self.news.wait()
        if self.should_stop or self.app.should_stop:
            return
        for tp, records in fetched.items():
            if self._overtaken(seeks, generation):
                return
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            yield tp, self._to_batch_message(tp, records)

    def ack(self, message: Message) -> bool:
        """Note that a chunk is done with; its partition may be fetched again."""
        first = not message.acked
        # False as well for a chunk that was committed already, which makes room like any other.
        counted: bool = super().ack(message)
        if first and self._in_flight[message.tp] > 0:
            self._in_flight[message.tp] -= len(message.value)
            self.news.set()
        return counted

    def _to_batch_message(self, tp: TP, records: RecordBatch) -> ConsumerMessage:
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            int(records.offsets[-1]),
            int(records.timestamps[-1]) / 1000.0,
            0,
            [],
            None,
            records,
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand fetched chunks to the conductor until the consumer or its fetcher stops."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                await asyncio.sleep(0)
                chunks = [chunk async for chunk in self.getmany(timeout=LOOK_SECONDS)]
                if chunks:
                    # A rebalance suspends the flow, and must not wait for a conductor that waits
                    # for it.
                    await self.wait_first(
                        self._deliver_all(chunks, self._seeks, self.app.consumer_generation_id),
                        self.suspend_flow.wait(),
                    )
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    async def _deliver_all(
        self, chunks: Sequence[tuple[TP, ConsumerMessage]], seeks: int, generation: int
    ) -> None:
        """Hand chunks to the conductor until a rebalance or a seek overtakes them."""
        for tp, message in chunks:
            if self._overtaken(seeks, generation):
                return
            await self._deliver(tp, message)

    def _overtaken(self, seeks: int, generation: int) -> bool:
        """Whether a rebalance or a seek has begun since there were so many, in this generation."""
        if not self.flow_active or self._seeks != seeks:
            return True
        return bool(self.app.consumer_generation_id != generation)

    async def _deliver(self, tp: TP, message: ConsumerMessage) -> None:
        read = self._read_offset[tp]
        if read is not None and message.offset < read:
            return  # read before a seek, delivered before
        acked = self.app.topics.acks_enabled_for(message.topic)
        if acked:
            self._delivered[tp].append(message.offset)
            self._in_flight[tp] += len(message.value)
        seeks = self._seeks
        await self.callback(message)
        if self._seeks == seeks:
            self._read_offset[tp] = message.offset

    def _new_offset(self, tp: TP) -> int | None:
        """Offset to commit: one past the last chunk before the first that is not acknowledged."""
        delivered = self._delivered[tp]
        acked = self._acked_index[tp]
        committed = self._committed_offset[tp] or 0
        offset = None
        # What is below the committed offset was read again after a seek that overtook a commit;
        # Faust does not record its acknowledgement, and what follows must not wait for it.
        while delivered and (delivered[0] in acked or delivered[0] < committed):
            offset = delivered.popleft()
            acked.discard(offset)
        if offset is None:
            return None
        self._acked[tp] = [o for o in self._acked[tp] if o > offset]
        return offset + 1

    async def perform_seek(self) -> None:
        """Go back to the committed offsets; what was delivered and not committed comes again.

        A partition without a committed offset goes back to its beginning. Faust would leave it
        where the last fetch left it, and what a rebalance made that fetch drop would be lost.

        It stops the flow, and who calls it lets records flow again. Faust's recovery does, and
        empties the agents' queues right before. A chunk that came earlier would be lost in a
        queue: never decided, and the partition's committed offset would stand in front of it.
        """
        self.stop_flow()
        async with self._seeking():
            self._delivered.clear()
            self._in_flight.clear()
            self._acked.clear()
            self._acked_index.clear()
            await super().perform_seek()
            uncommitted = {
                tp
                for tp in self.assignment()
                if not self._read_offset[tp] and not self._is_changelog_tp(tp)
            }
            if uncommitted:
                earliest = await self.earliest_offsets(*uncommitted)
                starts = {TP(tp.topic, tp.partition): at for tp, at in earliest.items()}
                await super().seek_wait(starts)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Go to these offsets; what was handed out before and not delivered is dropped."""
        async with self._seeking():
            await super().seek_wait(partitions)

    @contextlib.asynccontextmanager
    async def _seeking(self) -> AsyncIterator[None]:
        self._seeks += 1
        async with self._moving:
            yield

    def last_delivered(self, tp: TP) -> int:
        """Offset of the last record that is in work or not committed yet, -1 if there is none."""
        delivered = self._delivered.get(tp)
        return delivered[-1] if delivered else -1

    async def wait_empty(self) -> None:
        """Wait for the chunks in work and commit them, unless the worker has crashed.

        The consumer's thread may be gone then; a call to it would never return, and the worker
        would neither work nor exit. What is not committed is read again after the restart.
        """
        if not (self.crashed or self.app.crashed):
            await super().wait_empty()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Go on with these partitions, and read none of them before the recovery says so."""
        self.pulse.confirm()
        self.stop_flow()
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget the revoked partitions' chunks: their next owner reads them again."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._delivered.pop(tp, None)
            self._in_flight.pop(tp, None)


class Producer(driver.Producer):  # type: ignore[misc]
    """Faust's producer, and what sends whole batches beside it, over the same connections."""

    _batches: BatchSender | None = None

    @property
    def batches(self) -> BatchSender:
        """Sends whole batches and waits for the broker's acknowledgement."""
        if self._batches is None:
            self._batches = BatchSender(self._ensure_producer(), self._closed)
        return self._batches

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: float = 20.0,
        retention: float | None = None,
        **options: Any,
    ) -> None:
        """Create a topic unless there is one, and ask about no other.

        Faust asks about all topics of the cluster, each time.

        Parameters
        ----------
        topic, partitions, replication, config
            See Faust.
        timeout, retention : float
            Seconds.
        **options
            `compacting`, `deleting`, `ensure_created`.

        Raises
        ------
        KafkaError
            If the topic may not be described or created.
        """
        if not self.app.conf.topic_allow_declare:
            logger.warning("topics are not to be created, nor is %s", topic)
            return
        client = self._ensure_producer().client
        if not await exists(client, topic):
            await self.transport._create_topic(
                self,
                client,
                topic,
                partitions,
                replication,
                config=config,
                timeout=int(timeout * 1000),
                retention=None if retention is None else int(retention * 1000),
                **options,
            )

    def _closed(self, error: SendError) -> None:
        """End a worker that can not write to a partition any longer, whoever in it wanted to."""
        if not self.app.should_stop:
            self.add_future(self.app.crash(error))


class Transport(driver.Transport):  # type: ignore[misc]
    """Kafka by record batches; `broker='dafu://host:port'`."""

    Consumer = Consumer
    Producer = Producer
