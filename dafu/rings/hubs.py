"""Who belongs together where a component is too large and nothing weak is left to cut it at.

Campaigns that go on for weeks have victims in common, a user here and there, until hundreds of
accounts hang together. So identifiers go together here only if they share some users (`BRIDGES`,
as few as keep the whole small enough), and each user counts for the one identifier that ties him
the most: of the greatest weight, then of the most users, then the first by name. Weaker identifiers
than those by which the component is too large do not count: by these a part would reach users who
are in a component of their own without them. Thus each user is in one part, and whoever is in it
finds the same part.

Pure: reads a graph and its names; the numbers of rows do not matter.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from dafu.rings.graph import Component, Graph
from dafu.rings.identifiers import WINDOW_MS

BRIDGES: Final = (2, 3, 5)


def component_of_hubs(graph: Graph, user: int, level: float, clock: int, most: int) -> Component:
    """The part that a user is in.

    Parameters
    ----------
    graph : Graph
    user : int
        Row of one whose component by identifiers of this weight or more is too large.
    level : float
    clock : int
        Links are seen that hold at this time.
    most : int
        Users that the identifiers of the part may have, unless it is just one.
    """
    view = _View(graph, level, clock)
    hub = view.strongest(user)
    hubs = {hub}
    for bridge in BRIDGES:
        around = view.around(hub, bridge, most)
        if around is not None:
            hubs = around
            break
    users = {other for i in hubs for other in view.users_of(i) if view.strongest(other) in hubs}
    links = [row for other in users for row in view.every_link_of(other)]
    identifiers = np.unique(graph.links["identifier"][links])
    return Component(np.array(sorted(users), np.int32), identifiers, np.array(links, np.int32))


class _View:
    """Links that hold, to identifiers of this weight or more; what was asked is remembered."""

    def __init__(self, graph: Graph, level: float, clock: int) -> None:
        self._graph = graph
        self._level = level
        self._since = clock - WINDOW_MS
        self._identifiers: dict[int, list[int]] = {}
        self._users: dict[int, list[int]] = {}
        self._strongest: dict[int, int] = {}

    def every_link_of(self, user: int) -> list[int]:
        """A user's links to whatever identifiers."""
        return self._holding(self._graph.links_of(user))

    def users_of(self, identifier: int) -> list[int]:
        if identifier not in self._users:
            rows = self._holding(self._graph.links_to(identifier))
            self._users[identifier] = self._graph.links["user"][rows].tolist()
        return self._users[identifier]

    def identifiers_of(self, user: int) -> list[int]:
        if user not in self._identifiers:
            held = self._graph.links["identifier"][self.every_link_of(user)]
            strong = held[self._graph.identifiers["weight"][held] >= self._level]
            self._identifiers[user] = strong.tolist()
        return self._identifiers[user]

    def _holding(self, rows: list[int]) -> list[int]:
        last = self._graph.links["last"][rows].tolist()
        return [row for row, time in zip(rows, last, strict=True) if time > self._since]

    def strongest(self, user: int) -> int:
        if user not in self._strongest:
            held = self.identifiers_of(user)
            names = self._graph.identifier_names.texts
            told = self._graph.identifiers[held]
            ranked = zip(
                (-told["weight"]).tolist(),
                (-told["users"]).tolist(),
                [names[i] for i in held],
                held,
                strict=True,
            )
            self._strongest[user] = min(ranked)[-1]
        return self._strongest[user]

    def around(self, hub: int, bridge: int, most: int) -> set[int] | None:
        """Identifiers that hang together with one, each step by so many users; None if too much."""
        found, waiting, users = {hub}, [hub], set(self.users_of(hub))
        while waiting:
            shared = Counter(
                i for user in self.users_of(waiting.pop()) for i in self.identifiers_of(user)
            )
            for identifier, count in shared.items():
                if count >= bridge and identifier not in found:
                    found.add(identifier)
                    waiting.append(identifier)
                    users.update(self.users_of(identifier))
                    if len(users) > most:
                        return None
        return found
