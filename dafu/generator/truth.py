"""The truth about rings and look-alikes, read off the finished plan.

So it holds for what is in the file and not for what was meant: members that did nothing before
the simulation ended are none.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dafu.generator.groups import Groups
from dafu.generator.plan import MOBILE_NET, Plan
from dafu.generator.render import run_tag, transaction_id
from dafu.rings.truth import KnownGroup, Truth

MIN_SIZE: Final = 3
"""Members that make a ring."""


def tell(plan: Plan, groups: Groups, start_ms: int, run: int) -> Truth:
    """What each group did.

    Parameters
    ----------
    plan
        All transactions, ordered by time.
    groups
        What `plan.group` numbers. Those without a transaction are left out.
    start_ms, run
        As for `dafu.generator.render.render`.
    """
    rows = np.flatnonzero(plan.group >= 0)
    rows = rows[np.argsort(plan.group[rows], kind="stable")]
    edges = np.searchsorted(plan.group[rows], np.arange(len(groups.ids) + 1))
    tag = run_tag(run)
    known = [
        _known(plan, rows[low:high], groups, number, start_ms, tag)
        for number, (low, high) in enumerate(pairwise(edges.tolist()))
        if low < high
    ]
    return Truth(MIN_SIZE, known)


def _known(
    plan: Plan, rows: NDArray[np.int64], groups: Groups, number: int, start_ms: int, tag: str
) -> KnownGroup:
    own = plan.take(rows)
    times = own.time + start_ms
    fraud = number < groups.rings
    at = _reached(own, fraud)
    return KnownGroup(
        group_id=groups.ids[number],
        kind=groups.kinds[number],
        fraud=fraud,
        members=[f"user-{user:08d}" for user in np.unique(own.user).tolist()],
        transactions=len(own),
        frauds=int((own.scenario >= 0).sum()),
        first_seen=int(times[0]),
        last_seen=int(times[-1]),
        reached=None if at is None else transaction_id(tag, int(rows[at])),
        reached_at=None if at is None else int(times[at]),
        times=times.tolist() if fraud else [],
    )


def _reached(own: Plan, ring: bool) -> int | None:
    """Index of the transaction that ties `MIN_SIZE` members together.

    A carrier's address, which a ring's member has at times, ties nobody to the ring.
    """
    first, bits = MOBILE_NET
    carrier = (own.ip >= first) & (own.ip < first + (1 << bits))
    ip = np.where(carrier & ring, 0, own.ip)
    card = own.holder.astype(np.int64) * 2 + own.card + 1
    parent: dict[tuple[str, int], tuple[str, int]] = {}
    users: dict[tuple[str, int], int] = {}

    def root(node: tuple[str, int]) -> tuple[str, int]:
        if node not in parent:
            parent[node] = node
            users[node] = int(node[0] == "user")
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    email = own.inbox.astype(np.int64) + 1
    columns = (("device", own.device), ("ip", ip), ("card", card), ("email", email))
    rows = zip(own.user.tolist(), *(values.tolist() for _, values in columns), strict=True)
    for at, (user, *values) in enumerate(rows):
        top = root(("user", user))
        for (kind, _), value in zip(columns, values, strict=True):
            if value == 0:
                continue
            other = root((kind, value))
            if other != top:
                parent[other] = top
                users[top] += users.pop(other)
        if users[top] >= MIN_SIZE:
            return at
    return None
