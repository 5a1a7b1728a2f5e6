"""Honest people who share devices, addresses and cards: what must not be taken for a ring.

Families, couples, offices and campuses, a tablet in a shop, the users of a popular proxy, the
customers of a carrier behind few addresses, and used devices that were sold. Nobody buys
anything more because of it: purchases that are there anyway take another device, address or
card. Vectorised per kind, driven by one random stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dafu.generator.groups import draw_kinds
from dafu.generator.plan import (
    DAY,
    HOME_NET,
    HOUR,
    MOBILE_NET,
    PROXY_NET,
    Plan,
    address,
    device_of,
    expand,
    home_ip,
)
from dafu.generator.rings import POPULAR_EXITS
from dafu.generator.world import Users, mix

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Flags = NDArray[np.bool_]


class _Kind(NamedTuple):
    """Share in all look-alikes; how many members; whether they live in one city."""

    share: float
    smallest: int
    largest: int
    near: bool


LOOK_ALIKES: Final = {
    "family": _Kind(0.36, 3, 6, True),
    "couple": _Kind(0.16, 2, 2, True),
    "sold_device": _Kind(0.16, 2, 3, True),
    "office": _Kind(0.12, 20, 200, True),
    "shop_tablet": _Kind(0.08, 10, 150, True),
    "proxy": _Kind(0.06, 30, 300, False),
    "carrier": _Kind(0.06, 50, 500, False),
}
"""Kinds of look-alikes. Members of the large ones are at most an eighth of all users."""

LOOK_ALIKE_KINDS: Final = tuple(LOOK_ALIKES)
_NEWCOMERS: Final = 0.12
"""Share of the members of small groups whose account is opened during the simulation."""


@dataclass(frozen=True, slots=True)
class Circle:
    """The G groups of one kind. `number` is their place among all look-alikes.

    `of` is the group of each user, -1 for none; `head` the first member of each group.
    """

    kind: str
    number: I64
    of: I64
    head: I64
    secret: U64


@dataclass(slots=True)
class _Scene:
    """What the habits of each kind work on."""

    rng: Generator
    users: Users
    plan: Plan
    weekday: int
    days: int

    def mark(self, rows: Flags, circle: Circle, group: I64) -> None:
        self.plan.group[rows] = circle.number[group][rows]


def gather(rng: Generator, count: int, users: Users) -> tuple[list[Circle], list[str]]:
    """Who belongs together, and the kind of each of the `count` look-alikes.

    Nobody is in two groups of one kind. Where there are too few users for all groups of a kind,
    the last ones are smaller or have no member.
    """
    kinds = draw_kinds(rng, tuple(kind.share for kind in LOOK_ALIKES.values()), count)
    circles = []
    for index, (name, kind) in enumerate(LOOK_ALIKES.items()):
        number = np.flatnonzero(kinds == index)
        circles.append(_circle(rng, name, kind, number, users))
    return circles, [LOOK_ALIKE_KINDS[k] for k in kinds]


def _circle(rng: Generator, name: str, kind: _Kind, number: I64, users: Users) -> Circle:
    n = len(users.city)
    largest = kind.largest if kind.largest <= 10 else max(min(kind.largest, n // 8), 2)
    smallest = min(kind.smallest, largest)
    # As many small groups as large ones, by the order of magnitude.
    size = np.exp(rng.uniform(np.log(smallest), np.log(largest + 1), len(number)))
    group, nth = expand(np.minimum(size.astype(np.int64), largest))
    key = rng.random(n)
    order = np.lexsort((key, users.city)) if kind.near else np.argsort(key)
    order = np.roll(order, int(rng.integers(0, n)))
    group, nth = group[:n], nth[:n]
    user = order[: len(group)]
    head = np.full(len(number), -1)
    head[group[nth == 0]] = user[nth == 0]
    # A run of neighbours may reach into another city: those live elsewhere and stay out.
    near = (users.city[user] == users.city[head[group]]) | (kind.near is False)
    size = np.bincount(group[near], minlength=len(number))
    kept = near & (size[group] >= max(smallest // 2, 2))
    of = np.full(n, -1)
    of[user[kept]] = group[kept]
    secret = rng.integers(0, 2**63, len(number), dtype=np.uint64)
    return Circle(name, number, of, head, secret)


def settle(users: Users, circles: list[Circle]) -> Users:
    """The users after families and couples have moved in with one of them."""
    for circle in circles:
        if circle.kind not in ("family", "couple"):
            continue
        where = np.arange(len(users.city))
        together = circle.of >= 0
        where[together] = circle.head[circle.of[together]]
        users = replace(users, lat=users.lat[where], long=users.long[where])
    return users


def share(
    rng: Generator,
    circles: list[Circle],
    users: Users,
    genuine: Plan,
    weekday: int,
    days: int,
) -> Plan:
    """Genuine transactions as they are once people share.

    Parameters
    ----------
    rng
        The look-alikes' own stream.
    circles, users
        From `gather` and `settle`.
    genuine
        What the users buy; it is not changed.
    weekday
        Of the first day, 0 for Monday.
    days
        Length of the simulation.
    """
    plan = Plan(*(getattr(genuine, f.name).copy() for f in fields(Plan)))
    scene = _Scene(rng, users, plan, weekday, days)
    for circle in circles:
        if len(circle.number):
            _HABITS[circle.kind](scene, circle)
    return plan.take(~_unopened(scene, circles))


def _unopened(scene: _Scene, circles: list[Circle]) -> Flags:
    """Purchases from before an account was opened: some members of small groups are new."""
    users = len(scene.users.city)
    opened = np.zeros(users)
    for circle in circles:
        if circle.kind not in ("family", "couple", "sold_device"):
            continue
        new = (circle.of >= 0) & (scene.rng.random(users) < _NEWCOMERS)
        opened = np.where(new, scene.rng.uniform(0.1, 0.7, users) * scene.days * DAY, opened)
    return np.asarray(scene.plan.time < opened[scene.plan.user])


def _members(scene: _Scene, circle: Circle) -> tuple[I64, Flags]:
    """The group of each purchase (0 where it has none) and whether it has one."""
    group = circle.of[scene.plan.user]
    return np.maximum(group, 0), group >= 0


def _at_home(scene: _Scene, circle: Circle, group: I64, member: Flags) -> Flags:
    """One connection for all who live together; which purchases are made through it."""
    plan, users = scene.plan, scene.users
    user = plan.user.astype(np.int64)
    home = member & (plan.ip != 0) & (plan.ip == home_ip(users, user, plan.time))
    common = home_ip(users, circle.head[group], plan.time)
    plan.ip[home] = common[home]
    scene.mark(home, circle, group)
    return np.asarray(home)


def _lend_card(scene: _Scene, circle: Circle, group: I64, rows: Flags) -> None:
    scene.plan.holder[rows] = circle.head[group][rows]
    scene.plan.card[rows] = 0
    scene.mark(rows, circle, group)


def _family(scene: _Scene, circle: Circle) -> None:
    """One home, often a tablet for all, sometimes a card for all or one inbox for some."""
    rng, plan, groups = scene.rng, scene.plan, len(circle.number)
    group, member = _members(scene, circle)
    home = _at_home(scene, circle, group, member)
    tablet = np.where(rng.random(groups) < 0.6, rng.uniform(0.1, 0.5, groups), 0.0)
    used = home & plan.online & (rng.random(len(plan)) < tablet[group])
    plan.device[used] = mix(circle.secret, 51)[group][used]
    inbox = (mix(circle.secret, 62) % np.uint64(100) < 20)[group] & plan.online & member
    inbox &= mix(plan.user, 63) % np.uint64(2) == 0
    plan.inbox[inbox] = circle.head[group][inbox]
    scene.mark(inbox, circle, group)
    card = np.where(rng.random(groups) < 0.3, rng.uniform(0.1, 0.5, groups), 0.0)
    _lend_card(scene, circle, group, member & (rng.random(len(plan)) < card[group]))


def _couple(scene: _Scene, circle: Circle) -> None:
    """A card for two, mostly one home, at times the other's phone."""
    rng, plan, groups = scene.rng, scene.plan, len(circle.number)
    group, member = _members(scene, circle)
    together = rng.random(groups) < 0.8
    _at_home(scene, circle, group, member & together[group])
    share = rng.uniform(0.3, 0.8, groups)
    _lend_card(scene, circle, group, member & (rng.random(len(plan)) < share[group]))
    lent = member & plan.online & (rng.random(len(plan)) < 0.06)
    plan.device[lent] = device_of(scene.users, circle.head[group], 0, plan.time)[lent]
    scene.mark(lent, circle, group)


