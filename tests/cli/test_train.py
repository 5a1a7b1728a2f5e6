"""`dafu train`: from a file to a package that workers and `dafu score` serve."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dafu.features.catalogue import CATALOGUE_HASH
from dafu.features.selections import BEHAVIOR, SUPERVISED
from dafu.generator import generate_traffic, write
from dafu.models.package import load_package
from tests.cli.conftest import Run


@pytest.fixture
def file(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "payments.parquet"
    write(generate_traffic(users=30, merchants=10, days=10, seed=4).batches, path)
    return path


def test_train_on_a_file_and_serve(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--seed", "7", "--contamination", "0.05")
    ran = run("train", file, *options)
    assert (ran.code, ran.err) == (0, "")
    model = load_package("model", CATALOGUE_HASH)
    assert model.feature_names == BEHAVIOR
    assert model.provenance.data == "file: payments.parquet"
    assert (model.provenance.seed, model.metrics["contamination"]) == (7, 0.05)
    assert f"isolation_forest {model.version}" in ran.out
    assert ", ".join(BEHAVIOR) in ran.out
    assert "contamination 0.05" in ran.out
    assert "wrote model; serve it with MODEL_STORAGE_PATH=model" in ran.out

    assert run("train", file, *options, "--out", "again").code == 0
    assert load_package("again", CATALOGUE_HASH).version == model.version
    assert run("train", file, "--seed", "8", "--out", "again").code == 0
    assert load_package("again", CATALOGUE_HASH).version != model.version

    monkeypatch.setenv("MODEL_STORAGE_PATH", "model")
    assert run("score", file, "--out", "d.jsonl", "--limit", "3").code == 0
    served = {
        json.loads(line)["versions"]["model"] for line in Path("d.jsonl").read_text().splitlines()
    }
    assert served == {model.version}


def test_a_model_that_learns_from_labels(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "labelled.parquet"
    write(generate_traffic(users=60, merchants=15, days=30, seed=5, fraud_rate=0.06).batches, file)
    options = ("--model", "xgboost", "--features", "supervised", "--delay-days", "2")
    ran = run("train", file, *options, "--holdout", "0.4", "--alerts-per-day", "3")
    assert (ran.code, ran.err) == (0, "")
    model = load_package("model", CATALOGUE_HASH)
    assert (model.kind, model.feature_names) == ("boosted_trees", SUPERVISED)
    assert f"alerts_per_day {model.thresholds['alerts_per_day']:,.6g}" in ran.out
    assert "metrics   holdout_auc_roc 0." in ran.out

    ran = run("train", file, *options, "--holdout", "0")
    assert ran.code == 1
    assert "needs a holdout" in ran.err
    ran = run("train", file, *options, "--sequence", "model")
    assert ran.code == 1
    assert "model: a model of kind boosted_trees is no sequence model" in ran.err


def test_a_directory_that_is_no_package_stays(run: Run, file: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    ran = run("train", file, "--out", "mine")
    assert ran.code == 1
    assert "mine exists and is no model package" in ran.err
    assert Path("mine/notes.txt").read_text() == "keep"


def test_the_train_extra_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    ran = run("train")
    assert ran.code == 1
    assert "pip install 'dafu[train]'" in ran.err


def test_wrong_usage(run: Run) -> None:
    for value in ("0", "0.6", "nan"):
        assert run("train", "--contamination", value).code == 2
    assert run("train", "--model", "cnn").code == 2
    assert run("train", "--holdout", "0.95").code == 2
    assert run("train", "--false-positive-rate", "1").code == 2
