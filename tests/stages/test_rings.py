"""The rings' stage: any cuts, any crash and any repeats give the same alerts and memberships."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import Phase, assume, find, given, settings
from hypothesis import strategies as st

from dafu.rings import alerts
from dafu.rings.encoding import VERSION
from dafu.rings.identifiers import DAY_MS
from dafu.rings.records import (
    Activity,
    Facts,
    Sighting,
    decode_alert,
    decode_inbox,
    encode,
)
from dafu.stages import rings
from dafu.stages.batch import InputBatch
from dafu.stages.rings import FENCE, RingOutput, RingStage
from dafu.tables.migrations import StateError
from dafu.tables.records import MemoryRecords
from tests.rings.streams import HOUR, START, THINGS, cuts, links_of, sightings, sizes, streams

Said = list[tuple[bytes, bytes]]


def said(output: RingOutput) -> Said:
    """What a batch said, in order."""
    return [
        *zip(output.alerts.keys.present(), output.alerts.values.present(), strict=True),
        *zip(output.memberships.keys.present(), output.memberships.values.present(), strict=True),
    ]


def batch(log: Sequence[bytes], a: int, b: int) -> InputBatch:
    return InputBatch.of(0, [b""] * (b - a), list(log[a:b]), a)


def run_on(records: MemoryRecords, stage: RingStage, some: InputBatch) -> RingOutput:
    return stage.run(some, lambda _: records)


def each(log: Sequence[bytes]) -> list[Said]:
    """What every record of a log led to."""
    stage, records, out = RingStage(), MemoryRecords(), []
    for i in range(len(log)):
        output = stage.run(batch(log, i, i + 1), lambda _: records)
        records.write(output.only_changes)
        out.append(said(output))
    return out


def by_kind(parts: Sequence[Said]) -> list[Said]:
    """Alerts and memberships apart, each in order."""
    flat = list(itertools.chain.from_iterable(parts))
    return [[r for r in flat if (b'"alert_id"' in r[1]) is alert] for alert in (True, False)]


def log_of(described: Any, active: Sequence[int]) -> list[bytes]:
    """Links, and behind each of some the activity of whom it is about."""
    log: list[bytes] = []
    for at, raw in enumerate(links_of(sightings(described))):
        log.append(raw)
        link = decode_inbox(raw)
        for i in active:
            if i == at:
                time = link.facts.as_of + i * HOUR
                facts = Facts(time, link.facts.since, i, float(i), i % 2)
                log.append(encode(Activity(link.user_id, facts, "t")))
    return log


LOGS = st.builds(log_of, streams, st.lists(st.integers(0, 100), max_size=10))


@pytest.fixture(scope="module")
def eager() -> Iterator[None]:
    """Nearly everything is a ring, so that short logs have rings that open, merge and close."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alerts, "OPEN", 0.05)
        patch.setattr(alerts, "KEEP", 0.03)
        yield


@pytest.mark.parametrize("event", ["opened", "grown", "updated", "closed"])
def test_short_logs_have_what_can_happen(eager: None, event: str) -> None:
    def happens(log: list[bytes]) -> bool:
        return any(decode_alert(value).event == event for _, value in by_kind(each(log))[0])

    find(
        LOGS,
        happens,
        settings=settings(max_examples=2000, database=None, phases=[Phase.generate]),
    )


def campaign(users: int = 6, gap: int = HOUR) -> list[Sighting]:
    """New accounts that come to one device one after the other, long after the log began."""
    old = [
        Sighting(f"old{k}", "ip", "10.9.9.9", f"o{k}", "m", Facts(START, START)) for k in range(2)
    ]
    start = START + 20 * DAY_MS
    members = [Facts(start + k * gap, start + k * gap - HOUR, 12, 900.0) for k in range(users)]
    return old + [
        Sighting(f"u{k}", kind, value, f"t{k}", f"m{k % 3}", facts)
        for k, facts in enumerate(members)
        for kind, value in THINGS[:3:2]
    ]


@settings(max_examples=60, deadline=None)
@given(log=LOGS, given_sizes=sizes)
def test_cuts_do_not_matter(eager: None, log: list[bytes], given_sizes: list[int]) -> None:
    stage, records, parts = RingStage(), MemoryRecords(), []
    for a, b in cuts(len(log), given_sizes):
        output = stage.run(batch(log, a, b), lambda _: records)
        records.write(output.only_changes)
        parts.append(said(output))
    assert by_kind(parts) == by_kind(each(log))


