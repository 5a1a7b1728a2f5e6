"""The search: an id leads to whatever is called so."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from dafu.web.console.addresses import decision_url, merchant_url, ring_url, user_url
from dafu.web.console.rendering import page
from dafu.web.decisions.decision_endpoints import feed_started
from dafu.web.decisions.feed import DecisionFeed
from dafu.web.decisions.memory import Made
from dafu.web.endpoints import Call

__all__ = ["SearchPage", "SearchQuery"]

_LOOKED_AT = 200


class SearchQuery(Struct, frozen=True):
    """An id."""

    q: Annotated[str, Meta(min_length=1, max_length=256)]


class Found(NamedTuple):
    """Something of that id."""

    kind: str
    url: str


class SearchPage:
    """The search.

    Parameters
    ----------
    feed : DecisionFeed
        The latest decisions say what an id is of.
    """

    def __init__(self, feed: DecisionFeed) -> None:
        self._feed = feed

    async def search(self, call: Call) -> web.Response:
        """Lead on to the one thing of that id, or offer those that there may be."""
        wanted = call.query.q.strip()
        await feed_started(self._feed)
        literal = msgspec.json.encode(wanted)
        made = await self._feed.search(_LOOKED_AT, lambda m: literal in m.payload)
        found = sorted(_matches(wanted, made))
        if len(found) == 1:
            raise web.HTTPSeeOther(found[0].url)
        guesses = [
            Found("user", user_url(wanted)),
            Found("merchant", merchant_url(wanted)),
            Found("ring", ring_url(wanted)),
        ]
        return page(
            call,
            "search.html",
            title="Search",
            wanted=wanted,
            found=found,
            guesses=[] if found else guesses,
        )


def _matches(wanted: str, made: list[Made]) -> set[Found]:
    found: set[Found] = set()
    for one in made:
        decision = one.decision
        if decision.transaction_id == wanted:
            url = decision_url(decision.user_id, wanted)
            found.add(Found(f"transaction of user {decision.user_id}", url))
        if decision.user_id == wanted:
            found.add(Found("user", user_url(wanted)))
        if decision.merchant_id == wanted:
            found.add(Found("merchant", merchant_url(wanted)))
        if any(reason.source == f"ring:{wanted}" for reason in decision.reasons):
            found.add(Found("ring", ring_url(wanted)))
    return found
