"""Fraud rings: accounts that work together through devices, addresses, cards and inboxes.

Some of the accounts are opened for the purpose, some were opened long before, some belong to
people and were taken over. Fraud stands among purchases like everybody's, members use their own
things as well, and it all takes from minutes to weeks. Vectorised over all rings, driven by one
random stream, on top of the traffic that is there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dafu.generator.groups import draw_kinds
from dafu.generator.plan import (
    DAY,
    HOME_NET,
    MINUTE,
    PROXY_NET,
    RING_SCENARIO,
    Plan,
    address,
    cents,
    device_of,
    expand,
    home_ip,
    join,
    make_plan,
    mobile_ip,
)
from dafu.generator.world import (
    Cities,
    Merchants,
    Users,
    browse,
    make_users,
    mix,
    price_of,
    scatter,
    visit,
)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Flags = NDArray[np.bool_]

RING_SHARES: Final = {
    "device_farm": 0.30,
    "ip_cluster": 0.25,
    "shared_card": 0.20,
    "mixed": 0.15,
    "slow": 0.10,
}
"""Kinds of rings, and the share that each has in all."""

RING_KINDS: Final = tuple(RING_SHARES)
_DEVICE, _IP, _CARD, _MIXED, _SLOW = range(5)
SMALLEST, LARGEST = 3, 25
JOIN_EVERY: Final = 7 * DAY
"""A slow ring takes in a member after this, give or take a day and a half."""

POPULAR_EXITS: Final = 64
"""Addresses, the first of `PROXY_NET`, of the proxies that many honest people use as well."""

_FRESH, _AGED, _TAKEN = range(3)


@dataclass(frozen=True, slots=True)
class Rings:
    """R rings of M members in all, who are ordered by ring.

    `means` says of each member which of device, address and card tie him to the ring [M, 3];
    `have` how many of each the ring has [R, 3]. Times are milliseconds from the start.
    """

    kind: I64
    secret: U64
    have: I64
    start: I64
    span: I64
    ring: I64
    number: I64
    user: I64
    origin: I64
    means: Flags


def commit_rings(
    rng: Generator, count: int, users: Users, cities: Cities, merchants: Merchants, days: int
) -> tuple[Users, Plan, list[str]]:
    """Make rings: all users with the accounts they opened, their transactions, their kinds.

    Parameters
    ----------
    rng
        The rings' own stream.
    count
        How many.
    users, cities, merchants
        The world; accounts are opened in addition to its users.
    days
        Length of the simulation.
    """
    rings, population = _found(rng, count, users, cities, merchants, days)
    work = _work(rng, rings, population, cities, merchants, len(users.city))
    plan = join([work, _idle(rng, rings, population, merchants, work)])
    plan = plan.take((plan.time >= 0) & (plan.time < days * DAY))
    return population, plan, [RING_KINDS[k] for k in rings.kind]


def add_users(users: Users, more: Users) -> Users:
    """The users of both, in this order."""
    return Users(
        *(np.concatenate([getattr(users, f.name), getattr(more, f.name)]) for f in fields(Users))
    )


def _found(
    rng: Generator, count: int, users: Users, cities: Cities, merchants: Merchants, days: int
) -> tuple[Rings, Users]:
    kind = draw_kinds(rng, tuple(RING_SHARES.values()), count)
    size = np.minimum(SMALLEST + rng.exponential(4.5, count).astype(np.int64), LARGEST)
    ring, number = expand(size)
    user, origin, opened = _recruit(rng, ring, count, len(users.city))
    population = add_users(users, make_users(rng, opened, cities, merchants))
    have = rng.integers(1, 1 + np.minimum(np.array([3, 4, 4]), 1 + size[:, None] // 3))
    # From half an hour to four weeks, as likely within an hour as within a week.
    longest = min(28.0, 0.9 * days)
    span = np.exp(rng.uniform(np.log(0.02), np.log(longest), count)) * DAY
    slow = kind == _SLOW
    slowly = np.minimum(size * JOIN_EVERY, 0.9 * days * DAY)
    span = np.where(slow, slowly, span).astype(np.int64)
    start = (rng.random(count) * (days * DAY - span)).astype(np.int64)
    return Rings(
        kind=kind,
        secret=rng.integers(0, 2**63, count, dtype=np.uint64),
        have=have,
        start=start,
        span=span,
        ring=ring,
        number=number,
        user=user,
        origin=origin,
        means=_means(rng, kind, ring),
    ), population


def _recruit(rng: Generator, ring: I64, count: int, honest: int) -> tuple[I64, I64, int]:
    """Accounts of the members, where they come from, and how many were opened for it.

    Nobody is taken over by two rings; when there is nobody left, accounts are opened.
    """
    ready_made = rng.beta(1.5, 1.5, count)[ring]  # the share of opened accounts differs by ring
    draw = rng.random(len(ring))
    origin = np.where(draw < 0.65 * ready_made, _FRESH, np.where(draw < ready_made, _AGED, _TAKEN))
    taken = np.flatnonzero(origin == _TAKEN)
    victims = rng.permutation(honest)[: len(taken)]
    origin[taken[len(victims) :]] = _FRESH
    user = np.empty(len(ring), dtype=np.int64)
    user[taken[: len(victims)]] = victims
    opened = np.flatnonzero(origin != _TAKEN)
    user[opened] = honest + np.arange(len(opened))
    return user, origin, len(opened)


def _means(rng: Generator, kind: I64, ring: I64) -> Flags:
    """What ties each member to the ring; where it may be several things, at least one."""
    farm_proxy = rng.random(len(kind)) < 0.35  # a farm may sit behind one proxy
    single = np.where(kind == _SLOW, rng.integers(0, 3, len(kind)), kind)
    means = (single[:, None] == np.arange(3))[ring]
    means[:, _IP] |= ((kind == _DEVICE) & farm_proxy)[ring]
    several = rng.random((len(ring), 3)) < np.array([0.5, 0.5, 0.4])
    several[np.arange(len(ring)), rng.integers(0, 3, len(ring))] = True
    several[np.searchsorted(ring, np.arange(len(kind)))] = True  # the first has to do with all
    return np.asarray(np.where((kind == _MIXED)[ring][:, None], several, means))


@dataclass(frozen=True, slots=True)
class _Acts:
    """Transactions to be: whose (an index of members), when, whether fraud, and what is used."""

    member: I64
    time: I64
    fraud: Flags
    uses: Flags


def _schedule(rng: Generator, rings: Rings) -> _Acts:
    ring, members = rings.ring, len(rings.ring)
    span = rings.span[ring]
    joined = rings.start[ring] + (rng.beta(0.9, 1.6, members) * span).astype(np.int64)
    week = rings.number * JOIN_EVERY + rng.uniform(-1.5, 1.5, members) * DAY
    weekly = rings.start[ring] + np.maximum(week, 0.0).astype(np.int64)
    slow = (rings.kind == _SLOW)[ring]
    joined = np.where(slow, weekly, joined)
    left = np.maximum(rings.start[ring] + span - joined, 0)
    active = rng.uniform(0.1, 1.0, members) * left
    active = np.where(slow, rng.lognormal(1.5, 0.8, members) * DAY, active) + 3 * MINUTE
    pace = rng.lognormal(1.0, 0.6, len(rings.kind))
    count = 1 + np.minimum(rng.poisson(pace[ring]), 40)
    # The first member tries everything that the ring has, which holds it together.
    count = np.where(rings.number == 0, np.maximum(count, rings.have.max(axis=1)[ring]), count)
    member, nth = expand(count)
    elapsed = np.where(nth == 0, 0.0, rng.random(len(member)) ** 1.3 * active[member])
    time = joined[member] + elapsed.astype(np.int64)
    bold = rng.beta(4.0, 3.0, len(rings.kind))[ring][member]
    # An account is tried with something harmless more often than not.
    fraud = rng.random(len(member)) < bold * np.where(nth == 0, 0.6, 1.15)
    loyal = rng.uniform(0.6, 1.0, len(rings.kind))[ring]
    own_things = rng.random(members) < 0.35
    loyal = np.where(own_things, 0.5 * loyal, loyal)
    must = nth == (rng.random(members) * count).astype(np.int64)[member]
    uses = rings.means[member] & (rng.random(len(member)) < loyal[member])[:, None]
    uses |= rings.means[member] & (must | (rings.number[member] == 0))[:, None]
    return _Acts(member, time, fraud, uses)


def _pieces(rng: Generator, rings: Rings, acts: _Acts) -> I64:
    """Which of the ring's devices, addresses and cards a transaction takes [n, 3].

    Each member has one of each that he takes mostly; the first one takes all in turn.
    """
    ring = rings.ring[acts.member]
    mostly = mix(rings.secret[rings.ring], rings.number, 71)[acts.member]
    n = len(ring)
    changed = rng.random((n, 3)) < 0.2
    pick = np.where(changed, rng.integers(0, 12, (n, 3)), (mostly % np.uint64(12))[:, None])
    pick = pick.astype(np.int64)
    leader = rings.number[acts.member] == 0
    first = np.searchsorted(acts.member, acts.member, side="left")
    turn = np.arange(n) - first
    pick[leader] = turn[leader, None]
    return np.asarray(pick % rings.have[ring])


def _shared_address(rings: Rings, ring: I64, piece: I64) -> NDArray[np.uint32]:
    """Addresses of a ring: proxies of its own, proxies of everybody, or somebody's home router."""
    key = mix(rings.secret[ring], piece, 72)
    sort = (mix(rings.secret[ring], 73) % np.uint64(100)).astype(np.int64)
    popular = address(PROXY_NET, key % np.uint64(POPULAR_EXITS))
    return np.asarray(
        np.where(
            sort < 60,
            address(PROXY_NET, key),
            np.where(sort < 85, address(HOME_NET, key), popular),
        )
    )


