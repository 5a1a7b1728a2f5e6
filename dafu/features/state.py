"""The shape of an entity's state: what is remembered of a user and of a merchant.

An entity (a user, a merchant) is remembered as

* a **head**: counters, running sums, the fence, and where its event sequence starts and ends;
* **events**: its most recent transactions in order of arrival, 256 or more of them, numbered by a
  sequence that never restarts. They make windows exact, whatever the order of event times;
* an **archive**, only for entities busier than that: for each window, buckets of 1/48 of its
  length with counts and sums of the events that were evicted, and a table of when each of `m` hash
  slots was last seen, from which distinct counts are estimated (linear counting: Whang,
  Vander-Zanden and Taylor, ACM TODS 15(2), 1990). Besides, one series of longer buckets counts
  events as far back as delayed windows reach;
* **labels**, only for entities that have any: what became known of whether transactions were
  fraudulent;
* **ring**, only for users who were said to be in one: the fraud ring, and what ties them to it.

Events live in chunks of a fixed size so that a change log can write the newest chunk alone; that
is the business of `dafu.tables`. This module knows dtypes and constants, no bytes and no I/O.
All fields are a multiple of eight bytes wide, so that records of both kinds stay aligned when
joined. Times are
epoch milliseconds, identifiers are 64-bit hashes, 0 standing for "none".
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct

from dafu.features.catalogue import DAY, DELAYED_WINDOWS, DISTINCT_WINDOWS, WINDOWS

SCHEMA_VERSION: Final = 3

RETAINED_MIN: Final = 256
"""Events that an eviction always leaves behind: windows with no more than these are exact."""

RETAINED_MAX: Final = 384
"""Events at which the oldest are evicted."""

LATENESS: Final = 7 * DAY
"""How far behind the entity's latest time an event may be and still find its windows exact."""

LABEL_DELAY: Final = 7 * DAY
"""How old a transaction is when its label counts in a delayed window: by then most chargebacks and
investigations that will come have come."""

HORIZON: Final = 30 * DAY + LABEL_DELAY
"""How far back windows reach, delayed ones included."""

RETENTION: Final = HORIZON + LATENESS
"""Age, against the entity's latest time, at which whole chunks are forgotten."""

NEVER: Final = -(2**62)
"""The time before all times."""

BUCKETS: Final = 48
"""Buckets to a window in the archive; one more covers the window's straddled edge."""

ANNOUNCED: Final = 8
"""Pairs of a user and an identifier that are remembered as told; see `dafu.features.sightings`."""

DELAYED_WINDOW_MS: Final = np.array([WINDOWS[w] for w in DELAYED_WINDOWS], dtype=np.int64)
DELAYED_BUCKET_MS: Final = 7 * DAY // BUCKETS
DELAYED_BUCKETS: Final = HORIZON // DELAYED_BUCKET_MS + 2
"""Buckets of the archive's series for delayed windows; both ends may be cut by a window."""

WINDOW_MS: Final = np.array(list(WINDOWS.values()), dtype=np.int64)
BUCKET_MS: Final = WINDOW_MS // BUCKETS
N_WINDOWS: Final = len(WINDOWS)
DISTINCT_WINDOW_NUMBERS: Final = np.array(
    [list(WINDOWS).index(w) for w in DISTINCT_WINDOWS], dtype=np.int64
)

_HEAD = [
    ("schema", "i8"),
    ("fence", "i8"),  # offset of the last transaction applied, in the source partition
    ("first_event", "i8"),  # sequence number of the oldest retained event
    ("next_event", "i8"),  # sequence number that the next event gets
    ("evicted_until", "i8"),  # latest time among the events no longer retained
    ("archived", "i8"),  # 1 once an archive exists
    ("archive_slot", "i8"),  # which of its two records holds it; `dafu.tables` minds this one
    ("chunks_from", "i8"),  # chunks numbered below this have no record; likewise
    ("first_time", "i8"),
    ("last_time", "i8"),
    ("total_count", "i8"),
    ("labelled", "i8"),  # 1 once a record of labels exists
    ("labels_slot", "i8"),  # which of its two records holds it; `dafu.tables` minds this one
    ("memory", "i8"),  # bytes that sequence models keep of it; `dafu.tables` minds these too
]

