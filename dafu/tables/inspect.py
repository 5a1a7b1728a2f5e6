"""What is remembered of one user or merchant, as plain data that people can read.

Pure: packed records in, msgspec structures out. The windows are those that the kernels computed
for the entity's last transaction, worked out again with plain NumPy; `tests/tables` holds the two
against each other. Identifiers are remembered as hashes only: what can be told of them is how
many there are and which are equal. This module knows no Faust, no clock and no HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np
from msgspec import Struct

from dafu.features.catalogue import DAY, WINDOWS
from dafu.features.geo import direction
from dafu.features.state import (
    BUCKET_MS,
    MERCHANT_SLOTS,
    MERCHANTS,
    USER_SLOTS,
    USERS,
    WINDOW_MS,
    EntityLayout,
)
from dafu.features.windows import linear_count
from dafu.rings.bursts import ring_of
from dafu.schema import iso
from dafu.tables.slotted import ARCHIVE, LABELS, RING, slotted_key
from dafu.tables.working_set import (
    HEAD,
    PartitionRecords,
    Share,
    WorkingSet,
    chunk_key,
)

__all__ = [
    "DEFAULT_LAST",
    "Home",
    "Known",
    "MerchantTransaction",
    "MerchantView",
    "MerchantWindow",
    "Place",
    "StateView",
    "UserTransaction",
    "UserView",
    "UserWindow",
    "Window",
    "describe_merchant",
    "describe_user",
]

DEFAULT_LAST: Final = 20
"""Transactions that a view lists unless told otherwise."""

HASH_DIGITS: Final = 8
"""Leading hex digits shown of an identifier's 16-digit XXH64 hash: enough to tell a few apart."""

_USER_THINGS: Final = {
    "merchants": "merchant",
    "devices": "device",
    "ips": "ip",
    "countries": "country",
}
"""Distinct counts of a user and the event field each counts, in the order of the archive."""

_MERCHANT_THINGS: Final = {"users": "user"}


class Window(Struct, frozen=True, kw_only=True):
    """One window (t - w, t] at the last transaction, t being its time.

    Amounts are in currency units, `std` is the population standard deviation. `approximate` says
    that the window reaches past the retained transactions: its figures are estimates then.
    """

    window: str
    count: int
    sum: float
    mean: float
    std: float
    approximate: bool


class UserWindow(Window, frozen=True, kw_only=True):
    """A user's window, with how many distinct things the transactions named."""

    merchants: int | float
    devices: int | float
    ips: int | float
    countries: int | float


class MerchantWindow(Window, frozen=True, kw_only=True):
    """A merchant's window, with how many distinct users paid."""

    users: int | float


class Home(Struct, frozen=True):
    """The mean of all places seen, WGS 84 degrees, and of how many."""

    lat: float
    long: float
    places: int


class Place(Struct, frozen=True):
    """Where the last transaction with a place was, WGS 84 degrees, and when."""

    time: str
    lat: float
    long: float


class Ring(Struct, frozen=True):
    """The fraud ring that the user is in, as the latest membership had it: that one's time, and
    that of the first one in this ring. `shared` is what ties the user to `sharers` others."""

    ring_id: str
    time: str
    joined: str
    size: int
    risk: float
    blocked: int
    frauds: int
    shared: str
    sharers: int


class Burst(Struct, frozen=True):
    """The burst that is on at a merchant, of which alerts tell under `ring_id`."""

    ring_id: str
    first_seen: str
    last_seen: str
    users: int
    transactions: int
    amount: float
    score: float


class Known(Struct, frozen=True):
    """Distinct identifiers among the retained transactions."""

    merchants: int
    devices: int
    ips: int
    countries: int


class UserTransaction(Struct, frozen=True):
    """A retained transaction of a user; identifiers are abbreviated hashes, null for none."""

    time: str
    amount: float
    transaction: str | None
    merchant: str | None
    device: str | None
    ip: str | None
    country: str | None


class MerchantTransaction(Struct, frozen=True):
    """A retained transaction at a merchant; the user is an abbreviated hash."""

    time: str
    amount: float
    user: str | None


class StateView(Struct, frozen=True):
    """How the state is kept: `fence` is the offset of the last transaction applied, in the source
    partition; `archived` says whether older transactions are summed up in buckets."""

    schema_version: int
    fence: int
    retained_transactions: int
    archived: bool
    records: int
    bytes: int


class UserView(Struct, frozen=True, kw_only=True):
    """A user as remembered. Times are ISO 8601 in UTC; `as_of` is the time of the transaction
    that arrived last, and `transactions` lists the last ones, newest arrival first."""

    user_id: str
    total_count: int
    first_seen: str
    last_seen: str
    account_age_days: float
    home: Home | None
    last_place: Place | None
    known: Known
    ring: Ring | None
    as_of: str
    windows: list[UserWindow]
    transactions: list[UserTransaction]
    state: StateView