def _sold_device(scene: _Scene, circle: Circle) -> None:
    """A device that one after the other owns; whoever sold it has a new one."""
    rng, plan = scene.rng, scene.plan
    group, member = _members(scene, circle)
    user = plan.user.astype(np.int64)
    main = member & (plan.device == device_of(scene.users, user, 0, plan.time))
    # Owners come in the order of their numbers; the last one keeps it.
    turn, owners = (values[user] for values in _turns(circle))
    kept = rng.uniform(0.5, 1.5, len(circle.number))[group] * scene.days * DAY / owners
    offered = rng.uniform(0.0, 3.0, len(circle.number))[group] * DAY
    low, high, last = turn * kept, (turn + 1) * kept, turn == owners - 1
    owned = main & (plan.time >= low + np.where(turn > 0, offered, 0.0))
    owned &= last | (plan.time < high)
    plan.device[owned] = mix(circle.secret, 53)[group][owned]
    scene.mark(owned, circle, group)
    after = main & ~last & (plan.time >= high)
    plan.device[after] = mix(scene.users.secret[user], 54)[after]


def _turns(circle: Circle) -> tuple[I64, I64]:
    """For each user: the how-manieth owner he is, and how many there are."""
    members = np.flatnonzero(circle.of >= 0)
    members = members[np.argsort(circle.of[members], kind="stable")]
    groups = circle.of[members]
    size = np.bincount(groups, minlength=len(circle.number))
    turn, owners = np.zeros_like(circle.of), np.ones_like(circle.of)
    turn[members] = np.arange(len(members)) - np.searchsorted(groups, groups)
    owners[members] = size[groups]
    return turn, owners


