"""What fraudsters do, scenario by scenario, to the honest traffic that is already there.

Each scenario knows its share of the fraud and makes episodes until the share is used up. The
label of a transaction is its scenario; nothing in the other columns is reserved for fraud: honest
users travel, hurry, use proxies and buy expensive things as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dafu.generator.plan import (
    DAY,
    HOUR,
    MINUTE,
    MOBILE_NET,
    PROXY_NET,
    SCENARIOS,
    Plan,
    address,
    cents,
    device_of,
    expand,
    home_ip,
    join,
    make_plan,
)
from dafu.generator.world import Cities, Merchants, Users, browse, mix, price_of, scatter, visit

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SHARES: Final = dict(zip(SCENARIOS, (0.35, 0.20, 0.20, 0.15, 0.10, 0.15, 0.15), strict=True))
"""Weight of each scenario in the fraudulent transactions; the default ones add up to 1."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the scenarios act on."""

    users: Users
    cities: Cities
    merchants: Merchants
    genuine: Plan
    days: int


def commit_fraud(
    streams: list[Generator], stage: Stage, fraud_rate: float, scenarios: Collection[str]
) -> Plan:
    """Fraud that makes up about `fraud_rate` of all transactions, in no particular order.

    Parameters
    ----------
    streams
        One random stream per scenario, in the order of `SCENARIOS`.
    stage
        The world and its genuine transactions.
    fraud_rate
        Wanted share of fraud in the whole, 0..0.5. Short or small simulations come near it only
        within an episode or two per scenario.
    scenarios
        Which of `SCENARIOS` take part, in proportion to their `SHARES`.
    """
    total = fraud_rate / (1.0 - fraud_rate) * len(stage.genuine)
    # The default ones add up to 1 but for rounding, which must not move a budget.
    weight = round(sum(SHARES[name] for name in scenarios), 9)
    plans = []
    for number, (name, rng) in enumerate(zip(SCENARIOS, streams, strict=True)):
        budget = round(total * SHARES[name] / weight) if name in scenarios else 0
        if budget == 0 or len(stage.genuine) == 0:
            continue
        plan = _SCENARIOS[name](rng, stage, budget)
        plan = plan.take((plan.time >= 0) & (plan.time < stage.days * DAY))
        # Episodes come as they were drawn: what is cut off is whole ones, but for the last kept.
        plan = plan.take(np.arange(min(budget, len(plan))))
        plan.scenario[:] = number
        plans.append(plan)
    return join(plans) if plans else stage.genuine.take(np.zeros(0, dtype=np.int64))


def _victims(rng: Generator, stage: Stage, count: int) -> I64:
    """Users by activity: a card that is used more is stolen more."""
    return stage.genuine.user[rng.integers(0, len(stage.genuine), count)].astype(np.int64)


def _elsewhere(rng: Generator, stage: Stage, user: I64, abroad: float) -> I64:
    """A city for each user other than his own: abroad with that probability, else in his country.

    Where the world has no such city, any other one; where it has but one city, that one.
    """
    country, home = stage.cities.country, stage.users.city[user]
    elsewhere = np.arange(len(country))[None, :] != home[:, None]
    foreign = country[None, :] != country[home][:, None]
    wanted = np.where((rng.random(len(user)) < abroad)[:, None], foreign, elsewhere & ~foreign)
    # The largest draw wins, within the best class that has a member.
    draw = rng.random(elsewhere.shape) + elsewhere + wanted
    return np.asarray(draw.argmax(axis=1))


def _bursts(rng: Generator, start: I64, sizes: I64, gap_minutes: float) -> tuple[I64, I64]:
    """Episodes as (episode, time) of each transaction; gaps exponential above a minute."""
    episode, number = expand(sizes)
    gaps = (1.0 + rng.exponential(gap_minutes, len(episode))) * MINUTE * (number > 0)
    elapsed = np.cumsum(gaps)
    first = np.cumsum(sizes) - sizes
    time = start[episode] + (elapsed - elapsed[first][episode]).astype(np.int64)
    return episode, time


