"""What travels between the stages that find rings, and what they tell the world.

========================  =====================  ================================================
topic                     key                    value
========================  =====================  ================================================
``identifiers``           ``kind:value``         `Sighting`: a user was seen with an identifier
``links``                 ``kind:value``, user   `Link`, `Activity`; one partition, one order
``fraud-rings``           ring's id              `RingAlert`
``ring-membership``       user                   `Membership`
========================  =====================  ================================================

All are JSON. Times are epoch milliseconds of event time, amounts in the transactions' units.
Whatever comes twice, since a worker was killed between sending and noting that it had sent, says
nothing new the second time: facts are states as of a time and never increments.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Struct

from dafu.schema import Id, Unit

Kind = Literal["device", "ip", "card", "email"]
"""What an identifier is."""

KINDS: Final[tuple[Kind, ...]] = ("device", "ip", "card", "email")

MAX_VALUE_BYTES: Final = 128
"""Longer identifiers stand for nothing that somebody shares; they are told by their hash."""


class Facts(Struct, frozen=True, gc=False, omit_defaults=True):
    """What is known of a user, as of a time; the later one of two holds.

    `since` is the time of the first transaction. `transactions` and `amount` count and add up the
    30 days before `as_of`; `frauds` are transactions known to be fraudulent. `blocked_at` is when
    a transaction was blocked last, `reviewed_at` when one was sent to review, 0 for never; of two,
    the later one holds whatever their `as_of`.
    """

    as_of: int
    since: int
    transactions: int = 0
    amount: float = 0.0
    frauds: int = 0
    blocked_at: int = 0
    reviewed_at: int = 0


class Sighting(Struct, frozen=True, gc=False, omit_defaults=True, tag="sighting"):
    """A user made a transaction with an identifier: new for that user, or not said for a while."""

    user_id: str
    kind: Kind
    value: str
    transaction_id: str
    merchant_id: str
    facts: Facts


class Link(Struct, frozen=True, gc=False, omit_defaults=True, tag="link"):
    """A user and an identifier that others use as well.

    `users` counts those who were seen with it in the window, `weight` says how much it ties them
    together: 1 for something that only one person has, 0 for what everybody shares. Both are the
    identifier's, as of `as_of`, and hold for all of its links; a weight of 0 withdraws them all.
    """

    user_id: str
    kind: Kind
    value: str
    first_seen: int
    last_seen: int
    users: int
    weight: Unit
    facts: Facts
    as_of: int


class Activity(Struct, frozen=True, gc=False, omit_defaults=True, tag="activity"):
    """What a member of a ring does, or what became known of one."""

    user_id: str
    facts: Facts
    transaction_id: str = ""


class Member(Struct, frozen=True, gc=False, omit_defaults=True):
    """A user in a ring: since when, and what is known of them."""

    user_id: str
    joined: int
    facts: Facts


class Evidence(Struct, frozen=True, gc=False, omit_defaults=True):
    """An identifier that members share: how many of them, and how many users have it at all."""

    kind: Kind
    value: str
    weight: Unit
    members: int
    users: int


class Edge(Struct, frozen=True, gc=False, omit_defaults=True):
    """A member was seen with an identifier (``kind:value``), first and last."""

    user_id: str
    identifier: str
    first_seen: int
    last_seen: int


RingEvent = Literal["opened", "grown", "updated", "merged", "split", "closed"]
RingKind = Literal["accounts", "merchant"]


class RingAlert(Struct, frozen=True, gc=False, omit_defaults=True):
    """One material change of a ring.

    `alert_id` is the ring's id and the number of the change, so that a repeat can be told.
    `members`, `evidence` and `edges` hold the most telling ones where there are too many; `size`
    and `identifiers` count all. `amount` and `transactions` are those of the members in 30 days:
    the money at stake. `frauds` and `blocked` count members known for fraud, and blocked within the
    window. `parts` are what `score` (0..1) is made of, `reasons` say it in words.
    `related` names the ring that this one was merged into or split from, or those that it took in.
    """

    alert_id: str
    ring_id: str
    event: RingEvent
    kind: RingKind
    time: int
    score: Unit
    size: int
    identifiers: int
    transactions: int
    amount: float
    frauds: int
    blocked: int
    first_seen: int
    last_seen: int
    reasons: list[str]
    parts: dict[str, float]
    members: list[Member]
    evidence: list[Evidence]
    edges: list[Edge]
    related: list[str] = []
    merchant_id: str | None = None


class Membership(Struct, frozen=True, gc=False, omit_defaults=True):
    """A user's place in a ring, as of a time; a `size` of 0 says that there is none any more.

    `blocked` and `frauds` count other members with a blocked or a known fraudulent transaction;
    `shared` names what ties the user to most of them, as in ``device fp_12``, `sharers` how many.
    """

    user_id: Id
    ring_id: str
    time: int
    size: int
    risk: Unit
    blocked: int = 0
    frauds: int = 0
    shared: str = ""
    sharers: int = 0


class MembershipRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A membership among the transactions, where its place decides which of them know of it."""

    ring: Membership


MEMBERSHIP_RECORD: Final = b'{"ring":'
"""What the JSON of a `MembershipRecord` begins with, as dafu writes it."""

encode = msgspec.json.Encoder().encode
"""Any of these as JSON. Field order is fixed, so that equal ones have equal bytes."""

decode_sighting = msgspec.json.Decoder(Sighting).decode
decode_inbox = msgspec.json.Decoder(Link | Activity).decode
decode_alert = msgspec.json.Decoder(RingAlert).decode
decode_membership = msgspec.json.Decoder(Membership).decode