def _office(scene: _Scene, circle: Circle) -> None:
    """Own devices behind one or two addresses, on working days or, at a campus, any day."""
    rng, plan, groups = scene.rng, scene.plan, len(circle.number)
    group, member = _members(scene, circle)
    local = plan.time + scene.users.long[plan.user] / 15.0 * HOUR
    hour, day = local % DAY / HOUR, (local // DAY + scene.weekday) % 7
    campus = (rng.random(groups) < 0.3)[group]
    there = np.where(campus, (hour >= 8) & (hour < 22), (hour >= 8) & (hour < 18) & (day < 5))
    used = member & there & (plan.ip != 0) & (rng.random(len(plan)) < 0.7)
    lines = 1 + (rng.random(groups) < 0.3).astype(np.int64)
    line = (rng.random(len(plan)) * lines[group]).astype(np.int64)
    plan.ip[used] = address(HOME_NET, mix(circle.secret[group], line, 55))[used]
    scene.mark(used, circle, group)


def _shop_tablet(scene: _Scene, circle: Circle) -> None:
    """A device on the counter of one shop, for some weeks: whoever comes there uses it."""
    rng, plan, groups = scene.rng, scene.plan, len(circle.number)
    visits = np.bincount(plan.merchant[~plan.online])
    shops = np.flatnonzero(visits >= LOOK_ALIKES["shop_tablet"].smallest)
    chosen = rng.permutation(shops)[:groups]
    at = np.full(len(visits) + int(plan.merchant.max(initial=0)) + 1, -1)
    at[chosen] = np.arange(len(chosen))
    group = at[plan.merchant]
    begin = rng.uniform(0.0, 0.5, groups) * scene.days * DAY
    end = begin + rng.uniform(14.0, 60.0, groups) * DAY
    often = rng.uniform(0.3, 0.9, groups)
    there = (group >= 0) & ~plan.online
    there &= (plan.time >= begin[group]) & (plan.time < end[group])
    there &= rng.random(len(plan)) < often[group]
    plan.device[there] = mix(circle.secret, 56)[group][there]
    plan.ip[there] = address(HOME_NET, mix(circle.secret, 57))[group][there]
    scene.mark(there, circle, group)


def _proxy(scene: _Scene, circle: Circle) -> None:
    """A service with a few addresses through which many people buy, some days and not others."""
    rng, plan, groups = scene.rng, scene.plan, len(circle.number)
    group, member = _members(scene, circle)
    fond = rng.uniform(0.2, 0.9, len(scene.users.city))[plan.user]
    used = member & plan.online & (rng.random(len(plan)) < fond)
    exits = rng.integers(2, 7, groups)[group].astype(np.uint64)
    exit_node = mix(scene.users.secret[plan.user], plan.time // DAY, 58) % exits
    key = mix(circle.secret[group], exit_node, 59) % np.uint64(POPULAR_EXITS)
    plan.ip[used] = address(PROXY_NET, key)[used]
    scene.mark(used, circle, group)


def _carrier(scene: _Scene, circle: Circle) -> None:
    """Phones behind a carrier's few addresses, another one every half day."""
    plan = scene.plan
    group, member = _members(scene, circle)
    first, bits = MOBILE_NET
    mobile = member & (plan.ip >= first) & (plan.ip < first + (1 << bits))
    gateways = scene.rng.integers(4, 17, len(circle.number))[group].astype(np.uint64)
    lease = mix(scene.users.secret[plan.user], plan.time // (12 * HOUR), 60) % gateways
    plan.ip[mobile] = address(MOBILE_NET, mix(circle.secret[group], lease, 61))[mobile]
    scene.mark(mobile, circle, group)


_HABITS: Final[dict[str, Callable[[_Scene, Circle], None]]] = {
    "family": _family,
    "couple": _couple,
    "sold_device": _sold_device,
    "office": _office,
    "shop_tablet": _shop_tablet,
    "proxy": _proxy,
    "carrier": _carrier,
}
