"""Pages of one user and of one merchant, by whichever worker remembers them."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from dafu.hashing import hash64
from dafu.tables.inspect import HASH_DIGITS, MerchantView, UserView
from dafu.web.console.rendering import page
from dafu.web.console.shown import Shown, shown
from dafu.web.decisions.decision_endpoints import feed_started
from dafu.web.decisions.feed import DecisionFeed
from dafu.web.endpoints import Call
from dafu.web.entities import Entities

__all__ = ["EntityPages", "Event", "timeline"]

LAST: Final = 50
"""Decisions of a user or at a merchant that are listed."""


class Event(NamedTuple):
    """A moment of a user: what was paid, as far as it is remembered, and what was decided."""

    time: str
    amount: float | None
    device: str | None
    country: str | None
    made: Shown | None


class EntityPages:
    """The pages of users and merchants.

    Parameters
    ----------
    users, merchants : Entities
    feed : DecisionFeed
    """

    def __init__(self, users: Entities, merchants: Entities, feed: DecisionFeed) -> None:
        self._users = users
        self._merchants = merchants
        self._feed = feed

    async def user(self, call: Call) -> web.Response:
        """A user: the account, windows, what was paid and decided."""
        user_id = call.path("user_id")
        found = await self._users.find(call.request, user_id)
        if isinstance(found, web.Response):
            return found
        assert isinstance(found, UserView)
        await feed_started(self._feed)
        made = await self._feed.search(LAST, lambda m: m.decision.user_id == user_id, user_id)
        return page(
            call,
            "user.html",
            title=f"User {user_id}",
            user=found,
            timeline=timeline(found, shown(call, made)),
        )

    async def merchant(self, call: Call) -> web.Response:
        """A merchant: windows, what was paid and decided there."""
        merchant_id = call.path("merchant_id")
        found = await self._merchants.find(call.request, merchant_id)
        if isinstance(found, web.Response):
            return found
        assert isinstance(found, MerchantView)
        await feed_started(self._feed)
        names = b'"merchant_id":' + msgspec.json.encode(merchant_id) + b","
        made = await self._feed.search(
            LAST, lambda m: names in m.payload and m.decision.merchant_id == merchant_id
        )
        return page(
            call,
            "merchant.html",
            title=f"Merchant {merchant_id}",
            merchant=found,
            decisions=shown(call, made),
        )


def timeline(user: UserView, decisions: list[Shown]) -> list[Event]:
    """What a user paid and what was decided on it, the latest first.

    Both are remembered apart, one for longer than the other; they are joined by the transaction's
    hash and time.
    """
    by_name: dict[tuple[str | None, str], Shown] = {
        (_abbreviated(d.decision.transaction_id), d.decision.timestamp): d for d in decisions
    }
    events = [
        Event(t.time, t.amount, t.device, t.country, by_name.pop((t.transaction, t.time), None))
        for t in user.transactions
    ]
    events += [Event(d.decision.timestamp, None, None, None, d) for d in by_name.values()]
    return sorted(events, key=lambda event: event.time, reverse=True)


def _abbreviated(transaction_id: str) -> str:
    return f"{hash64(transaction_id.encode()):016x}"[:HASH_DIGITS]
