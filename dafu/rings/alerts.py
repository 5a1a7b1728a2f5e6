"""What changes about rings: opened, grown, updated, merged, split, closed; who is told what.

`RingBook.reconcile` compares what was found among some users with the rings that these users were
in, and says what is new. A ring is the same as long as most of it goes on: its successor is the
found group that has the most of its members. Where several rings have one successor, the oldest
goes on and the others are closed; a found group with members of a ring whose successor is another
group is split from it.

**Thresholds.** A ring is opened at a score of `OPEN` and goes on down to `KEEP`. An alert is one
material change: more or fewer members by a quarter, the score by `MATERIAL_SCORE`, members blocked
or known for fraud for the first time or by a quarter, twice the amount. So a ring that grows to n
members has in the order of log n alerts. A member is told when he enters or leaves, and when what
he was told last changed as much.

Pure but for its own state; everything comes out in an order that depends on content alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from dafu.rings.describe import Portrait
from dafu.rings.records import Membership, RingAlert, RingEvent

OPEN: Final = 0.6
KEEP: Final = 0.4
MATERIAL_SCORE: Final = 0.1
_RATIO: Final = 1.25


class MemberState(Struct, array_like=True, gc=False):
    """A member, and what was published of him last; `size` is 0 if nothing was."""

    user_id: str
    size: int = 0
    risk: float = 0.0
    blocked: int = 0
    frauds: int = 0


class RingState(Struct, array_like=True):
    """A ring, and what was published of it last.

    `number` counts its alerts. `due` is when the first of the links that it rests on runs out.
    """

    ring_id: str
    opened: int
    members: list[MemberState]
    due: int
    number: int = 0
    size: int = 0
    score: float = 0.0
    frauds: int = 0
    blocked: int = 0
    identifiers: int = 0
    transactions: int = 0
    amount: float = 0.0
    first_seen: int = 0
    last_seen: int = 0


class News(NamedTuple):
    """What to publish, and which rings are other than before; None for those that ended."""

    alerts: list[RingAlert]
    memberships: list[Membership]
    rings: dict[str, RingState | None]


class RingBook:
    """All rings that are open.

    Parameters
    ----------
    rings : iterable of RingState
    opened : int
        How many have been opened so far, these and others.
    """

    def __init__(self, rings: Iterable[RingState] = (), opened: int = 0) -> None:
        self.opened = opened
        self.rings: dict[str, RingState] = {}
        self.ring_of: dict[str, str] = {}
        for ring in rings:
            self._keep(ring)

    def _keep(self, ring: RingState) -> None:
        self.rings[ring.ring_id] = ring
        for member in ring.members:
            self.ring_of[member.user_id] = ring.ring_id

    def reconcile(self, found: Sequence[Portrait], touched: Iterable[str], time: int) -> News:
        """Take in what was found.

        Parameters
        ----------
        found : sequence of Portrait
            Groups without common members.
        touched : iterable of str
            Ids of all rings that any of the users looked at belongs to; all of their members were
            looked at.
        time : int
            The clock, epoch milliseconds.
        """
        rings = [self.rings[i] for i in sorted(touched)]
        accepted, successor, parents = _match(found, rings)
        news = News([], [], {})
        heirs: dict[int, list[RingState]] = {}
        for ring in rings:
            at = successor.get(ring.ring_id)
            if at is not None:
                heirs.setdefault(at, []).append(ring)
        before = {m.user_id: (ring.ring_id, m) for ring in rings for m in ring.members}
        for ring in rings:
            del self.rings[ring.ring_id]
            for member in ring.members:
                del self.ring_of[member.user_id]
        for at in accepted:
            portrait = found[at]
            old = sorted(heirs.get(at, []), key=lambda ring: (ring.opened, ring.ring_id))
            state = old[0] if old else self._open(portrait, time)
            self._go_on(state, old, parents.get(at, []), portrait, time, news)
            _tell_members(state, portrait, before, time, news)
            self._keep(state)
            for ring in old[1:]:
                _close(ring, [state.ring_id], time, news)
        for ring in rings:
            if ring.ring_id not in successor:
                _close(ring, [], time, news)
        for user_id, (ring_id, member) in sorted(before.items()):
            if user_id not in self.ring_of and member.size:
                news.memberships.append(Membership(user_id, ring_id, time, 0, 0.0))
        return news

    def _open(self, portrait: Portrait, time: int) -> RingState:
        # A ring may open, close and open once more while the clock stands still: that is another.
        self.opened += 1
        seed = "\0".join([str(time), str(self.opened), *portrait.members]).encode()
        return RingState(f"ring-{blake2b(seed, digest_size=8).hexdigest()}", time, [], portrait.due)

    def _go_on(
        self,
        state: RingState,
        old: Sequence[RingState],
        parents: Sequence[str],
        portrait: Portrait,
        time: int,
        news: News,
    ) -> None:
        event, related = _event(state, old, parents, portrait)
        known = {member.user_id for member in state.members}
        due = portrait.due
        if event is not None or due != state.due or known != set(portrait.members):
            news.rings[state.ring_id] = state
        state.due = due
        if event is not None:
            _note(state, portrait)
            news.alerts.append(_alert(state, event, related, portrait, time))


def moved(told: float, now: float) -> bool:
    """Whether a count is another by a quarter, or is none where there were some.

    >>> moved(0, 1), moved(4, 5), moved(8, 9), moved(8, 6), moved(2, 2)
    (True, True, False, True, False)
    """
    if told == now:
        return False
    return not told or not now or now >= _RATIO * told or now * _RATIO <= told


def _match(
    found: Sequence[Portrait], rings: Sequence[RingState]
) -> tuple[list[int], dict[str, int], dict[int, list[str]]]:
    """Which of the found groups are rings, each ring's successor, and what others split from."""
    at_of = {user: at for at, portrait in enumerate(found) for user in portrait.members}
    common = {
        ring.ring_id: Counter(at_of[m.user_id] for m in ring.members if m.user_id in at_of)
        for ring in rings
    }
    successor: dict[str, int] = {}
    for ring in rings:
        most = sorted(common[ring.ring_id].items(), key=lambda item: (-item[1], item[0]))
        for at, _ in most:
            if found[at].score >= KEEP:
                successor[ring.ring_id] = at
                break
    goes_on = set(successor.values())
    accepted = [at for at, portrait in enumerate(found) if at in goes_on or portrait.score >= OPEN]
    parents: dict[int, list[str]] = {}
    for at in accepted:
        if at not in goes_on:
            names = [ring.ring_id for ring in rings if common[ring.ring_id][at]]
            if names:
                parents[at] = names
    return accepted, successor, parents


