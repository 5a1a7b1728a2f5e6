"""Rings against families, offices, counters and proxies, and what the score must not depend on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dafu.rings.alerts import KEEP, OPEN
from dafu.rings.engine import DUE_AT_ONCE, MAX_USERS
from dafu.rings.graph import MAX_LINKS
from dafu.rings.identifiers import DAY_MS, weigh
from dafu.rings.identifiers import MAX_USERS as MAX_IDENTIFIER_USERS
from dafu.rings.parting import LEVELS, MIN_MEMBERS, PRIOR, WEIGHTS, synchrony
from dafu.rings.records import Facts, Kind
from dafu.rings.scoring import (
    Candidate,
    Shared,
    Times,
    Use,
    User,
    find_candidates,
)
from tests.rings import naive
from tests.rings.naive import component_of, evidence

HOUR = 3_600_000
BEGAN = 1_700_000_000_000
NOW = BEGAN + 60 * DAY_MS
TIMES = Times(NOW, BEGAN)


def person(name: str, age_days: float, tied_days: float = 1.0, blocked: bool = False) -> User:
    since = int(NOW - age_days * DAY_MS)
    facts = Facts(NOW, since, 8, 400.0, 0, NOW if blocked else 0)
    return User(name, facts, int(NOW - tied_days * DAY_MS))


def shared(
    kind: Kind, value: str, comers: Mapping[int, float], stay: float = 0.0, merchants: int = 4
) -> Shared:
    """An identifier that users (by number) came to so many hours ago, and used for `stay` days."""
    uses = sorted(
        (int(NOW - hours * HOUR), int(min(NOW - hours * HOUR + stay * DAY_MS, NOW)), user)
        for user, hours in comers.items()
    )
    weight = weigh(kind, [(first, last) for first, last, _ in uses], merchants)
    own = sorted((Use(user, first, last) for first, last, user in uses), key=lambda u: u[1::-1])
    return Shared(f"{kind}:{value}", weight, len(uses), own)


def assert_same(found: Sequence[Candidate], wanted: Sequence[Candidate]) -> None:
    """Both took a component apart in the same way."""
    assert [c[:3] for c in found] == [c[:3] for c in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.parts == pytest.approx(other.parts, abs=1e-12)
        assert one.score == pytest.approx(other.score, abs=2e-6)


def best(users: list[User], things: list[Shared]) -> Candidate | None:
    component = component_of(users, sorted(things, key=lambda s: s.name), TIMES)
    return max(find_candidates(component), key=lambda c: c.score, default=None)


def score(users: list[User], things: list[Shared]) -> float:
    found = best(users, things)
    return 0.0 if found is None else found.score


def people(n: int, age_days: float, tied_days: float = 1.0) -> list[User]:
    return [person(f"u{k:03}", age_days, tied_days) for k in range(n)]


def test_three_new_accounts_on_one_device_are_a_ring_at_once() -> None:
    assert score(people(3, 2), [shared("device", "a", {0: 3, 1: 2, 2: 1})]) >= OPEN


def test_three_accounts_that_were_taken_over_are_one_as_well() -> None:
    things = [
        shared("device", "a", {0: 3, 1: 2, 2: 1}),
        shared("ip", "b", {0: 3, 1: 2, 2: 1}),
    ]
    assert score(people(3, 50), things) >= OPEN


def test_a_family_is_none() -> None:
    for members in (3, 4, 5):
        users = people(members, 58, 40)
        home = {k: 24 * (20 + k) for k in range(members)}
        tablet = {k: 24 * (10 + 3 * k) for k in range(members)}
        things = [shared("ip", "home", home, 14), shared("device", "tablet", tablet, 7)]
        assert score(users, things) < OPEN


def test_an_office_is_none() -> None:
    line = {k: 24 * (1 + k / 2) for k in range(45)}
    assert score(people(45, 58, 20), [shared("ip", "office", line, 1)]) < OPEN


def test_a_counters_tablet_is_none() -> None:
    for customers in (3, 5, 10, 25):
        comers = {k: 20.0 * (k + 1) for k in range(customers)}
        tablet = shared("device", "tablet", comers, merchants=1)
        router = shared("ip", "shop", comers, merchants=1)
        assert score(people(customers, 50), [tablet, router]) < OPEN


def test_strangers_behind_a_proxy_are_none() -> None:
    comers = {k: 30.0 * (k + 1) for k in range(6)}
    assert score(people(6, 50), [shared("ip", "proxy", comers)]) < OPEN


def test_blocks_tell_a_family_from_a_ring() -> None:
    things = [
        shared("ip", "home", {k: 24.0 * (20 + k) for k in range(4)}, 14),
        shared("device", "tablet", {k: 24.0 * (10 + 3 * k) for k in range(4)}, 7),
    ]
    users = people(4, 58, 40)
    blocked = [person(user.name, 58, 40, blocked=True) for user in users]
    assert score(blocked, things) >= OPEN > score(users, things)


def test_reviews_count_as_members_join_and_not_later() -> None:
    came = {k: 24.0 * (12 + 2 * k) for k in range(4)}
    things = [shared("ip", "home", came, 7), shared("device", "tablet", came, 7)]
    users = people(4, 58, 40)

    def reviewed(days_after: float) -> float:
        told = [
            user._replace(
                facts=replace(
                    user.facts, reviewed_at=int(NOW - came[k] * HOUR + days_after * DAY_MS)
                )
            )
            for k, user in enumerate(users)
        ]
        return score(told, things)

    never = score(users, things)
    assert [reviewed(days) > never for days in (-1.5, -0.5, 0, 6.5, 7.5)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert reviewed(0) >= OPEN > never


def test_a_ring_comes_out_without_the_families_of_those_whom_it_took_over() -> None:
    users = people(14, 50, 30)
    users[:6] = people(6, 3)
    things = [
        shared("device", "farm", {k: 6.0 - k for k in range(6)}),
        shared("device", "farm2", {k: 3.0 - k / 6 for k in range(6)}),
        shared("ip", "home1", {0: 500, 6: 560, 7: 620, 8: 700}, 14),
        shared("ip", "home2", {5: 500, 9: 560, 10: 620, 11: 700}, 14),
    ]
    found = best(users, things)
    assert found is not None
    assert found.members == list(range(6))


def test_who_alone_leads_from_one_ring_to_another_does_not_make_them_one() -> None:
    """A victim of two at different times is a member of one; a leader who tries all joins them."""
    users = people(9, 50)
    victim = [
        shared("device", "a", {0: 600, 1: 601, 2: 602, 3: 603}),
        shared("device", "b", {4: 10, 5: 11, 6: 12, 7: 13, 3: 14}),
    ]
    component = component_of(users, victim, TIMES)
    assert [c.members for c in find_candidates(component)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    leader = [
        shared("device", "a", {0: 10, 1: 11, 2: 12, 3: 13}),
        shared("device", "b", {4: 10, 5: 11, 6: 12, 7: 13, 3: 14}),
    ]
    component = component_of(users, leader, TIMES)
    assert [c.members for c in find_candidates(component)] == [list(range(8))]


def test_synchrony_is_of_nearest_neighbours() -> None:
    assert synchrony(np.array([5, 5, 5])) == 1.0
    assert synchrony(np.array([0, 9 * DAY_MS])) == pytest.approx(0.0, abs=1e-3)
    assert synchrony(np.array([0, 0, 99 * DAY_MS])) == pytest.approx(2 / 3)


uses = st.dictionaries(st.integers(0, 11), st.integers(0, 300), min_size=2, max_size=8)
components = st.lists(
    st.tuples(st.sampled_from(("device", "ip", "card")), uses), min_size=1, max_size=8
)


@settings(max_examples=150, deadline=None)
@given(given_things=components, ages=st.lists(st.integers(0, 60), min_size=12, max_size=12))
def test_candidates_hang_together_and_have_no_member_in_common(
    given_things: list[tuple[Kind, dict[int, int]]], ages: list[int]
) -> None:
    users = [person(f"u{k:02}", age) for k, age in enumerate(ages)]
    things = [shared(kind, f"{i}", comers) for i, (kind, comers) in enumerate(given_things)]
    things = sorted((t for t in things if t.weight), key=lambda t: t.name)
    found = find_candidates(component_of(users, things, TIMES))
    assert_same(found, naive.find_candidates(naive.Parts(users, things, TIMES)))
    members = [user for candidate in found for user in candidate.members]
    assert len(members) == len(set(members))
    strength = {t.name: evidence(t, [False] * 12) for t in things}
    cuts = [
        {
            tuple(sorted(n for n in part if isinstance(n, int)))
            for part in nx.connected_components(
                nx.Graph((use.user, t.name) for t in things if strength[t.name] >= level
                         for use in t.uses)
            )
        }
        for level in LEVELS
    ]  # fmt: skip
    for candidate in found:
        assert len(candidate.members) >= MIN_MEMBERS
        assert any(set(candidate.members) <= set(part) for part in cuts[-1])
        assert 0.0 < candidate.score < 1.0
        assert all(0.0 <= part <= 1.0 for part in candidate.parts.values())
    # Whoever hangs together at the lowest level, three or more, is in some candidate or is not
    # kept together because a part of it scores more.
    for part in cuts[-1]:
        if len(part) >= MIN_MEMBERS:
            assert any(set(candidate.members) <= set(part) for candidate in found)


@settings(max_examples=50, deadline=None)
@given(given_things=components, seed=st.randoms(use_true_random=False))
def test_what_is_known_against_members_never_lowers_the_score(
    given_things: list[tuple[Kind, dict[int, int]]], seed: object
) -> None:
    users = people(12, 30)
    things = [shared(kind, f"{i}", comers) for i, (kind, comers) in enumerate(given_things)]
    things = [t for t in things if t.weight]
    blocked = [person(user.name, 30, blocked=True) for user in users]
    assert score(blocked, things) >= score(users, things)


def test_the_documentation_says_what_the_code_does() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "rings.md").read_text()
    rows = dict(re.findall(r"\| `(\w+)` \|[^|]*\| ([-+][\d.]+) \|", text))
    assert {name: float(value) for name, value in rows.items()} == WEIGHTS
    assert f"The prior is {PRIOR}:" in text
    assert f"opened at a score of {OPEN} and goes on down to {KEEP}." in text
    limits = (MAX_IDENTIFIER_USERS, MAX_LINKS, MAX_USERS, DUE_AT_ONCE)
    for limit, row in zip(
        limits, re.findall(r"^\| [^|]+ \| (\d+)[^|]*\|", text, re.M), strict=False
    ):
        assert int(row) == limit
