"""The stream of a chaos run: good transactions, rings among their users, labels, and everything
that producers get wrong.

A pure function of its arguments. What is to come of it is written down as it is made, so that the
check does not depend on the logs alone.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any, Final

import msgspec

from dafu.generator import generate
from dafu.ingest import to_records
from dafu.streaming import dead_letters
from tests.integration.test_garbage import KINDS

BUSY_USERS: Final = 4
"""Users who share `BUSY_SHARE` of the stream: enough to fill chunks and archives."""
BUSY_SHARE: Final = 0.06

LATE, REPEATED, CONFLICTING, WRONG_KEY, GARBAGE, ASTRAY = 0.05, 0.03, 0.01, 0.01, 0.01, 0.002
"""Shares of the transactions that come late, come again, come again with another amount, under a
wrong key, are followed by garbage, or by a record that keeps its wrong key."""
LABELLED: Final = 0.02
"""Share of the transactions that a label is told of, some of them before the transaction comes."""
FAR: Final = 2000
"""Records by which something comes late, or again, at most."""


class Sent(msgspec.Struct):
    """One record to publish. `partition` only where the key does not say; `label` if it is one."""

    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: list[tuple[str, bytes]] = []
    label: bool = False


class Traffic(msgspec.Struct):
    """Records in the order to publish them, and what must come of them.

    `good` are the ids to be decided, `rejected` dead letters by reason, `rerouted` how many
    records come under a wrong key and go round once.
    """

    records: list[Sent]
    good: set[str]
    rejected: Counter[str]
    rerouted: int


def make_traffic(count: int, seed: int, partitions: int) -> Traffic:
    """A stream with so many good transactions (and some ten per cent of other records)."""
    choose = random.Random(f"traffic {seed}")
    placed: list[tuple[float, Sent]] = []
    traffic = Traffic([], set(), Counter(), 0)

    def place(at: float, *sent: Any, **more: Any) -> None:
        placed.append((at, Sent(*sent, **more)))

    def soon(i: int) -> float:
        return i + choose.uniform(1, FAR)

    for i, (key, document) in enumerate(_payments(count, seed, choose)):
        name = document["transaction_id"]
        value = json.dumps(document).encode()
        traffic.good.add(name)
        at = soon(i) if choose.random() < LATE else float(i)
        if choose.random() < WRONG_KEY:
            # No conflict for this one: which of the two came first would be a matter of timing.
            wrong = choose.choice([None, b"", b"somebody else", key + b" "])
            place(at, wrong, value, choose.randrange(partitions) if not wrong else None)
            traffic.rerouted += 1
        else:
            place(at, key, value)
            if choose.random() < REPEATED:
                place(soon(int(at)), key, value)
            if choose.random() < CONFLICTING:
                other = json.dumps({**document, "amount": document["amount"] + 1}).encode()
                place(soon(int(at)), key, other)
                traffic.rejected["conflicting_duplicate"] += 1
        if choose.random() < LABELLED:
            label = {
                "transaction_id": name,
                "user_id": document["user_id"],
                "is_fraud": choose.random() < 0.8,
                "source": "chargeback",
                "observed_at": document["timestamp"],
            }
            place(soon(i) - FAR / 10, key, json.dumps(label).encode(), label=True)
        if choose.random() < GARBAGE:
            reason, make = KINDS[choose.randrange(len(KINDS))]
            place(i + 0.5, choose.choice([key, b"k%d" % i]), make(document, i))
            traffic.rejected[reason] += 1
        if choose.random() < ASTRAY:
            other = json.dumps({**document, "transaction_id": f"astray-{i}"}).encode()
            headers = [(dead_letters.REROUTED, b"1")]
            place(i + 0.5, b"nobody", other, headers=headers)
            traffic.rejected["wrong_key"] += 1
    placed.sort(key=lambda pair: pair[0])
    traffic.records = [sent for _, sent in placed]
    return traffic


def _payments(count: int, seed: int, choose: random.Random) -> list[tuple[bytes, dict[str, Any]]]:
    groups = max(count // 500, 2)
    table = generate(
        users=max(count // 10, 50),
        merchants=60,
        days=10,
        seed=seed,
        rings=groups,
        look_alikes=groups,
    )
    records = [r for batch in table.to_batches() for r in to_records(batch)][:count]
    assert len(records) == count, "the generator made too few payments"
    out = []
    for _, value in records:
        document = json.loads(value)
        if choose.random() < BUSY_SHARE:
            document["user_id"] = f"busy-{choose.randrange(BUSY_USERS)}"
        out.append((document["user_id"].encode(), document))
    return out