USER_HEAD: Final = np.dtype(
    [
        *_HEAD,
        ("place_time", "i8"),
        ("place_lat", "f8"),
        ("place_long", "f8"),
        ("places", "i8"),
        ("home_x", "f8"),  # sums of unit vectors of all places
        ("home_y", "f8"),
        ("home_z", "f8"),
        ("ringed", "i8"),  # 1 once a record of a ring exists
        ("ring_slot", "i8"),  # which of its two records holds it; `dafu.tables` minds this one
        ("announced", "u8", (ANNOUNCED,)),  # signatures, that of the latest use first; 0 for none
        ("announced_day", "i8"),  # latest day (time // DAY) on which a pair was told
        ("announced_count", "i8"),  # how many were on that day
    ]
)
USER_EVENT: Final = np.dtype(
    [
        ("transaction", "u8"),
        ("time", "i8"),
        ("amount", "f8"),
        ("merchant", "u8"),
        ("device", "u8"),
        ("ip", "u8"),
        ("country", "u8"),
        ("route", "i8"),  # murmur2 of the merchant's id: where its partition is; -1 if not known
    ]
)
MERCHANT_HEAD: Final = np.dtype(
    [
        *_HEAD,
        # What is usual, and the episode of a burst; see `dafu.features.bursts`. All 0 at first.
        ("usual_count", "i8"),  # transactions outside of bursts
        ("usual_amount", "f8"),  # their mean, the later ones weighing more; likewise the next three
        ("usual_spread", "f8"),  # mean distance from the mean
        ("usual_small", "f8"),  # share of small amounts
        ("usual_high", "f8"),  # share of high amounts
        ("peak_users", "i8"),  # most users within an hour, of the last 35 days
        ("peak_time", "i8"),
        ("hour_users", "i8"),  # most users within an hour, of the present span of six
        ("hour_time", "i8"),  # when that began
        ("burst_since", "i8"),  # when the episode opened, 0 for none
        ("burst_first", "i8"),  # times of its first and last transactions
        ("burst_last", "i8"),
        ("burst_users", "i8"),
        ("burst_count", "i8"),
        ("burst_amount", "f8"),
        ("burst_score", "f8"),  # highest so far
        ("burst_number", "i8"),  # events told of it
    ]
)
MERCHANT_EVENT: Final = np.dtype([("time", "i8"), ("amount", "f8"), ("user", "u8")])


def archive_dtype(things: int, slots: int) -> np.dtype[np.void]:
    """Archive of an entity that counts `things` kinds of distinct values in `slots` slots each."""
    shape = (N_WINDOWS, BUCKETS + 1)
    return np.dtype(
        [
            ("schema", "i8"),
            ("through", "i8"),  # events numbered below this are in the archive
            ("bucket", "i8", shape),  # which bucket (time // bucket length) a slot holds
            ("count", "f8", shape),
            ("sum", "f8", shape),
            ("squares", "f8", shape),
            ("last_seen", "i8", (things, slots)),
            ("delayed_bucket", "i8", (DELAYED_BUCKETS,)),  # the series for delayed windows
            ("delayed_count", "f8", (DELAYED_BUCKETS,)),
        ]
    )


def labels_dtype(most: int) -> np.dtype[np.void]:
    """Labels of an entity that keeps `most` of them; entry k is the k-th of each array."""
    return np.dtype(
        [
            ("schema", "i8"),
            ("count", "i8"),  # entries in use
            ("dropped_until", "i8"),  # latest time among frauds that no longer fit
            ("transaction", "u8", (most,)),
            ("time", "i8", (most,)),  # of the transaction; NEVER while that was not seen
            ("amount", "f8", (most,)),
            ("observed", "i8", (most,)),  # when the label came to be known
            ("fraud", "i8", (most,)),
        ]
    )


RING_ID_BYTES: Final = 40
SHARED_BYTES: Final = 64

