"""The users of one identifier, and how strongly it ties them together.

`step` takes one sighting after the other. Once an identifier joins users it tells `Link`s: for
both when the second one comes, for each one that comes later, and again when something about one
of them changed. A link's `weight` and `users` are the identifier's, so that the newest link of an
identifier speaks for all of its links; one of weight 0 withdraws them all.

**Window.** A user counts until `WINDOW_MS` after the last sighting; users who go on using an
identifier are sighted every seven days at the latest. Time is that of the sightings themselves.

**Weight.** Roughly the chance that two users of the identifier, taken at random, act for one
another. As long as no more have it than one household or one person's accounts would (`CAPACITY`),
that is what the kind of identifier is worth (`WORTH`). Beyond, it depends on how they came.

* An address passes on: those who had it days apart have nothing to do with each other. So it is
  worth less the longer its users were apart from whoever used it before or after (`APART_MS`).
* An address with more users is a place or a service. Its weight falls with the root of their
  number as long as all came within a week of each other, which is what a campaign looks like, and
  with the power 3/2 if they come all the time, as at an office, a proxy or a carrier.
* Other things belong to somebody. Many users who came within a week are one operator's accounts,
  and nothing is taken off. If they come all the time, as to a counter's tablet, it falls as above.
* What `SHOP_USERS` users or more used at one and the same merchant only may be the merchant's own:
  down to a fifth of that, unless they came faster after each other than customers do (`RUSH_MS`).

Below `LEAST_WEIGHT` it is ignored: its links are withdrawn. More than `MAX_USERS` users are a
crowd: none of them is remembered, only roughly how many come in a week (linear counting, Whang et
al., ACM TODS 15(2), 1990), until for a window at least and for a whole week few came.

Pure, and harmless to repeat: a user is one user however often he is told.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from typing import Final

from msgspec import Struct, field

from dafu.hashing import hash64
from dafu.rings.facts import merge_facts
from dafu.rings.records import Facts, Kind, Link, Sighting

DAY_MS: Final = 86_400_000
WEEK_MS: Final = 7 * DAY_MS
WINDOW_MS: Final = 28 * DAY_MS
"""How long after the last sighting a user counts."""

MAX_USERS: Final = 128
"""Users remembered of an identifier; with more it is a crowd's."""

MAX_MERCHANTS: Final = 4
"""Merchants remembered of an identifier; enough to tell one from several."""

TELL_AGAIN_MS: Final = DAY_MS
"""A user's later sightings are told when this much later than the last one told."""

CAPACITY: Final[dict[Kind, int]] = {"device": 4, "ip": 6, "card": 4, "email": 4}
"""How many users a thing may well have who know each other: those of one household."""

WORTH: Final[dict[Kind, float]] = {"device": 1.0, "ip": 0.6, "card": 0.9, "email": 1.0}
"""The weight of an identifier of few users. An address is also a neighbour's or a former owner's,
a card number may be mistyped."""

APART_MS: Final = 2 * DAY_MS
SHOP_USERS: Final = 2
RUSH_MS: Final = 10 * 60_000
LEAST_WEIGHT: Final = 0.04
_BACK_WEIGHT: Final = 2 * LEAST_WEIGHT
_MATERIAL_WEIGHT: Final = 0.1
_CROWD_BITS: Final = 512
_FEW: Final = MAX_USERS // 4


class UserOfIdentifier(Struct, array_like=True, gc=False):
    """A user within the window; `told` is the `last_seen` of the latest link, 0 for none.

    `told_blocked`, `told_frauds` and `told_reviewed` are what that link said.
    """

    user_id: str
    first_seen: int
    last_seen: int
    as_of: int
    since: int
    transactions: int
    amount: float
    frauds: int
    blocked_at: int
    told: int = 0
    told_blocked: int = 0
    told_frauds: int = 0
    reviewed_at: int = 0
    told_reviewed: int = 0

    @property
    def facts(self) -> Facts:
        """What is known of the user."""
        return Facts(
            self.as_of, self.since, self.transactions, self.amount, self.frauds,
            self.blocked_at, self.reviewed_at,
        )  # fmt: skip

    def learn(self, told: Facts) -> None:
        """Take in facts, in whatever order."""
        now = merge_facts(self.facts, told)
        self.as_of, self.since = now.as_of, now.since
        self.transactions, self.amount = now.transactions, now.amount
        self.frauds = now.frauds
        self.blocked_at, self.reviewed_at = now.blocked_at, now.reviewed_at


