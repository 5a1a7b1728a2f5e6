"""Which of the users who hang together act together, and how sure that is.

A component holds whoever is linked through anything: a ring, the families of those whose accounts
it took over, strangers behind one address. `find_candidates` takes it apart and scores the parts.

**Evidence.** What an identifier says of its users is its weight, and half as much where they came
to it days apart: fraudsters take accounts into use one after the other, a family's members come to
their tablet when it pleases them. Users who were blocked, or known to have committed fraud, make
up for time.

**Parts.** Identifiers are taken in from the strongest evidence to the weakest; at each level of
`LEVELS` those who hang together by then are a candidate (single linkage, a dendrogram cut at fixed
heights), but for a user who alone leads to a group of three or more, and came there at another time
(`BRIDGE_MS`): he does not make one group of two. A candidate gives way to the larger one that it
becomes part of unless that one scores less: so a ring comes out with all its members, and without
the neighbours of one of them.

**Score.** Each part is a number from 0 to 1 with a weight in log-odds (`WEIGHTS`, which says what
they mean); with `PRIOR` they add up to the log-odds of the score.

Pure, and the same for equal content in whatever order it was put together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dafu.rings.identifiers import WINDOW_MS
from dafu.rings.parting import F64, I64, START_MS, WEIGHTS, YOUNG_MS, Parted, take_apart
from dafu.rings.records import KINDS, Facts, Kind

_FACTS: Final = 7  # fields of a USER that are facts, the first ones
_TIED: Final = 7


class User(NamedTuple):
    """A user in a component. `tied` is when he first shared something with others."""

    name: str
    facts: Facts
    tied: int


class Use(NamedTuple):
    """A user's link to an identifier: number of the user, and when first and last."""

    user: int
    first: int
    last: int


class Shared(NamedTuple):
    """An identifier in a component, with its uses in the order of (first, user).

    `total` is how many users have it at all.
    """

    name: str
    weight: float
    total: int
    uses: list[Use]

    @property
    def kind(self) -> Kind:
        """What it is."""
        return kind_of(self.name)

    def among(self, members: Collection[int]) -> Shared:
        """The identifier with the uses of these users alone."""
        return self._replace(uses=[use for use in self.uses if use.user in members])


class Times(NamedTuple):
    """The clock (the latest time in the log), and when the log began."""

    clock: int
    began: int


class Uses(NamedTuple):
    """Who uses what, identifier after identifier, those of each in the order of (first, user).

    Identifier i has the uses numbered starts[i] to before starts[i + 1].
    """

    starts: I64
    user: I64
    first: I64
    last: I64


class Component:
    """Users who hang together, ordered by name, and what two or more of them share, by name.

    Parameters
    ----------
    names : sequence of str
        Of the users.
    people : dafu.rings.graph.USER [users]
    things : sequence of str
        Names of the identifiers.
    weight, total : float64 and int64 [identifiers]
    uses : Uses
    times : Times
    """

    def __init__(
        self,
        names: Sequence[str],
        people: Any,
        things: Sequence[str],
        weight: F64,
        total: I64,
        uses: Uses,
        times: Times,
    ) -> None:
        self.names = names
        self.people = people
        self.things = things
        self.weight = weight
        self.total = total
        self.uses = uses
        self.times = times
        self._shared: dict[int, Shared] = {}

    def user(self, number: int) -> User:
        """One of the users."""
        values = self.people[number].item()
        return User(self.names[number], Facts(*values[:_FACTS]), values[_TIED])

    def shared(self, number: int) -> Shared:
        """One of the identifiers."""
        found = self._shared.get(number)
        if found is None:
            low, high = self.uses.starts[number : number + 2].tolist()
            columns = (column[low:high].tolist() for column in self.uses[1:])
            found = self._shared[number] = Shared(
                self.things[number],
                float(self.weight[number]),
                int(self.total[number]),
                [Use(*use) for use in zip(*columns, strict=True)],
            )
        return found


class Candidate(NamedTuple):
    """Users who may be a ring: numbers of users and of the identifiers that they share."""

    members: list[int]
    shared: list[int]
    joined: dict[int, int]
    parts: dict[str, float]
    score: float


def kind_of(name: str) -> Kind:
    """The kind of an identifier by its name, ``kind:value``."""
    kind: Kind = name.partition(":")[0]  # type: ignore[assignment]
    return kind


def is_flagged(facts: Facts, clock: int) -> bool:
    """Whether a user had a transaction blocked within the window, or is known for fraud."""
    return facts.frauds > 0 or facts.blocked_at > clock - WINDOW_MS


def is_new(user: User, joined: int, times: Times) -> bool:
    """Whether an account was opened shortly before it joined."""
    known = user.facts.since >= times.began + START_MS
    return known and joined - user.facts.since < YOUNG_MS


def find_candidates(component: Component, least: float = 0.0) -> list[Candidate]:
    """The best way to take a component apart: candidates that have no member in common.

    Each has MIN_MEMBERS or more and a score of `least` or more; they are ordered by their first
    members' names.
    """
    found = score_groups(component)
    candidates = [
        _candidate(component, found, group)
        for group in np.flatnonzero(found.chosen & (found.scores >= least)).tolist()
    ]
    return sorted(candidates, key=lambda candidate: candidate.members[0])


def score_groups(component: Component) -> Parted:
    """All groups that a component is taken apart into, with their scores."""
    uses = component.uses
    kinds = np.array([_NUMBERS[kind_of(name)] for name in component.things], np.int64)
    return Parted(
        *take_apart(
            component.people, component.weight, kinds, uses.starts, uses.user, uses.first,
            component.times.clock, component.times.began,
        )
    )  # fmt: skip


def members_of(found: Parted, group: int) -> list[int]:
    """Numbers of the users of a group."""
    return _slice(found.members, found.member_ends, group)


_NUMBERS: Final[dict[str, int]] = {kind: number for number, kind in enumerate(KINDS)}


def _candidate(component: Component, found: Parted, group: int) -> Candidate:
    members = members_of(found, group)
    shared = sorted(_slice(found.shared, found.shared_ends, group))
    inside = set(members)
    joined: dict[int, int] = {}
    for number in shared:
        for user, first, _ in component.shared(number).among(inside).uses:
            joined[user] = min(joined.get(user, first), first)
    parts = dict(zip(WEIGHTS, found.parts[group].tolist(), strict=True))
    return Candidate(members, shared, joined, parts, float(found.scores[group]))


def _slice(values: I64, ends: I64, group: int) -> list[int]:
    begin = int(ends[group - 1]) if group else 0
    numbers: list[int] = values[begin : ends[group]].tolist()
    return numbers
