"""How much alike members of a ring are by what they share, and rings of those who are enough so.

The likeness of two users is 1 minus the product, over the identifiers that both were seen with, of
1 minus the identifier's weight (noisy-or, Pearl, 1988): 0 for nothing in common, 1 for something
that only one person has. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from msgspec.structs import replace

from dafu.rings.records import RingAlert


def likeness(ring: RingAlert) -> dict[tuple[str, str], float]:
    """Likeness, above 0, of pairs of members, each pair in the order of their names."""
    weights = {f"{item.kind}:{item.value}": item.weight for item in ring.evidence}
    members = {member.user_id for member in ring.members}
    users: dict[str, set[str]] = {}
    for edge in ring.edges:
        if edge.identifier in weights and edge.user_id in members:
            users.setdefault(edge.identifier, set()).add(edge.user_id)
    unlike: dict[tuple[str, str], float] = {}
    for identifier in sorted(users):
        for pair in combinations(sorted(users[identifier]), 2):
            unlike[pair] = unlike.get(pair, 1.0) * (1.0 - weights[identifier])
    return {pair: 1.0 - value for pair, value in unlike.items()}


def alike(ring: RingAlert, similarity: float, min_size: int) -> RingAlert | None:
    """The ring without members who are less alike than this to every other; None if few are left.

    Parameters
    ----------
    ring
        As an alert tells it: of a ring with more members or identifiers than an alert names, those
        that it names.
    similarity
        0..1; at 0 everybody stays.
    min_size
        Members that a ring must have.
    """
    if similarity <= 0.0:
        return ring if ring.size >= min_size else None
    close = {user for pair, v in likeness(ring).items() if v >= similarity for user in pair}
    if len(close) < min_size:
        return None
    if len(close) == len(ring.members):
        return ring
    return _of_members(ring, close)


def _of_members(ring: RingAlert, kept: Iterable[str]) -> RingAlert:
    kept = set(kept)
    members = [member for member in ring.members if member.user_id in kept]
    edges = [edge for edge in ring.edges if edge.user_id in kept]
    users: dict[str, int] = {}
    for edge in edges:
        users[edge.identifier] = users.get(edge.identifier, 0) + 1
    evidence = [
        replace(item, members=users[name])
        for item in ring.evidence
        if users.get(name := f"{item.kind}:{item.value}", 0) >= 2
    ]
    names = {f"{item.kind}:{item.value}" for item in evidence}
    return replace(
        ring,
        size=len(members),
        identifiers=len(evidence),
        transactions=sum(member.facts.transactions for member in members),
        amount=round(sum(member.facts.amount for member in members), 2),
        frauds=sum(member.facts.frauds > 0 for member in members),
        blocked=sum(member.facts.blocked_at > 0 for member in members),
        members=members,
        evidence=evidence,
        edges=[edge for edge in edges if edge.identifier in names],
    )
