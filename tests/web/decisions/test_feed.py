"""The feed on a broker: what it has read, who is woken, who is told what, and when it stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from dafu.agents.shell import WORKER, WORKER_NAME
from dafu.columns import ByteColumn
from dafu.schema import encode_decision
from dafu.settings import Settings, Topics
from dafu.streaming import dead_letters
from dafu.streaming.records import RecordBatch, encode_headers
from dafu.streaming.sender import BatchSender
from dafu.web.decisions import feed as feed_module
from dafu.web.decisions.feed import DecisionFeed, RejectedError
from dafu.web.decisions.memory import Made
from tests.web.decisions.documents import decision

PARTITIONS = 3
WITHIN = 20.0


class Log:
    """The two topics, and whoever writes to them."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        topics = Topics(prefix=prefix, partitions=PARTITIONS)
        self.settings = Settings(broker=bootstrap, topics=topics)
        self.producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")

    async def create(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.broker)
        await admin.start()
        topics = self.settings.topics
        new = [NewTopic(t, PARTITIONS, 1) for t in (topics.decisions, topics.dead_letters)]
        await admin.create_topics(new)
        await admin.close()
        await self.producer.start()
        self.sender = BatchSender(self.producer)

    async def decide(
        self, *pairs: tuple[str, str], by: BatchSender | None = None, worker: bytes = WORKER_NAME
    ) -> None:
        headers = encode_headers([(WORKER, worker)])
        await (by or self.sender).send(
            self.settings.topics.decisions,
            ByteColumn.of([user.encode() for user, _ in pairs]),
            ByteColumn.of([encode_decision(decision(*pair)) for pair in pairs]),
            headers=ByteColumn.repeated(headers, len(pairs)),
        )

    async def set_aside(self, offset: int) -> None:
        origin = dead_letters.Origin("invalid_field", "no amount", "transactions", 1, offset, 5)
        await self.sender.send(
            self.settings.topics.dead_letters,
            ByteColumn.of([b"ada"]),
            ByteColumn.of([b"{}"]),
            headers=ByteColumn.of([encode_headers(dead_letters.headers(origin))]),
        )


@pytest.fixture
async def log(bootstrap: str, unique: Callable[[str], str]) -> AsyncIterator[Log]:
    log = Log(bootstrap, unique(""))
    await log.create()
    yield log
    await log.producer.stop()


@pytest.fixture
async def own(log: Log) -> AsyncIterator[DecisionFeed]:
    """The feed of the worker that writes the log."""
    feed = DecisionFeed(log.settings, lambda: log.sender)
    yield feed
    await feed.close()


@pytest.fixture
async def feed(log: Log) -> AsyncIterator[DecisionFeed]:
    feed = DecisionFeed(log.settings)
    yield feed
    await feed.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.broker
async def test_it_begins_with_the_last_of_every_partition_in_order(
    log: Log, feed: DecisionFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "TAIL", 4)
    pairs = [(f"u{n % 11}", f"t{n}") for n in range(60)]
    for n in range(0, 60, 5):
        await log.decide(*pairs[n : n + 5])
        await asyncio.sleep(0.002)  # so that their times differ
    assert not feed.running
    feed = DecisionFeed(log.settings)
    try:
        await asyncio.wait_for(feed.started(), WITHIN)
        recent = feed.recent(100)
        assert len(recent) == 4 * PARTITIONS
        assert {m.partition for m in recent} == set(range(PARTITIONS))
        assert [m.timestamp for m in recent] == sorted((m.timestamp for m in recent), reverse=True)
        last = recent[0].decision
        assert feed.find(last.user_id, last.transaction_id) == recent[0]
        assert feed.find("u0", "t0") is None
        assert feed.reach == (12, recent[-1].timestamp)
        first = {p: min(m.timestamp for m in recent if m.partition == p) for p in range(PARTITIONS)}
        assert not feed.covers(max(first.values())), "there may be more of the same millisecond"
        assert feed.covers(max(first.values()) + 1)
    finally:
        await feed.close()


