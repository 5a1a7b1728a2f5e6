"""A transaction published on behalf of somebody who waits for its decision.

The decision is made where it always is, by the agents, on whichever worker; here it is asked for,
recognised and handed back. Nothing here decides, and nothing is decided twice: a transaction that
comes again gets the decision that was made of it, one that says something else is refused. Knows
no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Final

from aiokafka.errors import KafkaError
from msgspec import Struct

from dafu.errors import DafuError
from dafu.schema import InvalidRecordError, timestamp_ms
from dafu.streaming.sender import SendError
from dafu.web.decisions.asked import Asked, Content, Key
from dafu.web.decisions.feed import DecisionFeed, FeedStoppedError, RejectedError
from dafu.web.decisions.lookup import SKEW_MS, LogLookup
from dafu.web.decisions.memory import Made
from dafu.web.decisions.publishing import Place, Publisher
from dafu.web.decisions.shared import SharedDecisions

__all__ = ["BusyError", "ConflictError", "Scorer", "UnavailableError"]

logger = logging.getLogger(__name__)

MOST_WAITING: Final = 5_000
"""Transactions that are waited for at the same time."""

LOOK_AFTER: Final = 0.5
"""Seconds without a decision, after which it is looked for among those made before; it takes longer
than a decision does, so that looking is not what keeps a busy worker from deciding."""

REMEMBERED: Final = 50_000
"""Transactions whose content is remembered here."""

CONFLICT: Final = "conflicting_duplicate"
"""The reason with which the users agent sets such a transaction aside."""

_Record = tuple[Key, tuple[int, int]]
"""What a record is about, and its partition and offset."""


class ConflictError(DafuError):
    """The transaction's id was used before for one with another time, amount or merchant."""


class BusyError(DafuError):
    """More transactions are waited for than can be."""


class UnavailableError(DafuError):
    """It is not known to be published, or what becomes or became of it can not be told now."""


class _Open(Struct):
    """A transaction that is being waited for, by so many."""

    content: Content
    publishing: asyncio.Task[Place] | None = None
    waiting: int = 0


