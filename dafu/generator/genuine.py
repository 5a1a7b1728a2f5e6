"""What honest people do: shop around home, buy online, travel now and then.

Vectorised over a block of users and driven by one random stream per block, so that the blocks do
not depend on each other. Nobody is in two places at once: purchases while a traveller is on the
way are left out, and between two purchases at different places lies time to get there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dafu.generator.plan import (
    DAY,
    GENUINE_GAP,
    HOUR,
    PROXY_NET,
    Plan,
    address,
    cents,
    device_of,
    expand,
    home_ip,
    make_plan,
    mobile_ip,
)
from dafu.generator.world import (
    FAVOURITES,
    ONLINE_FAVOURITES,
    Cities,
    Merchants,
    Users,
    browse,
    distance_km,
    mix,
    price_of,
    visit,
)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Purchases by local hour of the day: asleep at four, lunch, and the way home.
_HOURS: Final = np.array(
    [
        *(1.2, 0.7, 0.4, 0.3, 0.3, 0.6, 1.6, 3.2, 4.4, 5.0, 5.6, 6.4),
        *(7.6, 6.8, 5.8, 5.8, 6.6, 8.0, 8.6, 7.8, 6.4, 4.8, 3.2, 2.0),
    ]
)
_WEEKDAYS: Final = np.array([0.90, 0.92, 0.95, 1.00, 1.20, 1.30, 0.85])  # Monday first
TRIP_EVERY_DAYS: Final = 75
_TRIP_SPACING: Final = 20 * DAY
_LONGEST_TRIP: Final = 12 * DAY
_CRUISE_KMH: Final = 800.0


@dataclass(frozen=True, slots=True)
class Trips:
    """Journeys ordered by user and time; away from `leave` to `back`, each way takes `transit`."""

    user: I64
    leave: I64
    back: I64
    transit: I64
    city: I64


def simulate(
    rng: Generator,
    users: Users,
    first: int,
    last: int,
    cities: Cities,
    merchants: Merchants,
    days: int,
    weekday: int,
) -> Plan:
    """Transactions of the users first..last-1 over `days` days, ordered by user and time.

    Parameters
    ----------
    rng
        The block's own stream.
    users, first, last, cities, merchants
        The world, and which of its users to simulate.
    days
        Length of the simulation.
    weekday
        Of the first day, 0 for Monday.
    """
    user, time = _moments(rng, users, first, last, days, weekday)
    trips = _make_trips(rng, users, first, last, cities, days)
    trip, away, moving = _whereabouts(trips, user, time)
    keep = ~moving
    user, time, trip, away = user[keep], time[keep], trip[keep], away[keep]

    n = len(user)
    online = rng.random(n) < users.online[user] * np.where(away, 0.5, 1.0)
    city = (
        np.where(away, trips.city[trip], users.city[user])
        if len(trips.user)
        else (users.city[user])
    )
    merchant = _choose(rng, users, merchants, user, city, online, away)
    amount = cents(price_of(rng, merchants, merchant, users.spending[user]))

    # At home, or at a hotel near the centre; in a shop, at the shop.
    lat = np.where(away, cities.lat[city], users.lat[user])
    long = np.where(away, cities.long[city], users.long[user])
    lat = np.where(online, lat, merchants.lat[merchant])
    long = np.where(online, long, merchants.long[merchant])
    country = np.where(online, cities.country[city], merchants.country[merchant])

    # A phone pays in two shops out of five; other card-present payments name no device.
    wallet = ~online & (rng.random(n) < 0.4)
    slot = np.where(online, (rng.beta(0.7, 1.6, n) * users.devices[user]).astype(np.int64), 0)
    device = np.where(online | wallet, device_of(users, user, slot, time), np.uint64(0))
    draw = rng.random(n)
    ip = np.where(
        away | wallet | (draw < 0.3), mobile_ip(users, user, time), home_ip(users, user, time)
    )
    proxied = mix(users.secret[user], 31) % np.uint64(20) == 0  # one user in twenty, as a habit
    exit_node = address(PROXY_NET, mix(users.secret[user], time // DAY, 32) % np.uint64(4096))
    ip = np.where(online & proxied & (draw > 0.5), exit_node, ip)
    plan = make_plan(
        time=time,
        user=user,
        merchant=merchant,
        amount=amount,
        online=online,
        country=country,
        device=device,
        ip=np.where(online | wallet, ip, 0),
        card=(rng.random(n) * users.cards[user]).astype(np.int8),
        lat=lat,
        long=long,
        scenario=np.full(n, -1),
    )
    return _with_follow_ups(rng, plan, merchants, users, days)


def _moments(
    rng: Generator, users: Users, first: int, last: int, days: int, weekday: int
) -> tuple[I64, I64]:
    """When each user buys, as (user, time) ordered by both, `GENUINE_GAP` apart."""
    count = rng.poisson(users.rate[first:last] * (days + 1))
    user = np.repeat(np.arange(first, last), count)
    local_days = days + 1
    weight = (_WEEKDAYS[(np.arange(local_days) + weekday) % 7][:, None] * _HOURS[None, :]).ravel()
    cumulative = np.cumsum(weight)
    hour = np.searchsorted(cumulative, rng.random(len(user)) * cumulative[-1], side="right")
    hour = np.minimum(hour, len(weight) - 1)
    local = (hour + rng.random(len(user))) * HOUR
    time = (local - users.long[user] / 15.0 * HOUR).astype(np.int64)
    # Half a day of slack at either end for the time zones.
    inside = (time >= 0) & (time < days * DAY)
    user, time = user[inside], time[inside]
    # One integer key is quicker to sort than two columns.
    key = np.sort(user * np.int64(1 << 40) + time)
    user, time = key >> 40, key & np.int64((1 << 40) - 1)
    spaced = np.ones(len(user), dtype=bool)
    spaced[1:] = (user[1:] != user[:-1]) | (time[1:] - time[:-1] >= GENUINE_GAP)
    return user[spaced], time[spaced]


def _make_trips(
    rng: Generator, users: Users, first: int, last: int, cities: Cities, days: int
) -> Trips:
    count = rng.poisson((days + 12) / TRIP_EVERY_DAYS, last - first)
    group, _ = expand(count)
    user = group + first
    leave = (rng.uniform(-12.0, days, len(user)) * DAY).astype(np.int64)
    order = np.lexsort((leave, user))
    user, leave = user[order], leave[order]
    city = rng.choice(len(cities.lat), len(user), p=cities.weight)
    stay = np.clip(rng.lognormal(1.2, 0.6, len(user)), 1.0, 10.0) * DAY
    km = distance_km(users.lat[user], users.long[user], cities.lat[city], cities.long[city])
    transit = ((km / _CRUISE_KMH + 1.5) * HOUR).astype(np.int64)
    back = leave + np.minimum(transit + stay, _LONGEST_TRIP).astype(np.int64)
    good = city != users.city[user]
    good[1:] &= (user[1:] != user[:-1]) | (leave[1:] - leave[:-1] >= _TRIP_SPACING)
    return Trips(user[good], leave[good], back[good], transit[good], city[good])


def _whereabouts(
    trips: Trips, user: I64, time: I64
) -> tuple[I64, NDArray[np.bool_], NDArray[np.bool_]]:
    """For each moment the user's latest trip, whether he is there, and whether on the way."""
    if len(trips.user) == 0:
        nowhere = np.zeros(len(user), dtype=bool)
        return np.zeros(len(user), dtype=np.int64), nowhere, nowhere.copy()
    shift = np.int64(1 << 40)
    offset = 30 * DAY  # trips may begin before the simulation
    keys = trips.user * shift + (trips.leave + offset)
    trip = np.searchsorted(keys, user * shift + (time + offset), side="right") - 1
    mine = (trip >= 0) & (trips.user[trip] == user)
    since, until = time - trips.leave[trip], time - trips.back[trip]
    transit = trips.transit[trip]
    moving = mine & ((since < transit) | ((until >= 0) & (until < transit)))
    away = mine & (since >= transit) & (until < 0)
    return np.maximum(trip, 0), away, moving


