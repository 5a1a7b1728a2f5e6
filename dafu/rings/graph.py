"""Who is linked with what: users and identifiers, incrementally, in event time.

Nodes and links are rows of arrays that refer to each other by row numbers, so that a million links
are a few arrays to the garbage collector. Nothing that is asked of it depends on how rows are
numbered: equal content gives equal answers, in whatever order it came and however often it was
built up again.

**Time.** A link holds until `WINDOW_MS` after its `last`, by the clock that the caller hands in,
and is not seen from then on. Rows are freed some time later, a few at a time (`sweep`), which
nobody can tell: users and identifiers whose links have all run out are as if they were never there.

**Components** are not kept but searched from a user, up to a number of users. So nothing has to be
mended when a link goes, a search costs what it finds, and a component of half a million users
costs no more than one of the limit.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.rings.facts import merge_facts
from dafu.rings.identifiers import WINDOW_MS
from dafu.rings.names import NO_ROW, Names
from dafu.rings.records import Facts

I32 = NDArray[np.int32]

MAX_LINKS: Final = 64
"""Links of one user; beyond, the one that was used the longest ago is let go."""

USER: Final = np.dtype(
    [
        ("as_of", "i8"), ("since", "i8"), ("transactions", "i8"), ("amount", "f8"),
        ("frauds", "i8"), ("blocked_at", "i8"), ("reviewed_at", "i8"),
        ("tied", "i8"), ("until", "i8"), ("head", "i4"), ("links", "i4"),
    ]
)  # fmt: skip
"""Facts, the time at which the user was first tied to others, until when links hold; the first of
his links, -1 for none, and how many."""

IDENTIFIER: Final = np.dtype(
    [("as_of", "i8"), ("weight", "f8"), ("until", "i8"), ("users", "i4"), ("head", "i4")]
)
LINK: Final = np.dtype(
    [
        ("first", "i8"), ("last", "i8"), ("user", "i4"), ("identifier", "i4"),
        ("user_next", "i4"), ("user_back", "i4"),
        ("identifier_next", "i4"), ("identifier_back", "i4"),
    ]
)  # fmt: skip
"""`user` is -1 in rows that are free."""

_MORE_ROWS: Final = 65_536
_FACTS: Final = 7  # fields of a user that are facts, the first ones


class Component(NamedTuple):
    """Users who hang together, the identifiers that tie them, and the links that hold between.

    Rows of the graph, in no particular order. If there are more users than were asked for it is not
    `complete`: it holds some of them, and no identifiers and links.
    """

    users: I32
    identifiers: I32
    links: I32
    complete: bool = True


class Freed(NamedTuple):
    """What `sweep` freed, by name; links as (user, identifier)."""

    links: list[tuple[str, str]]
    users: list[str]
    identifiers: list[str]


class Graph:
    """Users, identifiers and the links between them."""

    def __init__(self) -> None:
        self.user_names = Names()
        self.identifier_names = Names()
        self.users: Any = np.zeros(64, USER)
        self.identifiers: Any = np.zeros(64, IDENTIFIER)
        self.links: Any = np.zeros(64, LINK)
        self._user_mark = np.zeros(64, np.int64)
        self._identifier_mark = np.zeros(64, np.int64)
        self._mark = 0
        self._used = 0
        self._free: list[int] = []
        self._cursors = np.zeros(3, np.int64)

    def __len__(self) -> int:
        """Links held, with those that ran out and are not freed yet."""
        return self._used - len(self._free)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, names not counted."""
        arrays = (self.users, self.identifiers, self.links, self._user_mark, self._identifier_mark)
        return sum(int(array.nbytes) for array in arrays)

    def user(self, name: str, clock: int) -> int:
        """The row of a user who has links that hold, -1 for others."""
        row = self.user_names.find(name)
        return row if row >= 0 and self.users["until"][row] > clock else NO_ROW

    def identifier(self, name: str, clock: int) -> int:
        """The row of an identifier of which something holds, be it that it is ignored; else -1."""
        row = self.identifier_names.find(name)
        return row if row >= 0 and self.identifiers["until"][row] > clock else NO_ROW

    def facts(self, row: int) -> Facts:
        """What is known of a user."""
        return Facts(*self.users[row].item()[:_FACTS])

    def put_user(self, name: str, facts: Facts, tied: int, until: int, clock: int) -> int:
        """Add a user, or what is told of one: tied to others at this time, until then at least.

        Returns
        -------
        int
            The row. It stands until a `sweep`.
        """
        row = self.user_names.find(name)
        if row < 0:
            row = self.user_names.add(name)
            if row >= len(self.users):
                _grow(self.users)
                _grow(self._user_mark)
            self.users["head"][row], self.users["links"][row] = NO_ROW, 0
            self.users["until"][row] = clock
        *known, was_tied, was_until, head, links = self.users[row].item()
        if was_until > clock:
            facts = merge_facts(Facts(*known), facts)
            tied, until = min(tied, was_tied), max(until, was_until)
        self.users[row] = (*_values(facts), tied, until, head, links)
        return row

    def learn(self, row: int, facts: Facts) -> Facts:
        """Take in facts about a user; what is known then."""
        *known, tied, until, head, links = self.users[row].item()
        facts = merge_facts(Facts(*known), facts)
        self.users[row] = (*_values(facts), tied, until, head, links)
        return facts

    def put_identifier(
        self, name: str, users: int, weight: float, as_of: int, until: int, clock: int
    ) -> int:
        """Add an identifier, or what is told of one; its row.

        What is told as of a later time holds; as of one time, more users before fewer, and for as
        many the lower weight.
        """
        row = self.identifier_names.find(name)
        if row < 0:
            row = self.identifier_names.add(name)
            if row >= len(self.identifiers):
                _grow(self.identifiers)
                _grow(self._identifier_mark)
            self.identifiers[row] = (0, 0.0, clock, 0, NO_ROW)
        was_of, was_weight, was_until, were, head = self.identifiers[row].item()
        if was_until > clock:
            until = max(until, was_until)
            if (was_of, were, -was_weight) > (as_of, users, -weight):
                as_of, users, weight = was_of, were, was_weight
        self.identifiers[row] = (as_of, weight, until, users, head)
        return row

    def find_link(self, user: int, identifier: int) -> int:
        """The row of a link, -1 if there is none."""
        return int(_find(self.links, int(self.users["head"][user]), identifier))

    def put_link(self, user: int, identifier: int, first: int, last: int, clock: int) -> int:
        """Add a link, or widen the time that is known of it; its row."""
        row = self.find_link(user, identifier)
        if row >= 0:
            if self.links["last"][row] + WINDOW_MS > clock:
                first = min(first, int(self.links["first"][row]))
                last = max(last, int(self.links["last"][row]))
            self.links["first"][row], self.links["last"][row] = first, last
            return row
        if self._free:
            row = self._free.pop()
        else:
            row = self._used
            self._used += 1
            if row >= len(self.links):
                _grow(self.links)
        _attach(self.links, self.users, self.identifiers, row, user, identifier, first, last)
        return row

    def drop_link(self, row: int) -> None:
        """Take a link out."""
        _detach(self.links, self.users, self.identifiers, row)
        self._free.append(row)

    def links_of(self, user: int) -> list[int]:
        """Rows of a user's links, those that ran out included."""
        return _chain(self.links["user_next"], int(self.users["head"][user]))

    def links_to(self, identifier: int) -> list[int]:
        """Rows of an identifier's links, those that ran out included."""
        return _chain(self.links["identifier_next"], int(self.identifiers["head"][identifier]))

    def excess(self, user: int) -> int:
        """The link that a user with more than MAX_LINKS is to lose; -1 if he has no more."""
        if self.users["links"][user] <= MAX_LINKS:
            return NO_ROW
        names, links = self.identifier_names.texts, self.links
        return min(
            self.links_of(user),
            key=lambda row: (links["last"][row], names[links["identifier"][row]]),
        )

    def component(self, user: int, level: float, clock: int, most: int) -> Component:
        """Who hangs together with a user by identifiers of this weight or more.

        Parameters
        ----------
        user : int
        level : float
            Greater than 0.
        clock : int
            Links are seen that hold at this time.
        most : int
            How many users to look for.
        """
        self._mark += 1
        users, identifiers = np.empty(most + 1, np.int32), np.empty(most * 8 + 64, np.int32)
        since = clock - WINDOW_MS
        while True:
            n, m, links = _search(
                self.users, self.identifiers, self.links, self._user_mark, self._identifier_mark,
                self._mark, user, level, since, users, identifiers,
            )  # fmt: skip
            if m <= len(identifiers):
                break
            self._mark += 1
            identifiers = np.empty((most + 1) * MAX_LINKS, np.int32)
        if n > most:
            return Component(users[:n], _NO_ROWS, _NO_ROWS, complete=False)
        between = np.empty(links, np.int32)
        _collect(self.identifiers, self.links, since, identifiers[:m], between)
        return Component(users[:n], identifiers[:m], between)

    def sweep(self, clock: int, rows: int) -> Freed:
        """Look at the next `rows` rows of each kind, and free what ran out."""
        freed = Freed([], [], [])
        if not self._used:
            return freed
        found = np.empty(rows, np.int32)
        n = _run_out_links(self.links, self._used, clock - WINDOW_MS, self._cursors, found)
        users, identifiers = self.user_names, self.identifier_names
        for row in found[:n].tolist():
            link = self.links[row]
            freed.links.append((users.texts[link["user"]], identifiers.texts[link["identifier"]]))
            self.drop_link(row)
        tables = ((self.users, users, freed.users), (self.identifiers, identifiers, freed[2]))
        for kind, (table, names, gone) in enumerate(tables):
            n = _run_out_nodes(
                table["until"], table["head"], len(names.texts), clock, self._cursors, kind, found
            )
            for row in found[:n].tolist():
                if names.texts[row]:
                    gone.append(names.texts[row])
                    names.drop(row)
        return freed