def _starts(rng: Generator, stage: Stage, count: int) -> I64:
    return (rng.random(count) * (stage.days * DAY)).astype(np.int64)


def _card_present(
    rng: Generator, stage: Stage, user: I64, city: I64, time: I64, level: F64, card: I64
) -> Plan:
    merchants, n = stage.merchants, len(user)
    merchant = visit(rng, merchants, city)
    return make_plan(
        time=time,
        user=user,
        merchant=merchant,
        amount=cents(price_of(rng, merchants, merchant, level * stage.users.spending[user])),
        online=np.zeros(n, dtype=bool),
        country=merchants.country[merchant],
        device=np.zeros(n),
        ip=np.zeros(n),
        card=card,
        lat=merchants.lat[merchant],
        long=merchants.long[merchant],
        scenario=np.zeros(n),
    )


def _remote(
    stage: Stage,
    user: I64,
    city: I64,
    place: tuple[F64, F64],
    time: I64,
    merchant: I64,
    amount: F64,
    device: Any,
    ip: Any,
    card: I64,
) -> Plan:
    return make_plan(
        time=time,
        user=user,
        merchant=merchant,
        amount=cents(amount),
        online=np.ones(len(user), dtype=bool),
        country=stage.cities.country[city],
        device=device,
        ip=ip,
        card=card,
        lat=place[0],
        long=place[1],
        scenario=np.zeros(len(user)),
    )


def _card_of(rng: Generator, stage: Stage, user: I64) -> I64:
    return (rng.random(len(user)) * stage.users.cards[user]).astype(np.int64)


def stolen_card(rng: Generator, stage: Stage, budget: int) -> Plan:
    """A lost card in a far city, mostly abroad: a burst of purchases at shops new to it."""
    count = budget // 3 + 1
    sizes = rng.integers(3, 11, count)
    victim = _victims(rng, stage, count)
    city = _elsewhere(rng, stage, victim, 0.75)
    card = _card_of(rng, stage, victim)
    episode, time = _bursts(rng, _starts(rng, stage, count), sizes, 15.0)
    level = rng.lognormal(0.7, 0.5, len(episode))
    return _card_present(rng, stage, victim[episode], city[episode], time, level, card[episode])


def account_takeover(rng: Generator, stage: Stage, budget: int) -> Plan:
    """Somebody else logs in: new device, new address, other country, amounts above the usual."""
    count = budget // 2 + 1
    sizes = rng.integers(2, 7, count)
    victim = _victims(rng, stage, count)
    city = _elsewhere(rng, stage, victim, 0.9)
    place = scatter(rng, stage.cities.lat[city], stage.cities.long[city])
    secret = rng.integers(0, 2**63, count, dtype=np.uint64)
    net = rng.random(count) < 0.6
    ip = np.where(net, address(PROXY_NET, mix(secret, 1)), address(MOBILE_NET, mix(secret, 1)))
    card = _card_of(rng, stage, victim)
    e, time = _bursts(rng, _starts(rng, stage, count), sizes, 12.0)
    merchant = browse(rng, stage.merchants, (len(e),))
    level = stage.users.spending[victim[e]] * rng.lognormal(1.3, 0.5, len(e))
    return _remote(
        stage,
        victim[e],
        city[e],
        (place[0][e], place[1][e]),
        time,
        merchant,
        price_of(rng, stage.merchants, merchant, level),
        mix(secret, 2)[e],
        ip[e],
        card[e],
    )