def _shared_card(rings: Rings, ring: I64, piece: I64, honest: int) -> tuple[I64, I64]:
    """Holder and slot of a ring's card: stolen from somebody, or one of a member's."""
    key = mix(rings.secret[ring], piece, 74)
    victim = (key % np.uint64(honest)).astype(np.int64)
    first = np.searchsorted(rings.ring, np.arange(len(rings.kind)))
    size = np.bincount(rings.ring, minlength=len(rings.kind))
    member = rings.user[first[ring] + piece % size[ring]]
    stolen = mix(rings.secret[ring], piece, 75) % np.uint64(10) < 6
    # The second slot of an account that the ring opened is a card that nobody else has.
    return np.where(stolen, victim, member), np.where(stolen | (member < honest), 0, 1)


def _work(
    rng: Generator, rings: Rings, users: Users, cities: Cities, merchants: Merchants, honest: int
) -> Plan:
    """What members do for the ring."""
    acts = _schedule(rng, rings)
    user, ring, time = rings.user[acts.member], rings.ring[acts.member], acts.time
    piece, n = _pieces(rng, rings, acts), len(user)
    farm = mix(rings.secret[ring], piece[:, _DEVICE], 76)
    # Without a device of the ring: an own one, in an address cluster now and then another's.
    own = device_of(users, user, 0, time)
    taken = rings.origin[acts.member] == _TAKEN
    intruder = mix(rings.secret[ring], user, 77)  # of whoever works with a stolen account
    own = np.where(taken & (mix(user, 78) % np.uint64(3) > 0), intruder, own)
    other = rings.user[_colleague(rng, rings, acts.member)]
    lent = (rings.kind[ring] == _IP) & (rng.random(n) < 0.08)
    own = np.where(lent, device_of(users, other, 0, time), own)
    device = np.where(acts.uses[:, _DEVICE], farm, own)
    rotating = address(PROXY_NET, mix(rings.secret[ring], user, time // DAY, 79))
    private = np.where(
        rng.random(n) < 0.5,
        np.where(taken, rotating, home_ip(users, user, time)),
        mobile_ip(users, user, time),
    )
    ip = np.where(
        acts.uses[:, _IP], _shared_address(rings, ring, piece[:, _IP]),
        np.where(acts.uses[:, _DEVICE], rotating, private),
    )  # fmt: skip
    holder, slot = _shared_card(rings, ring, piece[:, _CARD], honest)
    holder = np.where(acts.uses[:, _CARD], holder, user)
    card = np.where(acts.uses[:, _CARD], slot, 0)
    # A taken account pays from where the ring is, or from a proxy near its owner.
    remote = (taken & (mix(user, 80) % np.uint64(2) == 0)) | (rng.random(n) < 0.1)
    base = (mix(rings.secret, 81) % np.uint64(len(cities.lat))).astype(np.int64)
    city = np.where(remote, base[ring], users.city[user])
    lat, long = scatter(rng, cities.lat[base], cities.long[base])
    merchant, amount = _purchases(rng, rings, ring, user, acts.fraud, users, merchants)
    return make_plan(
        time=time,
        user=user,
        merchant=merchant,
        amount=amount,
        online=np.ones(n, dtype=bool),
        country=cities.country[city],
        device=device,
        ip=ip,
        card=card,
        lat=np.where(remote, lat[ring], users.lat[user]),
        long=np.where(remote, long[ring], users.long[user]),
        scenario=np.where(acts.fraud, RING_SCENARIO, -1),
        holder=holder,
        inbox=_inbox(rings)[acts.member],
        group=ring,
    )


def _inbox(rings: Rings) -> I64:
    """Whose email address each member gives: in some rings a few inboxes serve all accounts."""
    ring, user = rings.ring, rings.user
    size = np.bincount(ring, minlength=len(rings.kind))
    first = np.searchsorted(ring, np.arange(len(rings.kind)))[ring]
    owner = user[first + rings.number % (1 + size // 5)[ring]]
    shares = (mix(rings.secret, 83) % np.uint64(100) < 35)[ring]
    # Whoever takes an account over changes its address sometimes.
    changed = (rings.origin != _TAKEN) | (mix(user, 84) % np.uint64(3) == 0)
    return np.where(shares & changed, owner, user)


def _colleague(rng: Generator, rings: Rings, member: I64) -> I64:
    """Some member of the same ring for each."""
    ring = rings.ring[member]
    first = np.searchsorted(rings.ring, ring)
    size = np.bincount(rings.ring, minlength=len(rings.kind))[ring]
    return np.asarray(first + (rng.random(len(member)) * size).astype(np.int64))


def _purchases(
    rng: Generator,
    rings: Rings,
    ring: I64,
    user: I64,
    fraud: Flags,
    users: Users,
    merchants: Merchants,
) -> tuple[I64, F64]:
    """Merchants and amounts: a ring has shops where its frauds go through, and knows others."""
    n = len(ring)
    targets = browse(rng, merchants, (len(rings.kind), 4))
    few = 1 + (mix(rings.secret, 82) % np.uint64(4)).astype(np.int64)
    target = targets[ring, (rng.random(n) * few[ring]).astype(np.int64)]
    favourite = users.online_favourites[user, rng.integers(0, users.online_favourites.shape[1], n)]
    habit, anywhere = rng.random(n), browse(rng, merchants, (n,))
    chosen = np.where(fraud, target, favourite)
    merchant = np.where(habit < 0.5, chosen, anywhere)
    level = rng.lognormal(0.5, 0.6, len(rings.kind))[ring] * rng.lognormal(0.2, 0.4, n)
    level = users.spending[user] * np.where(fraud, level, 1.0)
    amount = price_of(rng, merchants, merchant, level)
    # Cards are tried with little before they are used.
    trial = fraud & (rings.kind[ring] == _CARD) & (rng.random(n) < 0.2)
    return merchant, cents(np.where(trial, rng.uniform(0.5, 4.0, n), amount))


def _idle(rng: Generator, rings: Rings, users: Users, merchants: Merchants, work: Plan) -> Plan:
    """What accounts did that were opened long before the ring had use for them.

    A purchase a week, in shops and online, with a device, an address and a card of their own.
    """
    aged = np.flatnonzero(rings.origin == _AGED)
    begin = np.full(len(users.city), np.iinfo(np.int64).max)
    np.minimum.at(begin, work.user, work.time)
    before = begin[rings.user[aged]]
    count = 1 + rng.poisson(before / (7 * DAY))
    at, _ = expand(count)
    user, ring = rings.user[aged][at], rings.ring[aged][at]
    n = len(user)
    time = (rng.random(n) * before[at]).astype(np.int64)
    online = rng.random(n) < 0.5
    shop = visit(rng, merchants, users.city[user])
    merchant = np.where(online, browse(rng, merchants, (n,)), shop)
    mobile = rng.random(n) < 0.3
    ip = np.where(mobile, mobile_ip(users, user, time), home_ip(users, user, time))
    return make_plan(
        time=time,
        user=user,
        merchant=merchant,
        amount=cents(price_of(rng, merchants, merchant, users.spending[user])),
        online=online,
        country=merchants.country[shop],
        device=np.where(online, device_of(users, user, 0, time), np.uint64(0)),
        ip=np.where(online, ip, 0),
        card=np.zeros(n),
        lat=np.where(online, users.lat[user], merchants.lat[shop]),
        long=np.where(online, users.long[user], merchants.long[shop]),
        scenario=np.full(n, -1),
        inbox=np.where(online, _inbox(rings)[aged][at], -1),
        group=ring,
    )
