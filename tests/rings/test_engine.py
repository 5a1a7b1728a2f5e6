"""The engine: what runs out, what is withdrawn, what is too much, and what is built up again."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from dafu.rings.engine import MAX_USERS, RingEngine
from dafu.rings.graph import MAX_LINKS
from dafu.rings.identifiers import DAY_MS, WINDOW_MS
from dafu.rings.records import Activity, Facts, Link, Membership, RingAlert

BEGAN = 1_700_000_000_000
NOW = BEGAN + 60 * DAY_MS
MINUTE = 60_000


def link(
    user: str, thing: str, at: int = 0, weight: float = 1.0, users: int = 3, young: bool = True
) -> Link:
    time = NOW + at
    facts = Facts(time, time - (1 if young else 55) * DAY_MS, 6, 100.0)
    kind = "ip" if thing.startswith("10.") else "device"
    return Link(user, kind, thing, time, time, users, weight, facts, time)  # type: ignore[arg-type]


def elder() -> Link:
    """Of somebody who was there when the log began."""
    facts = Facts(BEGAN, BEGAN, 1, 1.0)
    return Link("elder", "ip", "10.9.9.9", BEGAN, BEGAN, 2, 0.5, facts, BEGAN)


def run(
    engine: RingEngine, records: Iterable[Link | Activity]
) -> tuple[list[RingAlert], list[Membership]]:
    alerts: list[RingAlert] = []
    memberships: list[Membership] = []
    for record in records:
        output = engine.apply(record)
        alerts += output.alerts
        memberships += output.memberships
    return alerts, memberships


def ring(engine: RingEngine, n: int = 4, thing: str = "fp", at: int = 0) -> str:
    """Open a ring of so many members at one device; its id."""
    names = [f"{thing}-{k}" for k in range(n)]
    alerts, _ = run(
        engine, [elder(), *(link(u, thing, at + k * MINUTE) for k, u in enumerate(names))]
    )
    assert alerts[0].event == "opened"
    assert len({alert.ring_id for alert in alerts}) == 1
    return alerts[0].ring_id


def test_a_ring_whose_links_run_out_is_closed_by_whatever_comes_next() -> None:
    engine = RingEngine()
    ring_id = ring(engine)
    late = WINDOW_MS + DAY_MS
    alerts, memberships = run(engine, [link("x", "other", late), link("y", "other", late)])
    assert [(a.ring_id, a.event) for a in alerts] == [(ring_id, "closed")]
    assert {(m.user_id, m.size) for m in memberships} == {(f"fp-{k}", 0) for k in range(4)}


def test_members_whose_links_run_out_leave_one_after_the_other() -> None:
    engine = RingEngine()
    ring(engine, 6)
    run(engine, [link(f"fp-{k}", "fp", DAY_MS) for k in range(2, 6)])
    alerts, memberships = run(engine, [link("x", "other", WINDOW_MS + 2 * MINUTE)])
    assert [(a.event, a.size) for a in alerts] == [("updated", 4)]
    assert {m.user_id for m in memberships if m.size == 0} == {"fp-0", "fp-1"}


def test_a_withdrawn_identifier_ties_nobody_and_a_late_link_does_not_bring_it_back() -> None:
    engine = RingEngine()
    ring(engine)
    alerts, _ = run(engine, [link("z", "fp", DAY_MS, weight=0.0, users=129)])
    assert [a.event for a in alerts] == ["closed"]
    assert engine.counters.withdrawn == 1
    assert run(engine, [link(f"fp-{k}", "fp", k * MINUTE) for k in range(4)]) == ([], [])
    assert engine.graph.user("fp-0", engine.clock) == -1 or not engine.graph.links_of(
        engine.graph.user("fp-0", engine.clock)
    )


def test_activities_of_members_are_news_and_those_of_strangers_are_not() -> None:
    engine = RingEngine()
    ring(engine)
    time = NOW + DAY_MS
    blocked = Facts(time, NOW - DAY_MS, 7, 120.0, 0, time)
    alerts, memberships = run(engine, [Activity("fp-0", blocked), Activity("nobody", blocked)])
    assert [(a.event, a.blocked) for a in alerts] == [("updated", 1)]
    assert {m.user_id for m in memberships if m.blocked} == {f"fp-{k}" for k in range(1, 4)}
    assert engine.counters.strangers == 1
    assert run(engine, [Activity("fp-0", blocked)]) == ([], [])


def test_a_component_that_is_too_large_is_looked_at_hub_by_hub() -> None:
    """Devices of equal weight, each with two users of the next: no weight cuts them apart."""
    engine = RingEngine()
    devices, own = 2 * MAX_USERS // 8, 8
    records = [
        link(f"u{(d * own + k) % (devices * own):04}", f"fp{d:03}", (d * own + k) * 1000)
        for d in range(devices)
        for k in range(own + 2)
    ]
    run(engine, [elder(), *records])
    assert engine.counters.oversized > 0
    members = [m.user_id for r in engine.book.rings.values() for m in r.members]
    assert len(members) == len(set(members)) == devices * own
    assert max(len(r.members) for r in engine.book.rings.values()) <= MAX_USERS
    before = {r.ring_id for r in engine.book.rings.values()}
    run(engine, records)
    assert {r.ring_id for r in engine.book.rings.values()} == before


def test_a_part_of_what_is_too_large_reaches_nobody_who_is_in_a_component_of_his_own() -> None:
    """The hubs' users share addresses with those of small devices, which are weaker."""
    rng = random.Random(7)
    hubs, own = MAX_USERS // 4, 8
    records = [
        link(f"u{(d * own + k) % (hubs * own):04}", f"fp{d:03}", (d * own + k) * 1000)
        for d in range(hubs)
        for k in range(own + 2)
    ]
    for g in range(hubs):
        guests = [f"g{g:02}-{k}" for k in range(4)]
        hosts = [f"u{g * own + k:04}" for k in range(3)]
        rng.shuffle(guests)
        records += [link(u, f"small{g:02}", g * MINUTE, 0.7) for u in guests]
        for weight in (0.5, 0.4):
            records += [link(u, f"10.1.0.{g}", g * MINUTE, weight) for u in (*guests[:3], *hosts)]
    engine = RingEngine()
    run(engine, [elder(), *records])
    assert engine.counters.oversized > 0
    members = [m.user_id for r in engine.book.rings.values() for m in r.members]
    assert len(members) == len(set(members))
    guests_in = {len({m.user_id[0] for m in r.members}) for r in engine.book.rings.values()}
    assert guests_in == {1}