@pytest.mark.broker
async def test_who_waits_is_woken_by_his_transaction_alone(log: Log, feed: DecisionFeed) -> None:
    await asyncio.wait_for(feed.started(), WITHIN)
    first, again = feed.wait("ada", "t1"), feed.wait("ada", "t1")
    other, gone = feed.wait("ada", "t2"), feed.wait("bob", "t1")
    gone.cancel()
    await log.decide(("bob", "t1"), ("ada", "t1"), ("ada", "t10"))
    made = await asyncio.wait_for(first, WITHIN)
    assert made.decision == decision("ada", "t1")
    assert await asyncio.wait_for(again, WITHIN) == made
    assert made == feed.find("ada", "t1")
    assert not other.done()
    assert feed.figures == {"waiting": 1, "subscribers": 0}
    other.cancel()
    await asyncio.sleep(0)
    assert feed.figures["waiting"] == 0
    assert feed.covers(0), "the tails hold the whole log"


@pytest.mark.broker
@pytest.mark.parametrize("late", [False, True])
async def test_who_waits_for_what_was_set_aside_is_told(
    log: Log, feed: DecisionFeed, late: bool
) -> None:
    await asyncio.wait_for(feed.started(), WITHIN)
    future, other = feed.wait("ada", "t1"), feed.wait("ada", "t2")
    if late:  # the dead letter is known before anybody says what it is about
        await log.set_aside(17)
        await until(lambda: bool(feed.dead_letters(1)))
    feed.published("transactions", 1, 18, other)
    feed.published("transactions", 1, 17, future)
    if not late:
        await log.set_aside(17)
    with pytest.raises(RejectedError, match="no amount"):
        await asyncio.wait_for(future, WITHIN)
    assert not other.done()
    (letter,) = feed.dead_letters(5)
    assert (letter.key, letter.value, letter.origin.offset) == (b"ada", b"{}", 17)


@pytest.mark.broker
async def test_a_subscriber_sees_what_is_decided_from_then_on(log: Log, feed: DecisionFeed) -> None:
    await log.decide(("ada", "t0"))
    await asyncio.wait_for(feed.started(), WITHIN)
    seen: list[str] = []
    with feed.subscribe() as subscription:
        await log.decide(*((f"u{n}", f"t{n}") for n in range(1, 30)))
        async with asyncio.timeout(WITHIN):
            async for batch in subscription:
                seen += [made.decision.transaction_id for made in batch]
                if len(seen) == 29:
                    break
        assert feed.figures["subscribers"] == 1
    assert sorted(seen) == sorted(f"t{n}" for n in range(1, 30))
    assert subscription.lost == 0
    assert feed.figures["subscribers"] == 0


@pytest.mark.broker
async def test_who_is_slow_loses_the_oldest_and_is_told_how_many(
    log: Log, feed: DecisionFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "QUEUE", 10)
    await asyncio.wait_for(feed.started(), WITHIN)
    with feed.subscribe() as subscription:
        for n in range(0, 39, 3):  # batches that do not fill the queue to the brim
            await log.decide(*(("ada", f"t{n + k}") for k in range(3)))
        await log.decide(("ada", "t39"))
        await until(lambda: feed.find("ada", "t39") is not None)
        seen: list[str] = []
        while len(seen) < 10:
            seen += [m.decision.transaction_id for m in await anext(subscription)]
    assert seen == [f"t{n}" for n in range(30, 40)]
    assert subscription.lost == 30


@pytest.mark.broker
async def test_a_search_finds_what_the_predicate_holds_for(log: Log, feed: DecisionFeed) -> None:
    await log.decide(*(("ada", f"t{n}") for n in range(30)), ("bob", "t1"), ("bob", "t1"))
    await asyncio.wait_for(feed.started(), WITHIN)

    def odd(made: Made) -> bool:
        return int(made.decision.transaction_id[1:]) % 2 == 1

    found = await feed.search(3, odd, "ada")
    assert [m.decision.transaction_id for m in found] == ["t29", "t27", "t25"]
    assert [m.decision.user_id for m in await feed.search(100, odd, "bob")] == ["bob"]
    assert len(await feed.search(100, odd)) == 16, "the same one twice is listed once"
    assert len(feed.recent(100, odd)) == 16


