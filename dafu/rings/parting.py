"""The kernel that takes a component apart and scores the parts: `dafu.rings.scoring` says how.

A component is looked at whenever something about one of its users changes, so this has to be
quick. Sums run in the order of users' numbers, which is that of their names.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.kernel import kernel, long_kernel
from dafu.rings.identifiers import DAY_MS, WINDOW_MS
from dafu.rings.records import KINDS

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

MIN_MEMBERS: Final = 3
LEVELS: Final = (0.7, 0.5, 0.35, 0.25, 0.15, 0.08)
"""Evidence at which a component is cut into candidates."""

SOON_MS: Final = DAY_MS // 2
"""Users who came to something this long after each other came together, about."""

TOGETHER_MS: Final = 3 * DAY_MS
"""Members who came this long after each other came together, about."""

YOUNG_MS: Final = 10 * DAY_MS
"""An account that is this old when it joins is no new one any more, about."""

OPENED_MS: Final = 2 * DAY_MS
"""Who joins this long after opening an account opened it for that, about; of somebody who was there
when the log began, and joined so soon, it is not known when he did."""

IDLE: Final = 5
"""Transactions in 30 days of an account that is hardly used, at most."""

BRIDGE_MS: Final = 2 * DAY_MS
"""A user who alone leads from one group to another came to both within this time, if he is a
member of both: a ring's members use its things in turn, and a victim of two is found by each in
its own time."""

BEFORE_MS: Final = DAY_MS
AFTER_MS: Final = 7 * DAY_MS
"""Transactions that were sent to review or blocked from so long before somebody joined until so
long after have to do with it."""

START_MS: Final = 7 * DAY_MS
"""Who was there this soon after the log began may have been there long before."""

UNKNOWN: Final = 0.1
"""What `novelty` is taken for where the log does not reach back far enough."""

WEIGHTS: Final[dict[str, float]] = {
    "things": 6.0,
    "place": -1.6,
    "pairs": -0.4,
    "synchrony": 3.2,
    "youth": 2.4,
    "novelty": 3.8,
    "idle": 3.3,
    "known": 3.9,
    "reviewed": 5.5,
}
"""Log-odds of each part at its fullest: coefficients of a logistic regression over candidates of
simulated worlds (`docs/rings.md` says how).

* `things`: members are tied by what one holds in hand: devices, cards, mailboxes. Passing a device
  round takes trust or one owner; strangers share an address without knowing.
* `place`: as far as members are tied by addresses alone, the more people, the more it is a place.
  Grows with the logarithm, full at 24.
* `pairs`: nothing is shared by three members: who hands a device on is linked with two people, who
  do not know each other.
* `synchrony`: members came close after one another (`TOGETHER_MS`): one hand took them into use.
  Those of whom it is not known when they came, since the log began then, count as apart.
* `youth`: accounts were opened as they joined (`OPENED_MS`).
* `novelty`: members had nothing to do with anybody until then, as whoever was taken over.
* `idle`: accounts are hardly used (`IDLE`): they were opened and kept for this, or just now.
* `known`: members were blocked or are known for fraud; full at half of them.
* `reviewed`: members had a transaction sent to review or blocked as they joined (`BEFORE_MS`,
  `AFTER_MS`), the last one that they had, before they were members.
"""

PRIOR: Final = -8.7
"""Log-odds for three users who share something, before anything is known of how."""

_LEVELS: Final = np.array(LEVELS)
_WEIGHTS: Final = np.array(list(WEIGHTS.values()))
_ADDRESS: Final = KINDS.index("ip")
_FULL_SIZE: Final = 3.0  # binary orders of magnitude above MIN_MEMBERS


class Parted(NamedTuple):
    """The groups that were scored; group g has ``members[member_ends[g - 1] : member_ends[g]]``,
    shared identifiers likewise, and `chosen` are those that come out."""

    members: I64
    member_ends: I64
    shared: I64
    shared_ends: I64
    scores: F64
    parts: F64
    chosen: NDArray[np.bool_]


@kernel
def synchrony(times: I64) -> float:
    """1 if everybody came at the same time as somebody else, towards 0 the farther apart.

    `times` are ascending, two or more.
    """
    total = 0.0
    for i in range(len(times)):
        gap = times[i] - times[i - 1] if i > 0 else times[i + 1] - times[i]
        if i + 1 < len(times):
            gap = min(gap, times[i + 1] - times[i])
        total += math.exp(-gap / SOON_MS)
    return total / len(times)


@kernel
def _is_dated(since: int, joined: int, began: int) -> bool:
    """Whether it is known when somebody joined, and not just that it was before he was seen."""
    return bool(since >= began + START_MS or joined - since > OPENED_MS)


@kernel
def _gap(times: I64, order: I64, k: int) -> int:
    """From the k-th of the times, two or more, in their order, to the nearest other one."""
    gap = np.iinfo(np.int64).max
    if k > 0:
        gap = times[order[k]] - times[order[k - 1]]
    if k + 1 < len(order):
        gap = min(gap, times[order[k + 1]] - times[order[k]])
    return gap


@kernel
def _youth(since: int, joined: int, began: int) -> float:
    """1 for an account that joined as soon as it was opened; 0 where it is not known when."""
    return math.exp(-max(joined - since, 0) / OPENED_MS) if since >= began + START_MS else 0.0


@kernel
def _novelty(tied: int, joined: int, began: int) -> float:
    """1 for somebody who never shared anything before this; a guess where that is not known."""
    if tied < began + START_MS:
        return UNKNOWN
    return math.exp(-max(joined - tied, 0) / YOUNG_MS)


@kernel
def was_reviewed(reviewed_at: int, blocked_at: int, joined: int) -> bool:
    """Whether a user's last transaction that was sent to review or blocked was as he joined."""
    return bool(joined - BEFORE_MS < max(reviewed_at, blocked_at) < joined + AFTER_MS)


