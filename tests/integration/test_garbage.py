"""Ten thousand good transactions among a thousand bad records, on four partitions.

One worker drains one log; every test looks at what came of it.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dafu.agents.shell import LATENCY, MAX_DEAD_LETTER_BYTES, SOURCE, SOURCE_PLACE, WORKER
from dafu.columns import ByteColumn
from dafu.features.state import MERCHANTS, USERS
from dafu.partitioner import partitions_for
from dafu.schema import MAX_RECORD_BYTES, decode_decision, parse_transaction
from dafu.streaming import dead_letters
from tests.asking import ask
from tests.integration.payments import (
    by_transaction,
    forwarded_from,
    payments,
    replay_merchants,
    replay_users,
    stages,
    states,
)
from tests.integration.worker import BRISK, Record, System

pytestmark = pytest.mark.broker

GOOD = 10_000
BAD = 1_000
WRONG_KEYS = 100
PARTITIONS = 4
HUGE = 950_000
"""Bytes of a record that a topic takes and that leave no room for a dead letter's headers."""


def _with(**changes: Any) -> Callable[[dict[str, Any], int], bytes]:
    return lambda good, i: json.dumps({**good, **changes, "n": i}).encode()


def _raw(text: bytes) -> Callable[[dict[str, Any], int], bytes]:
    return lambda _, i: text.replace(b"%d", b"%d" % i)


def _replacing(field: str, by: bytes) -> Callable[[dict[str, Any], int], bytes]:
    """One field's value in raw JSON, for what `json.dumps` does not write."""

    def make(good: dict[str, Any], i: int) -> bytes:
        return json.dumps({**good, field: "@", "n": i}).encode().replace(b'"@"', by)

    return make


def _without(field: str) -> Callable[[dict[str, Any], int], bytes]:
    return lambda good, i: json.dumps(
        {k: v for k, v in good.items() if k != field} | {"n": i}
    ).encode()


KINDS: tuple[tuple[str, Callable[[dict[str, Any], int], bytes | None]], ...] = (
    ("not_json", _raw(b"hello %d")),
    ("not_json", _raw(b'{"transaction_id": "cut %d", "user_id": "u", "amou')),
    ("not_json", _raw(b'{"a": %d} trailing')),
    ("not_json", _replacing("amount", b"NaN")),
    ("not_json", _replacing("user_agent", b'"\xff\xfe"')),
    ("not_json", _replacing("user_id", b'"\\ud800"')),
    ("empty", lambda _good, _i: b""),
    ("empty", lambda _good, _i: None),
    ("not_an_object", _raw(b"[%d]")),
    ("not_an_object", _raw(b"%d")),
    ("not_an_object", _raw(b'"text %d"')),
    ("missing_field", _without("amount")),
    ("missing_field", _without("transaction_id")),
    ("invalid_field", _with(amount="12.50")),
    ("invalid_field", _with(user_id=7)),
    ("invalid_field", _with(merchant_id="")),
    ("invalid_field", _with(amount=-0.01)),
    ("invalid_field", _with(amount=1e13)),
    ("invalid_field", _with(lat=91.0)),
    ("invalid_field", _with(device_fingerprint="x" * 1025)),
    ("invalid_field", _with(timestamp="yesterday")),
    ("not_json", _replacing("amount", b"1e999")),
    ("absurd_timestamp", _with(timestamp="1970-01-01T00:00:00Z")),
    ("absurd_timestamp", _with(timestamp=1_700_000_000)),
    ("absurd_timestamp", _with(timestamp=-1)),
    ("future_timestamp", _with(timestamp="2099-12-31T23:59:59Z")),
    ("oversized", _with(more="x" * MAX_RECORD_BYTES)),
    ("too_deep", _replacing("more", b"[" * 70 + b"]" * 70)),
    ("too_deep", _replacing("more", b'{"a":' * 9000 + b"1" + b"}" * 9000)),
)


@dataclasses.dataclass
class Case:
    """What was sent, and the logs after the worker was done."""

    good: dict[str, bytes]
    bad: list[tuple[str, Record]]
    wrong_keys: set[str]
    status: dict[str, Any]
    transactions: list[list[Any]]
    by_merchant: list[list[Any]]
    decisions: list[Any]
    dead_letters: list[Any]
    users: list[dict[bytes, bytes]]
    merchants: list[dict[bytes, bytes]]


