"""Streams of payments for tests, and the ways to run them through the stages.

A stream is described by small tuples of choices, which Hypothesis can shrink, and put together
here: disorder, lateness, repeats, conflicts and missing fields included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from dafu.features.bursts import BURST
from dafu.features.catalogue import MERCHANT_FEATURES
from dafu.features.merchants import MERCHANT_INPUT, step_merchants
from dafu.features.state import MERCHANTS, EntityLayout
from dafu.stages.batch import FORWARD, InputBatch, Partitions, UserOutput
from dafu.stages.users import UserStage
from dafu.tables.changes import Change
from dafu.tables.records import MemoryRecords
from dafu.tables.working_set import HEAD, PartitionRecords, Share, WorkingSet
from tests.oracle import DAY_MS, Enrolment, Payment, Verdict

Event = Payment | Verdict | Enrolment

START = 1_700_000_000_000
SECOND, HOUR = 1000, 3_600_000
STEPS = (0, 0, 1, SECOND, 59_999, 60_000, 300_000, HOUR, DAY_MS, 7 * DAY_MS, 10 * DAY_MS)
"""From one arrival to the next: equal times, window edges, and weeks."""
LATE = (0, 0, 0, 1, 60_000, HOUR, DAY_MS, 7 * DAY_MS - 1, 7 * DAY_MS)
"""How far behind the latest time a payment arrives, up to what keeps windows exact."""
AMOUNTS = (0.0, 0.01, 9.99, 10.0, 10.0, 129.95, 1e4, 1e9)
PLACES = ((52.5, 179.9), (51.0, -179.9), (-33.9, 151.2), (0.0, 160.0), (60.17, 170.25))
"""On both sides of the date line and of the equator, none opposite another."""
BOOKKEEPING = ("archive_slot", "labels_slot", "ring_slot", "chunks_from")
"""Head fields that say where records are, not what the state is."""

choices = st.tuples(
    st.integers(0, 2),  # user
    st.integers(0, 3),  # merchant
    st.sampled_from(AMOUNTS),
    st.sampled_from(STEPS),
    st.sampled_from(LATE),
    st.tuples(*[st.sampled_from((None, "", "a", "b", "c"))] * 3),  # device, IP, country
    st.tuples(*[st.sampled_from((None, 0, 1, 2, 3, 4))] * 2),  # user's and merchant's place
    st.sampled_from(("new",) * 6 + ("repeat", "conflict", "half a place")),
    st.integers(0, 10**6),
)


def payments(described: Iterable[tuple[Any, ...]]) -> list[Payment]:
    """The stream that a list of choices describes, in order of arrival."""
    out: list[Payment] = []
    now: dict[str, int] = {}
    for i, (user, merchant, amount, step, late, things, places, kind, pick) in enumerate(described):
        user_id = f"u{user}"
        latest = now.get(user_id, START) + step
        recent = [p for p in out if p.user_id == user_id and p.time > latest - 30 * DAY_MS]
        if kind in ("repeat", "conflict") and recent:
            old = recent[pick % len(recent)]
            changes = {"repeat": old.amount, "conflict": old.amount + 1.0}
            values = {f: getattr(old, f) for f in old.__struct_fields__}
            out.append(Payment(**{**values, "amount": changes[kind]}))
            continue
        now[user_id] = latest
        time = max(latest - late, START)
        home = PLACES[places[0]] if places[0] is not None else (None, None)
        shop = PLACES[places[1]] if places[1] is not None else (None, None)
        out.append(
            Payment(
                transaction_id=f"t{i}",
                user_id=user_id,
                merchant_id=f"m{merchant}",
                amount=amount,
                time=time,
                device=things[0],
                ip=things[1],
                country=things[2],
                lat=home[0],
                long=None if kind == "half a place" else home[1],
                merchant_lat=shop[0],
                merchant_long=shop[1],
            )
        )
    return out


verdicts = st.tuples(
    st.floats(0, 1),  # where in the stream it arrives
    st.floats(0, 1.1),  # which payment it is about, by its place in the stream; none beyond 1
    st.booleans(),
    st.sampled_from(STEPS),  # observed so long after the stream's start
)


def with_verdicts(
    stream: Sequence[Payment], described: Iterable[tuple[float, float, bool, int]]
) -> list[Payment | Verdict]:
    """Labels among payments: before and after the payment they are about, corrected, outdated."""
    at = sorted(
        (int(place * len(stream)), i, about, fraud, step)
        for i, (place, about, fraud, step) in enumerate(described)
    )
    out: list[Payment | Verdict] = []
    last = 0
    for place, _, about, fraud, step in at:
        out += stream[last:place]
        last = place
        k = int(about * len(stream))
        known = stream[k] if k < len(stream) else None
        out.append(
            Verdict(
                transaction_id="nobody's" if known is None else known.transaction_id,
                user_id="u0" if known is None else known.user_id,
                fraud=fraud,
                observed=START + step,
            )
        )
    return out + list(stream[last:])


enrolments = st.builds(
    Enrolment,
    user_id=st.sampled_from(("u0", "u1", "u2")),
    ring_id=st.sampled_from(("ring-1", "ring-2")),
    time=st.sampled_from(STEPS).map(lambda step: START + step),
    size=st.sampled_from((0, 2, 5, 900)),
    risk=st.sampled_from((0.0, 0.25, 1.0)),
    blocked=st.integers(0, 4),
    frauds=st.integers(0, 4),
    shared=st.sampled_from(("", "device a", "device " + "\u00fc" * 60)),
    sharers=st.integers(0, 5),
)


def mixed(stream: Sequence[Event], more: Iterable[tuple[float, Event]]) -> list[Event]:
    """Put events into a stream, each at its share of the way."""
    out = list(stream)
    for place, event in more:
        out.insert(int(place * len(out)), event)
    return out


def to_json(p: Event) -> bytes:
    """The record value that stands among the transactions."""
    if isinstance(p, Enrolment):
        fields = {f: getattr(p, f) for f in p.__struct_fields__}
        return json.dumps({"ring": fields}, separators=(",", ":")).encode()
    if isinstance(p, Verdict):
        label = {
            "transaction_id": p.transaction_id,
            "user_id": p.user_id,
            "is_fraud": p.fraud,
            "source": "chargeback",
            "observed_at": p.observed,
        }
        if p.merchant_id is not None:
            label |= {"merchant_id": p.merchant_id, "timestamp": p.time}
        return json.dumps({"label": label}, separators=(",", ":")).encode()
    names = {
        "time": "timestamp",
        "device": "device_fingerprint",
        "ip": "ip_address",
        "card": "card_id",
    }
    fields = {names.get(f, f): getattr(p, f) for f in p.__struct_fields__}
    return json.dumps({k: v for k, v in fields.items() if v is not None}).encode()


def batches(stream: Sequence[Event], sizes: Iterable[int], first: int = 0) -> list[InputBatch]:
    """Cut a stream into input batches; the last one takes what the sizes leave."""
    values = [to_json(p) for p in stream]
    keys = [p.user_id.encode() for p in stream]
    return [
        InputBatch.of(3, keys[a:b], values[a:b], first + a, [START] * (b - a))
        for a, b in cuts(len(stream), sizes)
    ]


def cuts(n: int, sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ranges that cover 0..n in steps of the given sizes."""
    at = 0
    for size in sizes:
        if size and at < n:
            yield at, min(at + size, n)
            at += size
    if at < n:
        yield at, n