class Scorer:
    """Has transactions decided.

    Parameters
    ----------
    topic : str
        The transactions topic.
    feed, publisher, lookup
        Of the worker.
    shared : SharedDecisions or None
        What other workers remember, if anything.
    """

    def __init__(
        self,
        topic: str,
        feed: DecisionFeed,
        publisher: Publisher,
        lookup: LogLookup,
        shared: SharedDecisions | None,
    ) -> None:
        self._topic = topic
        self._feed = feed
        self._publisher = publisher
        self._lookup = lookup
        self._shared = shared
        self._open: dict[Key, _Open] = {}
        self._contents: dict[_Record, Content] = {}
        self._originals: dict[Key, asyncio.Task[Content | None]] = {}
        self._waiting = 0

    async def score(self, asked: Asked, timeout: float) -> Made | None:
        """The decision of a transaction; None if there was none within `timeout` seconds, and it
        is in the log.

        Raises
        ------
        ConflictError, BusyError, UnavailableError
        RejectedError
            If the engine set the transaction aside.
        """
        if self._waiting >= MOST_WAITING:
            raise BusyError(f"{self._waiting:,} transactions are being decided already")
        entry = self._open.setdefault(asked.key, _Open(asked.content))
        if entry.content != asked.content:
            raise _conflict(asked, "is being decided right now")
        entry.waiting += 1
        self._waiting += 1
        try:
            return await self._decided(asked, entry, timeout)
        finally:
            self._waiting -= 1
            entry.waiting -= 1
            if not entry.waiting:
                del self._open[asked.key]

    async def _decided(self, asked: Asked, entry: _Open, timeout: float) -> Made | None:
        # Registered before anything is looked for or published: no decision can slip past.
        future = self._feed.wait(*asked.key)
        looking: asyncio.Task[None] | None = None
        # What was reached when time is up.
        made: Made | None = None
        place: Place | None = None
        try:
            async with asyncio.timeout(timeout):
                await self._feed.started()
                made = self._feed.find(*asked.key)
                if made is not None:
                    await self._check(asked, made)
                    return made
                place = await self._published(asked, entry)
                if place.offset is not None:
                    self._feed.published(place.topic, place.partition, place.offset, future)
                looking = asyncio.create_task(self._look(asked, future, timeout))
                made = await future
                await self._check(asked, made)
                if self._shared is not None and self._content(asked.key, made) is not None:
                    self._shared.keep(asked.key, made, asked.content)
                return made
        except TimeoutError:
            if not self._feed.ready:
                raise UnavailableError("the decisions can not be followed now") from None
            if made is not None:
                raise UnavailableError("it was decided, and is still being compared") from None
            if place is None:
                raise UnavailableError("the broker has not acknowledged it yet") from None
            return None
        except RejectedError as exc:
            if exc.letter.origin.reason == CONFLICT:
                raise _conflict(asked, exc.letter.origin.detail) from None
            raise
        except FeedStoppedError as exc:
            raise UnavailableError(str(exc)) from None
        finally:
            future.cancel()
            if looking is not None:
                looking.cancel()

    async def _published(self, asked: Asked, entry: _Open) -> Place:
        """Publish it, once for all who wait for it now."""
        if entry.publishing is None:
            entry.publishing = asyncio.create_task(self._publish(asked))
        try:
            return await asyncio.shield(entry.publishing)
        except SendError as exc:
            raise UnavailableError(f"it could not be published: {exc}") from exc

    async def _publish(self, asked: Asked) -> Place:
        user = asked.transaction.user_id.encode()
        place = await self._publisher.publish(self._topic, user, asked.raw)
        if place.offset is not None:
            self._remember(asked.key, (place.partition, place.offset), asked.content)
        return place

    def _content(self, key: Key, made: Made) -> Content | None:
        """What a decision was made of, if it is remembered here."""
        return None if made.source is None else self._contents.get((key, made.source))

    def _remember(self, key: Key, source: tuple[int, int] | None, content: Content) -> None:
        """Remember what a record says, if it is known which one."""
        if source is None:
            return
        self._contents.pop((key, source), None)
        self._contents[key, source] = content
        if len(self._contents) > REMEMBERED:
            del self._contents[next(iter(self._contents))]

    async def _look(self, asked: Asked, future: asyncio.Future[Made], timeout: float) -> None:
        """Look for a decision made before, which does not come again."""
        await asyncio.sleep(min(LOOK_AFTER, timeout / 2))
        made = await self.find(*asked.key, asked.timestamp)
        if made is not None and not future.done():
            future.set_result(made)

    async def find(self, user_id: str, transaction_id: str, timestamp: int | None) -> Made | None:
        """A decision made before: remembered here, by other workers, or in the log.

        `timestamp` is the transaction's, in epoch milliseconds, if it is known.
        """
        if (made := self._feed.find(user_id, transaction_id)) is not None:
            return made
        if self._shared is not None:
            kept = await self._shared.find((user_id, transaction_id))
            if kept is not None:
                self._remember((user_id, transaction_id), kept.made.source, kept.content)
                return kept.made
        if timestamp is not None and self._feed.covers(timestamp - SKEW_MS):
            return None
        try:
            return await self._lookup.decision(user_id, transaction_id, timestamp)
        except (KafkaError, OSError, DafuError) as exc:
            logger.warning("cannot look for the decision of a transaction: %s", exc)
            return None

    async def _check(self, asked: Asked, made: Made) -> None:
        """Compare a transaction with the one that the decision was made of."""
        _compare(asked, made)
        content = self._content(asked.key, made)
        if content is None:  # somebody else's record, and a decision does not say the amount
            content = await asyncio.shield(self._looking_back(asked.key, made))
        if content is not None and content != asked.content:
            raise _conflict(asked, "was used before for another time, amount or merchant")

    def _looking_back(self, key: Key, made: Made) -> asyncio.Task[Content | None]:
        """The search for what a decision was made of: one for all who ask, and it goes on for who
        asks again if it takes longer than anybody waits."""
        task = self._originals.get(key)
        if task is None:
            if len(self._originals) >= MOST_WAITING:
                raise BusyError(f"{len(self._originals):,} transactions are being looked for")
            task = self._originals[key] = asyncio.create_task(self._original(key, made))
            task.add_done_callback(lambda done: self._looked_back(key, done))
        return task

    def _looked_back(self, key: Key, done: asyncio.Task[Content | None]) -> None:
        del self._originals[key]
        if not done.cancelled():
            done.exception()  # it is in the log, whether or not anybody still waits

    async def _original(self, key: Key, made: Made) -> Content | None:
        """What a decision was made of; None if that is not to be found any more."""
        kept = None if self._shared is None else await self._shared.find(key)
        if kept is not None and kept.made.source == made.source:
            content: Content | None = kept.content
        else:
            content = await self._logged(key, made)
        if content is not None:
            self._remember(key, made.source, content)
        return content

    async def _logged(self, key: Key, made: Made) -> Content | None:
        try:
            raw = await self._lookup.original(made, *key)
            return None if raw is None else Asked.read(raw).content
        except InvalidRecordError as exc:
            logger.warning("what is taken for a transaction that was decided is none: %s", exc)
            return None
        except (KafkaError, OSError, DafuError) as exc:
            logger.warning("cannot look for a transaction that was decided: %s", exc)
            raise UnavailableError(f"what it was decided of can not be looked up: {exc}") from exc


def _compare(asked: Asked, made: Made) -> None:
    decision = made.decision
    at = timestamp_ms(datetime.fromisoformat(decision.timestamp))
    if (at, decision.merchant_id) != (asked.timestamp, asked.transaction.merchant_id):
        raise _conflict(asked, f"was decided for {decision.merchant_id} at {decision.timestamp}")


def _conflict(asked: Asked, what: str) -> ConflictError:
    return ConflictError(
        f"transaction_id {asked.transaction.transaction_id!r} {what}; the first one stands"
    )
