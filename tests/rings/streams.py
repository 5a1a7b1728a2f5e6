"""Streams of sightings for tests, from small choices that Hypothesis can shrink."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from dafu.rings.identifiers import DAY_MS
from dafu.rings.records import Facts, Kind, Sighting, encode
from dafu.stages.batch import InputBatch
from dafu.stages.identifiers import IdentifierStage
from dafu.tables.records import MemoryRecords

START = 1_700_000_000_000
HOUR = 3_600_000
STEPS = (0, 0, 1, 60_000, HOUR, DAY_MS, 5 * DAY_MS, 29 * DAY_MS)
LATE = (0, 0, 0, 0, HOUR, 8 * DAY_MS, 30 * DAY_MS)
THINGS: tuple[tuple[Kind, str], ...] = (
    ("device", "fp_1"),
    ("device", "fp_2"),
    ("ip", "10.0.0.1"),
    ("card", "card-1"),
    ("email", "jane@shop.test"),
)

choices = st.tuples(
    st.integers(0, 9),  # user
    st.integers(0, len(THINGS) - 1),
    st.sampled_from(STEPS),
    st.sampled_from(LATE),
    st.integers(0, 3),  # age of the account, in weeks
    st.sampled_from((0, 0, 0, 1)),  # frauds
    st.sampled_from(("approve", "approve", "review", "block")),
    st.sampled_from(("new",) * 7 + ("repeat",)),
    st.integers(0, 10**6),
)
streams = st.lists(choices, min_size=1, max_size=60)
sizes = st.lists(st.integers(1, 25), max_size=10)


def sightings(described: Iterable[tuple[Any, ...]]) -> list[Sighting]:
    """The sightings that choices describe, in order of arrival."""
    out: list[Sighting] = []
    now = START
    for i, (user, thing, step, late, age, frauds, decision, what, pick) in enumerate(described):
        if what == "repeat" and out:
            out.append(out[pick % len(out)])
            continue
        now += step
        time = now - late
        kind, value = THINGS[thing]
        facts = Facts(
            time, time - age * 7 * DAY_MS, 1 + i, 10.0 * i, frauds,
            blocked_at=time if decision == "block" else 0,
            reviewed_at=time if decision == "review" else 0,
        )  # fmt: skip
        out.append(Sighting(f"u{user}", kind, value, f"t{i}", f"m{pick % 3}", facts))
    return out


def batch_of(keys: Sequence[str], records: Sequence[Any], first: int = 0) -> InputBatch:
    """Records of partition 0."""
    return InputBatch.of(0, [k.encode() for k in keys], [encode(r) for r in records], first)


def sighting_batch(part: Sequence[Sighting], first: int = 0) -> InputBatch:
    """Sightings of partition 0."""
    return batch_of([f"{s.kind}:{s.value}" for s in part], part, first)


def links_of(stream: Sequence[Sighting]) -> list[bytes]:
    """What the identifiers' stage says of sightings, in one batch."""
    found = IdentifierStage().run(sighting_batch(stream), lambda _: MemoryRecords())
    assert not found.rejected
    return found.links.values.present()


def cuts(n: int, given: Sequence[int]) -> list[tuple[int, int]]:
    """Batches of these sizes, and of 1,000 behind them."""
    edges = [0]
    for size in [*given, *[1000] * (n // 1000 + 1)]:
        if edges[-1] < n:
            edges.append(min(edges[-1] + size, n))
    return list(pairwise(edges))
