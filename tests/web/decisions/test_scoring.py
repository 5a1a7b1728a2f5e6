"""The scorer with a feed, a publisher and a log that tests hold in their hands."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from dafu.settings import Settings
from dafu.streaming.dead_letters import Origin
from dafu.streaming.sender import SendError
from dafu.web.decisions import scoring
from dafu.web.decisions.asked import Asked, Content, Key
from dafu.web.decisions.feed import DeadLetter, DecisionFeed, RejectedError
from dafu.web.decisions.memory import Made
from dafu.web.decisions.publishing import Place
from dafu.web.decisions.scoring import BusyError, ConflictError, Scorer, UnavailableError
from dafu.web.decisions.shared import Kept
from tests.web.decisions.documents import hashes, made

AT = "2026-03-01T10:15:00Z"  # as in the documents of tests
SOON = 0.2


def asked(user: str = "ada", transaction: str = "t1", **changes: Any) -> Asked:
    document = {
        "transaction_id": transaction,
        "user_id": user,
        "merchant_id": "shop",
        "amount": 12.5,
        "timestamp": AT,
    }
    return Asked.read(json.dumps(document | changes).encode())


class Feed(DecisionFeed):
    """A feed that is told what there is."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self._ready.set()

    async def started(self) -> None:
        await self._ready.wait()

    def decide(self, *decisions: Made) -> None:
        self._remember(list(decisions), hashes(*(d.decision.user_id for d in decisions)))

    def set_aside(self, reason: str, offset: int) -> None:
        letter = DeadLetter(b"", b"", Origin(reason, "why", "transactions", 0, offset, 0), 0, 0, 0)
        self._published.pop(("transactions", 0, offset)).set_exception(RejectedError(letter))


class Log:
    """In place of both the publisher and the lookup."""

    def __init__(self) -> None:
        self.published: list[bytes] = []
        self.made: list[Made] = []
        self.error: Exception | None = None
        self.looked = 0
        self.looked_back = 0
        self.alone = True
        self.acknowledges, self.answers = asyncio.Event(), asyncio.Event()
        self.acknowledges.set()
        self.answers.set()

    async def publish(self, topic: str, key: bytes, value: bytes) -> Place:
        await asyncio.sleep(0)
        await self.acknowledges.wait()
        if self.error is not None:
            raise self.error
        self.published.append(value)
        return Place(topic, 0, len(self.published) - 1 if self.alone else None)

    async def decision(self, user: str, transaction: str, timestamp: int | None) -> Made | None:
        self.looked += 1
        if self.error is not None:
            raise self.error
        found = (m for m in self.made if m.decision.transaction_id == transaction)
        return next(found, None)

    async def original(self, found: Made, user: str, transaction: str) -> bytes | None:
        self.looked_back += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return next((v for v in self.published if json.loads(v)["user_id"] == user), None)


class Shared:
    """In place of what workers share."""

    def __init__(self) -> None:
        self.kept: dict[Key, Kept] = {}

    def keep(self, key: Key, made: Made, content: Content) -> None:
        self.kept[key] = Kept(made, content)

    async def find(self, key: Key) -> Kept | None:
        return self.kept.get(key)


class World:
    def __init__(self) -> None:
        self.feed, self.log, self.shared = Feed(), Log(), Shared()
        log: Any = self.log
        shared: Any = self.shared
        self.scorer = Scorer("transactions", self.feed, log, log, shared)

    def score(self, one: Asked, timeout: float = 20.0) -> asyncio.Task[Made | None]:
        return asyncio.create_task(self.scorer.score(one, timeout))

    async def until_published(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.log.published) < count:
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)


@pytest.fixture
def world() -> World:
    return World()


