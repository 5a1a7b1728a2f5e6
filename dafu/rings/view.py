"""The rings that are open, and each as it looks now, for people. Changes nothing."""

from __future__ import annotations

from msgspec import Struct

from dafu.rings.alerts import RingState
from dafu.rings.describe import MAX_LISTED_MEMBERS
from dafu.rings.engine import RingEngine
from dafu.rings.records import Member, RingAlert


class RingSummary(Struct, frozen=True):
    """An open ring as it was last told of; `alert_id` names that alert. Times are epoch ms."""

    ring_id: str
    alert_id: str
    score: float
    size: int
    identifiers: int
    frauds: int
    blocked: int
    transactions: int
    amount: float
    opened: int
    first_seen: int
    last_seen: int


class RingList(Struct, frozen=True):
    """Open rings, those with the highest score first; `open` counts all, `clock` is event time."""

    open: int
    clock: int
    rings: list[RingSummary]


def list_rings(engine: RingEngine, most: int, least_score: float = 0.0) -> RingList:
    """The open rings with at least this score, `most` of them at most."""
    states = sorted(
        (ring for ring in engine.book.rings.values() if ring.score >= least_score),
        key=lambda ring: (-ring.score, -ring.size, ring.ring_id),
    )
    listed = [_summary(ring) for ring in states[:most]]
    return RingList(len(engine.book.rings), engine.clock, listed)


def _summary(ring: RingState) -> RingSummary:
    return RingSummary(
        ring_id=ring.ring_id,
        alert_id=f"{ring.ring_id}:{ring.number}",
        score=ring.score,
        size=ring.size,
        identifiers=ring.identifiers,
        frauds=ring.frauds,
        blocked=ring.blocked,
        transactions=ring.transactions,
        amount=ring.amount,
        opened=ring.opened,
        first_seen=ring.first_seen,
        last_seen=ring.last_seen,
    )


def show_ring(engine: RingEngine, ring_id: str) -> RingAlert | None:
    """An open ring as it looks now, in the form of an alert; None if there is none of that id.

    `alert_id` names the last alert: what moved since then was too little for another one. Of a
    ring of which nothing is left but the end to be told, the last members are shown alone.
    """
    ring = engine.book.rings.get(ring_id)
    if ring is None:
        return None
    portrait = engine.portrait(ring_id)
    if portrait is None:
        return _remains(engine, ring)
    return RingAlert(
        alert_id=f"{ring_id}:{ring.number}",
        ring_id=ring_id,
        event="updated",
        kind="accounts",
        time=engine.clock,
        score=portrait.score,
        size=len(portrait.members),
        identifiers=portrait.identifiers,
        transactions=portrait.transactions,
        amount=portrait.amount,
        frauds=portrait.frauds,
        blocked=portrait.blocked,
        first_seen=portrait.first_seen,
        last_seen=portrait.last_seen,
        reasons=portrait.reasons(),
        parts=portrait.parts,
        members=portrait.member_list(),
        evidence=portrait.evidence(),
        edges=portrait.edges(),
    )


def _remains(engine: RingEngine, ring: RingState) -> RingAlert:
    graph = engine.graph
    rows = ((m.user_id, graph.user_names.find(m.user_id)) for m in ring.members)
    members = [Member(name, ring.opened, graph.facts(row)) for name, row in rows if row >= 0]
    return RingAlert(
        alert_id=f"{ring.ring_id}:{ring.number}",
        ring_id=ring.ring_id,
        event="updated",
        kind="accounts",
        time=engine.clock,
        score=ring.score,
        size=len(ring.members),
        identifiers=0,
        transactions=ring.transactions,
        amount=ring.amount,
        frauds=ring.frauds,
        blocked=ring.blocked,
        first_seen=ring.first_seen,
        last_seen=ring.last_seen,
        reasons=["what its members shared has run out"],
        parts={},
        members=members[:MAX_LISTED_MEMBERS],
        evidence=[],
        edges=[],
    )