@settings(max_examples=80, deadline=None)
@given(
    log=LOGS,
    given_sizes=sizes,
    others=sizes,
    at=st.integers(0, 100),
    cut=st.floats(0, 1),
    chunk=st.sampled_from((1, 200, rings.JOURNAL_BYTES)),
)
def test_a_crash_anywhere_in_the_changelog_changes_nothing(
    eager: None,
    log: list[bytes],
    given_sizes: list[int],
    others: list[int],
    at: int,
    cut: float,
    chunk: int,
) -> None:
    """Whatever has not been acknowledged is said again, and whatever was is not contradicted."""
    expected = each(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rings, "JOURNAL_BYTES", chunk)
        records, stage, done = MemoryRecords(), RingStage(), 0
        batches = cuts(len(log), given_sizes)
        for number, (a, b) in enumerate(batches):
            output = stage.run(batch(log, a, b), lambda _: records)
            changes = output.only_changes
            if number == at % len(batches):
                assert by_kind([said(output)]) == by_kind(expected[a:b])
                records.write(changes[: round(cut * len(changes))])
                break
            records.write(changes)
            done = b
        # Another process, which reads again what was not acknowledged, in other batches, and
        # crashes again before its first changes are complete.
        for part in (0.5, 1.0):
            stage = RingStage()
            for a, b in cuts(len(log) - done, others):
                output = stage.run(batch(log, done + a, done + b), lambda _: records)
                again = done + b - a - output.fenced
                assert again >= done
                assert by_kind([said(output)]) == by_kind(
                    expected[done + a + output.fenced : done + b]
                )
                changes = output.only_changes
                if part < 1.0:
                    records.write(changes[: round(part * cut * len(changes))])
                    break
                records.write(changes)


def test_every_place_where_a_changelog_can_end(eager: None) -> None:
    """Each batch of a campaign, cut off behind each of its changes, some chunks of journal long."""
    log = links_of(campaign(7, 3 * HOUR))
    expected = each(log)
    places = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rings, "JOURNAL_BYTES", 300)
        stage, whole = RingStage(), MemoryRecords()
        for a, b in cuts(len(log), [4] * len(log)):
            changes = run_on(whole, stage, batch(log, a, b)).only_changes
            for cut in range(len(changes) + 1):
                records = MemoryRecords()
                records.data = dict(whole.data)
                records.write(changes[:cut])
                output = run_on(records, RingStage(), batch(log, a, len(log)))
                assert output.fenced in (0, b - a)
                assert by_kind([said(output)]) == by_kind(expected[a + output.fenced :])
                places += 1
            whole.write(changes)
    assert places > 50


@settings(max_examples=50, deadline=None)
@given(log=LOGS, back=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), max_size=6))
def test_repeats_say_nothing(eager: None, log: list[bytes], back: list[tuple[int, int]]) -> None:
    """Stretches of the log stand in it twice, as after a crash of whoever wrote them."""
    expected = [s for s in each(log) if s]
    repeated, origin = list[bytes](), list[int]()
    assume(log)
    turns = {at % len(log): n for at, n in back}
    for i, record in enumerate(log):
        repeated.append(record)
        origin.append(i)
        if i in turns:
            repeated += log[max(i + 1 - turns[i], 0) : i + 1]
            origin += [-1] * (i + 1 - max(i + 1 - turns[i], 0))
    found = each(repeated)
    assert [s for s, o in zip(found, origin, strict=True) if o < 0 and s] == []
    assert [s for s in found if s] == expected


def test_a_campaign_is_told_once_it_has_three_members() -> None:
    output = RingStage().run(
        batch(log := links_of(campaign()), 0, len(log)), lambda _: MemoryRecords()
    )
    told = [decode_alert(value) for value in output.alerts.values.present()]
    assert [alert.event for alert in told][:2] == ["opened", "grown"]
    first, last = told[0], told[-1]
    assert first.size == 3
    assert {alert.ring_id for alert in told} == {first.ring_id}
    assert [a.alert_id for a in told] == [f"{first.ring_id}:{n + 1}" for n in range(len(told))]
    assert {member.user_id for member in last.members} <= {f"u{k}" for k in range(6)}
    assert any("users share device fp_1" in reason for reason in last.reasons)
    assert output.memberships.keys.present()[:3] == [b"u0", b"u1", b"u2"]


def test_what_is_no_link_is_rejected_and_passed() -> None:
    records = MemoryRecords()
    log = [b"", b"{}", b'{"type":"link"}', b"\xff", *links_of(campaign())]
    output = RingStage().run(batch(log, 0, len(log)), lambda _: records)
    assert [r.index for r in output.rejected] == [0, 1, 2, 3]
    assert {r.reason for r in output.rejected} == {"invalid_link"}
    assert output.links == len(log) - 4


def test_a_table_that_somebody_else_wrote_to_is_read_again() -> None:
    """As after a rebalance that took the partition away and brought it back."""
    log, records = links_of(campaign()), MemoryRecords()
    first, second = RingStage(), RingStage()
    records.write(first.run(batch(log, 0, 3), lambda _: records).only_changes)
    records.write(second.run(batch(log, 3, 5), lambda _: records).only_changes)
    output = first.run(batch(log, 3, len(log)), lambda _: records)
    assert output.fenced == 2
    assert by_kind([said(output)]) == by_kind(each(log)[5:])


def test_state_of_a_later_version_is_refused() -> None:
    log, records = links_of(campaign()), MemoryRecords()
    records.write(RingStage().run(batch(log, 0, 4), lambda _: records).only_changes)
    later = (VERSION + 1).to_bytes(2, "little")
    for key in [key for key in records.data if key.startswith((b"U", b"R", b"L", FENCE))]:
        spoiled = MemoryRecords()
        spoiled.data = records.data | {key: later + records.data[key][2:]}
        with pytest.raises(StateError, match="has schema version 2, this version of dafu reads 1"):
            run_on(spoiled, RingStage(), batch(log, 4, 5))
        spoiled.data = records.data | {key: records.data[key][:-1]}
        with pytest.raises(StateError, match="missing or damaged"):
            run_on(spoiled, RingStage(), batch(log, 4, 5))