@kernel
def _judge(
    people: Any,
    flagged: NDArray[np.bool_],
    strength: F64,
    kind: I64,
    starts: I64,
    user: I64,
    first: I64,
    began: int,
    members: I64,
    shared: I64,
    own: F64,
    joined: I64,
    inside: NDArray[np.bool_],
    parts: F64,
) -> float:
    """The score of a group, and its parts. `own` [users, 2] and `joined` [users] are scratch, and
    so is `inside` [users], all False before and after."""
    n = len(members)
    for u in members:
        inside[u] = True
        own[u, 0] = own[u, 1] = 1.0
        joined[u] = np.iinfo(np.int64).max
    most = 0
    for i in shared:
        count = 0
        for at in range(starts[i], starts[i + 1]):
            count += 1 if inside[user[at]] else 0
        most = max(most, count)
        is_thing = kind[i] != _ADDRESS
        for at in range(starts[i], starts[i + 1]):
            u = user[at]
            if not inside[u]:
                continue
            own[u, 0] *= 1.0 - strength[i]
            joined[u] = min(joined[u], first[at])
            if is_thing:
                own[u, 1] *= 1.0 - strength[i]
    loose = apart = youth = novelty = idle = known = reviewed = 0.0
    came = np.empty(n, np.int64)
    for k in range(n):
        u = members[k]
        came[k] = joined[u]
        loose += own[u, 0]
        apart += own[u, 1]
        youth += _youth(people[u].since, joined[u], began)
        idle += 1.0 if people[u].transactions <= IDLE else 0.0
        novelty += _novelty(people[u].tied, joined[u], began)
        known += 1.0 if flagged[u] else 0.0
        if was_reviewed(people[u].reviewed_at, people[u].blocked_at, joined[u]):
            reviewed += 1.0
        inside[u] = False
    order = np.argsort(came, kind="mergesort")
    close = 0.0
    for k in range(n):
        u = members[order[k]]
        if _is_dated(people[u].since, joined[u], began):
            close += math.exp(-_gap(came, order, k) / TOGETHER_MS)
    things = 1.0 - apart / n
    # What is said of a place that hardly ties anybody says little of them.
    hold = min(2.0 * (1.0 - loose / n), 1.0)
    size = min(math.log2(n / MIN_MEMBERS) / _FULL_SIZE, 1.0)
    parts[0] = things
    parts[1] = size * (1.0 - things)
    parts[2] = 1.0 if most < MIN_MEMBERS else 0.0
    parts[3] = close / n
    parts[4] = youth / n
    parts[5] = hold * novelty / n
    parts[6] = idle / n
    parts[7] = min(2.0 * known / n, 1.0)
    parts[8] = reviewed / n
    total = PRIOR
    for k in range(len(_WEIGHTS)):
        total += _WEIGHTS[k] * parts[k]
    return math.floor(1e6 / (1.0 + math.exp(-total)) + 0.5) / 1e6


@kernel
def _root(up: I64, user: int) -> int:
    while up[user] != user:
        up[user] = up[up[user]]
        user = up[user]
    return user


@kernel
def _belonging(
    up: I64, size: I64, users: I64, times: I64, earliest: I64, latest: I64, here: I64
) -> NDArray[np.bool_]:
    """Which users of an identifier it joins with each other: all but those who alone lead to a
    group that they came to at another time. `here` [users] is scratch, all 0 before and after."""
    joins = np.ones(len(users), np.bool_)
    for u in users:
        here[_root(up, u)] += 1
    for k in range(len(users)):
        u = users[k]
        root = _root(up, u)
        if here[root] == 1 and size[root] >= MIN_MEMBERS:
            alone = (k == 0 or times[k] - times[k - 1] > BRIDGE_MS) and (
                k + 1 == len(users) or times[k + 1] - times[k] > BRIDGE_MS
            )
            near = earliest[u] - BRIDGE_MS <= times[k] <= latest[u] + BRIDGE_MS
            joins[k] = near and not alone
    for u in users:
        here[_root(up, u)] = 0
    return joins