def _event(
    state: RingState, old: Sequence[RingState], parents: Sequence[str], portrait: Portrait
) -> tuple[RingEvent | None, list[str]]:
    """What happened to a ring, if anything did that is worth an alert, and the rings concerned."""
    if not old:
        return ("split", list(parents)) if parents else ("opened", [])
    if len(old) > 1:
        return "merged", [ring.ring_id for ring in old[1:]]
    size = len(portrait.members)
    if size > state.size and moved(state.size, size):
        return "grown", []
    if (
        moved(state.size, size)
        or abs(portrait.score - state.score) >= MATERIAL_SCORE
        or moved(state.frauds, portrait.frauds)
        or moved(state.blocked, portrait.blocked)
        or portrait.amount >= 2.0 * state.amount > 0.0
    ):
        return "updated", []
    return None, []


def _note(state: RingState, portrait: Portrait) -> None:
    state.number += 1
    state.size, state.score = len(portrait.members), portrait.score
    state.frauds, state.blocked = portrait.frauds, portrait.blocked
    state.identifiers = portrait.identifiers
    state.transactions, state.amount = portrait.transactions, portrait.amount
    state.first_seen, state.last_seen = portrait.first_seen, portrait.last_seen


def _alert(
    state: RingState, event: RingEvent, related: list[str], portrait: Portrait, time: int
) -> RingAlert:
    return msgspec.structs.replace(
        _bare_alert(state, event, related, portrait.reasons(), time),
        parts=portrait.parts,
        members=portrait.member_list(),
        evidence=portrait.evidence(),
        edges=portrait.edges(),
    )


def _bare_alert(
    state: RingState, event: RingEvent, related: list[str], reasons: list[str], time: int
) -> RingAlert:
    return RingAlert(
        alert_id=f"{state.ring_id}:{state.number}",
        ring_id=state.ring_id,
        event=event,
        kind="accounts",
        time=time,
        score=state.score,
        size=state.size,
        identifiers=state.identifiers,
        transactions=state.transactions,
        amount=state.amount,
        frauds=state.frauds,
        blocked=state.blocked,
        first_seen=state.first_seen,
        last_seen=state.last_seen,
        reasons=reasons,
        parts={},
        members=[],
        evidence=[],
        edges=[],
        related=related,
    )


def _close(ring: RingState, related: list[str], time: int, news: News) -> None:
    ring.number += 1
    why = f"went on as part of {related[0]}" if related else "its members share too little by now"
    news.alerts.append(_bare_alert(ring, "closed", related, [why], time))
    news.rings[ring.ring_id] = None


def _tell_members(
    state: RingState,
    portrait: Portrait,
    before: dict[str, tuple[str, MemberState]],
    time: int,
    news: News,
) -> None:
    """Set the ring's members, and tell those for whom something changed."""
    size = len(portrait.members)
    members: list[MemberState] = []
    for at, user_id in enumerate(portrait.members):
        ring_id, known = before.get(user_id, ("", MemberState(user_id)))
        blocked, frauds = portrait.flagged_others(at)
        if (
            ring_id != state.ring_id
            or moved(known.size, size)
            or abs(known.risk - portrait.score) >= MATERIAL_SCORE
            or moved(known.blocked, blocked)
            or moved(known.frauds, frauds)
        ):
            shared, sharers = portrait.tie_of(at)
            known = MemberState(user_id, size, portrait.score, blocked, frauds)
            news.memberships.append(
                Membership(
                    user_id,
                    state.ring_id,
                    time,
                    size,
                    portrait.score,
                    blocked,
                    frauds,
                    shared,
                    sharers,
                )
            )
            news.rings[state.ring_id] = state
        members.append(known)
    state.members = members