async def test_it_is_published_as_it_came_and_answered_when_decided(world: World) -> None:
    one = asked(note="kept")
    task = world.score(one)
    await world.until_published(1)
    assert world.log.published == [one.raw]
    assert not task.done()
    world.feed.decide(made("ada", "t2"), made("ada", "t1"))
    assert await task == made("ada", "t1")
    # Again: from memory, and nothing is published.
    assert await world.score(asked(note="kept")) == made("ada", "t1")
    assert len(world.log.published) == 1
    assert world.feed.figures["waiting"] == 0


async def test_all_who_ask_at_once_are_answered_and_it_is_published_once(world: World) -> None:
    tasks = [world.score(asked()) for _ in range(5)]
    await world.until_published(1)
    with pytest.raises(ConflictError, match="being decided right now"):
        await world.score(asked(amount=13))
    world.feed.decide(made("ada", "t1"))
    assert await asyncio.gather(*tasks) == [made("ada", "t1")] * 5
    assert len(world.log.published) == 1


async def test_without_a_decision_there_is_none_and_it_may_be_asked_for_again(
    world: World,
) -> None:
    assert await world.score(asked(), SOON) is None
    task = world.score(asked())
    await world.until_published(2)  # the engine knows a repeat
    world.feed.decide(made("ada", "t1"))
    assert await task == made("ada", "t1")


@pytest.mark.parametrize(
    "change", [{"merchant_id": "bar"}, {"timestamp": "2026-03-01T10:15:01Z"}, {"amount": 12.51}]
)
@pytest.mark.parametrize("remembered", [True, False])
async def test_a_used_id_is_a_conflict(
    world: World, change: dict[str, Any], remembered: bool
) -> None:
    if remembered:
        task = world.score(asked())
        await world.until_published(1)
        world.feed.decide(made("ada", "t1"))
        await task
    else:  # published by somebody else: only the log has the amount
        world.log.published.append(asked().raw)
        world.feed.decide(made("ada", "t1"))
    with pytest.raises(ConflictError):
        await world.score(asked(**change))
    assert await world.score(asked(note="another")) == made("ada", "t1")
    assert len(world.log.published) == 1


async def test_what_was_decided_long_ago_is_looked_for_in_the_log(world: World) -> None:
    world.feed._since = 2**60  # the feed began long after
    world.log.made = [made("ada", "t1")]
    assert await world.score(asked()) == made("ada", "t1")
    assert world.log.looked == 1
    world.feed._since = 0
    assert await world.score(asked(transaction="t3"), SOON) is None
    assert world.log.looked == 1, "the feed would know"


