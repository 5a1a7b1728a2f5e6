"""What people are shown of open rings, next to what was told of them."""

from __future__ import annotations

import pytest

from dafu.generator import GROUP_COLUMNS, LABEL_COLUMNS, generate
from dafu.ingest import to_records
from dafu.rings.engine import RingEngine
from dafu.rings.identifiers import WINDOW_MS
from dafu.rings.records import Activity, Facts, RingAlert
from dafu.rings.view import list_rings, show_ring
from dafu.stages.rings import RingStage
from tests.test_network import millisecond_times, pipeline


@pytest.fixture(scope="module")
def told() -> tuple[RingEngine, dict[str, RingAlert], RingStage]:
    """An engine after three weeks, and the last alert of each ring."""
    made = generate(users=120, merchants=25, days=20, seed=6, rings=9, look_alikes=2)
    table = millisecond_times(made.drop_columns([*LABEL_COLUMNS, *GROUP_COLUMNS]))
    stages = pipeline()
    last: dict[str, RingAlert] = {}
    for batch in table.to_batches(max_chunksize=500):
        keys, values = zip(*to_records(batch), strict=True)
        last |= {alert.ring_id: alert for alert in stages.run_chunk(keys, values).alerts}
    return stages.rings.look(0, stages.ring_records), last, stages.rings


def test_open_rings_are_those_last_told_of(
    told: tuple[RingEngine, dict[str, RingAlert], RingStage],
) -> None:
    engine, last, _ = told
    open_ones = {name: alert for name, alert in last.items() if alert.event != "closed"}
    listed = list_rings(engine, 100)
    assert (listed.open, listed.clock) == (len(open_ones), engine.clock)
    assert len(open_ones) >= 3
    assert {ring.ring_id for ring in listed.rings} == set(open_ones)
    scores = [ring.score for ring in listed.rings]
    assert scores == sorted(scores, reverse=True)
    for ring in listed.rings:
        alert = open_ones[ring.ring_id]
        assert (ring.alert_id, ring.score, ring.size) == (alert.alert_id, alert.score, alert.size)
        assert (ring.first_seen, ring.last_seen) == (alert.first_seen, alert.last_seen)
    assert list_rings(engine, 2).rings == listed.rings[:2]
    assert list_rings(engine, 100, scores[1]).rings == [
        ring for ring in listed.rings if ring.score >= scores[1]
    ]


def test_a_ring_is_shown_as_it_is_now(
    told: tuple[RingEngine, dict[str, RingAlert], RingStage],
) -> None:
    engine, last, _ = told
    before = engine.changes()  # what is left to be written: looking adds nothing
    for summary in list_rings(engine, 100).rings:
        ring, alert = show_ring(engine, summary.ring_id), last[summary.ring_id]
        assert ring is not None
        assert {member.user_id for member in ring.members} == {
            member.user_id for member in engine.book.rings[ring.ring_id].members
        }
        assert ring.alert_id == alert.alert_id
        assert abs(ring.score - alert.score) < 0.1  # more would have been an alert
        assert ring.reasons and ring.evidence and ring.edges
        assert show_ring(engine, summary.ring_id) == ring
    assert engine.changes() == []
    assert isinstance(before, list)
    assert show_ring(engine, "ring-none") is None


def test_what_is_left_of_a_ring_whose_links_ran_out(
    told: tuple[RingEngine, dict[str, RingAlert], RingStage],
) -> None:
    engine, _, _ = told
    summary = list_rings(engine, 1).rings[0]
    members = {member.user_id for member in engine.book.rings[summary.ring_id].members}
    clock = engine.clock
    try:
        engine.clock = clock + 2 * WINDOW_MS
        ring = show_ring(engine, summary.ring_id)
    finally:
        engine.clock = clock
    assert ring is not None
    assert ring.reasons == ["what its members shared has run out"]
    assert {member.user_id for member in ring.members} == members
    assert (ring.evidence, ring.edges, ring.score) == ([], [], summary.score)


def test_nobody_knows_of_rings_before_the_first_record() -> None:
    engine = RingEngine()
    assert list_rings(engine, 10).rings == []
    engine.apply(Activity("u", Facts(1, 1)))
    assert show_ring(engine, "u") is None
