"""`dafu evaluate`: a model package or a file of scores, on labelled payments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from dafu.evaluation import contenders
from dafu.features.catalogue import CATALOGUE_HASH, INDEX
from dafu.generator import generate, write
from dafu.history import read_history
from dafu.ingest import TransactionReader, load_mapping
from dafu.models.package import load_model
from dafu.settings import load_settings
from tests.cli.conftest import Run

FEW = ("--replicates", "5", "--cards", "5", "--alerts", "5")


@pytest.fixture
def file(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "payments.parquet"
    write(generate(users=60, merchants=15, days=20, seed=9, fraud_rate=0.05), path)
    return path


def metrics(directory: str) -> dict[str, object]:
    document: dict[str, object] = json.loads((Path(directory) / "metrics.json").read_text())
    return document


def test_the_model_that_workers_serve(run: Run, file: Path) -> None:
    ran = run("evaluate", file, "--out", "r", "--since", "2025-01-10", *FEW)
    assert (ran.code, ran.err) == (0, "")
    assert "wrote r; open r/index.html" in ran.out
    assert "classic detection" in ran.out
    document = metrics("r")
    assert document["rules"]["learning"] == "unsupervised"  # type: ignore[index]
    path = load_settings().model_path
    assert path is not None
    model = load_model(path, CATALOGUE_HASH)
    history = read_history(TransactionReader(file, load_mapping("dafu")))
    rows = np.flatnonzero(history.times >= 1_736_467_200_000)
    raw = model.score(history.features[rows], model.column_index(INDEX))[0]
    alerts = int(0.01 * len(rows))
    assert document["threshold"] == np.sort(raw)[-alerts]
    assert sum(document["confusion"]) == len(rows)  # type: ignore[call-overload]
    assert set(document["importances"]) == set(model.feature_names)  # type: ignore[call-overload]
    assert document["title"] == f"{model.name} {model.version}"
    assert {p.name for p in Path("r").iterdir()} > {"index.html", "panels.png", "metrics.csv"}


def test_risks_from_a_threshold_on(run: Run, file: Path) -> None:
    ran = run("evaluate", file, "--out", "r", "--detection", "risk", "--threshold", "0.4", *FEW)
    assert ran.code == 0
    assert run("score", file, "--out", "d.parquet").code == 0
    document = metrics("r")
    assert document["threshold"] == 0.4
    decided = parquet.read_table("d.parquet")
    model_risks = [
        dict(scores)["isolation_forest"] for scores in map(json.loads, _payload_scores(decided))
    ]
    labels = parquet.read_table(file).column("is_fraud").to_pylist()
    # Decisions carry six decimals; none of these is that near to the threshold.
    hits = sum(r >= 0.4 and label == 1 for r, label in zip(model_risks, labels, strict=True))
    assert document["confusion"][0] == hits  # type: ignore[index]


def _payload_scores(decided: object) -> list[str]:
    payloads = decided.column("payload").to_pylist()  # type: ignore[attr-defined]
    return [json.dumps(json.loads(payload)["scores"]) for payload in payloads]


def test_a_file_of_scores(run: Run, file: Path) -> None:
    for name in ("d.parquet", "d.csv"):
        assert run("score", file, "--out", name).code == 0
        ran = run("evaluate", file, "--out", name[2:], "--scores", name, *FEW)
        assert ran.code == 0
        assert "risk detection, threshold 0.7" in ran.out
    one, two = metrics("parquet"), metrics("csv")
    assert one["metrics"] == two["metrics"]
    assert one["confusion"] == two["confusion"]
    assert one["importances"] == {}
    assert one["brier"] is not None
    decided = parquet.read_table("d.parquet")
    alerts = sum(risk >= 0.7 for risk in decided.column("risk_score").to_pylist())
    assert one["confusion"][0] + one["confusion"][1] == alerts  # type: ignore[index]


def test_scores_that_do_not_fit(run: Run, file: Path) -> None:
    assert run("score", file, "--out", "d.parquet", "--limit", "20").code == 0
    Path("a.txt").write_text("")
    Path("a.csv").write_text("transaction_id,risk\nx,1\n")
    Path("b.parquet").write_text("no")
    for name, why in (
        ("d.parquet", "d.parquet has no score for"),
        ("a.txt", "scores are read from .parquet and .csv files"),
        ("a.csv", "a.csv has no column risk_score; it has transaction_id, risk"),
        ("b.parquet", "b.parquet can not be read"),
        ("none.csv", "none.csv can not be read"),
    ):
        ran = run("evaluate", file, "--out", "r", "--scores", name)
        assert ran.code == 1, name
        assert why in ran.err, ran.err
    assert not Path("r").exists()


def test_what_can_not_be_evaluated(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("evaluate", file, "--out", "r", "--since", "2030-01-01")
    assert ran.code == 1
    assert "no labelled transactions to evaluate" in ran.err
    ran = run("evaluate", file, "--out", "r", "--model", "none")
    assert ran.code == 1
    assert "none: no such directory" in ran.err
    monkeypatch.setattr(contenders, "find_spec", lambda _name: None)
    ran = run("evaluate", file, "--out", "r")
    assert ran.code == 1
    assert "a report needs matplotlib, which is not installed" in ran.err
    assert not Path("r").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.csv"],
        ["a.csv", "--out", "r", "--learning", "deep"],
        ["a.csv", "--out", "r", "--detection", "both"],
        ["a.csv", "--out", "r", "--contamination", "0.7"],
        ["a.csv", "--out", "r", "--threshold", "2"],
        ["a.csv", "--out", "r", "--model", "m", "--scores", "s.csv"],
    ],
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    assert run("evaluate", *arguments).code == 2
