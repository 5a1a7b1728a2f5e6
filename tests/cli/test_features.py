"""`dafu features FILE`: the table that `dafu score --features` would give, with labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import parquet

from dafu.features.catalogue import FEATURES
from dafu.generator import generate, write
from tests.cli.conftest import Run

HEADER = "transaction_id,user_id,merchant_id,amount,timestamp\n"


def test_features_of_a_file_are_those_of_its_decisions(run: Run) -> None:
    table = generate(users=20, merchants=8, days=9, seed=5, fraud_rate=0.05)
    write(table, "p.csv")
    ran = run("features", "p.csv", "--out", "f.parquet", "--until", "2025-01-08")
    assert (ran.code, ran.err) == (0, "")
    assert run("score", "p.csv", "--out", "d.csv", "--features", "g.parquet").code == 0
    found, scored = parquet.read_table("f.parquet"), parquet.read_table("g.parquet")
    assert ran.out.startswith(f"{len(found):,} transactions in ")
    assert ran.out.endswith("wrote f.parquet\n")
    names = ["transaction_id", *(f.name for f in FEATURES)]
    assert 100 < len(found) < len(scored) == len(table)
    assert found.select(names).equals(scored.slice(0, len(found)))
    assert (
        found.column("is_fraud").to_pylist() == table.column("is_fraud")[: len(found)].to_pylist()
    )


def test_rows_that_are_no_transactions(run: Run) -> None:
    rows = ["t1,u,m,5,2020-01-01", "t2,u,m,-5,2020-01-02", "t1,u,m,5,2020-01-01", "t3,u,m,6,x"]
    Path("a.csv").write_text(HEADER + "\n".join(rows[:3]) + "\n")
    ran = run("features", "a.csv", "--out", "f.parquet")
    assert ran.code == 1
    assert ran.err.startswith("error: row 2 is no valid transaction: invalid_field")
    assert [p.name for p in Path().iterdir()] == ["a.csv"]
    Path("a.csv").write_text(HEADER + "\n".join(rows) + "\n")
    ran = run("features", "a.csv", "--out", "f.parquet", "--skip-bad")
    assert ran.code == 0
    assert ran.out.startswith("1 transactions in ")
    assert "1 rows repeat a transaction_id" in ran.out
    assert "left out 1 bad rows" in ran.err
    assert "no valid transactions: invalid_field 1" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.csv"],
        ["a.csv", "--out", "f.csv"],
        ["--out", "f.parquet"],
        ["a.csv", "--out", "f.parquet", "--json"],
        ["a.csv", "--out", "f.parquet", "--since", "soon"],
    ],
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    Path("a.csv").write_text(HEADER)
    assert run("features", *arguments).code == 2
