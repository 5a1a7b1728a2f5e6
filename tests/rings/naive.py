"""How a component is taken apart, in plain Python: what the kernel is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from msgspec import structs

from dafu.rings.graph import USER
from dafu.rings.parting import (
    AFTER_MS,
    BEFORE_MS,
    BRIDGE_MS,
    IDLE,
    LEVELS,
    MIN_MEMBERS,
    OPENED_MS,
    PRIOR,
    SOON_MS,
    START_MS,
    TOGETHER_MS,
    UNKNOWN,
    WEIGHTS,
    YOUNG_MS,
)
from dafu.rings.scoring import (
    Candidate,
    Component,
    Shared,
    Times,
    Use,
    User,
    Uses,
    is_flagged,
)


class Parts(NamedTuple):
    """Users who hang together, ordered by name, and what two or more of them share, by name."""

    users: list[User]
    shared: list[Shared]
    times: Times


def component_of(users: Sequence[User], shared: Sequence[Shared], times: Times) -> Component:
    """What the kernel is given, of what is known one by one."""
    rows = [(*structs.astuple(user.facts), user.tied, 0, 0, 0) for user in users]
    uses = [use for each in shared for use in each.uses]
    return Component(
        [user.name for user in users],
        np.array(rows, USER),
        [each.name for each in shared],
        np.array([each.weight for each in shared], np.float64),
        np.array([each.total for each in shared], np.int64),
        Uses(
            np.cumsum([0, *(len(each.uses) for each in shared)]),
            *(np.array([use[k] for use in uses], np.int64) for k in range(3)),
        ),
        times,
    )


def evidence(shared: Shared, flagged: Sequence[bool]) -> float:
    """What an identifier says of its users, 0..1: see the module.

    `flagged` says of each user of the component whether something is known against him.
    """
    share = sum(flagged[use.user] for use in shared.uses) / len(shared.uses)
    return shared.weight * (0.5 + 0.5 * max(synchrony([u.first for u in shared.uses]), share))


def synchrony(times: Sequence[int]) -> float:
    """1 if everybody came at the same time as somebody else, towards 0 the farther apart.

    `times` are ascending, two or more.
    """
    gaps = [b - a for a, b in pairwise(times)]
    nearest = [gaps[0], *map(min, gaps, gaps[1:]), gaps[-1]]
    return sum(math.exp(-gap / SOON_MS) for gap in nearest) / len(times)


def find_candidates(component: Parts) -> list[Candidate]:
    """The best way to take a component apart: candidates that have no member in common.

    Each has MIN_MEMBERS or more; they are ordered by their first members' names.
    """
    users, shared, times = component
    flagged = [is_flagged(user.facts, times.clock) for user in users]
    strength = [evidence(each, flagged) for each in shared]
    judge = _Judge(component, strength, flagged)
    order = sorted(range(len(shared)), key=lambda i: (-strength[i], shared[i].name))
    groups = _Groups(len(users))
    best: dict[int, list[Candidate]] = {}
    at = 0
    for level in LEVELS:
        changed: set[int] = set()
        while at < len(order) and strength[order[at]] >= level:
            root = groups.take(order[at], shared[order[at]], best)
            if root is not None:
                changed.add(root)
            at += 1
        for root in sorted({groups.root(i) for i in changed}):
            members = groups.members[root]
            if len(members) < MIN_MEMBERS:
                continue
            whole = judge.candidate(sorted(members), groups.shared[root])
            parts = best.get(root, [])
            if not parts or whole.score >= max(part.score for part in parts):
                best[root] = [whole]
    found = [candidate for parts in best.values() for candidate in parts]
    return sorted(found, key=lambda candidate: candidate.members[0])


class _Groups:
    """Users who hang together so far (union by size), what they share, and when each came."""

    def __init__(self, users: int) -> None:
        self._up = list(range(users))
        self._came: list[list[int]] = [[] for _ in range(users)]
        self.members = [[i] for i in range(users)]
        self.shared: list[list[int]] = [[] for _ in range(users)]

    def root(self, user: int) -> int:
        while self._up[user] != user:
            self._up[user] = self._up[self._up[user]]
            user = self._up[user]
        return user

    def take(self, number: int, shared: Shared, best: dict[int, list[Candidate]]) -> int | None:
        """Join the users of an identifier, and what is best of each part; their root, if any."""
        uses = [use for use in shared.uses if self._belongs(use, shared.uses)]
        if len(uses) < 2:
            return None
        root = self.root(uses[0].user)
        for use in uses:
            self._came[use.user].append(use.first)
            other = self.root(use.user)
            if other == root:
                continue
            if len(self.members[other]) > len(self.members[root]):
                root, other = other, root
            self._up[other] = root
            self.members[root] += self.members[other]
            self.shared[root] += self.shared[other]
            self.members[other], self.shared[other] = [], []
            if other in best:
                best[root] = best.get(root, []) + best.pop(other)
        self.shared[root].append(number)
        return root

    def _belongs(self, use: Use, uses: Sequence[Use]) -> bool:
        """Whether he is more than the only one who leads to his group, and from another time."""
        root = self.root(use.user)
        others = [other for other in uses if other is not use]
        if len(self.members[root]) < MIN_MEMBERS or root in {self.root(o.user) for o in others}:
            return True
        came = self._came[use.user]
        near = min(came) - BRIDGE_MS <= use.first <= max(came) + BRIDGE_MS
        return near and any(abs(o.first - use.first) <= BRIDGE_MS for o in others)


class _Judge:
    """Scores parts of one component."""

    def __init__(
        self, component: Parts, strength: Sequence[float], flagged: Sequence[bool]
    ) -> None:
        self._users, self._shared, self._times = component
        self._strength = strength
        self._flagged = flagged

    def candidate(self, members: list[int], numbers: list[int]) -> Candidate:
        """Score members (ascending) who hang together by these identifiers."""
        joined: dict[int, int] = {}
        for i in numbers:
            for user, first, _ in self._shared[i].among(members).uses:
                joined[user] = min(joined.get(user, first), first)
        parts = self._ties(members, numbers)
        # What is said of a place that hardly ties anybody says little of them.
        hold = parts.pop("hold")
        n = len(members)
        facts = [self._users[u].facts for u in members]
        parts |= {
            "synchrony": self._synchrony(members, joined),
            "youth": self._mean(_youth, members, joined),
            "novelty": hold * self._mean(_novelty, members, joined),
            "idle": sum(each.transactions <= IDLE for each in facts) / n,
            "known": min(2.0 * sum(self._flagged[u] for u in members) / n, 1.0),
            "reviewed": sum(
                -BEFORE_MS < max(each.reviewed_at, each.blocked_at) - joined[u] < AFTER_MS
                for u, each in zip(members, facts, strict=True)
            )
            / n,
        }
        total = PRIOR + sum(weight * parts[name] for name, weight in WEIGHTS.items())
        score = round(1.0 / (1.0 + math.exp(-total)), 6)
        return Candidate(members, sorted(numbers), joined, parts, score)

    def _ties(self, members: list[int], numbers: list[int]) -> dict[str, float]:
        """Parts that are about what is shared, and `hold`: how far anything ties the members."""
        by_things, by_any = dict.fromkeys(members, 1.0), dict.fromkeys(members, 1.0)
        most = 0
        for i in numbers:
            each, doubt = self._shared[i].among(members), 1.0 - self._strength[i]
            most = max(most, len(each.uses))
            for user, _, _ in each.uses:
                by_any[user] *= doubt
                if each.kind != "ip":
                    by_things[user] *= doubt
        n = len(members)
        things = 1.0 - sum(by_things.values()) / n
        return {
            "things": things,
            "place": min(math.log2(n / MIN_MEMBERS) / 3.0, 1.0) * (1.0 - things),
            "pairs": float(most < MIN_MEMBERS),
            "hold": min(2.0 * (1.0 - sum(by_any.values()) / n), 1.0),
        }

    def _synchrony(self, members: list[int], joined: dict[int, int]) -> float:
        """How close members came after one another; 0 for those of whom it is not known when."""
        total = 0.0
        for u in members:
            since = self._users[u].facts.since
            known = since >= self._times.began + START_MS or joined[u] - since > OPENED_MS
            gap = min(abs(joined[u] - joined[other]) for other in members if other != u)
            total += known * math.exp(-gap / TOGETHER_MS)
        return total / len(members)

    def _mean(
        self,
        part: Callable[[User, int, Times], float],
        members: list[int],
        joined: dict[int, int],
    ) -> float:
        return sum(part(self._users[u], joined[u], self._times) for u in members) / len(members)


def _youth(user: User, joined: int, times: Times) -> float:
    """1 for an account that joined as soon as it was opened; 0 where it is not known when."""
    since = user.facts.since
    if since < times.began + START_MS:
        return 0.0
    return math.exp(-max(joined - since, 0) / OPENED_MS)


def _novelty(user: User, joined: int, times: Times) -> float:
    """1 for somebody who never shared anything before this; a guess where that is not known."""
    if user.tied < times.began + START_MS:
        return UNKNOWN
    return math.exp(-max(joined - user.tied, 0) / YOUNG_MS)
