"""How good reported rings are, against what is known of them.

=====================  =========================================================================
figure                 meaning
=====================  =========================================================================
``recall``             share of the known rings of which at least half the members were in one
                       reported ring, in one of its reports
``isolated``           known rings found by a report of which most members are theirs: what joins
                       everybody finds every ring and isolates none
``precision``          share of the reported rings, as last reported, of which most members are
                       members of one known ring
``member_precision``   share of the members of reported rings who are members of a known ring
``delay``              transactions that a known ring made after the one that tied three members
                       together, until three of them were in one reported ring
=====================  =========================================================================

Known rings that never tied three members together count for nothing here: there is nothing to
find. Campaigns of card testing are another kind of fraud, which is told of at the merchant: they
are no rings that are asked for, and a report most of whose members are one campaign's is neither a
ring nor a mistake; both are counted apart. Pure: knows reports and truth, and no file. Needs the
`train` extra.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import networkx as nx
import numpy as np
from msgspec import Struct

from dafu.rings.records import RingAlert
from dafu.rings.truth import KnownGroup, Truth


class Report(Struct, frozen=True):
    """That at this time (epoch milliseconds; None if it is not known) a ring had these members."""

    ring_id: str
    time: int | None
    members: list[str]


class Found(Struct, frozen=True):
    """Of the known rings of one kind: how many there are, and how many were found."""

    rings: int
    found: int


class RingFigures(Struct, frozen=True):
    """Figures of reported rings; a share of nothing is None.

    `kinds` splits `rings` and `found` by the kind of the known rings. `campaigns` are the known
    campaigns of card testing and those found among them; `reported_campaigns` are reported rings
    that are parts of one, and none of the `reported` ones. `mistaken` says what the
    reported rings are that are no rings: the kind of look-alike that most members are in,
    or `other`. `delay_median` and `delay_p90` are over the `noticed` rings, those of which three
    members were in one report.
    """

    rings: int
    found: int
    recall: float | None
    isolated: int
    kinds: dict[str, Found]
    campaigns: Found
    reported_campaigns: int
    reported: int
    precision: float | None
    member_precision: float | None
    mistaken: dict[str, int]
    noticed: int
    delay_median: float | None
    delay_p90: float | None


def reports_of(alerts: Iterable[RingAlert], least_score: float = 0.0) -> list[Report]:
    """What alerts with at least this score report, in their order; a closed ring reports nothing.

    Of a ring with more members than an alert names those it names are counted.
    """
    return [
        Report(alert.ring_id, alert.time, [member.user_id for member in alert.members])
        for alert in alerts
        if alert.event != "closed" and alert.members and alert.score >= least_score
    ]


def complete(truth: Truth, time: int) -> Truth:
    """The truth without rings that go on after a time, or begin after it.

    A part of a ring is no ring that somebody could be asked to find. Look-alikes stay.
    """
    groups = [group for group in truth.groups if not group.fraud or group.last_seen <= time]
    return Truth(truth.min_size, groups)


def components(pairs: Iterable[tuple[str, Hashable]], min_size: int) -> list[Report]:
    """The baseline: whoever hangs together by anything, of at least `min_size` users.

    Parameters
    ----------
    pairs
        (user, identifier), as often as one likes.
    min_size
        Components with fewer users are left out.
    """
    graph = nx.Graph(((0, user), (1, identifier)) for user, identifier in pairs)
    parts = (sorted(u for side, u in part if side == 0) for part in nx.connected_components(graph))
    large = sorted(users for users in parts if len(users) >= min_size)
    return [Report(f"component-{i:06d}", None, users) for i, users in enumerate(large)]


def evaluate_rings(reports: Sequence[Report], truth: Truth) -> RingFigures:
    """Compare reports, in the order in which they were made, with the truth.

    Without times in the reports there are no delays.
    """
    known = [group for group in truth.groups if group.is_ring and group.reached_at is not None]
    found, isolated, noticed = _first_reports(reports, known, truth.min_size)
    campaigns = [group for group in truth.groups if group.fraud and not group.is_ring]
    tested, _, _ = _first_reports(reports, campaigns, truth.min_size)
    groups = _groups_of(truth)
    latest = {report.ring_id: report for report in reports}.values()
    judged = [(report, _most(report.members, groups)) for report in latest]
    last = [(report, most) for report, most in judged if not _is_campaign(most)]
    criminals = {user for group in truth.groups if group.is_ring for user in group.members}
    members = [user for report, _ in last for user in report.members]
    delays = [
        _transactions_between(ring, noticed[ring.group_id])
        for ring in known
        if noticed.get(ring.group_id) is not None
    ]
    kinds = Counter(ring.kind for ring in known)
    hits = Counter(ring.kind for ring in known if ring.group_id in found)
    wrong = [most for _, most in last if most is None or not most.fraud]
    return RingFigures(
        rings=len(known),
        found=len(found),
        recall=_share(len(found), len(known)),
        isolated=len(isolated),
        kinds={kind: Found(count, hits[kind]) for kind, count in sorted(kinds.items())},
        campaigns=Found(len(campaigns), len(tested)),
        reported_campaigns=len(judged) - len(last),
        reported=len(last),
        precision=_share(len(last) - len(wrong), len(last)),
        member_precision=_share(sum(user in criminals for user in members), len(members)),
        mistaken=dict(sorted(Counter("other" if g is None else g.kind for g in wrong).items())),
        noticed=len(noticed),
        delay_median=_quantile(delays, 0.5),
        delay_p90=_quantile(delays, 0.9),
    )


def _first_reports(
    reports: Sequence[Report], known: list[KnownGroup], min_size: int
) -> tuple[set[str], set[str], dict[str, int | None]]:
    """Which known rings were found, which isolated, and when each was first noticed."""
    rings_of: dict[str, list[KnownGroup]] = {}
    for ring in known:
        for user in ring.members:
            rings_of.setdefault(user, []).append(ring)
    found: set[str] = set()
    isolated: set[str] = set()
    noticed: dict[str, int | None] = {}
    for report in reports:
        hits = Counter(ring.group_id for user in report.members for ring in rings_of.get(user, ()))
        sizes = {
            ring.group_id: len(ring.members)
            for user in report.members
            for ring in rings_of.get(user, ())
        }
        for ring_id, count in hits.items():
            if 2 * count >= sizes[ring_id]:
                found.add(ring_id)
                if 2 * count > len(report.members):
                    isolated.add(ring_id)
            if count >= min_size:
                noticed.setdefault(ring_id, report.time)
    return found, isolated, noticed


def _groups_of(truth: Truth) -> dict[str, list[KnownGroup]]:
    groups: dict[str, list[KnownGroup]] = {}
    for group in truth.groups:
        for user in group.members:
            groups.setdefault(user, []).append(group)
    return groups


def _most(members: list[str], groups: dict[str, list[KnownGroup]]) -> KnownGroup | None:
    """The group that more than half of these users are in: rings before campaigns before others."""
    by_id = {group.group_id: group for user in members for group in groups.get(user, ())}
    hits = Counter(group.group_id for user in members for group in groups.get(user, ()))
    large = [by_id[name] for name, count in hits.items() if 2 * count > len(members)]

    def rank(group: KnownGroup) -> tuple[bool, bool, int, str]:
        return not group.is_ring, not group.fraud, -hits[group.group_id], group.group_id

    return min(large, key=rank, default=None)


def _is_campaign(group: KnownGroup | None) -> bool:
    return group is not None and group.fraud and not group.is_ring


def _transactions_between(ring: KnownGroup, noticed: int | None) -> int:
    """Transactions of a ring after it was reached, up to the time at which it was noticed."""
    if ring.reached_at is None or noticed is None:
        raise ValueError(f"ring {ring.group_id} was never reached or noticed")
    return max(bisect_right(ring.times, noticed) - bisect_right(ring.times, ring.reached_at), 0)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _quantile(values: list[int], at: float) -> float | None:
    return float(np.quantile(values, at, method="inverted_cdf")) if values else None
