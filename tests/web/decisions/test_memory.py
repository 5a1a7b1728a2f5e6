"""The ring of decisions beside a list of all that ever were."""

from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.schema import encode_decision
from dafu.streaming.records import RecordBatch, encode_headers
from dafu.web.decisions.memory import DecisionMemory, Made, begin_of, made_in
from tests.web.decisions.documents import decision, hashes, made

CAPACITY = 7
USERS = ["ada", "bob", "eve"]

chunks = st.lists(
    st.lists(st.tuples(st.sampled_from(USERS), st.integers(0, 5)), min_size=1, max_size=20),
    max_size=8,
)


def ids(one: Made) -> tuple[str, str, int]:
    return one.decision.user_id, one.decision.transaction_id, one.offset


@given(chunks, st.integers(1, 8))
def test_it_holds_what_the_end_of_a_list_of_all_would_hold(
    given_chunks: list[list[tuple[str, int]]], decisions_of_bytes: int
) -> None:
    size = len(made("ada", "t0").payload)
    memory = DecisionMemory(CAPACITY, size * decisions_of_bytes)
    everything: list[Made] = []
    for chunk in given_chunks:
        new = [made(user, f"t{n}", len(everything) + i) for i, (user, n) in enumerate(chunk)]
        memory.add(new, hashes(*(user for user, _ in chunk)))
        everything += new
        there = everything[-min(CAPACITY, decisions_of_bytes) :]
        assert memory.snapshot() == there[::-1] == list(memory.newest())
        assert len(memory) == len(there)
        assert memory.bytes == sum(len(m.payload) for m in there)
        assert memory.oldest() == there[0]
        assert memory.forgotten == len(everything) - len(there)
        for user in USERS:
            assert list(memory.of_user(user)) == [
                m for m in there[::-1] if m.decision.user_id == user
            ]
            for n in range(6):
                of_both = [m for m in there if ids(m)[:2] == (user, f"t{n}")]
                assert memory.find(user, f"t{n}") == (of_both[-1] if of_both else None)


def test_an_empty_one() -> None:
    memory = DecisionMemory(CAPACITY)
    memory.add([], hashes())
    assert (len(memory), memory.oldest(), memory.find("ada", "t1")) == (0, None, None)
    assert list(islice(memory.newest(), 3)) == []


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_beginning_of_a_payload_names_its_transaction(user: str, transaction: str) -> None:
    payload = encode_decision(decision(user, transaction))
    assert payload.startswith(begin_of(user, transaction))
    assert not payload.startswith(begin_of(user, transaction + "0"))
    assert not payload.startswith(begin_of(user + "0", transaction))


def test_a_chunk_of_the_topic_is_made_into_decisions() -> None:
    payload = encode_decision(decision("ada", "t1"))
    place = b"\0\0\0\3" + b"\0" * 7 + b"\x09"
    headers = encode_headers(
        [("dafu-source", place), ("dafu-latency-ms", b"7"), ("dafu-worker", b"host:3")]
    )
    batch = RecordBatch(
        "decisions",
        2,
        np.array([5, 9]),
        np.array([1_000, 2_000]),
        ByteColumn.of([b"ada", b"bob"]),
        ByteColumn.of([payload, None]),
        ByteColumn.of([headers, None]),
    )
    first, second = made_in(batch)
    assert (first.payload, first.partition, first.offset, first.timestamp) == (payload, 2, 5, 1_000)
    assert (first.decision, first.latency_ms, first.worker) == (decision("ada", "t1"), 7, "host:3")
    assert first.source == (3, 9)
    assert (second.payload, second.latency_ms, second.worker) == (b"", None, "")
    assert second.source is None