def user_stage() -> UserStage:
    """A stage one that takes any time for good."""
    return UserStage(200 * 365 * DAY_MS)


def alone(records: PartitionRecords) -> Partitions:
    """The state of the only partition that there is, whatever its number."""
    return lambda _: records


def run_users(inputs: Iterable[InputBatch], records: PartitionRecords) -> list[UserOutput]:
    """Run batches through stage one, writing the changes of each."""
    stage = user_stage()
    out = []
    for batch in inputs:
        output = stage.run(batch, alone(records))
        records.write(output.only_changes)
        out.append(output)
    return out


def forwarded(outputs: Iterable[UserOutput]) -> dict[int, tuple[bytes, bytes]]:
    """Forwarded records by the offset of the transaction or label."""
    found: dict[int, tuple[bytes, bytes]] = {}
    for output in outputs:
        for key, value in zip(
            output.forward_keys.present(), output.forward_values.present(), strict=True
        ):
            offset = int(header(value)["offset"])
            assert offset not in found, "one record forwarded twice"
            found[offset] = key, value
    return found


def step_merchant_kernel(
    stream: Sequence[Payment],
    sizes: Iterable[int],
    records: PartitionRecords,
    first: int = 0,
    bursts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Run payments through stage two's kernel alone, writing the state after each batch.

    Returns float64 [n, F] features, of which the rows that are not APPLIED mean nothing, and
    int8 [n] statuses. The payments' offsets start at `first`. What there is to tell of bursts goes
    to `bursts` (BURST [n], zeros) if it is given.
    """
    if bursts is None:
        bursts = np.zeros(len(stream), BURST)
    features = np.full((len(stream), len(MERCHANT_FEATURES)), np.nan)
    status = np.empty(len(stream), dtype=np.int8)
    for a, b in cuts(len(stream), sizes):
        numbers: dict[bytes, int] = {}
        inputs = np.zeros(b - a, dtype=MERCHANT_INPUT)
        inputs["merchant"] = [
            numbers.setdefault(p.merchant_id.encode(), len(numbers)) for p in stream[a:b]
        ]
        inputs["offset"] = np.arange(first + a, first + b)
        inputs["time"] = [p.time for p in stream[a:b]]
        inputs["amount"] = [p.amount for p in stream[a:b]]
        inputs["user"] = np.array(
            [xxh64_intdigest(p.user_id.encode()) for p in stream[a:b]], dtype=np.uint64
        )
        state = WorkingSet(
            MERCHANTS, [Share(records, list(numbers))], np.bincount(inputs["merchant"])
        )
        step_merchants(
            state.heads,
            state.events,
            state.origins,
            state.archives,
            state.archive_of,
            state.labels,
            state.labels_of,
            inputs,
            features[a:b],
            status[a:b],
            bursts[a:b],
        )
        (changes,) = state.changes()
        records.write(changes)
    return features, status


def header(value: bytes) -> Any:
    """What stage one put ahead of the JSON."""
    return np.frombuffer(value, FORWARD, 1)[0]


def copy(records: MemoryRecords, changes: Sequence[Change] = ()) -> MemoryRecords:
    """Records of their own, with changes on top."""
    out = MemoryRecords()
    out.data = dict(records.data)
    out.write(changes)
    return out


def states(layout: EntityLayout, data: Mapping[bytes, bytes]) -> dict[bytes, tuple[bytes, ...]]:
    """What a partition says of each of its entities, whichever records hold it: head, retained
    events, archive, labels and ring, bit for bit."""
    records = MemoryRecords()
    records.data = dict(data)
    entities = sorted(key[1:] for key in data if key.startswith(HEAD))
    if not entities:
        return {}
    share = Share(records, entities)
    state = WorkingSet(layout, [share], np.zeros(len(entities), dtype=np.int64))
    out: dict[bytes, tuple[bytes, ...]] = {}
    for e, entity in enumerate(entities):
        head = state.heads[e].copy()
        for field in set(BOOKKEEPING).intersection(layout.head.names or ()):
            head[field] = 0
        at = state.origins[e]
        events = state.events[at + head["first_event"] : at + head["next_event"]]
        row = state.archive_of[e]
        archive = state.archives[row].tobytes() if row >= 0 else b""
        row = state.labels_of[e]
        labels = state.labels[row].tobytes() if row >= 0 else b""
        row = state.ring_of[e]
        ring = state.rings[row].tobytes() if row >= 0 else b""
        out[entity] = head.tobytes(), events.tobytes(), archive, labels, ring
    return out