USER_RING: Final = np.dtype(
    [
        ("schema", "i8"),
        ("ring", "u8"),  # hash of the ring's whole id
        ("time", "i8"),  # of the latest membership known
        ("joined", "i8"),  # time of the first one in this ring
        ("size", "i8"),  # members; 0: no longer in a ring, and everything below is 0
        ("risk", "f8"),
        ("blocked", "i8"),  # other members with a blocked transaction
        ("frauds", "i8"),  # other members with a known fraud
        ("sharers", "i8"),  # other members who share what `shared` names
        ("id", "u1", (RING_ID_BYTES,)),  # UTF-8, cut to fit, filled up with zeros
        ("shared", "u1", (SHARED_BYTES,)),  # likewise
    ]
)
"""A user's place in a fraud ring, as the latest membership had it."""

USER_SLOTS: Final = 128
MERCHANT_SLOTS: Final = 512
USER_ARCHIVE: Final = archive_dtype(4, USER_SLOTS)
MERCHANT_ARCHIVE: Final = archive_dtype(1, MERCHANT_SLOTS)


class EntityLayout(Struct, frozen=True):
    """How one kind of entity is remembered: dtypes, and events to a chunk."""

    kind: str
    head: np.dtype[np.void]
    event: np.dtype[np.void]
    archive: np.dtype[np.void]
    labels: np.dtype[np.void]
    chunk: int
    ring: np.dtype[np.void] | None = None


USER_LABELS: Final = labels_dtype(32)
MERCHANT_LABELS: Final = labels_dtype(128)

USERS: Final = EntityLayout("user", USER_HEAD, USER_EVENT, USER_ARCHIVE, USER_LABELS, 16, USER_RING)
MERCHANTS: Final = EntityLayout(
    "merchant", MERCHANT_HEAD, MERCHANT_EVENT, MERCHANT_ARCHIVE, MERCHANT_LABELS, 32
)

APPLIED: Final = 0
"""The transaction changed the state and has features."""
FENCED: Final = 1
"""It had been applied, and its outputs published, before: read again after a restart."""
DUPLICATE: Final = 2
"""The producer sent the same transaction again: no state change, no second decision."""
CONFLICT: Final = 3
"""The producer used a known transaction_id for a different transaction."""
LABELLED: Final = 4
"""It is no transaction but a label, which was applied."""
ENROLLED: Final = 5
"""It is no transaction but a membership in a ring, which was applied."""

PAYMENT: Final = 0
"""Kind of an input of the kernels: a transaction."""
GENUINE_LABEL: Final = 1
"""Kind of an input of the kernels: a transaction turned out to be genuine."""
FRAUD_LABEL: Final = 2
"""Kind of an input of the kernels: a transaction turned out to be fraudulent."""
RING_MEMBERSHIP: Final = 3
"""Kind of an input of the users' kernels: the user's place in a fraud ring."""


def new_head(head: np.ndarray) -> None:
    """Give every field of fresh head records (zeros) its first value, in place."""
    head["schema"] = SCHEMA_VERSION
    head["fence"] = -1
    head["evicted_until"] = NEVER
    head["first_time"] = NEVER
    head["last_time"] = NEVER
    if "place_time" in (head.dtype.names or ()):
        head["place_time"] = NEVER
    if "announced_day" in (head.dtype.names or ()):
        head["announced_day"] = NEVER


def new_archive(archive: np.ndarray) -> None:
    """Give every field of fresh archive records (zeros) its first value, in place."""
    archive["schema"] = SCHEMA_VERSION
    archive["bucket"] = NEVER
    archive["last_seen"] = NEVER
    archive["delayed_bucket"] = NEVER


def new_labels(labels: np.ndarray) -> None:
    """Give every field of fresh records of labels (zeros) its first value, in place."""
    labels["schema"] = SCHEMA_VERSION
    labels["dropped_until"] = NEVER


def new_ring(ring: np.ndarray) -> None:
    """Give every field of fresh records of rings (zeros) its first value, in place."""
    ring["schema"] = SCHEMA_VERSION
    ring["time"] = NEVER
