"""Transactions as columns of numbers, before they are text: what genuine and fraud code produce."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.generator.world import CITY_RADIUS_KM, Users, mix

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Flags = NDArray[np.bool_]

MINUTE: Final = 60_000
HOUR: Final = 3_600_000
DAY: Final = 86_400_000

SCENARIOS: Final = (
    "stolen_card",
    "account_takeover",
    "card_testing",
    "compromised_merchant",
    "large_amount",
    "limit_probing",
    "collusive_merchant",
)
"""`Plan.scenario` is an index into these, -1 for a genuine transaction. New ones go to the end, so
that the random streams of the others stay."""

RING: Final = "ring"
RING_SCENARIO: Final = len(SCENARIOS)
"""What `Plan.scenario` is for the fraud of rings, and how it is called."""

DEFAULT_SCENARIOS: Final = SCENARIOS[:5]
"""What is simulated unless others are asked for."""

HOME_NET: Final = (10 << 24, 24)  # 10.0.0.0/8, RFC 1918
MOBILE_NET: Final = ((100 << 24) | (64 << 16), 22)  # 100.64.0.0/10, RFC 6598
PROXY_NET: Final = ((198 << 24) | (18 << 16), 17)  # 198.18.0.0/15, RFC 2544
"""(first address, free bits) of ranges that nobody on the Internet has."""


@dataclass(frozen=True, slots=True)
class Plan:
    """n transactions, column by column.

    `time` is in milliseconds from the start of the simulation; `device` and `ip` are 0 where the
    transaction names none; `lat` and `long` are where the cardholder (or whoever acts as him) is.
    The card is the `card`-th of `holder`, mostly the user himself; `inbox` is whose email address
    is given, -1 where none is. `group` numbers the ring or the
    look-alike that the transaction belongs to, -1 for neither.
    """

    time: I64
    user: NDArray[np.int32]
    merchant: NDArray[np.int32]
    amount: F64
    online: Flags
    country: NDArray[np.int8]
    device: U64
    ip: NDArray[np.uint32]
    card: NDArray[np.int8]
    lat: F64
    long: F64
    scenario: NDArray[np.int8]
    holder: NDArray[np.int32]
    inbox: NDArray[np.int32]
    group: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.time)

    def take(self, index: NDArray[Any]) -> Plan:
        """The transactions at these positions, or where this mask is set."""
        return Plan(*(getattr(self, f.name)[index] for f in fields(self)))


_DTYPES: Final = {
    "time": np.int64,
    "user": np.int32,
    "merchant": np.int32,
    "amount": np.float64,
    "online": np.bool_,
    "country": np.int8,
    "device": np.uint64,
    "ip": np.uint32,
    "card": np.int8,
    "lat": np.float64,
    "long": np.float64,
    "scenario": np.int8,
    "holder": np.int32,
    "inbox": np.int32,
    "group": np.int32,
}


def make_plan(**columns: NDArray[Any]) -> Plan:
    """Build a plan; each column is brought to its type.

    Without `holder` and `inbox` the cards are the users' own, and so are the addresses, which are
    given online; without `group` the transactions are in none.
    """
    columns.setdefault("holder", columns["user"])
    columns.setdefault("inbox", np.where(columns["online"], columns["user"], -1))
    columns.setdefault("group", np.full(len(columns["user"]), -1))
    return Plan(**{n: np.asarray(columns[n]).astype(d, copy=False) for n, d in _DTYPES.items()})


def join(plans: list[Plan]) -> Plan:
    """One plan after another."""
    return Plan(*(np.concatenate([getattr(p, f.name) for p in plans]) for f in fields(Plan)))


def cents(amount: F64) -> F64:
    """Two decimals, at least 0.50."""
    return np.asarray(np.round(np.maximum(amount, 0.5), 2))


def device_of(users: Users, user: I64, slot: I64 | int, time: I64) -> U64:
    """Fingerprint of a user's device; each is replaced about once in 300 days."""
    phase = mix(users.secret[user], slot, 11) % np.uint64(300 * DAY)
    generation = (time.astype(np.uint64) + phase) // np.uint64(300 * DAY)
    return mix(users.secret[user], slot, generation, 12)


def address(net: tuple[int, int], key: U64) -> NDArray[np.uint32]:
    """Address in a range, fixed by a key."""
    first, bits = net
    return (np.uint64(first) + key % np.uint64(1 << bits)).astype(np.uint32)


def home_ip(users: Users, user: I64, time: I64) -> NDArray[np.uint32]:
    """The address of a user's home connection; providers change it every 25 days."""
    phase = mix(users.secret[user], 21) % np.uint64(25 * DAY)
    lease = (time.astype(np.uint64) + phase) // np.uint64(25 * DAY)
    return address(HOME_NET, mix(users.secret[user], lease, 22))


def mobile_ip(users: Users, user: I64, time: I64) -> NDArray[np.uint32]:
    """The address of a user's phone: new every 12 hours, out of a pool that many phones share."""
    lease = time.astype(np.uint64) // np.uint64(12 * HOUR)
    return address(MOBILE_NET, mix(users.secret[user], lease, 23))


def expand(counts: I64) -> tuple[I64, I64]:
    """For groups of these sizes: the group of each member, and its number within the group."""
    group = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(counts)
    number = np.arange(len(group)) - np.repeat(ends - counts, counts)
    return group, number


GENUINE_GAP: Final = 6 * MINUTE
"""Least time between two genuine purchases of a user, except at the same place: it keeps trips
across town below the speed of a car on a free road."""
assert 2 * CITY_RADIUS_KM / (GENUINE_GAP / HOUR) <= 250.0
