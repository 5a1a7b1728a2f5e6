"""`dafu performance`: files and topics of decisions, joined with what became known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from dafu.cli.kafka import ensure_topic, opened_producer
from dafu.columns import ByteColumn
from dafu.decision_files import open_decision_file
from dafu.decision_reading import read_decisions
from dafu.generator import generate, write
from dafu.ingest import TransactionReader, load_mapping, to_records
from dafu.schema import CandidateScore, Decision, decode_decision, encode_decision
from dafu.settings import load_settings
from dafu.streaming.sender import BatchSender
from tests.cli.conftest import Run
from tests.performance.records import DAY, START, decision, iso, label

DAYS = 30


def document(name: str = "p.json") -> Any:
    return json.loads(Path(name).read_text())


@pytest.fixture
def file(run: Run, tmp_path: Path) -> Path:
    """Generated payments with labels, from 2025-01-01 on."""
    path = tmp_path / "payments.parquet"
    write(generate(users=40, merchants=10, days=DAYS, seed=9, fraud_rate=0.05), path)
    return path


def test_a_scored_file_with_labels(run: Run, file: Path) -> None:
    assert run("score", file, "--out", "d.jsonl").code == 0
    ran = run("performance", "d.jsonl", "--labels", file, "--json", "p.json")
    assert (ran.code, ran.err) == (0, "")
    assert "champion isolation_forest+rules" in ran.out
    assert "wrote p.json" in ran.out
    assert "note" not in ran.out
    made = [decode_decision(line) for line in Path("d.jsonl").read_bytes().splitlines()]
    table = TransactionReader(file, load_mapping("dafu"))
    rows = [row for batch in table for row in batch.to_pylist()]
    fraud = {row["transaction_id"]: row["is_fraud"] for row in rows}
    amount = {row["transaction_id"]: row["amount"] for row in rows}
    (total,) = document()["report"]["totals"]
    y = np.array([fraud[d.transaction_id] for d in made], dtype=bool)
    risk = np.array([d.risk_score for d in made])
    alert = np.array([d.decision != "approve" for d in made])
    worth = np.array([amount[d.transaction_id] for d in made])
    assert y.any()
    assert total["version"] == made[0].versions.model
    assert (total["decisions"], total["mature"], total["immature"]) == (len(made), len(made), 0)
    assert total["frauds"] == y.sum()
    assert total["true_positives"] == (y & alert).sum()
    assert total["false_positives"] == (~y & alert).sum()
    assert total["fraud_value"] == pytest.approx(worth[y].sum())
    assert total["value_detected"] == pytest.approx(worth[y & alert].sum() / worth[y].sum())
    assert total["average_precision"] == pytest.approx(average_precision_score(y, risk))
    assert total["auc_roc"] == pytest.approx(roc_auc_score(y, risk))
    weeks = [row["period"] for row in document()["report"]["rows"]]
    assert weeks == ["2024-12-30", "2025-01-06", "2025-01-13", "2025-01-20", "2025-01-27"]


def test_what_is_known_grows_with_time(run: Run, file: Path) -> None:
    """A week later there is more to judge, and nothing is judged before its label could come."""
    assert run("score", file, "--out", "d.jsonl").code == 0
    totals = []
    for as_of in ("2025-01-15", "2025-01-22", "2025-03-01"):
        options = ("--as-of", as_of, "--json", "p.json", "--delay-days", "3", "--period", "day")
        assert run("performance", "d.jsonl", "--labels", file, *options).code == 0
        totals.append(document()["report"]["totals"][0])
        assert len(document()["report"]["rows"]) == min(DAYS, int(as_of[-2:]) - 1 or DAYS)
    assert 0 < totals[0]["mature"] < totals[1]["mature"] < totals[2]["mature"]
    assert totals[0]["mature"] + totals[0]["immature"] == totals[0]["decisions"]
    assert totals[0]["immature_frauds"] > 0  # known after three days, judged after seven
    assert totals[2]["immature"] == 0
    late = ("--as-of", "2025-01-15", "--json", "p.json", "--delay-days", "30")
    assert run("performance", "d.jsonl", "--labels", file, *late).code == 0
    blind = document()["report"]["totals"][0]
    assert (blind["frauds"], blind["labelled"], blind["recall"]) == (0, 0, None)


def test_nothing_to_judge(run: Run, file: Path) -> None:
    assert run("score", file, "--out", "d.jsonl").code == 0
    ran = run("performance", "d.jsonl", "--labels", file, "--as-of", "2020-01-01")
    assert (ran.code, "there are no decisions to judge" in ran.out) == (0, True)


def several() -> list[Decision]:
    shadow = CandidateScore("shadow", "trees", "c1", 0.9)
    return [
        decision("t0", START, "block", 0.95, candidates=[shadow]),
        decision("t1", START + DAY, "approve", 0.25, model="v2", rules='r"2'),
        decision("t,2", START + 8 * DAY, "review", 0.75, model=None),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_files_read_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"d{suffix}"
    made = several()
    sink = open_decision_file(path)
    sink.write([(d, encode_decision(d)) for d in made])
    sink.close()
    assert list(read_decisions(path)) == made


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("d.txt", b"", "none of the suffixes"),
        ("d.jsonl", b"{}\n", "row 1 is no decision: Object missing required field"),
        ("d.jsonl", b"\xff\n", "row 1 is no decision"),
        ("d.csv", b"transaction_id,scores\nx,{\n", "row 1 is no decision"),
        ("d.parquet", b"nonsense", "is no Parquet file"),
    ],
)
def test_files_that_hold_no_decisions(run: Run, name: str, content: bytes, why: str) -> None:
    Path(name).write_bytes(content)
    ran = run("performance", name, "--labels", "x.csv")
    assert ran.code == 1
    assert why in ran.err


def test_other_files_that_do_not_serve(run: Run, file: Path) -> None:
    ran = run("performance", "nowhere.jsonl", "--labels", file)
    assert (ran.code, ran.err) == (
        1,
        "error: nowhere.jsonl can not be read: No such file or directory\n",
    )
    write(generate(users=3, merchants=2, days=2, seed=1), Path("other.parquet"))
    ran = run("performance", "other.parquet", "--labels", file)
    assert (ran.code, "it holds no decisions" in ran.err) == (1, True)
    assert run("score", file, "--out", "d.jsonl", "--limit", "3").code == 0
    header = "transaction_id,user_id,merchant_id,amount,timestamp"
    Path("bare.csv").write_text(f"{header}\nt,u,m,1.0,2025-01-01T00:00:00Z\n")
    ran = run("performance", "d.jsonl", "--labels", "bare.csv")
    assert ran.code == 1
    assert "bare.csv has no labels of the time of the decisions" in ran.err
    at = json.loads(Path("d.jsonl").read_text().splitlines()[0])["timestamp"]
    Path("bare.csv").write_text(f"{header}\nt,u,m,1.0,{at}\n")
    ran = run("performance", "d.jsonl", "--labels", "bare.csv")
    assert ran.code == 1
    assert "bare.csv has no labels: the mapping's `labels` say where" in ran.err


@pytest.mark.parametrize(
    "arguments", [["--period", "year"], ["--as-of", "soon"], ["--maturity-days", "-1"]]
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    assert run("performance", "d.jsonl", *arguments).code == 2


def test_a_horizon_of_nothing(run: Run) -> None:
    ran = run("performance", "d.jsonl", "--horizon-days", "0")
    assert (ran.code, "a horizon of 0.0 days" in ran.err) == (1, True)


async def _send(topic: str, keys: Sequence[Any], values: Sequence[Any]) -> None:
    settings = load_settings()
    await ensure_topic(settings, topic)
    async with opened_producer(settings) as producer:
        await BatchSender(producer).send(topic, ByteColumn.of(keys), ByteColumn.of(values))


def send(topic: str, values: Sequence[bytes], key: bytes = b"u") -> None:
    asyncio.run(_send(topic, [key] * len(values), values))


@pytest.mark.broker
def test_topics_say_what_files_say(run: Run, topics: str, file: Path) -> None:
    """Decisions, late labels and transactions on the topics give the figures of the files."""
    assert run("score", file, "--out", "d.jsonl").code == 0
    decisions = Path("d.jsonl").read_bytes().splitlines()
    rows, records = [], []
    for batch in TransactionReader(file, load_mapping("dafu")):
        rows += batch.to_pylist()
        records += [value for _, value in to_records(batch)]
    labels = []
    for row in rows[::-1]:
        observed = int(row["timestamp"].timestamp() * 1000) + 7 * DAY
        one = label(row["transaction_id"], observed, row["is_fraud"] == 1, user=row["user_id"])
        if row["is_fraud"] == 1:  # first taken for genuine
            wrong = msgspec.structs.replace(one, is_fraud=False, observed_at=observed - 1)
            labels.append(msgspec.json.encode(wrong))
        labels.append(msgspec.json.encode(one))
    send(f"{topics}labels", [*labels, b"no label"])
    send(f"{topics}decisions", [*decisions, *decisions[:5]])
    options = ("--as-of", "2025-02-03", "--json")
    ran = run("performance", *options, "bare.json")
    assert ran.code == 0
    assert "no amounts, so no value but what labels tell: there is no topic" in ran.out
    (bare,) = document("bare.json")["report"]["totals"]
    assert (bare["fraud_value"], bare["value_detected"]) == (None, None)
    assert bare["frauds_without_amount"] == bare["frauds"] > 0
    send(f"{topics}transactions", records)
    ran = run("performance", *options, "topics.json")
    assert (ran.code, ran.err) == (0, "")
    assert "5 repeats of decisions were left out" in ran.out
    assert f"1 records on {topics}labels are no labels" in ran.out
    assert run("performance", "d.jsonl", "--labels", file, *options, "files.json").code == 0
    assert document("topics.json")["report"] == document("files.json")["report"]
    assert document("files.json")["report"]["totals"][0]["value_detected"] is not None


@pytest.mark.broker
def test_versions_and_candidates_have_tables_of_their_own(run: Run, topics: str) -> None:
    send(f"{topics}decisions", [encode_decision(d) for d in several()])
    labels = [
        label("t0", START + DAY, amount=10.0),
        label("t1", START + DAY, amount=30.0),
        label("unknown", START + DAY),
    ]
    send(f"{topics}labels", [msgspec.json.encode(one) for one in labels])
    ran = run("performance", "--as-of", iso(START + 12 * DAY), "--json", "p.json")
    assert ran.code == 0
    assert "1 labelled transactions have no decision here" in ran.out
    found = {
        (r["role"], r["version"]): (r["decisions"], r["mature"], r["frauds"], r["true_positives"])
        for r in document()["report"]["totals"]
    }
    assert found == {
        ("champion", "v1"): (1, 1, 1, 1),
        ("champion", "v2"): (1, 1, 1, 0),
        ("champion", None): (1, 0, 0, 0),
        ("shadow", "c1"): (1, 1, 1, 1),
    }
    assert "shadow trees c1" in ran.out
    assert "champion rules (no model)" in ran.out


@pytest.mark.broker
def test_no_labels_topic_yet(run: Run, topics: str) -> None:
    send(f"{topics}decisions", [encode_decision(d) for d in several()])
    ran = run("performance")
    assert ran.code == 1
    assert f"there is no topic {topics}labels" in ran.err