@long_kernel
def take_apart(
    people: Any,
    weight: F64,
    kind: I64,
    starts: I64,
    user: I64,
    first: I64,
    clock: int,
    began: int,
) -> tuple[I64, I64, I64, I64, F64, F64, NDArray[np.bool_]]:
    """Score the groups at all levels, and choose; what comes out is a `Parted`.

    Parameters
    ----------
    people : dafu.rings.graph.USER [users]
        By name.
    weight : float64 [shared]
        Of the identifiers, by name.
    kind : int64 [shared]
        Number in KINDS.
    starts : int64 [shared + 1]
        Identifier i has the uses numbered starts[i] to before starts[i + 1], two or more.
    user, first : int64 [uses]
        Those of an identifier in the order of (first, user).
    clock, began : int
    """
    n, m = len(people), len(weight)
    most = len(_LEVELS) * (n // MIN_MEMBERS + 1)
    members = np.empty(len(_LEVELS) * n, np.int64)
    shared = np.empty(len(_LEVELS) * m, np.int64)
    member_ends = np.empty(most, np.int64)
    shared_ends = np.empty(most, np.int64)
    scores = np.empty(most, np.float64)
    parts = np.empty((most, len(_WEIGHTS)), np.float64)
    chosen = np.zeros(most, np.bool_)
    flagged = np.empty(n, np.bool_)
    for u in range(n):
        flagged[u] = people[u].frauds > 0 or people[u].blocked_at > clock - WINDOW_MS
    strength = np.empty(m, np.float64)
    for i in range(m):
        share = 0.0
        for at in range(starts[i], starts[i + 1]):
            share += 1.0 if flagged[user[at]] else 0.0
        share /= starts[i + 1] - starts[i]
        strength[i] = weight[i] * (
            0.5 + 0.5 * max(synchrony(first[starts[i] : starts[i + 1]]), share)
        )
    order = np.argsort(-strength, kind="mergesort")

    own = np.empty((n, 2), np.float64)
    joined = np.empty(n, np.int64)
    inside = np.zeros(n, np.bool_)
    here = np.zeros(n, np.int64)
    earliest = np.full(n, np.iinfo(np.int64).max)
    latest = np.full(n, np.iinfo(np.int64).min)
    # Groups are chains of users and identifiers behind their root, and so is what is best of them.
    up, last_user, size = np.arange(n), np.arange(n), np.ones(n, np.int64)
    next_user = np.full(n, -1)
    first_shared, last_shared, next_shared = np.full(n, -1), np.full(n, -1), np.full(m, -1)
    first_best, last_best, next_best = np.full(n, -1), np.full(n, -1), np.full(most, -1)
    touched = np.full(n, -1)
    at, count, n_members, n_shared = 0, 0, 0, 0
    for level in range(len(_LEVELS)):
        while at < m and strength[order[at]] >= _LEVELS[level]:
            i = order[at]
            at += 1
            low, high = starts[i], starts[i + 1]
            joins = _belonging(up, size, user[low:high], first[low:high], earliest, latest, here)
            if joins.sum() < 2:
                continue
            root = -1
            for k in range(low, high):
                if not joins[k - low]:
                    continue
                earliest[user[k]] = min(earliest[user[k]], first[k])
                latest[user[k]] = max(latest[user[k]], first[k])
                other = _root(up, user[k])
                if root < 0:
                    root = other
                if other == root:
                    continue
                if size[other] > size[root]:
                    root, other = other, root
                up[other] = root
                size[root] += size[other]
                next_user[last_user[root]] = other
                last_user[root] = last_user[other]
                if first_shared[other] >= 0:
                    if first_shared[root] < 0:
                        first_shared[root] = first_shared[other]
                    else:
                        next_shared[last_shared[root]] = first_shared[other]
                    last_shared[root] = last_shared[other]
                if first_best[other] >= 0:
                    if first_best[root] < 0:
                        first_best[root] = first_best[other]
                    else:
                        next_best[last_best[root]] = first_best[other]
                    last_best[root] = last_best[other]
            if first_shared[root] < 0:
                first_shared[root] = i
            else:
                next_shared[last_shared[root]] = i
            last_shared[root] = i
            touched[root] = level
        for root in range(n):
            if up[root] != root or touched[root] != level or size[root] < MIN_MEMBERS:
                continue
            from_member, from_shared = n_members, n_shared
            each = root
            while each >= 0:
                members[n_members] = each
                n_members += 1
                each = next_user[each]
            each = first_shared[root]
            while each >= 0:
                shared[n_shared] = each
                n_shared += 1
                each = next_shared[each]
            members[from_member:n_members].sort()
            scores[count] = _judge(
                people, flagged, strength, kind, starts, user, first, began,
                members[from_member:n_members], shared[from_shared:n_shared],
                own, joined, inside, parts[count],
            )  # fmt: skip
            member_ends[count], shared_ends[count] = n_members, n_shared
            better = True
            each = first_best[root]
            while each >= 0:
                better = better and scores[count] >= scores[each]
                each = next_best[each]
            if better:
                first_best[root] = last_best[root] = count
            count += 1
    for root in range(n):
        if up[root] == root:
            each = first_best[root]
            while each >= 0:
                chosen[each] = True
                each = next_best[each]
    return (
        members[:n_members], member_ends[:count], shared[:n_shared], shared_ends[:count],
        scores[:count], parts[:count], chosen[:count],
    )  # fmt: skip
