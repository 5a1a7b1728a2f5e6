"""Several partitions in one batch: what comes of a partition does not depend on the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.agents.shell import Output, Stage
from dafu.columns import ByteColumn
from dafu.features.state import MERCHANTS, USERS, EntityLayout
from dafu.rules import compile_rules
from dafu.stages.batch import NO_TIMESTAMP, InputBatch, MerchantOutput, Piece, UserOutput
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.tables.records import MemoryRecords
from tests.oracle import Payment
from tests.streams import choices, payments, states, to_json, user_stage

Log = dict[int, list[tuple[bytes, bytes]]]
"""Keys and values by partition."""

PARTITIONS = 3
TURNS = st.lists(st.lists(st.integers(0, 6), min_size=PARTITIONS, max_size=PARTITIONS), max_size=6)
"""Turn by turn, how many records of each partition the batch takes."""


def log_of(stream: Sequence[Payment]) -> Log:
    """A stream over partitions: a user may be in two of them, and some records are garbage."""
    log: Log = {number: [] for number in range(PARTITIONS)}
    for i, payment in enumerate(stream):
        value = b"{" if i % 11 == 7 else to_json(payment)
        log[(len(payment.user_id) + i // 5) % PARTITIONS].append((payment.user_id.encode(), value))
    return log


def joint_batches(log: Log, turns: Iterable[Sequence[int]]) -> list[InputBatch]:
    """The log in batches of several partitions, in any order of partitions."""
    at = dict.fromkeys(log, 0)
    whole = [max(map(len, log.values()))] * len(log)
    out = []
    for number, turn in enumerate([*turns, whole]):
        keys: list[bytes] = []
        values: list[bytes] = []
        offsets: list[int] = []
        pieces = []
        for partition in sorted(log, reverse=number % 2 == 1):
            taken = log[partition][at[partition] : at[partition] + turn[partition]]
            if not taken:
                continue
            pieces.append(Piece(partition, len(keys), len(keys) + len(taken)))
            keys += [key for key, _ in taken]
            values += [value for _, value in taken]
            offsets += range(at[partition], at[partition] + len(taken))
            at[partition] += len(taken)
        columns = ByteColumn.of(keys), ByteColumn.of(values)
        if pieces:
            times = np.full(len(keys), NO_TIMESTAMP)
            out.append(InputBatch(pieces, *columns, np.array(offsets, np.int64), times))
    return out


def lone_batches(log: Log) -> list[InputBatch]:
    """The log partition by partition, each as one batch."""
    return [
        InputBatch.of(partition, [k for k, _ in log[partition]], [v for _, v in log[partition]])
        for partition in log
        if log[partition]
    ]


State = defaultdict[int, MemoryRecords]


def run(
    stage: Stage[Output], batches: Iterable[InputBatch]
) -> tuple[list[tuple[InputBatch, Output]], State]:
    state: State = defaultdict(MemoryRecords)
    out: list[tuple[InputBatch, Output]] = []
    for batch in batches:
        output = stage.run(batch, state.__getitem__)
        assert list(output.changes) == [piece.partition for piece in batch.pieces]
        for partition, changes in output.changes.items():
            state[partition].write(changes)
        out.append((batch, output))
    return out, state


def rejected(outputs: Iterable[tuple[InputBatch, Output]]) -> list[tuple[int, int, str, str]]:
    """Rejected records by where they stood."""
    return sorted(
        (int(batch.partitions[why.index]), int(batch.offsets[why.index]), why.reason, why.detail)
        for batch, output in outputs
        for why in output.rejected
    )


def forwarded(outputs: Iterable[tuple[InputBatch, UserOutput]]) -> list[tuple[bytes, bytes]]:
    return sorted(
        pair
        for _, output in outputs
        for pair in zip(output.forward_keys.present(), output.forward_values.present(), strict=True)
    )


def decided(outputs: Iterable[tuple[InputBatch, MerchantOutput]]) -> list[tuple[bytes, bytes]]:
    return sorted(
        pair
        for _, output in outputs
        for pair in zip(output.keys.present(), output.decisions.present(), strict=True)
    )


def same_states(layout: EntityLayout, one: State, other: State) -> bool:
    return {p: states(layout, r.data) for p, r in one.items()} == {
        p: states(layout, r.data) for p, r in other.items()
    }


@settings(max_examples=60, deadline=None)
@given(stream=st.lists(choices, min_size=1, max_size=60).map(payments), first=TURNS, second=TURNS)
def test_partitions_do_not_see_each_other(
    stream: list[Payment], first: list[list[int]], second: list[list[int]]
) -> None:
    log = log_of(stream)
    alone, its_state = run(user_stage(), lone_batches(log))
    together, their_state = run(user_stage(), joint_batches(log, first))
    assert rejected(together) == rejected(alone)
    assert same_states(USERS, their_state, its_state)
    assert forwarded(together) == forwarded(alone)
    by_merchant: Log = {number: [] for number in range(PARTITIONS)}
    for _, output in alone:
        keys, values = output.forward_keys.present(), output.forward_values.present()
        for key, value in zip(keys, values, strict=True):
            repeats = 2 if len(value) % 3 == 0 else 1  # a restarted stage one repeats itself
            by_merchant[key[-1] % PARTITIONS] += [(key, value)] * repeats
    by_merchant[1].append((b"m", b"not forwarded"))

    stage = MerchantStage(compile_rules([], {}, {}, {}), None, Thresholds())
    one_by_one, its_merchants = run(stage, lone_batches(by_merchant))
    in_one_go, their_merchants = run(stage, joint_batches(by_merchant, second))
    assert rejected(in_one_go) == rejected(one_by_one)
    assert same_states(MERCHANTS, their_merchants, its_merchants)
    assert decided(in_one_go) == decided(one_by_one)
    assert len(decided(in_one_go)) == len(forwarded(alone)), "one decision each"
    assert sum(o.repeats for _, o in in_one_go) == sum(o.repeats for _, o in one_by_one)
    # Everything once more: all of it is accounted for.
    again = [stage.run(batch, their_merchants.__getitem__) for batch in lone_batches(by_merchant)]
    assert all(len(output.decisions) == 0 and not output.only_changes for output in again)