async def test_a_log_that_can_not_be_read_fails_nobody(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.feed._since = 2**60
    task = world.score(asked(), 2.0)
    await world.until_published(1)
    world.log.error = KafkaConnectionError("gone")
    await asyncio.sleep(scoring.LOOK_AFTER + 0.1)
    decided = made("ada", "t1", source=(0, 0))
    world.feed.decide(decided)
    assert await task == decided
    assert "cannot look for the decision" in caplog.text


async def test_what_the_engine_sets_aside_is_told(world: World) -> None:
    task = world.score(asked())
    await world.until_published(1)
    world.feed.set_aside("future_timestamp", 0)
    with pytest.raises(RejectedError, match="why"):
        await task
    task = world.score(asked(amount=7))
    await world.until_published(2)
    world.feed.set_aside("conflicting_duplicate", 1)
    with pytest.raises(ConflictError):
        await task


async def test_what_can_not_be_published_or_followed_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.log.error = SendError("transactions", 0, "no")
    with pytest.raises(UnavailableError, match="could not be published"):
        await world.score(asked())
    world.log.error = None
    task = world.score(asked(transaction="t5"))
    await world.until_published(1)
    monkeypatch.setattr(scoring, "MOST_WAITING", 1)
    with pytest.raises(BusyError):
        await world.score(asked("bob"))
    await world.feed.close()
    with pytest.raises(UnavailableError, match="stops"):
        await task
    world.feed._ready.clear()
    with pytest.raises(UnavailableError, match="can not be followed"):
        await world.score(asked(), SOON)
    assert world.scorer._open == {}


async def test_what_is_not_acknowledged_is_not_said_to_be_published(world: World) -> None:
    world.log.acknowledges.clear()
    with pytest.raises(UnavailableError, match="has not acknowledged"):
        await world.score(asked(), SOON)
    world.log.acknowledges.set()
    assert await world.score(asked(), SOON) is None


@pytest.mark.parametrize("remembered", [True, False])
async def test_a_decision_that_can_not_be_checked_in_time_is_not_kept_back_as_none(
    world: World, remembered: bool
) -> None:
    world.log.published.append(asked().raw)  # by somebody else
    world.log.answers.clear()
    decided = made("ada", "t1", source=(0, 0))
    if remembered:
        world.feed.decide(decided)
    else:
        world.feed._since = 2**60
        world.log.made = [decided]
    for one in (asked(), asked(amount=13)):
        with pytest.raises(UnavailableError, match="was decided"):
            await world.score(one, SOON)
    assert world.log.looked_back == 1, "it goes on for who asks again"
    world.log.answers.set()
    assert await world.score(asked()) == decided
    with pytest.raises(ConflictError):
        await world.score(asked(amount=13))
    assert world.log.looked_back == 1


async def test_a_decision_is_not_given_while_the_log_can_not_tell_what_it_was_made_of(
    world: World,
) -> None:
    world.feed.decide(made("ada", "t1"))
    world.log.error = KafkaConnectionError("gone")
    with pytest.raises(UnavailableError, match="gone"):
        await world.score(asked())
    world.log.error = None  # and what is no longer there can not be compared
    assert await world.score(asked()) == made("ada", "t1")


async def test_other_workers_are_asked_before_the_log_what_a_decision_was_made_of(
    world: World,
) -> None:
    decided = made("ada", "t1", source=(0, 0))
    world.feed.decide(decided)
    world.shared.keep(("ada", "t1"), decided, asked().content)
    assert await world.score(asked()) == decided
    with pytest.raises(ConflictError):
        await world.score(asked(amount=13))
    assert world.log.looked_back == 0


async def test_a_decision_of_its_own_record_needs_no_look(world: World) -> None:
    decided = made("ada", "t1", source=(0, 0))
    assert await world.score(asked(), SOON) is None
    world.feed.decide(decided)
    assert await world.score(asked()) == decided
    task = world.score(asked(transaction="t2"))
    await world.until_published(2)
    world.feed.decide(made("ada", "t2", source=(0, 1)))
    assert await task == made("ada", "t2", source=(0, 1))
    assert world.shared.kept == {
        ("ada", "t2"): Kept(made("ada", "t2", source=(0, 1)), asked().content)
    }
    assert world.log.looked_back == 0


@pytest.mark.parametrize("alone", [True, False])
async def test_a_decision_of_somebody_else_s_record_is_not_taken_for_that_of_one_s_own(
    world: World, alone: bool
) -> None:
    world.log.alone = alone
    world.log.published.append(asked().raw)  # by somebody else, a moment before
    decided = made("ada", "t1", source=(0, 0))
    task = world.score(asked(amount=13))
    await world.until_published(2)
    world.feed.decide(decided)
    with pytest.raises(ConflictError, match="was used before"):
        await task
    assert world.shared.kept == {}
    assert await world.score(asked()) == decided
    with pytest.raises(ConflictError):
        await world.score(asked(amount=13))
    assert world.log.looked_back == 1


async def test_what_others_keep_of_another_record_is_not_believed(world: World) -> None:
    world.log.published.append(asked().raw)
    world.shared.keep(("ada", "t1"), made("ada", "t1", source=(0, 7)), asked(amount=13).content)
    world.feed.decide(made("ada", "t1", source=(0, 0)))
    assert await world.score(asked()) == made("ada", "t1", source=(0, 0))
    assert world.log.looked_back == 1
