"""An identifier's users and links: bounded, harmless to repeat, and what ties whom."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.rings.encoding import pack
from dafu.rings.identifiers import (
    DAY_MS,
    LEAST_WEIGHT,
    MAX_USERS,
    WEEK_MS,
    WINDOW_MS,
    IdentifierState,
    step,
    weigh,
)
from dafu.rings.records import Facts, Kind, Link, Sighting
from dafu.rings.sole import read_identifier
from tests.rings.streams import HOUR, START, sightings, streams


def seen(
    user: str, time: int, kind: Kind = "device", merchant: str = "", **doubts: Any
) -> Sighting:
    facts = Facts(time, time - DAY_MS, 1, 5.0, 0, **doubts)
    return Sighting(user, kind, "x1", f"t{time}", merchant or f"m{time % 7}", facts)


def walk(stream: list[Sighting]) -> tuple[IdentifierState, list[list[Link]]]:
    state, out = IdentifierState(), []
    for sighting in stream:
        state, links = step(state, sighting)
        out.append(links)
    return state, out


def test_links_begin_with_the_second_user() -> None:
    _, said = walk([seen("a", START), seen("b", START + 5), seen("c", START + 9)])
    assert [[link.user_id for link in links] for links in said] == [[], ["a", "b"], ["c"]]
    assert [link.users for links in said for link in links] == [2, 2, 3]
    assert said[1][0] == Link(
        "a", "device", "x1", START, START, 2, 1.0, Facts(START, START - DAY_MS, 1, 5.0), START + 5
    )


@pytest.mark.parametrize("doubt", ["blocked_at", "reviewed_at"])
def test_a_user_is_told_again_a_day_later_or_when_in_doubt(doubt: str) -> None:
    now: Any = {doubt: START + DAY_MS}
    soon: Any = {doubt: START + DAY_MS + 1}
    stream = [seen("a", START), seen("b", START), seen("b", START + DAY_MS - 1)]
    stream += [seen("b", START + DAY_MS), seen("a", START + DAY_MS, **now)]
    stream += [seen("a", START + DAY_MS + 1, **soon)]
    _, said = walk(stream)
    assert [[link.user_id for link in links] for links in said[2:]] == [[], ["b"], ["a"], []]
    assert getattr(said[4][0].facts, doubt) == START + DAY_MS


def test_what_somebody_did_while_alone_is_told_when_another_comes() -> None:
    day = [START + k * DAY_MS for k in range(40)]
    stream = [seen("a", day[0]), seen("b", day[20]), seen("b", day[30]), seen("c", day[31])]
    _, said = walk(stream)
    assert [[link.user_id for link in links] for links in said] == [[], ["a", "b"], [], ["b", "c"]]
    assert said[3][0].last_seen == day[30]


def test_who_was_not_seen_for_a_window_does_not_count() -> None:
    state, said = walk([seen("a", START), seen("b", START + WINDOW_MS)])
    assert [user.user_id for user in state.users] == ["b"]
    assert said == [[], []]
    _, said = walk([seen("b", START + WINDOW_MS), seen("a", START)])
    assert said == [[], []]


@settings(max_examples=100, deadline=None)
@given(streams)
def test_users_are_those_of_the_window_and_links_say_so(described: list[tuple[Any, ...]]) -> None:
    states: dict[str, IdentifierState] = defaultdict(IdentifierState)
    history: dict[str, list[Sighting]] = defaultdict(list)
    for sighting in sightings(described):
        name = f"{sighting.kind}:{sighting.value}"
        states[name], links = step(states[name], sighting)
        held = history[name]
        clock = max([s.facts.as_of for s in held], default=0)
        if sighting.facts.as_of <= clock - WINDOW_MS:
            assert links == []
            continue
        clock = max(clock, sighting.facts.as_of)
        # Once a user ran out, what came before is forgotten, though the same user comes again.
        last = {s.user_id: 0 for s in held}
        for s in held:
            last[s.user_id] = max(last[s.user_id], s.facts.as_of)
        held[:] = [s for s in held if last[s.user_id] > clock - WINDOW_MS]
        held.append(sighting)
        users = {s.user_id for s in held}
        assert {user.user_id for user in states[name].users} == users
        for link in links:
            own = [s.facts.as_of for s in held if s.user_id == link.user_id]
            assert (link.first_seen, link.last_seen) == (min(own), max(own))
            assert (link.users, link.as_of) == (len(users), clock)


@settings(max_examples=100, deadline=None)
@given(described=streams, last=st.integers(1, 30))
def test_repeats_change_nothing(described: list[tuple[Any, ...]], last: int) -> None:
    states: dict[str, IdentifierState] = defaultdict(IdentifierState)
    stream = sightings(described)
    for sighting in stream:
        name = f"{sighting.kind}:{sighting.value}"
        states[name], _ = step(states[name], sighting)
    before = {name: pack(state) for name, state in states.items()}
    for sighting in stream[-last:]:
        name = f"{sighting.kind}:{sighting.value}"
        states[name], links = step(states[name], sighting)
        assert links == []
    assert {name: pack(state) for name, state in states.items()} == before
    for name, raw in before.items():
        assert pack(read_identifier(name.encode(), raw)) == raw


def test_a_farms_device_ties_strongly_and_a_counters_tablet_finally_not_at_all() -> None:
    farm, said = walk([seen(f"u{k}", START + k * 12 * HOUR) for k in range(12)])
    assert said[-1][0].weight == 1.0
    assert not farm.ignored
    counter, said = walk([seen(f"u{k}", START + k * 15 * HOUR, merchant="shop") for k in range(40)])
    assert all(link.weight <= 0.4 for links in said[3:] for link in links)
    assert counter.ignored
    assert [link.weight for links in said for link in links].count(0.0) == 1


@pytest.mark.parametrize("minutes", [5, 60])
def test_a_carriers_address_becomes_a_crowds_and_its_record_stays_small(minutes: int) -> None:
    stream = [seen(f"u{k}", START + k * minutes * 60_000, "ip") for k in range(3000)]
    state = IdentifierState()
    largest, withdrawn = 0, 0
    for k, sighting in enumerate(stream):
        state, links = step(state, sighting)
        largest = max(largest, len(pack(state)))
        withdrawn += sum(link.weight == 0.0 for link in links)
        if k > MAX_USERS:
            assert state.ignored
            assert not links
    assert withdrawn == 1
    assert largest < 20_000
    assert len(pack(state)) < 200


def test_a_crowd_that_went_away_is_forgotten() -> None:
    crowd = [seen(f"u{k}", START + k * 60_000, "ip") for k in range(MAX_USERS + 1)]
    quiet = [seen("a", START + WINDOW_MS // 2, "ip"), seen("b", START + 2 * WINDOW_MS, "ip")]
    state, said = walk(crowd + quiet + [seen("c", START + 2 * WINDOW_MS, "ip")])
    assert [user.user_id for user in state.users] == ["b", "c"]
    assert [link.user_id for link in said[-1]] == ["b", "c"]
    few = [seen("ab"[k % 2], START + k * DAY_MS, "ip") for k in range(1, 40)]
    state, _ = walk(crowd + few)
    assert {user.user_id for user in state.users} == {"a", "b"}
    many = [seen(f"v{k}", START + k * HOUR, "ip") for k in range(24 * 60)]
    state, _ = walk(crowd + many)
    assert state.ignored


def test_repeats_do_not_end_a_crowd() -> None:
    crowd = [seen(f"u{k}", START + k * HOUR, "ip") for k in range(24 * 35)]
    state, _ = walk(crowd)
    before = pack(state)
    for sighting in crowd[-24 * 35 :]:
        state, links = step(state, sighting)
        assert not links
    assert pack(state) == before


uses = st.lists(
    st.tuples(st.integers(0, 40 * 24), st.integers(0, 48)), min_size=2, max_size=30
).map(lambda given: sorted((a * HOUR, (a + b) * HOUR) for a, b in given))


@given(
    kind=st.sampled_from(("device", "ip", "card", "email")), uses=uses, merchants=st.integers(1, 4)
)
def test_a_weight_is_a_fraction_and_none_that_is_next_to_nothing(
    kind: Kind, uses: list[tuple[int, int]], merchants: int
) -> None:
    weight = weigh(kind, uses, merchants)
    assert weight == 0.0 or LEAST_WEIGHT <= weight <= 1.0
    assert weight <= weigh(kind, uses, 2)


@pytest.mark.parametrize("kind", ["device", "ip", "card", "email"])
def test_a_weight_falls_with_users_who_come_all_the_time(kind: Kind) -> None:
    apart = [weigh(kind, [(k * DAY_MS, k * DAY_MS) for k in range(n)], 2) for n in range(14, 60, 4)]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > 0.0
    week = [(k * WEEK_MS // 60, k * WEEK_MS // 60) for k in range(59)]
    assert weigh(kind, week, 2) >= 2 * apart[-1]
