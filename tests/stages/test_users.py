"""Stage one at its door: good and bad records mixed, wrong keys, times ahead, empty batches."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.schema import MAX_RECORD_BYTES
from dafu.stages.batch import FORWARD, NO_TIMESTAMP, InputBatch, UserOutput
from dafu.stages.users import UserStage
from dafu.tables.records import MemoryRecords
from dafu.tables.working_set import HEAD
from tests.oracle import DAY_MS, Payment
from tests.streams import START, alone, choices, payments, to_json, user_stage

GOOD = {"transaction_id": "t", "user_id": "u", "merchant_id": "m", "amount": 1, "timestamp": START}
BAD: tuple[bytes | None, ...] = (
    None,
    b"",
    b"{",
    b"[1]",
    b"\xff\xfe",
    b'{"transaction_id": 1}',
    json.dumps({**GOOD, "amount": -1}).encode(),
    json.dumps({**GOOD, "timestamp": 10**30}).encode(),
    json.dumps({**GOOD, "timestamp": 2**63}).encode(),
    json.dumps({**GOOD, "timestamp": 10**400}).encode(),
    json.dumps({**GOOD, "timestamp": START // 1000}).encode(),
    json.dumps({**GOOD, "user_id": "\ud800"}).encode(),
    json.dumps({**GOOD, "more": "x" * MAX_RECORD_BYTES}).encode(),
    json.dumps({**GOOD, "more": 0}).encode()[:-2] + b"[" * 64 + b"]" * 64 + b"}",
    b'{"more": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
)


def run(
    values: list[bytes | None],
    keys: list[bytes | None] | None = None,
    stage: UserStage | None = None,
    records: MemoryRecords | None = None,
    timestamps: list[int] | None = None,
    rerouted: frozenset[int] = frozenset(),
) -> UserOutput:
    n = len(values)
    batch = InputBatch.of(
        0, [b"u"] * n if keys is None else keys, values, 0, timestamps or [START] * n
    )
    batch = msgspec.structs.replace(batch, rerouted=rerouted)
    return (stage or user_stage()).run(batch, alone(records or MemoryRecords()))


def nothing(output: UserOutput) -> bool:
    return len(output.forward_values) == len(output.only_changes) == 0


def without_offsets(values: ByteColumn) -> list[bytes]:
    out = []
    for value in values.present():
        head = np.frombuffer(value, FORWARD, 1).copy()
        head["offset"] = 0
        out.append(head.tobytes() + value[FORWARD.itemsize :])
    return out


@settings(max_examples=60, deadline=None)
@given(
    stream=st.lists(choices, min_size=1, max_size=30).map(payments),
    bad=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(BAD)), min_size=1, max_size=8),
)
def test_bad_records_leave_the_good_ones_alone(
    stream: list[Payment], bad: list[tuple[int, bytes | None]]
) -> None:
    good = [(p.user_id.encode(), to_json(p)) for p in stream]
    mixed: list[tuple[bytes | None, bytes | None]] = [*good]
    for at, value in bad:
        mixed.insert(at % (len(mixed) + 1), (b"u0", value))
    alone = run([v for _, v in good], [k for k, _ in good])
    output = run([v for _, v in mixed], [k for k, _ in mixed])

    assert output.forward_keys == alone.forward_keys
    assert without_offsets(output.forward_values) == without_offsets(alone.forward_values)
    assert output.duplicates == alone.duplicates
    refused = {r.index for r in output.rejected if r.reason != "conflicting_duplicate"}
    assert refused == {i for i, (_, value) in enumerate(mixed) if value in BAD}
    assert len(output.rejected) == len(alone.rejected) + len(bad)


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_each_bad_record_is_found_among_good_ones(bad: bytes | None) -> None:
    good = [json.dumps({**GOOD, "transaction_id": f"t{i}"}).encode() for i in range(2)]
    output = run([good[0], bad, good[1]])
    assert [r.index for r in output.rejected] == [1]
    assert len(output.forward_values) == 2


def test_a_batch_of_bad_records_changes_nothing() -> None:
    output = run(list(BAD))
    assert [r.index for r in output.rejected] == list(range(len(BAD)))
    assert not output.reroutes
    assert nothing(output)


def test_an_empty_batch_changes_nothing() -> None:
    output = run([])
    assert not output.rejected
    assert nothing(output)


def test_a_record_under_a_wrong_key_goes_round_once() -> None:
    values: list[bytes | None] = [
        json.dumps({**GOOD, "transaction_id": f"t{i}"}).encode() for i in range(4)
    ]
    keys = [b"u", None, b"v", b"v"]
    records = MemoryRecords()
    output = run(values, keys, records=records, rerouted=frozenset({3}))
    assert output.reroutes == [(1, b"u"), (2, b"u")]
    assert [(r.index, r.reason) for r in output.rejected] == [(3, "wrong_key")]
    assert len(output.forward_values) == 1
    assert [k for k, _ in output.only_changes] == [HEAD + b"u"]


def test_only_wrong_keys_change_nothing() -> None:
    output = run([json.dumps(GOOD).encode()], [b"other"])
    assert nothing(output)
    assert output.reroutes == [(0, b"u")]


@pytest.mark.parametrize(
    ("sent", "refused"),
    [(START - DAY_MS, False), (START - DAY_MS - 1, True), (NO_TIMESTAMP, False)],
)
def test_a_time_too_far_ahead_of_its_record(sent: int, refused: bool) -> None:
    output = run([json.dumps(GOOD).encode()], stage=UserStage(DAY_MS), timestamps=[sent])
    assert [r.reason for r in output.rejected] == ["future_timestamp"] * refused
    assert bool(output.only_changes) is not refused


def test_a_conflict_is_refused_and_the_first_one_stands() -> None:
    stage, records = user_stage(), MemoryRecords()
    for offset, amount in enumerate((5, 6, 5)):
        value = json.dumps({**GOOD, "amount": amount}).encode()
        batch = InputBatch.of(0, [b"u"], [value], offset, [START])
        output = stage.run(batch, alone(records))
        records.write(output.only_changes)
        reasons = [r.reason for r in output.rejected]
        assert reasons == (["conflicting_duplicate"] if amount == 6 else [])
        assert output.duplicates == (offset == 2)
        assert len(output.forward_values) == (offset == 0)
    again = stage.run(batch, alone(records))
    assert again.fenced == 1
    assert nothing(again)
