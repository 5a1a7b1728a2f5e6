"""Commands that talk to a broker: publish a file, read decisions, go through dead letters."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from dafu.cli.kafka import ensure_topic, opened_producer, read_topic
from dafu.columns import ByteColumn
from dafu.schema import Decision, Explanations, FiredRule, Reason, Versions, encode_decision
from dafu.settings import load_settings
from dafu.streaming.dead_letters import Origin, headers
from dafu.streaming.records import encode_headers
from dafu.streaming.sender import BatchSender
from tests.cli.conftest import Run

pytestmark = pytest.mark.broker


async def _send(topic: str, keys: Sequence[Any], values: Sequence[Any], **more: Any) -> None:
    settings = load_settings()
    await ensure_topic(settings, topic)
    async with opened_producer(settings) as producer:
        await BatchSender(producer).send(topic, ByteColumn.of(keys), ByteColumn.of(values), **more)


async def _read(topic: str) -> list[Any]:
    return [r async for records in read_topic(load_settings(), topic) for r in records]


def records(topic: str) -> list[tuple[bytes | None, bytes | None]]:
    return [(r.key, r.value) for r in asyncio.run(_read(topic))]


def rows(n: int) -> str:
    lines = [f"t{i},user-{i % 7},m{i % 3},{i}.5,2020-01-01T00:00:{i % 60:02}Z\n" for i in range(n)]
    return "transaction_id,user_id,merchant_id,amount,timestamp\n" + "".join(lines)


def test_publish(run: Run, topics: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(rows(2500))
    ran = run("publish", "a.csv")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"published 2,500 transactions to {topics}transactions in ")
    found = asyncio.run(_read(f"{topics}transactions"))
    assert {r.partition for r in found} == {0, 1}
    documents = [json.loads(r.value) for r in found]
    assert sorted(int(d["transaction_id"][1:]) for d in documents) == list(range(2500))
    assert all(r.key.decode() == d["user_id"] for r, d in zip(found, documents, strict=True))
    by_user: dict[str, list[int]] = {}
    for d in documents:
        by_user.setdefault(d["user_id"], []).append(int(d["transaction_id"][1:]))
    assert all(ids == sorted(ids) for ids in by_user.values())


def test_publish_part_quietly_elsewhere(run: Run, topics: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(rows(60) + "t,u,m,x,2020-01-01\n")
    other = f"{topics}other"
    ran = run("publish", "a.csv", "--topic", other, "--since", "2020-01-01T00:00:10", "--quiet")
    assert ran.code == 1
    assert "a.csv, row 61: column `amount`" in ran.err
    window = ("--since", "2020-01-01T00:00:10", "--until", "2020-01-01T00:00:15")
    ran = run("publish", "a.csv", "--topic", other, *window, "--skip-bad", "--quiet")
    assert (ran.code, ran.out) == (0, "")
    assert "left out 1 bad rows" in ran.err
    assert len(records(other)) == 5


@pytest.mark.parametrize(
    ("pace", "seconds"), [(("--rate", "100"), 0.5), (("--speedup", "50"), 59 / 50)]
)
def test_publish_at_a_pace(
    run: Run, topics: str, tmp_path: Path, pace: tuple[str, str], seconds: float
) -> None:
    (tmp_path / "a.csv").write_text(rows(60))
    ran = run("publish", "a.csv", *pace)
    assert ran.code == 0
    found = asyncio.run(_read(f"{topics}transactions"))
    assert len(found) == 60
    times = sorted(r.timestamp for r in found)
    assert times[-1] - times[0] >= seconds * 1000 * 0.9


def decision(i: int, kind: Any = "approve") -> bytes:
    return encode_decision(
        Decision(
            transaction_id=f"t{i}",
            user_id=f"u{i % 3}",
            merchant_id="m",
            timestamp="2020-01-01T00:00:00.000Z",
            decision=kind,
            risk_score=0.25,
            risk_level="low",
            is_fraud=kind != "approve",
            confidence=0.75,
            model_used="rules",
            scores={"rules": 0.25},
            explanations=Explanations(0.25, 0.0, 0.0, 0.0),
            reasons=[Reason("rule:a", 'amount "1" > 0')],
            rules_fired=[FiredRule("a", kind, 0.25, "live")],
            versions=Versions("r", None, None, "f", "t"),
            degraded=True,
        )
    )


@pytest.fixture
def decided(topics: str) -> list[bytes]:
    """Ten decisions on the topic, one of them twice, in the order of partitions."""
    kinds = ["approve", "review", "block"]
    payloads = [decision(i, kinds[i % 3]) for i in range(10)]
    sent = [*payloads, payloads[4]]
    topic = f"{topics}decisions"
    asyncio.run(_send(topic, [b"k"] * 11, sent, partition=np.append(np.arange(10) % 2, 0)))
    return payloads[0::2] + payloads[1::2]


def test_decisions_as_lines(run: Run, decided: list[bytes]) -> None:
    ran = run("decisions")
    assert ran.code == 0
    assert ran.out.encode() == b"\n".join(decided) + b"\n"
    assert run("decisions", "--limit", "3").out.encode() == b"\n".join(decided[:3]) + b"\n"
    blocked = run("decisions", "--only", "block").out.splitlines()
    assert [json.loads(line)["transaction_id"] for line in blocked] == ["t2", "t8", "t5"]


def test_decisions_counted(run: Run, decided: list[bytes], topics: str) -> None:
    ran = run("decisions", "--count")
    assert ran.out == "10 decisions (approve 4, review 3, block 3), 1 repeats\n"
    assert ran.err == ""
    asyncio.run(_send(f"{topics}decisions", [b"k"], [decision(0, "block")]))
    ran = run("decisions", "--count")
    assert ran.out == "10 decisions (approve 4, review 3, block 3), 2 repeats\n"
    assert "1 repeats differ" in ran.err


def test_decisions_followed_until_there_are_enough(run: Run, decided: list[bytes]) -> None:
    assert (
        len(run("decisions", "--follow", "--limit", "10", "--timeout", "20").out.split("\n")) == 11
    )
    ran = run("decisions", "--follow", "--count", "--timeout", "1")
    assert ran.out.startswith("10 decisions")


def test_decisions_in_files(run: Run, decided: list[bytes], tmp_path: Path) -> None:
    for name in ("d.jsonl", "d.csv", "d.parquet"):
        assert run("decisions", "--out", name).code == 0
    assert (tmp_path / "d.jsonl").read_bytes() == b"\n".join(decided) + b"\n"
    table = parquet.read_table(tmp_path / "d.parquet")
    assert table.column("payload").to_pylist() == decided
    assert table.column_names == [*Decision.__struct_fields__, "payload"]
    documents = [json.loads(payload) for payload in decided]
    assert table.column("is_fraud").to_pylist() == [d["is_fraud"] for d in documents]
    assert json.loads(table.column("reasons")[0].as_py()) == documents[0]["reasons"]
    with (tmp_path / "d.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["transaction_id"] for row in found] == [d["transaction_id"] for d in documents]
    assert [json.loads(row["is_fraud"]) for row in found] == [d["is_fraud"] for d in documents]
    assert json.loads(found[0]["versions"]) == documents[0]["versions"]
    ran = run("decisions", "--out", "no/such/d.parquet")
    assert ran.code == 1
    assert "can not be written" in ran.err


def test_decisions_of_nobody(run: Run, topics: str) -> None:
    ran = run("decisions")
    assert ran.code == 1
    assert f"there is no topic {topics}decisions" in ran.err
    ran = run("decisions", "--follow", "--timeout", "0.5", "--count")
    assert (ran.code, ran.out) == (0, "0 decisions (approve 0, review 0, block 0), 0 repeats\n")


@pytest.fixture
def letters(topics: str) -> list[tuple[bytes | None, bytes | None, str]]:
    """Dead letters of two reasons and two topics, one with bytes that are no text."""
    source = f"{topics}transactions"
    found: list[tuple[bytes | None, bytes | None, str]] = [
        (b"u1", b'{"a":1}', "missing_field"),
        (None, b"\xff\x00", "not_json"),
        (b"u3", b"", "empty"),
        (b"u4", b"{", "not_json"),
    ]
    origins = [
        Origin(reason, f"detail of {i}", source, 1, 40 + i, 1_577_836_800_000)
        for i, (_, _, reason) in enumerate(found)
    ]
    asyncio.run(
        _send(
            f"{topics}dead-letters",
            [key for key, _, _ in found],
            [value for _, value, _ in found],
            partition=0,
            headers=ByteColumn.of([encode_headers(headers(o)) for o in origins]),
        )
    )
    return found


def test_dead_letters_listed(run: Run, topics: str, letters: list[Any]) -> None:
    lines = [json.loads(line) for line in run("dead-letters").out.splitlines()]
    assert [line["reason"] for line in lines] == [reason for _, _, reason in letters]
    assert lines[0] == {
        "reason": "missing_field",
        "detail": "detail of 0",
        "topic": f"{topics}transactions",
        "partition": 1,
        "offset": 40,
        "timestamp": 1_577_836_800_000,
        "key": "u1",
        "value": '{"a":1}',
    }
    assert (lines[1]["key"], lines[1]["value_base64"]) == (None, "/wA=")
    assert len(run("dead-letters", "--limit", "2").out.splitlines()) == 2
    assert len(run("dead-letters", "--reason", "not_json").out.splitlines()) == 2


def test_dead_letters_published_again(run: Run, topics: str, letters: list[Any]) -> None:
    source = f"{topics}transactions"
    asyncio.run(ensure_topic(load_settings(), source))
    chosen = ("dead-letters", "--republish", "--reason", "not_json")
    ran = run(*chosen, "--dry-run")
    assert ran.out == f"would publish 2 records to {source}\n"
    assert records(source) == []
    ran = run(*chosen)
    assert ran.out == f"published 2 records to {source}\n"
    assert sorted(records(source), key=repr) == sorted(
        [(None, b"\xff\x00"), (b"u4", b"{")], key=repr
    )
    assert "no such" in run("dead-letters", "--republish", "--reason", "nope").out