def test_a_user_with_very_many_identifiers_keeps_the_latest() -> None:
    engine = RingEngine()
    run(engine, [elder(), *(link("u", f"fp{k:04}", k * MINUTE) for k in range(500))])
    assert engine.counters.crowded_out == 500 - MAX_LINKS
    row = engine.graph.user("u", engine.clock)
    names = engine.graph.identifier_names.texts
    held = [names[engine.graph.links["identifier"][i]] for i in engine.graph.links_of(row)]
    assert set(held) == {f"device:fp{k:04}" for k in range(500 - MAX_LINKS, 500)}
    assert len(engine.graph) <= MAX_LINKS + 1


def test_what_ran_out_is_freed_and_its_records_deleted() -> None:
    engine = RingEngine()
    stored: dict[bytes, bytes] = {}
    for k in range(2000):
        engine.apply(link(f"u{k}", f"10.0.{k // 250}.{k % 250 // 2}", k * DAY_MS // 8, 0.5, 2))
        for key, value in engine.changes():
            stored.pop(key, None)
            if value is not None:
                stored[key] = value
    assert len(engine.graph) < 2 * 28 * 8
    assert len(stored) < 3.2 * len(engine.graph)
    again = RingEngine.rebuilt(
        stored.items(), engine.clock, engine.began, engine.applied, engine.book.opened
    )
    assert len(again.graph) == len(engine.graph)
    assert len(again.graph.user_names) == len(engine.graph.user_names)


@pytest.mark.parametrize("n", [3, 40])
def test_reasons_are_words_with_figures(n: int) -> None:
    engine = RingEngine()
    names = [f"u{k:02}" for k in range(n)]
    alerts, _ = run(
        engine,
        [elder()]
        + [link(u, t, k * MINUTE) for k, u in enumerate(names) for t in ("fp", "10.0.0.1")],
    )
    last = alerts[-1]
    assert f"{last.size} users share device fp" in last.reasons
    assert "2 shared identifiers of 2 kinds: IP address, device" in last.reasons
    assert f"{last.size} of {last.size} accounts were new when they joined" in last.reasons
    assert any(reason.startswith("all came within ") for reason in last.reasons)


def test_one_that_was_built_up_again_says_the_same_in_the_same_order() -> None:
    """Several rings at a time, whose rows are numbered otherwise in an engine that was rebuilt."""
    rng = random.Random(5)
    engine, again = RingEngine(), RingEngine()
    stored: dict[bytes, bytes] = {}
    told = 0
    for k in range(600):
        group = rng.randrange(12)
        user = f"u{group}-{rng.randrange(8)}"
        thing = (
            f"fp{group}-{rng.randrange(2)}" if rng.random() < 0.9 else f"fp{rng.randrange(12)}-0"
        )
        record = link(user, thing, k * DAY_MS // 6, rng.choice((0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0)))
        output = engine.apply(record)
        assert again.apply(record) == output
        told += len(output.alerts) > 1
        for key, value in engine.changes():
            stored.pop(key, None)
            if value is not None:
                stored[key] = value
        if k % 20 == 0:
            shuffled = sorted(stored.items(), key=lambda _: rng.random())
            again = RingEngine.rebuilt(
                shuffled, engine.clock, engine.began, engine.applied, engine.book.opened
            )
    assert told > 5
