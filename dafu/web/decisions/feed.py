"""What is being decided, on whichever worker, and what was a little while ago: one feed a worker.

It follows the topics `decisions` and `dead-letters` from the first moment somebody asks, with a
consumer of its own and without a group, and stops when nobody has asked for long. Whoever publishes
a transaction waits here for what becomes of it; pages and streams look on. Once somebody has
waited, what this worker itself writes is taken as soon as the broker has acknowledged it, and left
out when it comes back with the log.

For use from one event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
from msgspec import Struct

from dafu.agents.shell import WORKER_NAME
from dafu.errors import DafuError
from dafu.hashing import hash64
from dafu.settings import Settings
from dafu.streaming.dead_letters import Origin, read_headers
from dafu.streaming.following import Follower
from dafu.streaming.records import RecordBatch, decode_headers
from dafu.streaming.sender import BatchSender
from dafu.web.decisions.memory import DecisionMemory, Made, begin_of, hashes_of, made_in

__all__ = ["DeadLetter", "DecisionFeed", "FeedStoppedError", "RejectedError", "Subscription"]

logger = logging.getLogger(__name__)

TAIL: Final = 2_000
"""Records of a partition that are read first."""

DEAD_LETTERS: Final = 1_000
"""So many dead letters are remembered."""

IDLE_SECONDS: Final = 600.0
"""After so long without a question the feed stops, and what it remembers is let go of."""

HURRIED_SECONDS: Final = 10.0
"""For so long after the last wait the next decision is hurried for."""

OWN_RUN: Final = 100
"""After so many decisions of this worker, and of no other, those of others are not hurried for."""

MOST_HEARD: Final = 10_000
"""Batches that the log may be behind; what is written beyond that waits for the log."""

QUEUE: Final = 2_000
"""Decisions that a subscriber may be behind."""

_SLICE: Final = 500
"""Decisions that a search looks at before it lets others have their turn."""


class DeadLetter(Struct, frozen=True, gc=False):
    """A record that was set aside.

    Attributes
    ----------
    key, value : bytes or None
        Of the original record.
    origin : Origin
        Why it was set aside, and where it came from.
    partition, offset : int
        Where it is on the topic `dead-letters`.
    timestamp : int
        When it was set aside, in epoch milliseconds.
    """

    key: bytes | None
    value: bytes | None
    origin: Origin
    partition: int
    offset: int
    timestamp: int


class RejectedError(Exception):
    """A transaction was set aside and will not be decided; `letter` says why."""

    def __init__(self, letter: DeadLetter) -> None:
        super().__init__(letter.origin.detail)
        self.letter = letter


class FeedStoppedError(DafuError):
    """The feed has stopped; what becomes of a transaction is not followed any longer."""


class Subscription:
    """Decisions from now on, in batches; iterate over it with `async for`, then close it.

    Who is slower than the decisions loses the oldest.

    Attributes
    ----------
    lost : int
        Decisions that were dropped so far.
    """

    def __init__(self, feed: DecisionFeed) -> None:
        self._feed = feed
        self._batches: deque[list[Made]] = deque()
        self._queued = 0
        self._some = asyncio.Event()
        self._ended = False
        self.lost = 0

    def offer(self, made: list[Made]) -> None:
        """Add a batch, and drop the oldest if there is no room."""
        if len(made) > QUEUE:
            self.lost += len(made) - QUEUE
            made = made[-QUEUE:]
        self._batches.append(made)
        self._queued += len(made)
        while (over := self._queued - QUEUE) > 0:
            oldest = self._batches.popleft()
            if len(oldest) > over:
                self._batches.appendleft(oldest[over:])
            dropped = min(len(oldest), over)
            self._queued -= dropped
            self.lost += dropped
        self._some.set()

    def __aiter__(self) -> AsyncIterator[list[Made]]:
        return self

    async def __anext__(self) -> list[Made]:
        while not self._batches:
            if self._ended:
                raise StopAsyncIteration
            self._some.clear()
            await self._some.wait()
        made = self._batches.popleft()
        self._queued -= len(made)
        return made

    def end(self) -> None:
        """Nothing will follow what is queued."""
        self._ended = True
        self._some.set()

    def close(self) -> None:
        """No more batches."""
        self._feed.unsubscribe(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DecisionFeed:
    """Follows the decisions of all workers.

    Parameters
    ----------
    settings : Settings
    sender : callable or None
        Gives the worker's sender once the producer has started.
    """

    def __init__(self, settings: Settings, sender: Callable[[], BatchSender] | None = None) -> None:
        self._settings = settings
        self._sender = sender
        self._listening = False
        # By topic and partition: where the log is read on, and what was heard of beyond that,
        # as first and last offsets.
        self._read: dict[tuple[str, int], int] = {}
        self._heard: defaultdict[tuple[str, int], deque[tuple[int, int]]] = defaultdict(deque)
        self._own_run = 0
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._asked = 0.0
        self._waited = 0.0
        self._hurrying = False
        self._memory = DecisionMemory()
        self._letters: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS)
        # By hash of the key, and by what the payload begins with.
        self._waiting: defaultdict[int, dict[bytes, list[asyncio.Future[Made]]]] = defaultdict(dict)
        self._published: dict[tuple[str, int, int], asyncio.Future[Made]] = {}
        self._subscribers: set[Subscription] = set()
        self._since = 0
        self._follower = self._new_follower()

    def _new_follower(self) -> Follower:
        topics = self._settings.topics
        return Follower(
            self._settings.client_options(),
            {topics.decisions: TAIL, topics.dead_letters: TAIL},
            self._begin,
            self._take,
            wait_ms=self._settings.fetch_max_wait_ms,
        )

    @property
    def running(self) -> bool:
        """Whether the topics are being followed."""
        return self._task is not None

    @property
    def ready(self) -> bool:
        """Whether they are, and their last records have been read."""
        return self._ready.is_set()

    async def started(self) -> None:
        """Return once the topics are followed and their last records have been read.

        Who asks keeps the feed going for a while.
        """
        loop = asyncio.get_running_loop()
        self._asked = loop.time()
        if self._task is None:
            self._task = loop.create_task(self._run(), name="decision feed")
        await self._ready.wait()

    async def close(self, _: Any = None) -> None:
        """Stop following, and forget; who waits or looks on is told."""
        stopped = FeedStoppedError("the worker stops")
        for futures in [f for by in self._waiting.values() for f in by.values()]:
            for future in futures:
                if not future.done():
                    future.set_exception(stopped)
        for subscriber in self._subscribers:
            subscriber.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        following = asyncio.create_task(self._follower.run())
        try:
            while not self._idle():
                self._pace()
                done, _ = await asyncio.wait([following], timeout=1.0)
                for task in done:
                    task.result()  # it does not end by itself
        except Exception:  # who asks next begins anew
            logger.exception("the decisions are not followed any longer")
        else:
            logger.info("nobody has asked for decisions for long: they are not followed any longer")
        finally:
            self._forget()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def _idle(self) -> bool:
        if self._subscribers or self._waiting:
            return False
        return asyncio.get_running_loop().time() - self._asked > IDLE_SECONDS

    def _pace(self) -> None:
        now = asyncio.get_running_loop().time()
        waited = bool(self._waiting) or now - self._waited < HURRIED_SECONDS
        self._hurrying = waited and self._own_run < OWN_RUN
        self._follower.hurry(self._hurrying)

    def _forget(self) -> None:
        self._task = None
        self._ready = asyncio.Event()
        self._listen(False)
        self._read.clear()
        self._heard.clear()
        self._memory = DecisionMemory()
        self._letters.clear()
        self._since = 0
        self._follower = self._new_follower()

    def _listen(self, on: bool) -> None:
        """Hear of what this worker writes, or not any longer."""
        if self._sender is None or on == self._listening:
            return
        topics = self._settings.topics
        for topic in (topics.decisions, topics.dead_letters):
            self._sender().listen(topic, self._overhear if on else None)
        self._listening = on

    # --- what comes in

    def _begin(self, batches: Sequence[RecordBatch]) -> None:
        for batch in batches:
            self._read[batch.topic, batch.partition] = int(batch.offsets[-1]) + 1
        decisions = [b for b in batches if b.topic == self._settings.topics.decisions]
        self._read_letters(b for b in batches if b.topic != self._settings.topics.decisions)
        self._letters = deque(sorted(self._letters, key=lambda x: x.timestamp), DEAD_LETTERS)
        if decisions:
            made = [m for batch in decisions for m in made_in(batch)]
            self._since = _known_since(made)
            hashes = np.concatenate([hashes_of(batch.keys.present()) for batch in decisions])
            order = np.argsort([m.timestamp for m in made], kind="stable")
            self._remember([made[i] for i in order.tolist()], hashes[order])
        self._ready.set()

    def _overhear(self, batch: RecordBatch) -> None:
        """This worker has written something."""
        place = batch.topic, batch.partition
        first, heard = int(batch.offsets[0]), self._heard[place]
        if not self.ready or first < self._read.get(place, 0) or len(heard) >= MOST_HEARD:
            return
        heard.append((first, int(batch.offsets[-1])))
        self._own_run += len(batch)
        self._enter(batch)

    def _take(self, batch: RecordBatch) -> None:
        """Somebody, perhaps this worker, has written something."""
        place = batch.topic, batch.partition
        heard = self._heard[place]
        if batch.offsets[0] < self._read.get(place, 0):
            heard.clear()  # another log
        self._read[place] = end = int(batch.offsets[-1]) + 1
        news = np.ones(len(batch), np.bool_)
        while heard and heard[0][0] < end:
            first, last = heard[0]
            news &= (batch.offsets < first) | (batch.offsets > last)
            if last >= end:
                break
            heard.popleft()
        if not news.any():
            return
        batch = batch if news.all() else batch.take(news)
        if batch.topic == self._settings.topics.decisions and not _all_ours(batch):
            self._own_run = 0
            if not self._hurrying:
                self._pace()
        self._enter(batch)

    def _enter(self, batch: RecordBatch) -> None:
        if batch.topic != self._settings.topics.decisions:
            self._read_letters([batch])
            return
        made = made_in(batch)
        self._remember(made, hashes_of(batch.keys.present()))
        for subscriber in self._subscribers:
            subscriber.offer(made)

    def _remember(self, made: list[Made], hashes: Any) -> None:
        self._memory.add(made, hashes)
        if not self._waiting:
            return
        for one, key in zip(made, hashes.tolist(), strict=True):
            if (waiting := self._waiting.get(key)) is not None:
                for begin in [b for b in waiting if one.payload.startswith(b)]:
                    for future in list(waiting[begin]):
                        if not future.done():
                            future.set_result(one)

    def _read_letters(self, batches: Iterable[RecordBatch]) -> None:
        for batch in batches:
            for i in range(len(batch)):
                headers = decode_headers(batch.headers[i] or b"\0")
                origin = read_headers([(name, value or b"") for name, value in headers])
                if origin is None:
                    continue
                letter = DeadLetter(
                    batch.keys[i],
                    batch.values[i],
                    origin,
                    batch.partition,
                    int(batch.offsets[i]),
                    int(batch.timestamps[i]),
                )
                self._letters.append(letter)
                place = (origin.topic, origin.partition, origin.offset)
                future = self._published.pop(place, None)
                if future is not None and not future.done():
                    future.set_exception(RejectedError(letter))

    # --- who asks

    def wait(self, user_id: str, transaction_id: str) -> asyncio.Future[Made]:
        """The next decision of a transaction that is published from now on.

        Ends with `RejectedError` if the record that `published` names is set aside. Cancel it when
        it is not waited for any longer.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Made] = loop.create_future()
        key = hash64(user_id.encode())
        begin = begin_of(user_id, transaction_id)
        self._waiting[key].setdefault(begin, []).append(future)
        future.add_done_callback(lambda done: self._stop_waiting(key, begin, done))
        self._asked = self._waited = loop.time()
        if not self._hurrying:
            self._pace()
        self._listen(True)
        return future

    def _stop_waiting(self, key: int, begin: bytes, future: asyncio.Future[Made]) -> None:
        waiting = self._waiting[key]
        waiting[begin].remove(future)
        if not waiting[begin]:
            del waiting[begin]
        if not waiting:
            del self._waiting[key]

    def published(
        self, topic: str, partition: int, offset: int, future: asyncio.Future[Made]
    ) -> None:
        """Say which record a wait is about, so that it ends when the record is set aside."""
        if future.done():
            return
        place = (topic, partition, offset)
        for letter in reversed(self._letters):
            origin = letter.origin
            if (origin.topic, origin.partition, origin.offset) == place:
                future.set_exception(RejectedError(letter))
                return
        self._published[place] = future
        future.add_done_callback(lambda _: self._published.pop(place, None))

    def find(self, user_id: str, transaction_id: str) -> Made | None:
        """The latest decision of a transaction, None if it is not remembered here."""
        return self._memory.find(user_id, transaction_id)

    def recent(self, limit: int, predicate: Callable[[Made], bool] | None = None) -> list[Made]:
        """The latest decisions, newest first; with a predicate that seldom holds use `search`."""
        found: dict[bytes, Made] = {}
        for made in self._memory.newest():
            if len(found) == limit:
                break
            if predicate is None or predicate(made):
                found.setdefault(made.payload, made)
        return list(found.values())

    async def search(
        self, limit: int, predicate: Callable[[Made], bool], user_id: str | None = None
    ) -> list[Made]:
        """As `recent`, in slices between which others have their turn; of a user, if one is given.

        What is decided meanwhile is not among it.
        """
        found: dict[bytes, Made] = {}
        candidates = (
            self._memory.snapshot() if user_id is None else list(self._memory.of_user(user_id))
        )
        for start in range(0, len(candidates), _SLICE):
            for made in candidates[start : start + _SLICE]:
                if predicate(made):
                    found.setdefault(made.payload, made)
                    if len(found) == limit:
                        return list(found.values())
            await asyncio.sleep(0)
        return list(found.values())

    @property
    def reach(self) -> tuple[int, int | None]:
        """How many decisions are remembered, and when the oldest was published (epoch ms)."""
        oldest = self._memory.oldest()
        return len(self._memory), None if oldest is None else oldest.timestamp

    def covers(self, timestamp: int) -> bool:
        """Whether every decision published since this time (epoch ms) is remembered here."""
        oldest = self._memory.oldest()
        if not self.ready:
            return False
        if oldest is not None and self._memory.forgotten:
            return oldest.timestamp < timestamp
        return self._since <= timestamp

    def subscribe(self) -> Subscription:
        """Decisions from now on; call `started` first, and close it in the end."""
        subscription = Subscription(self)
        self._subscribers.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """The counterpart of `subscribe`."""
        self._subscribers.discard(subscription)
        self._asked = asyncio.get_running_loop().time()

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The latest dead letters, newest first."""
        return list(self._letters)[: -limit - 1 : -1]

    @property
    def figures(self) -> Mapping[str, int]:
        """Who waits and who looks on, for metrics."""
        waiting = sum(len(f) for by in self._waiting.values() for f in by.values())
        return {"waiting": waiting, "subscribers": len(self._subscribers)}


def _all_ours(decisions: RecordBatch) -> bool:
    """Whether this process made all of them."""
    return all(WORKER_NAME in section for section in decisions.headers.present())


def _known_since(made: Iterable[Made]) -> int:
    """From when on the tails hold all decisions: one that is not full holds its whole partition."""
    times: defaultdict[int, list[int]] = defaultdict(list)
    for one in made:
        times[one.partition].append(one.timestamp)
    return max((min(t) + 1 for t in times.values() if len(t) >= TAIL), default=0)