def _choose(
    rng: Generator,
    users: Users,
    merchants: Merchants,
    user: I64,
    city: I64,
    online: NDArray[np.bool_],
    away: NDArray[np.bool_],
) -> I64:
    n = len(user)
    # Squaring the draw makes the first favourites the most visited ones.
    rank = rng.random(n) ** 2
    habit = rng.random(n)
    merchant = users.favourites[user, (rank * FAVOURITES).astype(np.int64)]
    favourite_web = users.online_favourites[user, (rank * ONLINE_FAVOURITES).astype(np.int64)]
    merchant = np.where(online, favourite_web, merchant)
    explores = np.flatnonzero(~online & (away | (habit > 0.75)))
    merchant[explores] = visit(rng, merchants, city[explores])
    surfs = np.flatnonzero(online & (habit > 0.6))
    merchant[surfs] = browse(rng, merchants, (len(surfs),))
    return merchant


def _with_follow_ups(
    rng: Generator, plan: Plan, merchants: Merchants, users: Users, days: int
) -> Plan:
    """Some carts are paid in two or three parts within minutes: haste is no proof of fraud."""
    parents = np.flatnonzero(plan.online & (rng.random(len(plan)) < 0.05))
    group, number = expand(1 + (rng.random(len(parents)) < 0.25).astype(np.int64))
    extra = plan.take(parents[group])
    delay = (number + rng.uniform(0.3, 0.95, len(group))) * 75_000
    time = extra.time + delay.astype(np.int64)
    merchant = extra.merchant.astype(np.int64)
    amount = cents(price_of(rng, merchants, merchant, users.spending[extra.user]))
    index = np.concatenate([np.arange(len(plan)), parents[group]])
    whole = plan.take(index)
    whole.time[len(plan) :] = time
    whole.amount[len(plan) :] = amount
    whole = whole.take(whole.time < days * DAY)
    return whole.take(np.lexsort((whole.time, whole.user)))