class IdentifierState(Struct, array_like=True):
    """What is remembered of an identifier; its size is bounded whatever happens.

    `fence` is the offset of the last sighting applied, `clock` the latest time seen. `weight` is
    what was told last: -1 before anything was, 0 while it is ignored. `crowd` is when it became a
    crowd's, 0 if it is none; then `week` is the number of the week that `seen` counts, and
    `before` how many came in the week before, -1 if that was not counted from its beginning.
    """

    fence: int = -1
    clock: int = 0
    weight: float = -1.0
    users: list[UserOfIdentifier] = field(default_factory=list)
    merchants: list[int] = field(default_factory=list)
    crowd: int = 0
    week: int = 0
    seen: bytes = b""
    before: int = -1

    @property
    def ignored(self) -> bool:
        """Whether the identifier ties nobody although several have it."""
        return bool(self.crowd) or self.weight == 0.0


def step(state: IdentifierState, sighting: Sighting) -> tuple[IdentifierState, list[Link]]:
    """Apply one sighting.

    Parameters
    ----------
    state : IdentifierState
        Changed in place, except where a fresh one takes its place.
    sighting : Sighting
        Its time is `facts.as_of`. One from before the window says nothing.

    Returns
    -------
    state, links
        Links in the order of the users' arrival.
    """
    time = sighting.facts.as_of
    if time <= state.clock - WINDOW_MS:
        return state, []
    if state.crowd:
        if not _crowd_is_gone(state, sighting.user_id, time):
            return state, []
        state = IdentifierState(state.fence, state.clock)
    state.clock = max(state.clock, time)
    since = state.clock - WINDOW_MS
    if any(user.last_seen <= since for user in state.users):
        state.users = [user for user in state.users if user.last_seen > since]
    user = _note(state, sighting)
    if len(state.users) > MAX_USERS:
        return state, _become_crowd(state, sighting)
    return state, _tell(state, sighting.kind, sighting.value, user)


def weigh(kind: Kind, uses: list[tuple[int, int]], merchants: int) -> float:
    """The weight of an identifier, 0..1; see the module.

    Parameters
    ----------
    kind : Kind
    uses : list of (int, int)
        When each of its users, two or more, was seen with it first and last, ascending, epoch
        milliseconds.
    merchants : int
        At how many merchants it was seen.

    Examples
    --------
    >>> days = [(day * DAY_MS, day * DAY_MS) for day in range(14)]
    >>> weigh("device", days[:7], 3), weigh("device", days, 3)
    (1.0, 0.15)
    >>> weigh("ip", [days[0], days[0]], 2), weigh("ip", [days[0], days[9]], 2)
    (0.6, 0.0)
    """
    users, capacity = len(uses), CAPACITY[kind]
    weight = WORTH[kind]
    if kind == "ip":
        weight *= _closeness(uses)
    if users > capacity:
        room = capacity / users
        # 0 if all came within one week, 1 if no week saw more than half of them.
        densest = _densest([first for first, _ in uses], WEEK_MS)
        steady = min(2.0 * (1.0 - densest / users), 1.0)
        at_once = math.sqrt(room) if kind == "ip" else 1.0
        weight *= at_once * (1.0 - steady) + room * math.sqrt(room) * steady
    if users >= SHOP_USERS and merchants == 1:
        weight *= (1.0 + 4.0 * _rush([first for first, _ in uses])) / 5.0
    return round(weight, 2) if weight >= LEAST_WEIGHT else 0.0


def _closeness(uses: list[tuple[int, int]]) -> float:
    """1 if all used it at the same time as another, towards 0 the farther apart they were."""
    total, latest = 0.0, -math.inf
    for at, (first, last) in enumerate(uses):
        ahead = uses[at + 1][0] - last if at + 1 < len(uses) else math.inf
        total += math.exp(-max(min(first - latest, ahead), 0.0) / APART_MS)
        latest = max(latest, last)
    return total / len(uses)


def _rush(times: list[int]) -> float:
    """The share of these times, ascending, that are less than RUSH_MS after the one before."""
    return sum(b - a < RUSH_MS for a, b in pairwise(times)) / (len(times) - 1)


def _densest(times: list[int], span: int) -> int:
    """The most of these times, ascending, that are less than `span` apart."""
    return max(bisect_left(times, t + span, i) - i for i, t in enumerate(times))


