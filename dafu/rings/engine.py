"""From links and activities, in the order of their log, to alerts and memberships.

`RingEngine.apply` takes one record after the other, so that it can not matter how a log is cut
into batches. What it says depends on the records so far alone: time is the latest time in them,
rows that ran out are freed behind the scenes (`dafu.rings.graph`), and whatever is put in order is
ordered by names and times. A repeat of a record changes nothing: facts are merged, not added.

**What is looked at.** After a record, the components of the users whom it concerns, and of all
members of the rings that these are in. A component with more than `MAX_USERS` users is looked at
without its weakest identifiers, more and more of them (`WEIGHTS`), until it is small enough. Where
even the strongest tie too many, it is taken apart by hubs (`dafu.rings.hubs`; `oversized` counts
that). Either way, whoever is in the part that is looked at would find the same part.

What a member spends is added up when the ring is looked at next: for another transaction alone that
is when their number or sum has doubled.

**Bounds.** A record adds or refreshes one link, or withdraws those of one identifier; it looks at
`DUE_AT_ONCE` rings whose links ran out; every `SWEEP_EVERY` records some rows are freed.

`changes` tells what became of the state since it was asked last, as records from which `rebuilt`
makes an engine that goes on in the same way.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.rings.alerts import KEEP, RingBook, RingState
from dafu.rings.describe import Portrait
from dafu.rings.encoding import pack, reader
from dafu.rings.graph import I32, Graph
from dafu.rings.hubs import component_of_hubs
from dafu.rings.identifiers import LEAST_WEIGHT, WINDOW_MS
from dafu.rings.parting import IDLE, MIN_MEMBERS
from dafu.rings.records import Activity, Facts, Link, Membership, RingAlert
from dafu.rings.scoring import Component, Times, Uses, find_candidates
from dafu.tables.migrations import damaged

MAX_USERS: Final = 128
"""Users of a component, or of the part of it, that is looked at."""

WEIGHTS: Final = (LEAST_WEIGHT, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
DUE_AT_ONCE: Final = 4
SWEEP_EVERY: Final = 16
_SWEEP_ROWS: Final = 1024
_STORED: Final = 9  # fields of a user of the graph that are stored, the first ones

LINK: Final = b"L"
IDENTIFIER: Final = b"N"
USER: Final = b"U"
RING: Final = b"R"


class LinkRecord(Struct, array_like=True, gc=False):
    """A link as it is stored."""

    first: int
    last: int


class IdentifierRecord(Struct, array_like=True, gc=False):
    """An identifier as it is stored."""

    users: int
    weight: float
    as_of: int
    until: int


class UserRecord(Struct, array_like=True, gc=False):
    """A user as he is stored."""

    as_of: int
    since: int
    transactions: int
    amount: float
    frauds: int
    blocked_at: int
    tied: int
    until: int
    reviewed_at: int = 0


class EngineCounters(Struct):
    """What the engine has met since it was made, for people; nothing depends on it."""

    links: int = 0
    activities: int = 0
    late: int = 0
    withdrawn: int = 0
    crowded_out: int = 0
    strangers: int = 0
    looked_at: int = 0
    oversized: int = 0


class Output(NamedTuple):
    """What a record led to."""

    alerts: list[RingAlert]
    memberships: list[Membership]


_read_link = reader("link", LinkRecord)
_read_identifier = reader("identifier of a ring", IdentifierRecord)
_read_user = reader("user of a ring", UserRecord)
_read_ring = reader("ring", RingState)
_NOTHING: Final = Output([], [])


class RingEngine:
    """Graph and rings, and what goes on in them.

    Parameters
    ----------
    clock : int
        The latest time so far, epoch milliseconds; 0 before the first record.
    began : int
        The earliest time that was told of; 0 before the first record.
    applied : int
        Records applied so far.
    """

    def __init__(self, clock: int = 0, began: int = 0, applied: int = 0) -> None:
        self.clock = clock
        self.began = began
        self.applied = applied
        self.graph = Graph()
        self.book = RingBook()
        self.counters = EngineCounters()
        self._due: list[tuple[int, str]] = []
        self._changed: dict[bytes, None] = {}

    def apply(self, record: Link | Activity) -> Output:
        """Take in one record."""
        self.applied += 1
        if isinstance(record, Link):
            self.counters.links += 1
            touched = self._link(record)
        else:
            self.counters.activities += 1
            touched = self._activity(record)
        touched += self._due_members()
        output = self._look(touched) if touched else _NOTHING
        if self.applied % SWEEP_EVERY == 0:
            self._sweep()
        return output

    def _link(self, link: Link) -> list[str]:
        """Note a link; who is concerned."""
        time = max(link.as_of, link.last_seen)
        start = min(link.first_seen, link.facts.since)
        self.began = min(self.began, start) if self.clock else start
        self.clock = max(self.clock, time)
        clock, graph = self.clock, self.graph
        if link.last_seen + WINDOW_MS <= clock and link.weight > 0.0:
            self.counters.late += 1
            return []
        name = f"{link.kind}:{link.value}"
        known = graph.identifier(name, clock)
        before = float(graph.identifiers["weight"][known]) if known >= 0 else 0.0
        identifier = graph.put_identifier(
            name, link.users, link.weight, link.as_of, time + WINDOW_MS, clock
        )
        self._mark(IDENTIFIER, name)
        weight = float(graph.identifiers["weight"][identifier])
        touched = self._in_rings(identifier) if weight < before else []
        if weight <= 0.0:
            for row in graph.links_to(identifier):
                self._drop(row)
            self.counters.withdrawn += before > 0.0
            return touched
        if self._put(link, identifier) or weight > before:
            touched.append(link.user_id)
        return touched

    def _put(self, link: Link, identifier: int) -> bool:
        """Add or refresh a user's link to an identifier; whether that changed anything."""
        clock, graph = self.clock, self.graph
        known = graph.user(link.user_id, clock)
        former = graph.users[known].item() if known >= 0 else None
        user = graph.put_user(
            link.user_id, link.facts, link.as_of, link.last_seen + WINDOW_MS, clock
        )
        row = graph.find_link(user, identifier)
        was = graph.links[row].item()[:2] if row >= 0 else None
        row = graph.put_link(user, identifier, link.first_seen, link.last_seen, clock)
        changed = was != graph.links[row].item()[:2]
        self._mark(USER, link.user_id)
        self._mark(LINK, f"{graph.identifier_names.texts[identifier]}\0{link.user_id}")
        while (excess := graph.excess(user)) >= 0:
            self.counters.crowded_out += 1
            changed &= excess != row
            self._drop(excess)
        return changed or former is None or former[:_STORED] != graph.users[user].item()[:_STORED]

    def _activity(self, activity: Activity) -> list[str]:
        row = self.graph.user(activity.user_id, self.clock)
        if row < 0:
            self.counters.strangers += 1
            return []
        if activity.facts.as_of + WINDOW_MS <= self.clock:
            self.counters.late += 1
            return []
        before = self.graph.facts(row)
        now = self.graph.learn(row, activity.facts)
        if now == before:
            return []
        self._mark(USER, activity.user_id)
        matters = _about(now) != _about(before) and activity.user_id in self.book.ring_of
        return [activity.user_id] if matters else []

    def _in_rings(self, identifier: int) -> list[str]:
        """Of each ring that an identifier's users are in, one member."""
        graph, ring_of = self.graph, self.book.ring_of
        rows = graph.links["user"][graph.links_to(identifier)].tolist()
        users = (graph.user_names.texts[row] for row in rows)
        return list({ring_of[user]: user for user in users if user in ring_of}.values())

    def _drop(self, row: int) -> None:
        graph = self.graph
        link = graph.links[row]
        user = graph.user_names.texts[link["user"]]
        self._mark(LINK, f"{graph.identifier_names.texts[link['identifier']]}\0{user}")
        graph.drop_link(row)

    def _mark(self, kind: bytes, name: str) -> None:
        self._changed[kind + name.encode()] = None

    def _due_members(self) -> list[str]:
        """A member of each of the next rings that have to be looked at, since links ran out."""
        found: list[str] = []
        looked = 0
        while self._due and looked < DUE_AT_ONCE and self._due[0][0] <= self.clock:
            due, ring_id = heapq.heappop(self._due)
            ring = self.book.rings.get(ring_id)
            if ring is not None and ring.due == due:
                found.append(ring.members[0].user_id)
                looked += 1
        return found

    def _look(self, touched: Iterable[str]) -> Output:
        """Look at these users' components and rings, and note what changed about rings."""
        portraits, rings = self._survey(touched)
        if not portraits and not rings:
            return _NOTHING
        news = self.book.reconcile(portraits, rings, self.clock)
        for ring_id, state in news.rings.items():
            self._mark(RING, ring_id)
            if state is not None:
                heapq.heappush(self._due, (state.due, ring_id))
        return Output(news.alerts, news.memberships)

    def portrait(self, ring_id: str) -> Portrait | None:
        """How a ring looks now, for people; None if there is none, or nothing is left of it."""
        ring = self.book.rings.get(ring_id)
        if ring is None:
            return None
        members = {member.user_id for member in ring.members}
        found, _ = self._survey([min(members)])
        common = [(len(members.intersection(each.members)), each) for each in found]
        most, portrait = max(common, key=lambda pair: pair[0], default=(0, None))
        return portrait if most else None

    def _survey(self, touched: Iterable[str]) -> tuple[list[Portrait], set[str]]:
        """Candidates among these users and those they have to do with, and the rings concerned."""
        waiting, seen, concerned = list(touched), set[str](), set[str]()
        portraits: list[Portrait] = []
        levels: dict[int, int] = {}
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            component = self._component(name, levels)
            names = [name]
            if component is not None:
                names = list(component.names)
                found = find_candidates(component, KEEP)
                portraits += [Portrait(component, each) for each in found]
            seen.update(names)
            self._concern(names, concerned, waiting)
        # In an order that does not depend on how rows are numbered; nobody is in two of them.
        return sorted(portraits, key=lambda portrait: portrait.members[0]), concerned

    def _concern(self, names: Iterable[str], concerned: set[str], waiting: list[str]) -> None:
        for name in names:
            ring_id = self.book.ring_of.get(name)
            if ring_id is not None and ring_id not in concerned:
                concerned.add(ring_id)
                waiting += [member.user_id for member in self.book.rings[ring_id].members]

    def _component(self, name: str, levels: dict[int, int]) -> Component | None:
        """A user's component, as far as it is looked at; None if that is less than a ring.

        `levels` says by user at which of the weights to begin: those who were met in a component
        that was too large are in one of their own at that weight.
        """
        graph, clock = self.graph, self.clock
        row = graph.user(name, clock)
        if row < 0:
            return None
        for level in range(levels.get(row, 0), len(WEIGHTS)):
            found = graph.component(row, WEIGHTS[level], clock, MAX_USERS)
            if found.complete:
                break
            levels.update(dict.fromkeys(found.users.tolist(), level + 1))
        else:
            self.counters.oversized += 1
            found = component_of_hubs(graph, row, WEIGHTS[-1], clock, MAX_USERS)
        users, identifiers, links, _ = found
        if len(users) < MIN_MEMBERS:
            return None
        self.counters.looked_at += 1
        return self._snapshot(users, identifiers, links)

    def _snapshot(self, users: I32, identifiers: I32, links: I32) -> Component:
        """What is to be known of rows of the graph, put in order by names."""
        graph = self.graph
        names, people = _by_name(users, graph.user_names.texts)
        things, shared = _by_name(identifiers, graph.identifier_names.texts)
        held = graph.links[links]
        user = _places(people, held["user"])
        thing = _places(shared, held["identifier"])
        counts = np.bincount(thing, minlength=len(shared))
        several = np.flatnonzero(counts > 1)
        number = np.full(len(shared), -1)
        number[several] = np.arange(len(several))
        order = np.lexsort((user, held["first"], number[thing]))
        order = order[len(held) - int(counts[several].sum()) :]
        uses = Uses(
            np.concatenate(([0], np.cumsum(counts[several]))),
            user[order],
            held["first"][order],
            held["last"][order],
        )
        told = graph.identifiers[shared[several]]
        return Component(
            names,
            graph.users[people],
            [things[i] for i in several.tolist()],
            told["weight"].copy(),
            told["users"].astype(np.int64),
            uses,
            Times(self.clock, self.began),
        )

    def _sweep(self) -> None:
        freed = self.graph.sweep(self.clock, _SWEEP_ROWS)
        for user, identifier in freed.links:
            self._mark(LINK, f"{identifier}\0{user}")
        for user in freed.users:
            self._mark(USER, user)
        for identifier in freed.identifiers:
            self._mark(IDENTIFIER, identifier)

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Records that are other than when this was asked last; None for those that are gone."""
        changed = [(key, self._record(key)) for key in self._changed]
        self._changed.clear()
        return changed

    def _record(self, key: bytes) -> bytes | None:
        kind, name, graph = key[:1], key[1:].decode(), self.graph
        if kind == RING:
            ring = self.book.rings.get(name)
            return None if ring is None else pack(ring)
        if kind == USER:
            row = graph.user_names.find(name)
            return None if row < 0 else pack(_user_record(graph.users[row].item()))
        if kind == IDENTIFIER:
            row = graph.identifier_names.find(name)
            if row < 0:
                return None
            as_of, weight, until, users, _head = graph.identifiers[row].item()
            return pack(IdentifierRecord(users, weight, as_of, until))
        identifier, _, user = name.partition("\0")
        rows = graph.user_names.find(user), graph.identifier_names.find(identifier)
        link = graph.find_link(*rows) if min(rows) >= 0 else -1
        return None if link < 0 else pack(graph.links[link].item()[:2])

    @classmethod
    def rebuilt(
        cls,
        records: Iterable[tuple[bytes, bytes]],
        clock: int = 0,
        began: int = 0,
        applied: int = 0,
        opened: int = 0,
    ) -> RingEngine:
        """An engine that goes on where the one went on that wrote these records.

        Raises
        ------
        StateError
            If a record is damaged, or a later version of dafu wrote it.
        """
        engine = cls(clock, began, applied)
        graph, rings = engine.graph, []
        links: list[tuple[bytes, bytes]] = []
        for key, value in records:
            kind = key[:1]
            if kind == LINK:
                links.append((key, value))
            elif kind == IDENTIFIER:
                i = _read_identifier(key, value)
                name = key[1:].decode()
                graph.put_identifier(name, i.users, i.weight, i.as_of, i.until, 0)
            elif kind == USER:
                u = _read_user(key, value)
                facts = Facts(
                    u.as_of, u.since, u.transactions, u.amount, u.frauds,
                    u.blocked_at, u.reviewed_at,
                )  # fmt: skip
                graph.put_user(key[1:].decode(), facts, u.tied, u.until, 0)
            elif kind == RING:
                rings.append(_read_ring(key, value))
        for key, value in links:
            link = _read_link(key, value)
            identifier, _, user = key[1:].decode().partition("\0")
            rows = graph.user_names.find(user), graph.identifier_names.find(identifier)
            if min(rows) < 0:
                raise damaged("link", key)
            graph.put_link(*rows, link.first, link.last, 0)
        engine.book = RingBook(rings, opened)
        engine._due = [(ring.due, ring.ring_id) for ring in rings]
        heapq.heapify(engine._due)
        return engine


def _about(facts: Facts) -> tuple[int, int, int, int, bool]:
    """Facts as far as a ring is looked at again when they change: amounts by their magnitude."""
    magnitudes = facts.transactions.bit_length(), int(facts.amount).bit_length()
    return *magnitudes, facts.frauds, facts.blocked_at, facts.transactions <= IDLE


def _user_record(values: Sequence[Any]) -> UserRecord:
    as_of, since, transactions, amount, frauds, blocked_at, reviewed_at, tied, until, *_ = values
    return UserRecord(
        as_of, since, transactions, amount, frauds, blocked_at, tied, until, reviewed_at
    )


def _by_name(rows: I32, texts: Sequence[str]) -> tuple[list[str], I32]:
    """Names in order, and the rows that they are of."""
    named = sorted((texts[row], row) for row in rows.tolist())
    return [name for name, _ in named], np.array([row for _, row in named], np.int32)


def _places(rows: I32, wanted: I32) -> NDArray[np.int64]:
    """Where each of the wanted rows is among rows."""
    order = np.argsort(rows)
    places: NDArray[np.int64] = order[np.searchsorted(rows, wanted, sorter=order)]
    return places
