"""Identifiers of one user: packed by what they are, and stepped as `step` would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.hashing import hash64
from dafu.rings.encoding import pack, reader
from dafu.rings.identifiers import (
    MAX_MERCHANTS,
    WINDOW_MS,
    IdentifierState,
    UserOfIdentifier,
    step,
)
from dafu.rings.records import KINDS, Facts, Sighting
from dafu.rings.sole import (
    FENCED,
    LEFT,
    MOST,
    OUTDATED,
    SIGHTED,
    SOLE,
    STEPPED,
    pack_identifier,
    read_identifier,
    step_sole,
)
from dafu.tables.migrations import StateError
from tests.rings.streams import HOUR, START

TIMES = st.sampled_from(
    [START + k * HOUR for k in (-1, 0, 0, 1)] + [START + s * WINDOW_MS for s in (-1, 1)]
)
sights = st.builds(
    lambda user, merchant, *facts: Sighting(user, "device", "fp", "t", merchant, Facts(*facts)),
    st.sampled_from(["u"] * 6 + ["v"]),
    st.sampled_from(["m1", "m2", "m3", "m4", "m5"]),
    TIMES,
    TIMES,
    st.integers(0, 3),
    st.sampled_from((0.0, 1.25)),
    st.integers(0, 2),
    st.sampled_from((0, START, START + HOUR)),
    st.sampled_from((0, START, START + HOUR)),
)


def sighted(sighting: Sighting) -> tuple[np.ndarray, np.ndarray]:
    source = ByteColumn.of([b"??", sighting.user_id.encode(), b"?"])
    out = np.zeros(1, SIGHTED)
    out["kind"] = KINDS.index(sighting.kind)
    out["user_at"], out["user_n"] = source.starts[1], source.lengths[1]
    out["merchant"] = hash64(sighting.merchant_id.encode()) >> 32
    for name in sighting.facts.__struct_fields__:
        out[name] = getattr(sighting.facts, name)
    return out, source.buffer


@settings(max_examples=400, deadline=None)
@given(st.lists(sights, min_size=1, max_size=12), st.data())
def test_the_kernel_does_what_the_step_does(given: list[Sighting], data: st.DataObject) -> None:
    state, raw = IdentifierState(), None
    offset = 0
    for sighting in given:
        offset += data.draw(st.sampled_from((1, 1, 1, 0)))
        (fate,), states = step_sole(*sighted(sighting), np.array([offset]), [raw])
        known, late = offset <= state.fence, sighting.facts.as_of <= state.clock - WINDOW_MS
        before = len(state.users)
        if not known:
            state, links = step(state, sighting)
            state.fence = offset
            raw = pack_identifier(state)
        if fate == LEFT:
            continue
        assert before <= 1
        assert fate == (FENCED if known else OUTDATED if late else STEPPED)
        if not known:
            assert links == []
            assert states[0] == raw


def test_what_one_user_has_is_stepped_by_the_kernel() -> None:
    raw, fates = None, []
    for k in range(4):
        sighting = Sighting("u", "device", "fp", "t", f"m{k}", Facts(START + k * HOUR, START))
        (fate,), states = step_sole(*sighted(sighting), np.array([k]), [raw])
        fates.append(fate)
        raw = states[0]
    assert fates == [STEPPED] * 4
    other = Sighting("v", "device", "fp", "t", "m", Facts(START, START))
    assert step_sole(*sighted(other), np.array([4]), [raw])[0].tolist() == [LEFT]


users = st.builds(
    UserOfIdentifier,
    user_id=st.text(max_size=5),
    **dict.fromkeys(
        (
            *("first_seen", "last_seen", "as_of", "since", "transactions", "frauds"),
            *("blocked_at", "reviewed_at"),
        ),
        st.sampled_from((0, 7, MOST, MOST + 1, -1)),
    ),
    amount=st.sampled_from((0.0, 2.5, float(MOST), 1e300, -1.0)),
    told=st.sampled_from((0, 0, 0, 5)),
    told_blocked=st.sampled_from((0, 0, 0, 5)),
    told_frauds=st.sampled_from((0, 0, 0, 5)),
    told_reviewed=st.sampled_from((0, 0, 0, 5)),
)
states = st.builds(
    IdentifierState,
    fence=st.sampled_from((-1, 0, 9)),
    clock=st.sampled_from((0, START)),
    weight=st.sampled_from((-1.0, -1.0, 0.0, 0.5)),
    users=st.lists(users, max_size=2),
    merchants=st.lists(st.integers(0, 2**32 - 1), max_size=MAX_MERCHANTS),
    crowd=st.sampled_from((0, 0, START)),
    week=st.sampled_from((0, 0, 3)),
    seen=st.sampled_from((b"", b"", b"\1")),
    before=st.sampled_from((-1, -1, 3)),
)


@settings(max_examples=300, deadline=None)
@given(states)
def test_every_state_comes_back(state: IdentifierState) -> None:
    assert read_identifier(b"Hdevice:fp", pack_identifier(state)) == state


def test_a_state_that_an_earlier_version_packed_is_read_and_left_to_the_step() -> None:
    sighting = Sighting("u", "device", "fp", "t", "m", Facts(START, START))
    state, _ = step(IdentifierState(0), sighting)
    raw = pack(state)
    assert read_identifier(b"Hdevice:fp", raw) == state
    assert raw != pack_identifier(state)
    assert step_sole(*sighted(sighting), np.array([9]), [raw])[0].tolist() == [LEFT]


def test_a_record_from_before_reviews_were_told_is_read_and_left_to_the_step() -> None:
    sighting = Sighting("u", "device", "fp", "t", "m", Facts(START, START, 3, 2.5, 1, START))
    state, _ = step(IdentifierState(0), sighting)
    now = pack_identifier(state)
    size = SOLE.itemsize - SOLE["reviewed_at"].itemsize
    former = b"\2\0" + now[2:size] + now[SOLE.itemsize :]
    assert read_identifier(b"Hdevice:fp", former) == state
    assert step_sole(*sighted(sighting), np.array([9]), [former])[0].tolist() == [LEFT]
    with pytest.raises(StateError, match="damaged"):
        read_identifier(b"Hdevice:fp", former[: size - 1])


def damaged(raw: bytes, **fields: Any) -> bytes:
    head = np.frombuffer(raw[: SOLE.itemsize], SOLE).copy()
    for name, value in fields.items():
        head[name] = value
    return head.tobytes() + raw[SOLE.itemsize :]


def test_damage_and_later_versions_are_told() -> None:
    sighting = Sighting("u", "device", "fp", "t", "m", Facts(START, START))
    raw = pack_identifier(step(IdentifierState(0), sighting)[0])
    for wrong in (raw[:50], damaged(raw, merchant_count=5), raw + b"\xff"):
        with pytest.raises(StateError, match="damaged"):
            read_identifier(b"Hdevice:fp", wrong)
    assert step_sole(*sighted(sighting), np.array([9]), [damaged(raw, merchant_count=5)])[0][0] == (
        LEFT
    )
    with pytest.raises(StateError, match="schema version 4"):
        read_identifier(b"Hdevice:fp", damaged(raw, version=4))
    earlier = reader("identifier", IdentifierState)
    with pytest.raises(StateError, match="schema version 3, this version of dafu reads 1"):
        earlier(b"Hdevice:fp", raw)
