"""`dafu backtest`: tables for people, a JSON file with everything, and errors in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dafu.evaluation import contenders
from dafu.evaluation.metrics import METRICS
from dafu.generator import generate_traffic, write
from tests.cli.conftest import Run

DAYS = ("--train-days", "6", "--delay-days", "3", "--test-days", "4")
SMALL = ("--cards", "5", "--alerts", "7", "--replicates", "10")


@pytest.fixture
def file(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "payments.parquet"
    write(generate_traffic(users=80, merchants=20, days=30, seed=6, fraud_rate=0.05).batches, path)
    return path


def test_folds_means_and_the_json_file(run: Run, file: Path) -> None:
    ran = run(
        "backtest", file, "--train-start", "2025-01-17", *DAYS, *SMALL, "--folds", "2",
        "--models", "isolation_forest,xgboost", "--json", "b.json",
    )  # fmt: skip
    assert ran.code == 0
    text = " ".join(ran.out.split())
    assert "with labels" in text
    for words in (
        "train 2025-01-17..2025-01-22, test 2025-01-26..2025-01-29",
        "train 2025-01-13..2025-01-18, test 2025-01-22..2025-01-25",
        "mean of 2 folds",
        "difference to isolation_forest",
        "card precision@5",
        "precision@7 a day",
    ):
        assert words in text, words
    assert "xgboost: train 2025-01-13" in ran.err
    document = json.loads(Path("b.json").read_text())
    assert document["config"]["models"] == ["isolation_forest", "xgboost"]
    assert document["config"]["budget"]["alerts"] == 7
    assert document["data"]["file"] == "payments.parquet"
    assert document["data"]["fraud"] > 50
    assert {"dafu", "catalogue", "scikit-learn", "python"} <= document["versions"].keys()
    result = document["result"]
    assert len(result["folds"]) == 2
    for model in ("isolation_forest", "xgboost"):
        metrics = result["folds"][0]["models"][model]["metrics"]
        assert tuple(metrics) == METRICS
        assert metrics["auc_roc"]["low"] <= metrics["auc_roc"]["high"]
        assert result["means"][model]["auc_roc"]["value"] > 0.5
    assert result["searched"] == {}


def test_a_search_says_what_it_chose(run: Run, file: Path) -> None:
    ran = run(
        "backtest", file, "--train-start", "2025-01-17", *DAYS, *SMALL, "--search", "2",
        "--search-folds", "1", "--models", "isolation_forest,baseline", "--json", "b.json",
    )  # fmt: skip
    assert ran.code == 0
    assert "isolation_forest: average_precision 0." in ran.err
    assert "baseline: has no parameters to search" in ran.err
    searched = json.loads(Path("b.json").read_text())["result"]["searched"]
    assert set(searched) == {"isolation_forest"}
    assert searched["isolation_forest"]["folds"] == [
        "train 2025-01-10..2025-01-15, test 2025-01-19..2025-01-22"
    ]
    assert searched["isolation_forest"]["parameters"]["max_samples"] >= 128


def test_what_can_not_be_done_says_why(run: Run, file: Path, tmp_path: Path) -> None:
    start = ("--train-start", "2025-01-17")
    for arguments, why in (
        ((file, *start, "--models", "cnn"), "there is no model `cnn`; there are: baseline"),
        ((file, "--train-start", "2026-01-17"), "no transactions in the training of train 2026"),
        ((file, *start, "--json", "no/b.json"), "no/b.json can not be written"),
        ((tmp_path / "none.csv", *start), "there is no file"),
    ):
        ran = run("backtest", *arguments)
        assert ran.code == 1, arguments
        assert ran.err.splitlines()[-1].startswith("error: ")
        assert why in ran.err
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_a_missing_library_is_named_before_the_work(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "find_spec", lambda _name: None)
    ran = run("backtest", file, "--train-start", "2025-01-17")
    assert ran.code == 1
    assert ran.out == ""
    assert "the model `baseline` needs sklearn, which is not installed" in ran.err
    assert "pip install 'dafu[train]'" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.csv"],
        ["a.csv", "--train-start", "soon"],
        ["a.csv", "--train-start", "2025-01-01", "--folds", "0"],
        ["a.csv", "--train-start", "2025-01-01", "--models", ","],
        ["a.csv", "--train-start", "2025-01-01", "--models", "xgboost,xgboost"],
        ["a.csv", "--train-start", "2025-01-01", "--search-metric", "luck"],
    ],
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    ran = run("backtest", *arguments)
    assert ran.code == 2
    assert "Traceback" not in ran.err
