"""Figures of reported rings, on cases that can be counted by hand and against naive counting."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dafu.rings.evaluation import (
    Found,
    Report,
    complete,
    components,
    evaluate_rings,
    reports_of,
)
from dafu.rings.records import Facts, Member, RingAlert
from dafu.rings.truth import CAMPAIGN, KnownGroup, Truth, TruthError, decode_truth, encode_truth


def ring(name: str, members: str, times: list[int], reached: int | None = 0) -> KnownGroup:
    """A known ring whose members are letters; `reached` is an index into `times`."""
    return KnownGroup(
        group_id=name,
        kind="farm" if name < "r5" else "cards",
        fraud=True,
        members=list(members),
        transactions=len(times),
        frauds=1,
        first_seen=times[0],
        last_seen=times[-1],
        reached=None if reached is None else f"{name}-{reached}",
        reached_at=None if reached is None else times[reached],
        times=times,
    )


def harmless(name: str, members: str) -> KnownGroup:
    return KnownGroup(name, name.partition("-")[0], False, list(members), 9, 0, 0, 9, "t", 4)


TRUTH = Truth(
    3,
    [
        ring("r1", "abcdef", [10, 20, 30, 40, 50], reached=1),
        ring("r5", "ghi", [10, 30, 50, 70], reached=2),
        ring("r6", "jkl", [10, 20], reached=None),
        harmless("family-1", "mnop"),
        harmless("office-1", "abcqrst"),
    ],
)


def test_a_ring_is_found_once_half_of_it_is_in_one_report() -> None:
    two_halves = [Report("x", 60, list("abz")), Report("y", 61, list("cdz"))]
    figures = evaluate_rings(two_halves, TRUTH)
    assert (figures.rings, figures.found, figures.recall) == (2, 0, 0.0)
    figures = evaluate_rings([Report("x", 60, list("abcz"))], TRUTH)
    assert (figures.found, figures.recall) == (1, 0.5)
    assert figures.isolated == 1
    crowd = evaluate_rings([Report("x", 60, list("abcdefuvwxyz"))], TRUTH)
    assert (crowd.found, crowd.isolated, crowd.precision) == (1, 0, 0.0)
    assert figures.kinds == {"cards": Found(1, 0), "farm": Found(1, 1)}


def test_an_earlier_report_of_a_ring_finds_it_and_the_last_one_is_judged() -> None:
    reports = [Report("x", 40, list("ghi")), Report("x", 60, list("mno"))]
    figures = evaluate_rings(reports, TRUTH)
    assert (figures.found, figures.reported, figures.precision) == (1, 1, 0.0)
    assert figures.mistaken == {"family": 1}


def test_most_members_decide_what_a_report_is() -> None:
    reports = [
        Report("x", 1, list("abcz")),  # three of four in r1, and in the office as well
        Report("y", 1, list("mnxyz")),  # two of five in the family
        Report("z", 1, list("abqr")),  # half in r1, all in the office
        Report("w", 1, list("jkl")),  # a ring that is not looked for is no mistake either
    ]
    figures = evaluate_rings(reports, TRUTH)
    assert figures.precision == 0.5
    assert figures.mistaken == {"office": 1, "other": 1}
    assert figures.member_precision == (3 + 0 + 2 + 3) / 16


def test_campaigns_of_card_testing_are_neither_rings_nor_mistakes() -> None:
    campaign = structs.replace(ring("r9", "uvwx", [10, 20, 30]), kind=CAMPAIGN)
    truth = Truth(3, [*TRUTH.groups, campaign])
    figures = evaluate_rings([Report("x", 60, list("uvw")), Report("y", 60, list("abcu"))], truth)
    assert (figures.campaigns, figures.reported_campaigns) == (Found(1, 1), 1)
    assert (figures.rings, figures.reported, figures.precision) == (2, 1, 1.0)
    assert figures.member_precision == 3 / 4
    both = structs.replace(campaign, members=list("abcw"))
    figures = evaluate_rings([Report("x", 60, list("abc"))], Truth(3, [*TRUTH.groups, both]))
    assert (figures.reported_campaigns, figures.precision) == (0, 1.0)


def test_delay_counts_the_rings_own_transactions() -> None:
    """r1 is reached at 20; the alert comes at 45, after the ones at 30 and 40."""
    reports = [
        Report("x", 25, list("ab")),
        Report("x", 45, list("abc")),
        Report("x", 99, list("abcd")),
    ]
    figures = evaluate_rings(reports, TRUTH)
    assert (figures.noticed, figures.delay_median, figures.delay_p90) == (1, 2.0, 2.0)
    both = [*reports, Report("y", 50, list("ghi"))]
    figures = evaluate_rings(both, TRUTH)
    assert (figures.noticed, figures.delay_median, figures.delay_p90) == (2, 0.0, 2.0)
    early = evaluate_rings([Report("x", 15, list("abc"))], TRUTH)
    assert early.delay_median == 0.0


def test_nothing_reported_and_nothing_known() -> None:
    figures = evaluate_rings([], TRUTH)
    assert (figures.recall, figures.precision, figures.member_precision) == (0.0, None, None)
    assert (figures.delay_median, figures.delay_p90) == (None, None)
    figures = evaluate_rings([Report("x", 1, ["a"])], Truth(3, []))
    assert (figures.recall, figures.precision, figures.mistaken) == (None, 0.0, {"other": 1})


def test_rings_that_go_on_are_not_asked_for() -> None:
    whole = complete(TRUTH, 50)
    assert [group.group_id for group in whole.groups] == ["r1", "r6", "family-1", "office-1"]
    assert evaluate_rings([Report("x", 45, list("abc"))], whole).recall == 1.0


def test_the_truth_survives_its_file() -> None:
    assert decode_truth(encode_truth(TRUTH), "t.json") == TRUTH
    for content in (b"", b"[]", b'{"min_size":3}', b"\xff"):
        with pytest.raises(TruthError, match=r"t\.json: not what .* writes"):
            decode_truth(content, "t.json")


def alert(name: str, members: str, **changes: object) -> RingAlert:
    facts = Facts(as_of=1, since=1)
    plain = RingAlert(
        alert_id=f"{name}-1",
        ring_id=name,
        event="opened",
        kind="accounts",
        time=5,
        score=0.5,
        size=len(members),
        identifiers=1,
        transactions=9,
        amount=1.0,
        frauds=0,
        blocked=0,
        first_seen=1,
        last_seen=5,
        reasons=[],
        parts={},
        members=[Member(user, 1, facts) for user in members],
        evidence=[],
        edges=[],
    )
    return msgspec.structs.replace(plain, **changes)


def test_alerts_are_reports_unless_they_close_a_ring_or_score_low() -> None:
    alerts = [
        alert("x", "abc"),
        alert("x", "abc", event="closed", time=9),
        alert("y", "de", score=0.2),
    ]
    assert reports_of(alerts, 0.3) == [Report("x", 5, list("abc"))]
    assert [report.ring_id for report in reports_of(alerts)] == ["x", "y"]


def test_components_hang_together_by_anything() -> None:
    pairs = [
        ("a", "d1"),
        ("b", "d1"),
        ("b", "ip9"),
        ("c", "ip9"),
        ("d", "d2"),
        ("e", "d2"),
        ("f", "f"),
    ]
    assert components(pairs, 3) == [Report("component-000000", None, ["a", "b", "c"])]
    assert [report.members for report in components(pairs, 2)] == [["a", "b", "c"], ["d", "e"]]
    # A user and an identifier of the same name are two things.
    assert components([("a", "b"), ("c", "x"), ("b", "x")], 2)[0].members == ["b", "c"]


letters = st.lists(
    st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=8, unique=True
)
histories = st.lists(
    st.builds(Report, st.sampled_from("xyz"), st.integers(0, 90), letters), max_size=12
)


@given(histories)
def test_naive_counting_agrees(reports: list[Report]) -> None:
    reports = sorted(reports, key=lambda report: report.time or 0)
    figures = evaluate_rings(reports, TRUTH)
    looked_for = [group for group in TRUTH.groups if group.fraud and group.reached]

    def common(report: Report, group: KnownGroup) -> int:
        return len(set(report.members) & set(group.members))

    found = [g for g in looked_for if any(common(r, g) >= len(g.members) / 2 for r in reports)]
    assert figures.found == len(found)
    assert figures.isolated == sum(
        any(
            common(r, g) >= len(g.members) / 2 and common(r, g) > len(r.members) / 2
            for r in reports
        )
        for g in looked_for
    )
    delays = []
    for group in looked_for:
        times = [r.time for r in reports if common(r, group) >= 3 and r.time is not None]
        if times:
            delays.append(sum((group.reached_at or 0) < t <= times[0] for t in group.times))
    assert figures.noticed == len(delays)
    if delays:
        ordered = sorted(delays)
        assert figures.delay_median == ordered[math.ceil(0.5 * len(ordered)) - 1]
        assert figures.delay_p90 == ordered[math.ceil(0.9 * len(ordered)) - 1]
    final = {report.ring_id: report for report in reports}.values()
    rings = [group for group in TRUTH.groups if group.fraud]
    true = [r for r in final if any(common(r, g) > len(r.members) / 2 for g in rings)]
    assert figures.reported == len(final)
    assert figures.precision == (len(true) / len(final) if final else None)
    assert sum(figures.mistaken.values()) == len(final) - len(true)
