"""The composition root: the Faust app, its topics, tables and agents, and nothing else.

    faust -A dafu.app worker -l info

One transaction's path: `UsersAgent.process` calls `UserStage.run`, which forwards it to
`MerchantsAgent.process` and `MerchantStage.run`, which decides.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

import faust
import mode.loop

from dafu.agents.assembly import add_agents
from dafu.agents.watchdog import (
    CHECK_SECONDS,
    LoopWatch,
    Situation,
    StallError,
    Watchdog,
    stop_within,
)
from dafu.errors import DafuError
from dafu.loading import load_stages, source_payments
from dafu.logs import logging_config
from dafu.memory import keep_freed_memory
from dafu.settings import Settings, load_settings
from dafu.streaming.credentials import broker_credentials
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable
from dafu.topics import LARGEST_BATCH, changelog_config, stream_config
from dafu.warmup import warm_up
from dafu.web.auth.auth import Auth
from dafu.web.auth.start import prepare
from dafu.web.server import register_web
from dafu.web.tls import server_context

logger = logging.getLogger(__name__)


class App(faust.App):  # type: ignore[misc]
    """A Faust app with the settings of dafu, and a worker that ends when it can not go on."""

    auth: Auth
    """Who may call its web server; `register_web` sets it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._watchdog: Watchdog | None = None
        self._stopping = False
        self.fetch_max_wait_ms = settings.fetch_max_wait_ms
        web, topics = settings.web, settings.topics
        super().__init__(
            settings.app_id,
            broker=[f"dafu://{server}" for server in settings.bootstrap_servers],
            broker_credentials=broker_credentials(settings.security),
            broker_commit_interval=settings.commit_interval_s,
            broker_max_poll_records=settings.batch_records,
            broker_request_timeout=40.0,
            broker_session_timeout=10.0,
            broker_heartbeat_interval=3.0,
            broker_rebalance_timeout=10.0,
            consumer_auto_offset_reset="earliest",
            processing_guarantee="at_least_once",
            producer_acks=-1,
            producer_linger=0.0,
            producer_max_batch_size=LARGEST_BATCH,
            producer_request_timeout=30.0,
            # Set here and not at the tables: a URL without a host counts as none given there.
            store=f"dafu-{settings.store}://",
            table_standby_replicas=0,
            agent_supervisor="mode:CrashingSupervisor",
            stream_buffer_maxsize=4096,  # the transport bounds what is in flight
            stream_wait_empty=True,
            stream_recovery_delay=0.0,
            topic_disable_leader=True,
            topic_partitions=topics.partitions,
            topic_replication_factor=topics.replication_factor,
            datadir=str(settings.data_dir),
            logging_config=logging_config(settings.log),
            web_bind=web.host,
            web_host=web.host,
            web_port=web.port,
            web_ssl_context=server_context(web),
            canonical_url=web.url,
            web_tables_enabled=False,
            web_router_enabled=False,
            web_stats_enabled=False,
            web_graph_enabled=False,
        )

    def watch(self, look: Callable[[], Situation]) -> None:
        """Have the worker end itself once `look` has seen no progress for too long."""
        self._watchdog = Watchdog(self.settings.health.watchdog_s, look)

    async def on_start(self) -> None:
        """Start with what ends the worker if it can not go on."""
        await super().on_start()
        if self.in_worker:
            main = asyncio.get_running_loop()
            LoopWatch(self.settings.health.watchdog_s, lambda: self._loops(main)).start()
            if self._watchdog is not None:
                # No Faust timer: those do not run before the first recovery is complete.
                self.add_future(self._keep_watch(self._watchdog))

    async def stop(self) -> None:
        """Stop, and see to it that this comes to an end."""
        if self.in_worker and not self._stopping:
            self._stopping = True
            stop_within(self.settings.health.stop_deadline_s)
        await super().stop()

    async def _keep_watch(self, watchdog: Watchdog) -> None:
        while not self.should_stop:
            await self.sleep(CHECK_SECONDS)
            try:
                watchdog.check()
            except StallError as exc:
                logger.critical("%s", exc)
                await self.crash(exc)
                return

    def _loops(self, main: asyncio.AbstractEventLoop) -> dict[str, asyncio.AbstractEventLoop]:
        loops = {"main": main}
        if self._consumer is not None:
            loops["consumer's"] = self._consumer._thread.thread_loop
        return loops

    def batch_sender(self) -> BatchSender:
        """The worker's sender; the producer must have started."""
        sender: BatchSender = self.producer.batches
        return sender

    def bytes_topic(self, name: str, *, own: bool = True) -> Any:
        """A topic of raw records that this app, if it is its own, creates if it is missing."""
        topics = self.settings.topics
        return self.topic(
            name,
            key_serializer="raw",
            value_serializer="raw",
            partitions=topics.partitions_of(name),
            replicas=topics.replication_factor,
            internal=own,
            config=stream_config(topics, name),
        )

    def packed_table(
        self, name: str, partitions: int | None = None, *, kept: bool = True
    ) -> PackedTable:
        """A changelogged table of packed records in the configured store.

        With as many partitions as the settings say, unless others are given. One that is not kept
        here is known by its changelog, of which this worker is assigned nothing.
        """
        table = PackedTable(
            self,
            name=name,
            beacon=self.tables.beacon,
            key_type=bytes,
            value_type=bytes,
            partitions=partitions or self.settings.topics.partitions,
            extra_topic_configs=changelog_config(self.settings.topics),
            # An event is a whole fetch. At 1 Faust leaves changelogs flowing after the recovery.
            recovery_buffer_size=16,
        )
        if kept:
            self.tables.add(table)
        return table


keep_freed_memory()
mode.loop.use("uvloop")
try:
    settings = load_settings()
    user_stage, merchant_stage = load_stages(settings)
    payments = source_payments(settings)
    app = App(settings)
except DafuError as exc:
    # Faust imports this module before it can report anything itself: no traceback, exit status 1.
    raise SystemExit(f"dafu can not start: {exc}") from exc

agents = add_agents(app, user_stage, merchant_stage, payments)
reporter = register_web(app, agents, settings)
app.watch(reporter.situation)


@app.on_worker_init.connect  # type: ignore[untyped-decorator]
def _prepare(_app: Any, **_: Any) -> None:
    try:
        prepare(settings, app.auth)
    except DafuError as exc:
        raise SystemExit(f"dafu can not start: {exc}") from exc
    warm_up(merchant_stage.model, user_stage.sequence)
    # What lives as long as the worker need not be looked at by every collection, and most objects
    # of a batch die with it: collect seldom, and only what is young.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