def card_testing(rng: Generator, stage: Stage, budget: int) -> Plan:
    """A list of card numbers tried at one merchant within minutes; what works is used later.

    Each campaign is a ring, by its few machines: `Plan.group` is its number.
    """
    n_users = len(stage.users.city)
    largest = max(2, min(60, n_users // 2, budget))
    smallest = min(20, largest)
    count = budget // smallest + 1
    sizes = rng.integers(smallest, largest + 1, count)
    campaign, number = expand(sizes)
    start = _starts(rng, stage, count)
    user = _victims(rng, stage, len(campaign))
    shop = browse(rng, stage.merchants, (count,))
    city = rng.integers(0, len(stage.cities.lat), count)
    place = scatter(rng, stage.cities.lat[city], stage.cities.long[city])
    secret = rng.integers(0, 2**63, count, dtype=np.uint64)
    machine = number % 3  # a campaign runs on three machines
    device = mix(secret[campaign], machine, 3)
    ip = address(PROXY_NET, mix(secret[campaign], machine, 4))
    card = _card_of(rng, stage, user)
    time = start[campaign] + (rng.random(len(campaign)) * 15 * MINUTE).astype(np.int64)
    probes = _remote(
        stage,
        user,
        city[campaign],
        (place[0][campaign], place[1][campaign]),
        time,
        shop[campaign],
        rng.uniform(0.5, 3.0, len(campaign)),
        device,
        ip,
        card,
    )
    works = np.flatnonzero(rng.random(len(campaign)) < 0.2)
    hit, _ = expand(rng.integers(1, 4, len(works)))
    hit = works[hit]
    merchant = browse(rng, stage.merchants, (len(hit),))
    uses = _remote(
        stage,
        user[hit],
        city[campaign[hit]],
        (place[0][campaign[hit]], place[1][campaign[hit]]),
        time[hit] + (rng.uniform(0.5, 24.0, len(hit)) * HOUR).astype(np.int64),
        merchant,
        price_of(rng, stage.merchants, merchant, rng.lognormal(1.2, 0.4, len(hit))),
        device[hit],
        ip[hit],
        card[hit],
    )
    both = join([probes, uses])
    both.group[:] = np.concatenate([campaign, campaign[hit]])
    return both.take(np.argsort(both.group, kind="stable"))


def compromised_merchant(rng: Generator, stage: Stage, budget: int) -> Plan:
    """Card data leaks at a merchant; weeks later the cards that were used there are abused."""
    genuine = stage.genuine
    leaks = max(1, budget // 60)
    source = genuine.merchant[rng.integers(0, len(genuine), leaks)]
    # Leaks last for the first 60 % of the simulation, so that there is time left for abuse.
    exposed = np.flatnonzero(
        np.isin(genuine.merchant, source) & (genuine.time < 0.6 * stage.days * DAY)
    )
    if len(exposed) == 0:
        return genuine.take(exposed)
    # Each card at most once: who lost it at two purchases lost it once.
    cards = genuine.user[exposed].astype(np.int64) * 4 + genuine.card[exposed]
    exposed = exposed[np.sort(np.unique(cards, return_index=True)[1])]
    chosen = rng.permutation(exposed)[: budget // 2 + 1]
    seen = genuine.take(chosen)
    latest = stage.days * DAY - seen.time
    delay = np.minimum(
        rng.uniform(0.1, 1.0, len(seen)) * latest, rng.uniform(1, 14, len(seen)) * DAY
    )
    sizes = rng.integers(1, 5, len(seen))
    e, time = _bursts(rng, seen.time + delay.astype(np.int64), sizes, 90.0)
    user = seen.user.astype(np.int64)
    city = _elsewhere(rng, stage, user, 0.5)
    place = scatter(rng, stage.cities.lat[city], stage.cities.long[city])
    secret = rng.integers(0, 2**63, len(seen), dtype=np.uint64)
    in_shops = rng.random(len(seen)) < 0.4  # a cloned card
    shop = in_shops[e]
    merchant = browse(rng, stage.merchants, (len(e),))
    level = rng.lognormal(0.6, 0.5, len(e))
    remote = _remote(
        stage,
        user[e],
        city[e],
        (place[0][e], place[1][e]),
        time,
        merchant,
        price_of(rng, stage.merchants, merchant, level * stage.users.spending[user[e]]),
        mix(secret, 5)[e],
        address(PROXY_NET, mix(secret, 6))[e],
        seen.card[e].astype(np.int64),
    )
    cloned = _card_present(rng, stage, user[e], city[e], time, level, seen.card[e].astype(np.int64))
    n = len(e)
    return join([remote, cloned]).take(np.where(shop, np.arange(n) + n, np.arange(n)))


def large_amount(rng: Generator, stage: Stage, budget: int) -> Plan:
    """One purchase of ten to thirty times the usual, half of them from the user's own device."""
    count = budget
    user = _victims(rng, stage, count)
    time = _starts(rng, stage, count)
    own = rng.random(count) < 0.5
    secret = rng.integers(0, 2**63, count, dtype=np.uint64)
    users = stage.users
    merchant = browse(rng, stage.merchants, (count,))
    amount = 40.0 * users.spending[user] * rng.uniform(10.0, 30.0, count)
    return _remote(
        stage,
        user,
        users.city[user],
        (users.lat[user], users.long[user]),
        time,
        merchant,
        amount,
        np.where(own, device_of(users, user, 0, time), mix(secret, 7)),
        np.where(own, home_ip(users, user, time), address(MOBILE_NET, mix(secret, 8))),
        _card_of(rng, stage, user),
    )


def limit_probing(rng: Generator, stage: Stage, budget: int) -> Plan:
    """Malware on a user's own device buys for a little more each time, to learn what goes through.

    Device, address, shops, amounts and pace are the user's; only the order of the amounts is not.
    """
    count = budget // 4 + 1
    sizes = rng.integers(4, 8, count)
    victim = _victims(rng, stage, count)
    card = _card_of(rng, stage, victim)
    first = rng.uniform(4.0, 10.0, count)
    e, time = _bursts(rng, _starts(rng, stage, count), sizes, 240.0)
    growth = np.cumsum(np.log(rng.uniform(1.3, 1.8, len(e))))
    begin = np.cumsum(sizes) - sizes
    user, users = victim[e], stage.users
    favourite = rng.integers(0, users.online_favourites.shape[1], len(e))
    return _remote(
        stage,
        user,
        users.city[user],
        (users.lat[user], users.long[user]),
        time,
        users.online_favourites[user, favourite],
        users.spending[user] * first[e] * np.exp(growth - growth[begin][e]),
        device_of(users, user, 0, time),
        home_ip(users, user, time),
        card[e],
    )


def collusive_merchant(rng: Generator, stage: Stage, budget: int) -> Plan:
    """A shopkeeper charges stolen cards within hours, each about the same and far too much."""
    merchants, genuine = stage.merchants, stage.genuine
    sales = np.bincount(genuine.merchant, minlength=len(merchants.city))
    turnover = np.bincount(genuine.merchant, genuine.amount, len(merchants.city))
    shops = merchants.shops[sales[merchants.shops] > 0]
    if len(shops) == 0:
        return genuine.take(np.zeros(0, dtype=np.int64))
    largest = max(2, min(40, len(stage.users.city) // 2, budget))
    smallest = min(12, largest)
    count = budget // smallest + 1
    sizes = rng.integers(smallest, largest + 1, count)
    e, _ = expand(sizes)
    shop = rng.choice(shops, count)
    level = turnover[shop] / sales[shop] * rng.uniform(4.0, 9.0, count)
    hours = rng.uniform(0.5, 3.0, count)
    user, n = _victims(rng, stage, len(e)), len(e)
    at = shop[e]
    return make_plan(
        time=_starts(rng, stage, count)[e] + (rng.random(n) * hours[e] * HOUR).astype(np.int64),
        user=user,
        merchant=at,
        amount=cents(level[e] * rng.uniform(0.97, 1.03, n)),
        online=np.zeros(n, dtype=bool),
        country=merchants.country[at],
        device=np.zeros(n),
        ip=np.zeros(n),
        card=_card_of(rng, stage, user),
        lat=merchants.lat[at],
        long=merchants.long[at],
        scenario=np.zeros(n),
    )


_SCENARIOS: Final[dict[str, Callable[[Generator, Stage, int], Plan]]] = {
    "stolen_card": stolen_card,
    "account_takeover": account_takeover,
    "card_testing": card_testing,
    "compromised_merchant": compromised_merchant,
    "large_amount": large_amount,
    "limit_probing": limit_probing,
    "collusive_merchant": collusive_merchant,
}