class MerchantView(Struct, frozen=True, kw_only=True):
    """A merchant as remembered; fields as in `UserView`."""

    merchant_id: str
    total_count: int
    first_seen: str
    last_seen: str
    age_days: float
    known_users: int
    as_of: str
    windows: list[MerchantWindow]
    transactions: list[MerchantTransaction]
    burst: Burst | None
    state: StateView


def describe_user(
    records: PartitionRecords, user_id: bytes, *, last: int = DEFAULT_LAST
) -> UserView | None:
    """Read what one partition remembers of a user.

    Parameters
    ----------
    records : PartitionRecords
        The partition of the users table to look in.
    user_id : bytes
        The id in UTF-8.
    last : int
        How many of the last transactions to list, 0 or more.

    Returns
    -------
    UserView or None
        None if this partition has never seen the user.

    Raises
    ------
    StateError
        If the records are damaged or of another schema version.
    """
    entity = _load(USERS, records, user_id)
    if entity is None:
        return None
    head, events = entity.head, entity.events
    home = place = None
    if head["places"] > 0:
        # Uncompiled on purpose: reading one entity is not worth waiting for a compiler.
        lat, long = direction(head["home_x"], head["home_y"], head["home_z"])
        home = Home(_degrees(lat), _degrees(long), int(head["places"]))
        place = Place(
            iso(head["place_time"]), _degrees(head["place_lat"]), _degrees(head["place_long"])
        )
    return UserView(
        user_id=user_id.decode("utf-8", "backslashreplace"),
        total_count=int(head["total_count"]),
        first_seen=iso(head["first_time"]),
        last_seen=iso(head["last_time"]),
        account_age_days=_age_days(head),
        home=home,
        last_place=place,
        known=Known(*(_distinct(events[field]) for field in _USER_THINGS.values())),
        ring=_ring(entity.ring),
        as_of=iso(events["time"][-1]),
        windows=_windows(entity, UserWindow, _USER_THINGS, USER_SLOTS),
        transactions=[
            UserTransaction(
                iso(event["time"]),
                float(event["amount"]),
                *(
                    _short(event[field])
                    for field in ("transaction", "merchant", "device", "ip", "country")
                ),
            )
            for event in _newest_first(events, last)
        ],
        state=entity.view,
    )


def describe_merchant(
    records: PartitionRecords, merchant_id: bytes, *, last: int = DEFAULT_LAST
) -> MerchantView | None:
    """Read what one partition remembers of a merchant; takes and raises what `describe_user` does.

    Returns
    -------
    MerchantView or None
        None if this partition has never seen the merchant.
    """
    entity = _load(MERCHANTS, records, merchant_id)
    if entity is None:
        return None
    head, events = entity.head, entity.events
    return MerchantView(
        merchant_id=merchant_id.decode("utf-8", "backslashreplace"),
        total_count=int(head["total_count"]),
        first_seen=iso(head["first_time"]),
        last_seen=iso(head["last_time"]),
        age_days=_age_days(head),
        known_users=_distinct(events["user"]),
        as_of=iso(events["time"][-1]),
        windows=_windows(entity, MerchantWindow, _MERCHANT_THINGS, MERCHANT_SLOTS),
        transactions=[
            MerchantTransaction(iso(event["time"]), float(event["amount"]), _short(event["user"]))
            for event in _newest_first(events, last)
        ],
        burst=_burst(head, merchant_id) if head["burst_since"] else None,
        state=entity.view,
    )


class _Entity(Struct, frozen=True):
    """One entity's unpacked state: head, retained events in order of arrival, archive and ring if
    any."""

    head: Any
    events: np.ndarray
    archive: Any
    ring: Any
    view: StateView