def mixture() -> tuple[list[Record], list[Any], Case]:
    """Records and headers to publish, and the part of the case that is known before."""
    choose = random.Random(5)
    stream = payments(GOOD, seed=21)
    bad_at = set(choose.sample(range(200, GOOD), BAD - 1))
    wrong_at = set(choose.sample(range(GOOD), WRONG_KEYS))
    records: list[Record] = []
    headers: list[list[tuple[str, bytes]]] = []
    case = Case({}, [], set(), {}, [], [], [], [], [], [])

    def add(key: bytes | None, value: bytes | None, *, rerouted: bool = False) -> None:
        records.append((key, value))
        headers.append([(dead_letters.REROUTED, b"1")] if rerouted else [])

    def add_bad(reason: str, key: bytes | None, value: bytes | None, **more: bool) -> None:
        case.bad.append((reason, (key, value)))
        add(key, value, **more)

    for i, (key, value) in enumerate(stream):
        document = json.loads(value)
        case.good[document["transaction_id"]] = value
        if i in wrong_at:
            case.wrong_keys.add(document["transaction_id"])
            add(choose.choice([None, b"", b"somebody else", key + b" "]), value)
        else:
            add(key, value)
        if i not in bad_at:
            continue
        kind = len(case.bad) % (len(KINDS) + 2)
        if kind < len(KINDS):
            reason, make = KINDS[kind]
            add_bad(reason, choose.choice([key, b"k%d" % i, None]), make(document, i))
        elif kind == len(KINDS):
            changed = json.dumps({**document, "amount": document["amount"] + 1}).encode()
            # Of a transaction with a wrong key the first one to arrive is this one.
            if i in wrong_at:
                add_bad("not_json", key, b"instead of a conflict %d" % i)
            else:
                add_bad("conflicting_duplicate", key, changed)
        else:
            other = json.dumps({**document, "transaction_id": f"astray-{i}"}).encode()
            add_bad("wrong_key", b"nobody", other, rerouted=True)
    add_bad("oversized", b"huge", b"x" * HUGE)
    return records, headers, case


