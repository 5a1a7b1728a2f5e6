"""Likeness of members against its definition, and rings cut down to those who are alike."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dafu.rings.likeness import alike, likeness
from dafu.rings.records import Edge, Evidence, RingAlert
from tests.rings.test_picture import T0, make

USERS = [f"user-{i:03}" for i in range(6)]


def shared(uses: dict[str, tuple[float, list[int]]]) -> RingAlert:
    """A ring of six, by identifier its weight and its users."""
    things = [Evidence("device", name, w, len(who), len(who)) for name, (w, who) in uses.items()]
    edges = [
        Edge(USERS[i], f"device:{name}", T0, T0) for name, (_, who) in uses.items() for i in who
    ]
    return replace(make(6, 1), evidence=things, edges=edges, identifiers=len(things))


def test_likeness_adds_up_over_what_two_have_in_common() -> None:
    ring = shared({"a": (0.6, [0, 1, 2]), "b": (0.5, [1, 2]), "c": (1.0, [3, 4]), "d": (0.9, [5])})
    pairs = likeness(ring)
    assert pairs == {
        (USERS[0], USERS[1]): pytest.approx(0.6),
        (USERS[0], USERS[2]): pytest.approx(0.6),
        (USERS[1], USERS[2]): pytest.approx(0.8),
        (USERS[3], USERS[4]): 1.0,
    }


def test_members_who_are_unlike_all_others_are_left_out() -> None:
    ring = shared({"a": (0.6, [0, 1, 2, 5]), "b": (0.9, [1, 2, 3]), "c": (0.3, [3, 4])})
    assert alike(ring, 0.0, 3) is ring
    assert alike(ring, 0.3, 3) is ring
    left = alike(ring, 0.8, 3)
    assert left is not None
    assert [member.user_id for member in left.members] == USERS[1:4]
    assert [item.value for item in left.evidence] == ["a", "b"]  # c ties one who is left
    assert [item.members for item in left.evidence] == [2, 3]
    assert (left.size, left.identifiers, len(left.edges)) == (3, 2, 5)
    assert left.amount == pytest.approx(10.5 + 21.0 + 31.5)
    assert (left.transactions, left.frauds, left.blocked) == (2 + 3 + 4, 1, 1)
    assert alike(ring, 0.8, 4) is None
    assert alike(ring, 1.0, 3) is None
    assert alike(ring, 0.0, 7) is None


graphs = st.dictionaries(
    st.sampled_from("abcde"),
    st.tuples(st.floats(0.0, 1.0), st.lists(st.integers(0, 5), min_size=1, unique=True)),
    max_size=5,
)


@given(graphs, st.floats(0.01, 1.0))
def test_likeness_by_its_definition(uses: dict[str, tuple[float, list[int]]], level: float) -> None:
    ring = shared(uses)
    pairs = likeness(ring)
    close = set()
    for i, j in combinations(range(6), 2):
        unlike = 1.0
        for name in sorted(uses):
            weight, who = uses[name]
            if i in who and j in who:
                unlike *= 1.0 - weight
        assert pairs.get((USERS[i], USERS[j]), 0.0) == 1.0 - unlike
        if 1.0 - unlike >= level:
            close |= {USERS[i], USERS[j]}
    left = alike(ring, level, 3)
    assert (left is None) == (len(close) < 3)
    if left is not None:
        assert {member.user_id for member in left.members} == close
        assert left.size == len(close)