def _load(layout: EntityLayout, records: PartitionRecords, entity: bytes) -> _Entity | None:
    if records.get_many([HEAD + entity])[0] is None:
        return None
    state = WorkingSet(layout, [Share(records, [entity])], np.zeros(1, dtype=np.int64))
    head = state.heads[0]
    if head["total_count"] == 0:
        return None  # only labels, whose transactions nobody has seen
    first, end = int(head["first_event"]), int(head["next_event"])
    origin = int(state.origins[0])
    closed = range(int(head["chunks_from"]), end // layout.chunk)
    keys = [HEAD + entity]
    keys += [chunk_key(number, entity) for number in closed]
    keys += [slotted_key(k, slot, entity) for k in (ARCHIVE, LABELS, RING) for slot in (0, 1)]
    stored = [
        (key, value)
        for key, value in zip(keys, records.get_many(keys), strict=True)
        if value is not None
    ]
    archived = head["archived"] == 1
    return _Entity(
        head,
        state.events[origin + first : origin + end],
        state.archives[state.archive_of[0]] if archived else None,
        state.rings[state.ring_of[0]] if state.ring_of[0] >= 0 else None,
        StateView(
            schema_version=int(head["schema"]),
            fence=int(head["fence"]),
            retained_transactions=end - first,
            archived=bool(archived),
            records=len(stored),
            bytes=sum(len(key) + len(value) for key, value in stored),
        ),
    )


def _ring(ring: Any) -> Ring | None:
    if ring is None or ring["size"] == 0:
        return None
    ring_id, shared = (ring[name].tobytes().rstrip(b"\0").decode() for name in ("id", "shared"))
    blocked, frauds, sharers = (int(ring[name]) for name in ("blocked", "frauds", "sharers"))
    return Ring(
        ring_id,
        iso(ring["time"]),
        iso(ring["joined"]),
        int(ring["size"]),
        float(ring["risk"]),
        blocked,
        frauds,
        shared,
        sharers,
    )


_W = TypeVar("_W", bound=Window)


def _windows(entity: _Entity, kind: type[_W], things: Mapping[str, str], slots: int) -> list[_W]:
    """All windows at the last transaction.

    Sums are relative to the last amount, as in the kernels, which keeps variances accurate.
    """
    events, archive = entity.events, entity.archive
    time, amount = int(events["time"][-1]), float(events["amount"][-1])
    ages = time - events["time"]
    differences = events["amount"] - amount
    slot_ages = None if archive is None else _slot_ages(entity, ages, things, slots)
    out = []
    for k, name in enumerate(WINDOWS):
        length = int(WINDOW_MS[k])
        inside = (ages >= 0) & (ages < length)
        beyond = int(entity.head["evicted_until"]) > time - length
        moments = np.array(
            [inside.sum(), differences[inside].sum(), (differences[inside] ** 2).sum()]
        )
        counts: dict[str, int | float] = {
            thing: _distinct(events[field][inside]) for thing, field in things.items()
        }
        if beyond and archive is not None and slot_ages is not None:
            moments += _archived(archive, k, time, amount)
            for thing, slot_age in zip(things, slot_ages, strict=True):
                empty = int((slot_age >= length).sum())
                estimate = float(linear_count(empty, slots))
                if estimate > counts[thing]:
                    counts[thing] = round(estimate, 2)
        n, first, second = moments.tolist()
        out.append(
            kind(
                window=name,
                count=round(n),
                sum=_money(first + n * amount),
                mean=_money(amount + first / n),
                std=_money(math.sqrt(max(second / n - (first / n) ** 2, 0.0))),
                approximate=beyond,
                **counts,
            )
        )
    return out


def _archived(archive: Any, k: int, time: int, amount: float) -> np.ndarray:
    """Count and sums of (x - a) and (x - a)^2 of what window k finds in the archive."""
    bucket = archive["bucket"][k]
    oldest = (time - WINDOW_MS[k]) // BUCKET_MS[k]
    chosen = (bucket >= oldest) & (bucket <= time // BUCKET_MS[k])
    n = archive["count"][k][chosen].sum()
    total = archive["sum"][k][chosen].sum()
    squares = archive["squares"][k][chosen].sum()
    return np.array([n, total - n * amount, squares - 2 * amount * total + n * amount * amount])


def _slot_ages(
    entity: _Entity, ages: np.ndarray, things: Mapping[str, str], slots: int
) -> list[np.ndarray]:
    """For each thing, how long ago each hash slot was last seen; the longest window if never.

    The last transaction itself takes no part, just as in the kernels.
    """
    longest = int(WINDOW_MS[-1])
    time = int(entity.events["time"][-1])
    out = []
    for a, field in enumerate(things.values()):
        seen = entity.archive["last_seen"][a]
        age = np.where(seen <= time, time - seen, longest)
        values = entity.events[field]
        use = (ages >= 0) & (values != 0)
        use[-1] = False
        np.minimum.at(age, (values[use] % np.uint64(slots)).astype(np.int64), ages[use])
        out.append(age)
    return out


def _newest_first(events: np.ndarray, last: int) -> np.ndarray:
    return events[max(len(events) - last, 0) :][::-1]


def _distinct(hashes: np.ndarray) -> int:
    return int(np.unique(hashes[hashes != 0]).size)


def _short(hashed: Any) -> str | None:
    return f"{int(hashed):016x}"[:HASH_DIGITS] if hashed else None


def _age_days(head: Any) -> float:
    return round(float(head["last_time"] - head["first_time"]) / DAY, 3)


def _degrees(value: Any) -> float:
    return round(float(value), 6)


def _money(value: float) -> float:
    return round(value, 6)


def _burst(head: Any, merchant_id: bytes) -> Burst:
    ring_id = ring_of(merchant_id.decode("utf-8", "backslashreplace"), int(head["burst_since"]))
    figures: list[Any] = [iso(head[name]) for name in ("burst_first", "burst_last")]
    figures += [int(head[name]) for name in ("burst_users", "burst_count")]
    figures += [float(head[name]) for name in ("burst_amount", "burst_score")]
    return Burst(ring_id, *figures)