@pytest.fixture(scope="module")
def case(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return asyncio.run(drain(bootstrap, tmp_path_factory.mktemp("garbage")))


async def drain(bootstrap: str, directory: Path) -> Case:
    records, headers, case = mixture()
    system = System(bootstrap, directory, PARTITIONS, app=BRISK, DAFU_RINGS="false")
    await system.create(system.topics.transactions)
    await system.publish(records, headers)
    with system.worker() as worker:
        await worker.ready()
        await system.drained(worker)
        case.status = (await asyncio.to_thread(ask, f"{worker.base}/v1/status"))[1]
    case.transactions = await system.read(system.topics.transactions)
    case.by_merchant = await system.read(system.topics.transactions_by_merchant)
    case.decisions = await system.read_flat(system.topics.decisions)
    case.dead_letters = await system.read_flat(system.topics.dead_letters)
    case.users = [records.data for records in await system.rebuilt("users")]
    case.merchants = [records.data for records in await system.rebuilt("merchants")]
    return case


def test_there_are_as_many_kinds_as_promised(case: Case) -> None:
    reasons = collections.Counter(reason for reason, _ in case.bad)
    assert len(case.good) == GOOD
    assert sum(reasons.values()) == BAD
    assert len(reasons) == 11
    assert min(count for reason, count in reasons.items() if reason != "oversized") > 20


def test_every_good_transaction_is_decided_once(case: Case) -> None:
    names = [decode_decision(r.value).transaction_id for r in case.decisions]
    assert len(names) == GOOD
    assert set(names) == case.good.keys()


def test_decisions_are_keyed_by_user(case: Case) -> None:
    for record in case.decisions:
        decision = decode_decision(record.value)
        assert record.key == decision.user_id.encode()
        assert record.partition == partitions_for(ByteColumn.of([record.key]), PARTITIONS)[0]
        headers = dict(record.headers)
        partition, offset = SOURCE_PLACE.unpack(headers[SOURCE])
        source, _ = parse_transaction(case.transactions[partition][offset].value)
        assert (source.user_id, source.transaction_id) == (
            decision.user_id,
            decision.transaction_id,
        )
        assert int(headers[LATENCY]) >= 0
        assert headers[WORKER].endswith(b":%d" % int(case.status["worker"]["name"].split(":")[1]))


def test_every_bad_record_is_a_dead_letter_as_it_came(case: Case) -> None:
    log = {(r.partition, r.offset): r for part in case.transactions for r in part}
    expected = collections.Counter((reason, *record) for reason, record in case.bad)
    expected -= collections.Counter({("oversized", b"huge", b"x" * HUGE): 1})
    found: collections.Counter[tuple[str, bytes | None, bytes | None]] = collections.Counter()
    places = set()
    for letter in case.dead_letters:
        origin = dead_letters.read_headers(letter.headers)
        assert origin is not None
        assert origin.detail
        source = log[origin.partition, origin.offset]
        assert (origin.topic, origin.timestamp) == (source.topic, source.timestamp)
        places.add((origin.partition, origin.offset))
        if source.key == b"huge":
            continue
        assert (letter.key, letter.value) == (source.key, source.value)
        found[origin.reason, letter.key, letter.value] += 1
    assert found == expected
    assert len(case.dead_letters) == len(places) == BAD


def test_a_record_too_large_for_a_dead_letter_is_cut_and_says_so(case: Case) -> None:
    (letter,) = [r for r in case.dead_letters if r.key == b"huge"]
    origin = dead_letters.read_headers(letter.headers)
    assert origin is not None
    assert origin.reason == "oversized"
    assert f"cut to {MAX_DEAD_LETTER_BYTES} of {HUGE + 4} bytes" in origin.detail
    assert letter.value == b"x" * (MAX_DEAD_LETTER_BYTES - 4)


def test_wrong_keys_go_round_once(case: Case) -> None:
    again = [r for part in case.transactions for r in part if r.headers and r.key != b"nobody"]
    assert len(again) == WRONG_KEYS == case.status["agents"]["users"]["rerouted"]
    for record in again:
        document = json.loads(record.value)
        assert document["transaction_id"] in case.wrong_keys
        assert record.value == case.good[document["transaction_id"]]
        assert record.key == document["user_id"].encode()
        assert record.partition == partitions_for(ByteColumn.of([record.key]), PARTITIONS)[0]


def test_the_worker_says_what_it_did(case: Case) -> None:
    assert case.status["ready"]
    agents = case.status["agents"]
    assert agents["users"]["records"] == GOOD + BAD + WRONG_KEYS
    assert agents["users"]["rejected"] == BAD
    assert agents["users"]["outputs"] == agents["merchants"]["outputs"] == GOOD
    assert agents["merchants"]["rejected"] == agents["merchants"]["repeats"] == 0


cuts = pytest.mark.parametrize("cut", [1000, 97])


@cuts
def test_a_replay_of_the_transactions_forwards_the_same_bytes(case: Case, cut: int) -> None:
    forwarded = forwarded_from(r for part in case.by_merchant for r in part)
    assert set(forwarded) == set(range(PARTITIONS))
    for partition, log in enumerate(case.transactions):
        replayed, records = replay_users(log, stages(rings=False)[0], cut)
        assert forwarded[partition] == replayed
        found = states(USERS, case.users[partition])
        assert found
        assert found == states(USERS, records.data)


@cuts
def test_a_replay_by_merchant_gives_the_same_bytes(case: Case, cut: int) -> None:
    published = by_transaction(r.value for r in case.decisions)
    keys = {r.value: r.key for r in case.decisions}
    total = 0
    for partition, log in enumerate(case.by_merchant):
        replayed, records = replay_merchants(log, stages(rings=False)[1], cut)
        for key, payload in replayed:
            assert published[decode_decision(payload).transaction_id] == payload
            assert keys[payload] == key
        total += len(replayed)
        found = states(MERCHANTS, case.merchants[partition])
        assert found
        assert found == states(MERCHANTS, records.data)
    assert total == GOOD