def _note(state: IdentifierState, sighting: Sighting) -> UserOfIdentifier:
    time = sighting.facts.as_of
    merchant = hash64(sighting.merchant_id.encode()) >> 32
    if merchant not in state.merchants and len(state.merchants) < MAX_MERCHANTS:
        state.merchants.append(merchant)
    for user in state.users:
        if user.user_id == sighting.user_id:
            user.first_seen = min(user.first_seen, time)
            user.last_seen = max(user.last_seen, time)
            user.learn(sighting.facts)
            return user
    f = sighting.facts
    user = UserOfIdentifier(
        sighting.user_id, time, time,
        f.as_of, f.since, f.transactions, f.amount, f.frauds, f.blocked_at,
        reviewed_at=f.reviewed_at,
    )  # fmt: skip
    state.users.append(user)
    return user


def _tell(state: IdentifierState, kind: Kind, value: str, user: UserOfIdentifier) -> list[Link]:
    if len(state.users) < 2:
        return []
    uses = sorted((u.first_seen, u.last_seen) for u in state.users)
    weight = weigh(kind, uses, len(state.merchants))
    before = state.weight
    if before == 0.0 and weight < _BACK_WEIGHT:
        return []
    if weight == 0.0:
        state.weight = 0.0
        return [] if before < 0.0 else [_withdraw(state, kind, value, user)]
    # While one user was alone with it, nothing was told of what he did.
    news = [u for u in state.users if not u.told or _has_news(u)]
    if user not in news and abs(weight - before) >= _MATERIAL_WEIGHT:
        news.append(user)
    if news:
        state.weight = weight
    for each in news:
        each.told, each.told_blocked = each.last_seen, each.blocked_at
        each.told_frauds, each.told_reviewed = each.frauds, each.reviewed_at
    return [_link(state, kind, value, each) for each in news]


def _has_news(user: UserOfIdentifier) -> bool:
    return (
        user.last_seen >= user.told + TELL_AGAIN_MS
        or user.blocked_at >= user.told_blocked + TELL_AGAIN_MS
        or user.reviewed_at >= user.told_reviewed + TELL_AGAIN_MS
        or user.frauds != user.told_frauds
    )


def _link(state: IdentifierState, kind: Kind, value: str, user: UserOfIdentifier) -> Link:
    return Link(
        user.user_id, kind, value, user.first_seen, user.last_seen,
        len(state.users), state.weight, user.facts, state.clock,
    )  # fmt: skip


def _withdraw(state: IdentifierState, kind: Kind, value: str, user: UserOfIdentifier) -> Link:
    state.weight = 0.0
    link = _link(state, kind, value, user)
    for each in state.users:
        each.told = 0
    return link


def _become_crowd(state: IdentifierState, sighting: Sighting) -> list[Link]:
    told = state.weight > 0.0
    link = _withdraw(state, sighting.kind, sighting.value, state.users[-1])
    state.crowd, state.users, state.merchants = state.clock, [], []
    state.week, state.seen, state.before = state.clock // WEEK_MS, bytes(_CROWD_BITS // 8), -1
    return [link] if told else []


def _crowd_is_gone(state: IdentifierState, user_id: str, time: int) -> bool:
    """Count a user of a crowd; whether it was found to be one no longer."""
    if time >= state.clock + WINDOW_MS:
        return True
    week = time // WEEK_MS
    if week < state.week:
        return False
    if week > state.week:
        # The week in which counting began was not counted as a whole.
        whole = state.week > state.crowd // WEEK_MS
        state.before = (_count(state.seen) if whole else -1) if week == state.week + 1 else 0
        state.week, state.seen = week, bytes(_CROWD_BITS // 8)
    state.clock = max(state.clock, time)
    if 0 <= state.before < _FEW and time >= state.crowd + WINDOW_MS:
        return True
    at = hash64(user_id.encode()) % _CROWD_BITS
    seen = bytearray(state.seen)
    seen[at // 8] |= 1 << (at % 8)
    state.seen = bytes(seen)
    return False


def _count(seen: bytes) -> int:
    """How many different ones set these bits, about; with all bits set, very many."""
    unset = _CROWD_BITS - int.from_bytes(seen, "little").bit_count()
    return round(-_CROWD_BITS * math.log(unset / _CROWD_BITS)) if unset else 10 * _CROWD_BITS
