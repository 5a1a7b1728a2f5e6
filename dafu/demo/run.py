"""One demonstration from start to end: broker, worker, traffic, and what becomes of it.

Publishes a history as fast as it goes, then paced live traffic, and follows the decisions and the
dead letters as any consumer would. What is shown is up to a `Watcher`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from dafu.agents.shell import LATENCY
from dafu.broker import EmbeddedBroker, free_port
from dafu.cli.kafka import ensure_topic, opened_producer, read_topic
from dafu.columns import ByteColumn
from dafu.demo.deployment import Deployment
from dafu.demo.rings import Rings
from dafu.demo.tally import Tally
from dafu.demo.traffic import USERS_TO_A_GROUP, Piece, Traffic
from dafu.demo.worker import ADMIN_KEY, Worker, worker_environment
from dafu.errors import DafuError
from dafu.settings import Settings, Topics, load_settings
from dafu.streaming.dead_letters import read_headers
from dafu.streaming.sender import BatchSender

__all__ = ["Demo", "DemoError", "Options", "Phase", "Watcher"]

_TICK_S: Final = 0.02
_CHECK_S: Final = 0.2
_MAX_CHUNK: Final = 1000
_IN_FLIGHT: Final = 8  # chunks without acknowledgement
_MAX_OPEN: Final = 4000  # undecided transactions at the rate `max`
_START_SECONDS: Final = 240.0
_STALL_SECONDS: Final = 30.0
_STATUS_WAIT_MS: Final = 250  # dead letters are rare: no need to ask often


class DemoError(DafuError):
    """The demonstration did not show what it should."""


class Options(Struct, frozen=True):
    """What to do: seconds of live traffic (None: until stopped), its rate, who takes part, and
    where the picture of a ring goes."""

    seconds: float | None = None
    rate: float = 500.0
    users: int = 2000
    merchants: int = 300
    seed: int = 1
    keep: bool = False
    picture: Path = Path("out/demo-ring.svg")


class Phase(Enum):
    """How far it is."""

    STARTING = "starting"
    HISTORY = "history"
    LIVE = "live"
    DRAINING = "draining"
    STOPPING = "stopping"


class Watcher(Protocol):
    """Shows a demonstration to somebody."""

    def phase(self, demo: Demo) -> None:
        """A phase begins: `demo.phase`."""

    def deployed(self, deployment: Deployment) -> None:
        """The second model has another standing: `deployment.standing`."""

    def update(self, demo: Demo) -> None:
        """Time has passed; called a few times a second."""


class Demo:
    """A demonstration.

    Parameters
    ----------
    options : Options
    watcher : Watcher

    Attributes
    ----------
    tally : Tally
    phase : Phase
    directory : Path
        Temporary: the worker's log and data. Kept after a failure, and if asked to.
    bootstrap, web : str
        Addresses of the broker and of the worker's web server.
    key : str
        What one signs in to the console with.
    first_event, last_event : str
        Event time of the live traffic so far.
    live_seconds : float
        For how long live traffic has been published.
    deployment : Deployment or None
        Of a second model, from the live traffic on.
    rings : Rings
        What the worker told of rings.
    picture : Path or None
        Where the picture of a ring was written, in the end.
    complete : bool
        Whether it came to an end after all that was published had been decided.
    """

    def __init__(self, options: Options, watcher: Watcher) -> None:
        self.options = options
        self.tally = Tally()
        self.phase = Phase.STARTING
        self.directory = Path(tempfile.mkdtemp(prefix="dafu-demo-"))
        self.log_file = self.directory / "worker.log"
        self.bootstrap = ""
        self.web = ""
        self.key = ""
        self.first_event = ""
        self.last_event = ""
        self.live_seconds = 0.0
        self.complete = False
        self.rings = Rings()
        self.picture: Path | None = None
        self._watcher = watcher
        self._stop = asyncio.Event()
        self.deployment: Deployment | None = None
        self._broker: EmbeddedBroker | None = None
        self._worker: Worker | None = None
        self._followers: list[asyncio.Task[None]] = []
        self._checked = 0.0
        self._progress = (0, 0.0)

    async def run(self) -> None:
        """Run it to its end; SIGINT and SIGTERM bring the end forward.

        Raises
        ------
        DemoError
            If the worker died, stood still, left a transaction undecided or made dead letters. The
            message has the end of the worker's log.
        """
        failed = True
        try:
            with self._signals():
                await self._run()
            failed = False
        except DafuError as exc:
            if self._worker is None:
                failed = False  # nothing to look at
                raise
            raise DemoError(
                f"{exc}\n\nThe worker's log, {self.log_file}, ends:\n{self._worker.log_tail()}"
            ) from exc
        finally:
            if not failed and not self.options.keep:
                shutil.rmtree(self.directory, ignore_errors=True)

    async def _run(self) -> None:
        async with EmbeddedBroker() as broker:
            self._broker, self.bootstrap = broker, broker.bootstrap
            port = free_port()
            environment = worker_environment(os.environ, broker.bootstrap, self.directory, port)
            settings = load_settings(environment)
            self.web = f"http://{settings.web.host}:{port}"
            self.key = environment[ADMIN_KEY]
            topics = settings.topics
            for topic in (
                topics.transactions,
                topics.decisions,
                topics.dead_letters,
                topics.control,
                topics.fraud_rings,
            ):
                await ensure_topic(settings, topic)
            self._worker = Worker(environment, self.log_file).start()
            try:
                self._followers = [
                    asyncio.create_task(self._follow_decisions(settings)),
                    asyncio.create_task(self._follow_dead_letters(settings)),
                    asyncio.create_task(self._follow_rings(settings)),
                ]
                self._enter(Phase.STARTING)
                async with opened_producer(settings) as producer:
                    await self._publish(BatchSender(producer), topics)
                self._enter(Phase.STOPPING)
            finally:
                for task in self._followers:
                    task.cancel()
                await asyncio.gather(*self._followers, return_exceptions=True)
                await asyncio.to_thread(self._worker.stop)
        self._verdict()
        self._draw()

    async def _publish(self, sender: BatchSender, topics: Topics) -> None:
        options, topic = self.options, topics.transactions
        groups = options.users // USERS_TO_A_GROUP
        traffic = Traffic(
            options.users, options.merchants, options.seed, rings=groups, look_alikes=groups
        )
        if not await self._history(sender, topic, traffic):
            return
        self.deployment = Deployment(sender, topics.control, options.seconds)
        self._enter(Phase.LIVE)
        await self._live(_Poster(self.tally, sender, topic), traffic)
        self._enter(Phase.DRAINING)
        self._stop.clear()  # a second Ctrl-C does not wait for the rest
        await self._settled()
        self.complete = self.tally.open == 0

    async def _history(self, sender: BatchSender, topic: str, traffic: Traffic) -> bool:
        """Give the users a past; false if asked to stop before it was complete."""
        poster = _Poster(self.tally, sender, topic)
        pieces = traffic.history()
        self._progress = (0, time.perf_counter())
        while piece := await asyncio.to_thread(next, pieces, None):
            for start in range(0, len(piece.ids), _MAX_CHUNK):
                poster.post(piece.cut(start, start + _MAX_CHUNK), live=False)
                await poster.settle(_IN_FLIGHT)
            if await self._tick():
                return False
        await poster.settle(0)
        while self.tally.open > 0:
            if await self._tick(_TICK_S):
                return False
            if self.phase is Phase.STARTING and self.tally.decided:
                self._enter(Phase.HISTORY)
            self._refuse_stall()
        return True

    async def _live(self, poster: _Poster, traffic: Traffic) -> None:
        options = self.options
        size = _MAX_CHUNK
        if options.rate < float("inf"):
            size = max(1, min(_MAX_CHUNK, round(options.rate * _TICK_S)))
        pieces = traffic.live()
        ahead = asyncio.create_task(asyncio.to_thread(next, pieces, None))
        begin, sent = time.perf_counter(), 0
        self._progress = (self.tally.decided, begin)
        try:
            while piece := await ahead:
                ahead = asyncio.create_task(asyncio.to_thread(next, pieces, None))
                self.first_event = self.first_event or piece.times[0]
                for start in range(0, len(piece.ids), size):
                    if self.deployment is not None and await self.deployment.step(
                        time.perf_counter() - begin
                    ):
                        self._watcher.deployed(self.deployment)
                    due = begin + sent / options.rate
                    while True:
                        now = time.perf_counter()
                        self.live_seconds = now - begin
                        if options.seconds is not None and self.live_seconds >= options.seconds:
                            return
                        full = self.tally.open >= _MAX_OPEN and options.rate == float("inf")
                        if await self._tick(_TICK_S / 4 if full else max(due - now, 0.0)):
                            return
                        if not full and time.perf_counter() >= due:
                            break
                        self._refuse_stall()
                    chunk = piece.cut(start, start + size)
                    poster.post(chunk, live=True)
                    sent += len(chunk.ids)
                    self.last_event = chunk.times[-1]
                    await poster.settle(_IN_FLIGHT)
        finally:
            self.live_seconds = time.perf_counter() - begin
            await poster.settle(0)
            await asyncio.gather(ahead, return_exceptions=True)

    async def _settled(self) -> None:
        """Wait until everything that was published has been decided."""
        self._progress = (self.tally.decided, time.perf_counter())
        while self.tally.open > 0:
            if await self._tick(_TICK_S):
                return
            self._refuse_stall()

    async def _tick(self, seconds: float = 0.0) -> bool:
        """Let time pass and look after everything; true when asked to stop."""
        with suppress(TimeoutError):
            if seconds > 0:
                await asyncio.wait_for(self._stop.wait(), min(seconds, _CHECK_S))
        now = time.perf_counter()
        if now - self._checked >= _CHECK_S:
            self._checked = now
            self._check()
            self._watcher.update(self)
        return self._stop.is_set()

    def _check(self) -> None:
        if self._worker is not None:
            self._worker.check()
        if self._broker is not None and not self._broker.running:
            raise DemoError(f"the broker ended by itself; it printed:\n{self._broker.output}")
        for task in self._followers:
            if task.done():
                task.result()
                raise DemoError("the consumer of the demonstration ended by itself")

    def _refuse_stall(self) -> None:
        """Raise when nothing has been decided for long.

        Raises
        ------
        DemoError
        """
        tally, now = self.tally, time.perf_counter()
        decided, since = self._progress
        if tally.decided != decided or tally.open == 0:
            self._progress = (tally.decided, now)
            return
        limit = _STALL_SECONDS if tally.decided else _START_SECONDS
        if now - since > limit:
            raise DemoError(
                f"no decision for {limit:.0f} s, with {tally.open:,} of {tally.published:,} "
                "transactions undecided"
            )

    def _verdict(self) -> None:
        tally = self.tally
        if tally.dead_letters:
            raise DemoError(
                f"{len(tally.dead_letters):,} dead letters, the first: {tally.dead_letters[0]}"
            )
        if self.complete and tally.decided != tally.published:
            raise DemoError(
                f"{tally.published:,} transactions were published and {tally.decided:,} decided"
            )

    async def _follow_decisions(self, settings: Settings) -> None:
        topic = settings.topics.decisions
        async with aclosing(read_topic(settings, topic, follow=True)) as batches:
            async for records in batches:
                now = time.perf_counter()
                for record in records:
                    self.tally.decide(record.value, _latency(record.headers), now)

    async def _follow_dead_letters(self, settings: Settings) -> None:
        patient = msgspec.structs.replace(settings, fetch_max_wait_ms=_STATUS_WAIT_MS)
        topic = settings.topics.dead_letters
        async with aclosing(read_topic(patient, topic, follow=True)) as batches:
            async for records in batches:
                for record in records:
                    origin = read_headers(record.headers)
                    why = "" if origin is None else f"{origin.reason}: {origin.detail}: "
                    self.tally.dead_letters.append(f"{why}{record.value!r}")

    async def _follow_rings(self, settings: Settings) -> None:
        patient = msgspec.structs.replace(settings, fetch_max_wait_ms=_STATUS_WAIT_MS)
        topic = settings.topics.fraud_rings
        async with aclosing(read_topic(patient, topic, follow=True)) as batches:
            async for records in batches:
                for record in records:
                    self.rings.add(record.value)

    def _draw(self) -> None:
        """Write the picture of a ring, if there is one and a place for it."""
        drawn = self.rings.picture()
        if drawn is None:
            return
        path = self.options.picture
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(drawn[1], encoding="utf-8")
        except OSError as exc:
            raise DemoError(f"the picture of a ring can not be written: {exc}") from exc
        self.picture = path

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._watcher.phase(self)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        watched = (signal.SIGINT, signal.SIGTERM)
        for number in watched:
            loop.add_signal_handler(number, self._stop.set)
        try:
            yield
        finally:
            for number in watched:
                loop.remove_signal_handler(number)


class _Poster:
    """Publishes pieces and tells the tally; bounds what is not acknowledged."""

    def __init__(self, tally: Tally, sender: BatchSender, topic: str) -> None:
        self._tally = tally
        self._topic = topic
        self._post: Callable[..., Awaitable[Any]] = sender.post
        self._pending: deque[Awaitable[Any]] = deque()

    def post(self, piece: Piece, *, live: bool) -> None:
        """Start sending."""
        self._tally.publish(piece.ids, piece.scenarios, time.perf_counter(), live=live)
        keys, values = ByteColumn.of(piece.keys), ByteColumn.of(piece.values)
        self._pending.append(self._post(self._topic, keys, values))

    async def settle(self, most: int) -> None:
        """Wait until at most so many pieces are not acknowledged."""
        while len(self._pending) > most:
            await self._pending.popleft()


def _latency(headers: Any) -> float | None:
    return next((float(value) for name, value in headers if name == LATENCY), None)