@pytest.mark.broker
async def test_it_stops_when_nobody_asks_and_starts_again(
    log: Log, feed: DecisionFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.decide(("ada", "t1"))
    monkeypatch.setattr(feed_module, "IDLE_SECONDS", 0.1)
    await asyncio.wait_for(feed.started(), WITHIN)
    waiting = feed.wait("ada", "t9")
    await asyncio.sleep(1.5)
    assert feed.running, "somebody waits"
    waiting.cancel()
    await until(lambda: not feed.running)
    assert feed.find("ada", "t1") is None
    await asyncio.wait_for(feed.started(), WITHIN)
    assert feed.find("ada", "t1") is not None


@pytest.mark.broker
async def test_after_a_failure_nobody_expects_it_begins_anew(
    log: Log, feed: DecisionFeed, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.wait_for(feed.started(), WITHIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "made_in", lambda _: 1 / 0)
        await log.decide(("ada", "t1"))
        await until(lambda: not feed.running)
    assert "are not followed any longer" in caplog.text
    await asyncio.wait_for(feed.started(), WITHIN)
    assert feed.find("ada", "t1") is not None


async def test_it_waits_for_a_broker_and_stops_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    feed = DecisionFeed(Settings(broker="127.0.0.1:1"))
    starting = asyncio.create_task(feed.started())
    await until(lambda: "cannot follow decisions, dead-letters, trying again" in caplog.text)
    assert not starting.done()
    starting.cancel()
    await feed.close()
    assert not feed.running


# --- what the worker writes itself


class Silent:
    """In place of a follower: brings what it is told to, and notes whether it is hurried."""

    def __init__(self) -> None:
        self.hurried = True

    def hurry(self, hurried: bool) -> None:
        self.hurried = hurried

    async def run(self) -> None:
        await asyncio.Event().wait()


def chunk(
    first: int, *pairs: tuple[str, str], partition: int = 0, worker: bytes = WORKER_NAME
) -> RecordBatch:
    return RecordBatch(
        Topics().decisions,
        partition,
        np.arange(first, first + len(pairs)),
        np.full(len(pairs), 1),
        ByteColumn.of([user.encode() for user, _ in pairs]),
        ByteColumn.of([encode_decision(decision(*pair)) for pair in pairs]),
        ByteColumn.repeated(encode_headers([(WORKER, worker)]), len(pairs)),
    )


async def a_feed_without_a_log(
    monkeypatch: pytest.MonkeyPatch, *tail: RecordBatch
) -> tuple[DecisionFeed, dict[str, Any], Silent]:
    """A feed that waits for somebody, the listeners at its sender, and its follower."""
    listeners: dict[str, Any] = {}
    sender: Any = SimpleNamespace(listen=listeners.__setitem__)
    follower = Silent()
    monkeypatch.setattr(DecisionFeed, "_new_follower", lambda _: follower)
    feed = DecisionFeed(Settings(), lambda: sender)
    starting = asyncio.create_task(feed.started())
    await asyncio.sleep(0)
    feed._begin(tail)
    await starting
    feed.wait("nobody", "t0")
    return feed, listeners, follower


def seen(feed: DecisionFeed) -> list[str]:
    return [made.decision.transaction_id for made in reversed(feed.recent(100))]


async def test_what_it_writes_is_there_before_the_log_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed, listeners, _ = await a_feed_without_a_log(monkeypatch, chunk(0, ("eve", "t1")))
    assert set(listeners) == {Topics().decisions, Topics().dead_letters}
    tell = listeners[Topics().decisions]
    with feed.subscribe() as told:
        waiting = feed.wait("ada", "t3")
        tell(chunk(2, ("ada", "t3"), ("bob", "t4")))
        assert (await waiting).offset == 2
        tell(chunk(6, ("ada", "t6")))
        assert seen(feed) == ["t1", "t3", "t4", "t6"]
        # The log has others' between them, and comes in parts that are cut anywhere.
        feed._take(chunk(1, ("ida", "t2"), ("ada", "t3")))
        feed._take(chunk(3, ("bob", "t4"), ("ida", "t5"), ("ida", "t55"), ("ada", "t6")))
        feed._take(chunk(7, ("ida", "t7")))
        assert seen(feed) == ["t1", "t3", "t4", "t6", "t2", "t5", "t55", "t7"]
        batches = [[m.decision.transaction_id for m in await anext(told)] for _ in range(5)]
    assert batches == [["t3", "t4"], ["t6"], ["t2"], ["t5", "t55"], ["t7"]]
    await feed.close()
    assert listeners == dict.fromkeys(listeners), "nobody listens any longer"


async def test_what_the_log_has_brought_is_not_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    feed, listeners, _ = await a_feed_without_a_log(monkeypatch, chunk(0, ("eve", "t1")))
    tell = listeners[Topics().decisions]
    tell(chunk(0, ("eve", "t1")))
    feed._take(chunk(1, ("ada", "t2")))
    tell(chunk(1, ("ada", "t2")))
    tell(chunk(0, ("ada", "t3"), partition=1))
    assert seen(feed) == ["t1", "t2", "t3"]
    assert feed.reach[0] == 3, "none of them twice"
    await feed.close()


async def test_another_log_is_read_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    feed, listeners, _ = await a_feed_without_a_log(monkeypatch)
    listeners[Topics().decisions](chunk(5, ("ada", "t1")))
    feed._take(chunk(4, ("ida", "t0")))
    listeners[Topics().decisions](chunk(7, ("ada", "t2")))
    feed._take(chunk(0, ("bob", "t3")))
    feed._take(chunk(7, ("bob", "t4")))
    assert seen(feed) == ["t1", "t0", "t2", "t3", "t4"]
    await feed.close()


async def test_what_the_log_is_too_far_behind_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MOST_HEARD", 2)
    feed, listeners, _ = await a_feed_without_a_log(monkeypatch)
    for n in range(4):
        listeners[Topics().decisions](chunk(n, ("ada", f"t{n}")))
    assert seen(feed) == ["t0", "t1"]
    feed._take(chunk(0, *(("ada", f"t{n}") for n in range(4))))
    assert seen(feed) == ["t0", "t1", "t2", "t3"]
    await feed.close()


async def test_others_are_hurried_for_only_if_there_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "OWN_RUN", 3)
    feed, listeners, follower = await a_feed_without_a_log(monkeypatch)
    for n in range(3):
        feed.wait("ada", f"t{n}")
        assert follower.hurried
        listeners[Topics().decisions](chunk(n, ("ada", f"t{n}")))
    feed._pace()
    assert not follower.hurried
    feed._take(chunk(0, ("ada", "t0"), ("ada", "t1"), ("ada", "t2"), ("ada", "t3")))
    assert not follower.hurried, "the last one was written by this worker too"
    feed._take(chunk(4, ("ida", "t4"), worker=b"another:1"))
    assert follower.hurried
    await feed.close()


@pytest.mark.broker
async def test_nothing_comes_twice_from_the_log(log: Log, own: DecisionFeed) -> None:
    await asyncio.wait_for(own.started(), WITHIN)
    elsewhere = AIOKafkaProducer(bootstrap_servers=log.settings.broker, acks="all")
    await elsewhere.start()
    theirs = BatchSender(elsewhere)
    with own.subscribe() as told:
        waiting = own.wait("u7", "t7")
        for n in range(40):
            if n % 3:
                await log.decide((f"u{n}", f"t{n}"))
            else:
                await log.decide((f"u{n}", f"t{n}"), by=theirs, worker=b"another:1")
        assert (await asyncio.wait_for(waiting, WITHIN)).decision == decision("u7", "t7")
        await until(lambda: len(own.recent(100)) == 40)
        await asyncio.sleep(0.3)  # what comes twice would come now
        counts = Counter(m.payload for batch in list(told._batches) for m in batch)
    await elsewhere.stop()
    assert len(counts) == 40
    assert set(counts.values()) == {1}
    places = sorted((m.partition, m.offset) for m in own.recent(100))
    assert len(set(places)) == 40
