"""`dafu score`: the same bytes as the stages make, whatever the file and the batches."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dafu.features.catalogue import FEATURES
from dafu.generator import generate, write
from dafu.ingest import TransactionReader, load_mapping, to_records
from dafu.loading import load_stages
from dafu.settings import load_settings
from dafu.stages.pipeline import Pipeline
from tests.cli.conftest import Run
from tests.cli.test_topics import _send

HEADER = "transaction_id,user_id,merchant_id,amount,timestamp\n"


@pytest.fixture(scope="module")
def payments() -> pa.Table:
    return generate(users=40, merchants=15, days=8, seed=3, fraud_rate=0.05)


@pytest.fixture
def file(payments: pa.Table, run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "payments.parquet"
    write(payments, path)
    return path


def test_payloads_and_features_are_those_of_the_stages(run: Run, file: Path) -> None:
    ran = run("score", file, "--out", "d.jsonl", "--batch-records", "7")
    assert (ran.code, ran.err) == (0, "")
    payloads = Path("d.jsonl").read_bytes().splitlines()

    pipeline = Pipeline(*load_stages(load_settings()))
    records = [r for b in TransactionReader(file, load_mapping("dafu")) for r in to_records(b)]
    _, expected = pipeline.run([key for key, _ in records], [value for _, value in records])
    assert len(payloads) == len(records) > 300
    assert expected.decisions == payloads

    ran = run("score", file, "--out", "d.parquet", "--features", "f.parquet")
    assert ran.code == 0
    assert ran.out.startswith(f"scored {len(records):,} transactions in ")
    assert "wrote d.parquet and f.parquet" in ran.out
    assert parquet.read_table("d.parquet").column("payload").to_pylist() == payloads
    features = parquet.read_table("f.parquet")
    assert features.column_names == ["transaction_id", *(f.name for f in FEATURES)]
    assert features.column("transaction_id").to_pylist() == [
        json.loads(payload)["transaction_id"] for payload in payloads
    ]
    matrix = np.column_stack([c.to_numpy() for c in features.columns[1:]])
    np.testing.assert_array_equal(matrix, expected.features)
    nulls = [column.null_count for column in features.columns[1:]]
    assert nulls == np.isnan(expected.features).sum(axis=0).tolist()
    assert sum(nulls) > 0


@pytest.mark.broker
def test_files_of_scores_and_of_the_topic_are_alike(run: Run, file: Path, topics: str) -> None:
    assert run("score", file, "--out", "scored.parquet").code == 0
    scored = parquet.read_table("scored.parquet")
    payloads = scored.column("payload").to_pylist()
    users = [name.encode() for name in scored.column("user_id").to_pylist()]
    asyncio.run(_send(f"{topics}decisions", users, payloads, partition=0))
    assert run("decisions", "--out", "decided.parquet").code == 0
    assert parquet.read_table("decided.parquet").equals(scored)


def test_part_of_a_file(run: Run, file: Path, payments: pa.Table) -> None:
    times = payments.column("timestamp").to_pylist()
    ran = run("score", file, "--out", "d.csv", "--since", "2025-01-03", "--until", "2025-01-05")
    wanted = sum("2025-01-03" <= time < "2025-01-05" for time in times)
    assert ran.out.startswith(f"scored {wanted:,} transactions")
    assert run("score", file, "--out", "e.csv", "--limit", "5").code == 0
    assert len(Path("e.csv").read_text().splitlines()) == 6


def test_rows_that_are_no_transactions(run: Run) -> None:
    rows = ["t1,u,m,5,2020-01-01", "t2,u,m,-5,2020-01-02", "t1,u,m,5,2020-01-01", "t3,u,m,6,x"]
    Path("a.csv").write_text(HEADER + "\n".join(rows[:3]) + "\n")
    ran = run("score", "a.csv", "--out", "d.jsonl", "--features", "f.parquet")
    assert ran.code == 1
    assert "invalid_field" in ran.err
    assert "--skip-bad" in ran.err
    assert [p.name for p in Path().iterdir()] == ["a.csv"]

    Path("a.csv").write_text(HEADER + "\n".join(rows) + "\n")
    ran = run("score", "a.csv", "--out", "d.jsonl", "--skip-bad")
    assert ran.code == 0
    assert ran.out.startswith("scored 1 transactions")
    assert "1 rows repeat a transaction_id" in ran.out
    assert "left out 1 bad rows" in ran.err
    assert "no valid transactions: invalid_field 1" in ran.err
    assert len(Path("d.jsonl").read_bytes().splitlines()) == 1


def test_a_place_that_can_not_be_written(run: Run, file: Path) -> None:
    for more in (("--out", "no/d.parquet"), ("--out", "d.csv", "--features", "no/f.parquet")):
        ran = run("score", file, *more)
        assert ran.code == 1
        assert "can not be written: No such file or directory" in ran.err
    assert [p.name for p in Path().iterdir()] == [file.name]


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.csv"],
        ["a.csv", "--out", "d.txt"],
        ["a.csv", "--out", "d.csv", "--features", "f.csv"],
        ["a.csv", "--out", "d.parquet", "--features", "d.parquet"],
        ["a.csv", "--out", "d.csv", "--since", "soon"],
    ],
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    assert run("score", *arguments).code == 2
