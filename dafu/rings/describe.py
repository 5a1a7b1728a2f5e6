"""A candidate for people: members, evidence, edges, what is at stake, and reasons in words.

The totals are computed when it is made, everything else when it is asked for. Pure.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Final

from dafu.rings.identifiers import DAY_MS, WINDOW_MS
from dafu.rings.parting import was_reviewed
from dafu.rings.records import Edge, Evidence, Member
from dafu.rings.scoring import Candidate, Component, Shared, User, is_flagged, is_new

MAX_LISTED_MEMBERS: Final = 100
MAX_LISTED_EVIDENCE: Final = 100
MAX_LISTED_EDGES: Final = 300
_HOUR_MS: Final = 3_600_000
_BUSY: Final = 60
"""Transactions of a member in 30 days that are worth a word."""
_NOUNS: Final = {"device": "device", "ip": "IP address", "card": "card", "email": "e-mail address"}


class Portrait:
    """What there is to say of a candidate."""

    def __init__(self, component: Component, candidate: Candidate) -> None:
        self._component = component
        self._candidate = candidate
        self._users = [component.user(i) for i in candidate.members]
        inside = set(candidate.members)
        self.members = [user.name for user in self._users]
        self.score = candidate.score
        self.parts = {name: round(value, 3) for name, value in candidate.parts.items()}
        facts = [user.facts for user in self._users]
        self.transactions = sum(f.transactions for f in facts)
        self.amount = round(math.fsum(f.amount for f in facts), 2)
        since = component.times.clock - WINDOW_MS
        self._blocked = [f.blocked_at > since for f in facts]
        self._frauds = [f.frauds > 0 for f in facts]
        self.blocked, self.frauds = sum(self._blocked), sum(self._frauds)
        self.identifiers = len(candidate.shared)
        self._shared = [component.shared(i).among(inside) for i in candidate.shared]
        uses = [use for each in self._shared for use in each.uses]
        self.first_seen = min(use.first for use in uses)
        self.last_seen = max(use.last for use in uses)
        self.due = min(use.last for use in uses) + WINDOW_MS

    def flagged_others(self, at: int) -> tuple[int, int]:
        """How many others than this member were blocked, and are known for fraud."""
        return self.blocked - self._blocked[at], self.frauds - self._frauds[at]

    @cached_property
    def _ranked(self) -> list[Shared]:
        """What members share, by how many of them share it."""
        return sorted(self._shared, key=lambda each: (-len(each.uses), -each.weight, each.name))

    @cached_property
    def _ties(self) -> dict[int, Shared]:
        """What ties each user to the most members."""
        ties: dict[int, Shared] = {}
        for each in self._ranked:
            for use in each.uses:
                ties.setdefault(use.user, each)
        return ties

    def tie_of(self, at: int) -> tuple[str, int]:
        """What ties a member to most of the others, in words, and to how many."""
        tie = self._ties[self._candidate.members[at]]
        kind, _, value = tie.name.partition(":")
        return f"{kind} {value}", len(tie.uses) - 1

    def member_list(self) -> list[Member]:
        """The members, those first who were blocked or are known for fraud, then the earliest."""
        joined = self._candidate.joined
        clock = self._component.times.clock

        def rank(number: int) -> tuple[bool, int, str]:
            user = self._component.user(number)
            return not is_flagged(user.facts, clock), joined[number], user.name

        listed = sorted(self._candidate.members, key=rank)[:MAX_LISTED_MEMBERS]
        return [
            Member(self._component.user(i).name, joined[i], self._component.user(i).facts)
            for i in listed
        ]

    def evidence(self) -> list[Evidence]:
        """What members share, by how many of them share it."""
        return [
            Evidence(
                each.kind, each.name.partition(":")[2], each.weight, len(each.uses), each.total
            )
            for each in self._ranked[:MAX_LISTED_EVIDENCE]
        ]

    def edges(self) -> list[Edge]:
        """Who used what, of what most members share first."""
        edges: list[Edge] = []
        for each in self._ranked:
            edges += [
                Edge(self._component.user(use.user).name, each.name, use.first, use.last)
                for use in each.uses
            ]
            if len(edges) >= MAX_LISTED_EDGES:
                return edges[:MAX_LISTED_EDGES]
        return edges

    def reasons(self) -> list[str]:
        """What speaks for a ring, the most telling first."""
        size, parts = len(self.members), self.parts
        found: list[str] = []
        if self.blocked:
            found.append(f"{self.blocked} of {size} users had transactions blocked")
        if self.frauds:
            found.append(f"{self.frauds} of {size} users are known for fraud")
        reviewed = sum(map(self._was_reviewed, self._candidate.members))
        if reviewed > self.blocked:
            found.append(f"{reviewed} of {size} users had transactions reviewed as they joined")
        top = self._ranked[0]
        kind, _, value = top.name.partition(":")
        found.append(f"{len(top.uses)} users share {_NOUNS[kind]} {value}")
        kinds = sorted({_NOUNS[each.kind] for each in self._ranked})
        if len(kinds) > 1:
            found.append(
                f"{self.identifiers} shared identifiers of {len(kinds)} kinds: {', '.join(kinds)}"
            )
        came = sorted(self._candidate.joined.values())
        if parts["synchrony"] >= 0.5:
            found.append(f"all came within {_span(came[-1] - came[0])}")
        new = sum(map(self._is_new, self._candidate.members))
        if new:
            found.append(f"{new} of {size} accounts were new when they joined")
        if self.transactions >= _BUSY * size:
            found.append(f"{self.transactions} transactions in 30 days")
        return found

    def _was_reviewed(self, number: int) -> bool:
        facts = self._component.user(number).facts
        joined = self._candidate.joined[number]
        return was_reviewed(facts.reviewed_at, facts.blocked_at, joined)

    def _is_new(self, number: int) -> bool:
        user: User = self._component.user(number)
        return is_new(user, self._candidate.joined[number], self._component.times)


def _span(ms: int) -> str:
    if ms < 2 * _HOUR_MS:
        return f"{max(round(ms / 60_000), 1)} minutes"
    if ms < 3 * DAY_MS:
        return f"{round(ms / _HOUR_MS)} hours"
    return f"{round(ms / DAY_MS)} days"