_NO_ROWS: Final = np.empty(0, np.int32)


def _values(facts: Facts) -> tuple[int, int, int, float, int, int, int]:
    return (
        facts.as_of, facts.since, facts.transactions, facts.amount, facts.frauds,
        facts.blocked_at, facts.reviewed_at,
    )  # fmt: skip


def _grow(array: Any) -> None:
    """Make room for more rows, in place: large blocks are moved by the system and not copied."""
    more = min(max(len(array) // 2, 64), _MORE_ROWS)
    array.resize(len(array) + more, refcheck=False)


def _chain(following: Any, row: int) -> list[int]:
    found: list[int] = []
    while row >= 0:
        found.append(row)
        row = int(following[row])
    return found


@kernel
def _find(links: Any, row: int, identifier: int) -> int:
    """The link to an identifier in a user's chain, from `row` on; -1 if there is none."""
    while row >= 0 and links[row]["identifier"] != identifier:
        row = links[row]["user_next"]
    return row


@kernel
def _attach(
    links: Any,
    users: Any,
    identifiers: Any,
    row: int,
    user: int,
    identifier: int,
    first: int,
    last: int,
) -> None:
    """Put a link at the head of both chains."""
    links[row]["first"] = first
    links[row]["last"] = last
    links[row]["user"] = user
    links[row]["identifier"] = identifier
    after = users[user]["head"]
    links[row]["user_next"] = after
    links[row]["user_back"] = -1
    if after >= 0:
        links[after]["user_back"] = row
    users[user]["head"] = row
    users[user]["links"] += 1
    after = identifiers[identifier]["head"]
    links[row]["identifier_next"] = after
    links[row]["identifier_back"] = -1
    if after >= 0:
        links[after]["identifier_back"] = row
    identifiers[identifier]["head"] = row


@kernel
def _detach(links: Any, users: Any, identifiers: Any, row: int) -> None:
    """Take a link out of both chains."""
    user, identifier = links[row]["user"], links[row]["identifier"]
    after, before = links[row]["user_next"], links[row]["user_back"]
    if after >= 0:
        links[after]["user_back"] = before
    if before >= 0:
        links[before]["user_next"] = after
    else:
        users[user]["head"] = after
    users[user]["links"] -= 1
    after, before = links[row]["identifier_next"], links[row]["identifier_back"]
    if after >= 0:
        links[after]["identifier_back"] = before
    if before >= 0:
        links[before]["identifier_next"] = after
    else:
        identifiers[identifier]["head"] = after
    links[row]["user"] = -1


@kernel
def _search(
    users: Any,
    identifiers: Any,
    links: Any,
    user_mark: Any,
    identifier_mark: Any,
    mark: int,
    start: int,
    level: float,
    since: int,
    found_users: Any,
    found_identifiers: Any,
) -> tuple[int, int, int]:
    """Breadth first from a user, until `found_users` is full.

    Returns how many users and identifiers were found, and how many links the identifiers have that
    hold. More identifiers than there is room for are one more than that.
    """
    n, m, count, at = 1, 0, 0, 0
    found_users[0] = start
    user_mark[start] = mark
    while at < n:
        row = users[found_users[at]]["head"]
        at += 1
        while row >= 0:
            identifier = links[row]["identifier"]
            if (
                links[row]["last"] > since
                and identifiers[identifier]["weight"] >= level
                and identifier_mark[identifier] != mark
            ):
                identifier_mark[identifier] = mark
                if m == len(found_identifiers):
                    return n, m + 1, count
                found_identifiers[m] = identifier
                m += 1
                other = identifiers[identifier]["head"]
                while other >= 0:
                    if links[other]["last"] > since:
                        count += 1
                        user = links[other]["user"]
                        if user_mark[user] != mark:
                            user_mark[user] = mark
                            found_users[n] = user
                            n += 1
                            if n == len(found_users):
                                return n, m, count
                    other = links[other]["identifier_next"]
            row = links[row]["user_next"]
    return n, m, count


@kernel
def _collect(identifiers: Any, links: Any, since: int, wanted: Any, found: Any) -> None:
    """The links of these identifiers that hold; there are as many as there is room for."""
    n = 0
    for i in range(len(wanted)):
        row = identifiers[wanted[i]]["head"]
        while row >= 0:
            if links[row]["last"] > since:
                found[n] = row
                n += 1
            row = links[row]["identifier_next"]


@kernel
def _run_out_links(links: Any, used: int, since: int, cursors: Any, found: Any) -> int:
    """Rows among the next ones, as many as `found` has room for, whose links ran out."""
    n, at = 0, cursors[2]
    for _ in range(min(len(found), used)):
        at = at + 1 if at + 1 < used else 0
        if links[at]["user"] >= 0 and links[at]["last"] <= since:
            found[n] = at
            n += 1
    cursors[2] = at
    return n


@kernel
def _run_out_nodes(
    until: Any, head: Any, used: int, clock: int, cursors: Any, kind: int, found: Any
) -> int:
    """Rows among the next ones of nodes that have no links and of which nothing holds."""
    n, at = 0, cursors[kind]
    for _ in range(min(len(found), used)):
        at = at + 1 if at + 1 < used else 0
        if head[at] < 0 and until[at] <= clock:
            found[n] = at
            n += 1
    cursors[kind] = at
    return n
