"""`dafu drift`: a file beside the training of a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dafu.evaluation.drift import model_drifts
from dafu.features.catalogue import CATALOGUE_HASH, DAY, INDEX
from dafu.features.selections import BEHAVIOR
from dafu.generator import generate, write
from dafu.history import read_history
from dafu.ingest import TransactionReader, load_mapping
from dafu.models.package import load_model, save_package
from dafu.training.periods import WARM_UP_SHARE
from tests.cli.conftest import Run


@pytest.fixture
def file(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "payments.parquet"
    write(generate(users=80, merchants=15, days=30, seed=5), path)
    assert run("train", path, "--out", "m").code == 0
    return path


def document() -> Any:
    return json.loads(Path("drift.json").read_text())


def test_the_training_data_has_not_drifted(run: Run, file: Path) -> None:
    ran = run("drift", file, "--model", "m", "--json", "drift.json")
    assert (ran.code, ran.err) == (0, "")
    assert "the score: stable; of 30 features 0 shifted, 0 to watch, 30 stable" in ran.out
    assert "wrote drift.json" in ran.out
    found = document()
    assert [one["name"] for one in found["features"]] == list(BEHAVIOR)
    assert found["score"]["name"] == "raw_score"
    # The very rows of the training: the warm-up is left out in both.
    assert all(one["psi"] == 0.0 and one["ks"] == 0.0 for one in found["features"])
    assert (found["score"]["psi"], found["score"]["verdict"]) == (0.0, "stable")
    assert found["model"]["version"] == load_model("m", CATALOGUE_HASH).version
    assert found["last_day"] == "2025-01-30"


def test_larger_amounts_are_told(run: Run, file: Path) -> None:
    payments = generate(users=80, merchants=15, days=30, seed=6)
    at = payments.schema.get_field_index("amount")
    amounts = [10.0 * amount for amount in payments.column("amount").to_pylist()]
    import pyarrow as pa

    write(payments.set_column(at, "amount", pa.array(amounts)), Path("dear.parquet"))
    options = ("--model", "m", "--since", "2025-01-12", "--json", "drift.json")
    ran = run("drift", "dear.parquet", *options)
    assert ran.code == 0
    by_name = {one["name"]: one for one in document()["features"]}
    assert by_name["amount"]["verdict"] == "shifted"
    assert by_name["is_night"]["verdict"] == "stable"
    assert document()["first_day"] == "2025-01-12"
    history = read_history(
        TransactionReader(Path("dear.parquet"), load_mapping("dafu")), label_delay=7 * DAY
    )
    rows = history.times >= 1_736_640_000_000
    model = load_model("m", CATALOGUE_HASH)
    index = model.column_index(INDEX)
    x = history.features[rows]
    assert model.reference is not None
    expected = model_drifts(model.reference, x[:, index], model.score(x, index).raw)
    found = [*document()["features"], document()["score"]]
    assert [one["psi"] for one in found] == [one.psi for one in expected]
    assert [one["ks"] for one in found] == [one.ks for one in expected]
    # The table begins with the score, then the most shifted.
    names = [line.split("│")[1].strip() for line in ran.out.splitlines() if "│" in line]
    ranked = sorted(document()["features"], key=lambda one: (-one["psi"], one["name"]))
    assert names == ["raw_score", *(one["name"] for one in ranked)]


def test_few_transactions_say_little(run: Run, file: Path) -> None:
    ran = run("drift", file, "--model", "m", "--since", "2025-01-30")
    assert ran.code == 0
    assert "with so few transactions chance alone makes a PSI of about" in ran.out


def test_a_package_without_a_reference(run: Run, file: Path) -> None:
    old = replace(load_model("m", CATALOGUE_HASH), reference=None)  # type: ignore[type-var]
    save_package(old, "old")
    ran = run("drift", file, "--model", "old")
    assert ran.code == 1
    assert "old: the package does not say how the training data was distributed" in ran.err


def test_a_model_that_needs_another_one(run: Run, file: Path) -> None:
    needy = replace(load_model("m", CATALOGUE_HASH), requires={"gru": "abc"})  # type: ignore[type-var]
    save_package(needy, "needy")
    ran = run("drift", file, "--model", "needy")
    assert ran.code == 1
    assert "the output of gru abc; set DAFU_SEQUENCE_MODEL" in ran.err


def test_nothing_to_compare(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("drift", file, "--model", "m", "--since", "2031-01-01")
    assert (ran.code, "there are no transactions to compare" in ran.err) == (1, True)
    monkeypatch.setenv("MODEL_STORAGE_PATH", "none")
    ran = run("drift", file)
    assert (ran.code, "workers serve no model package" in ran.err) == (1, True)


def test_a_training_notes_what_it_was_trained_on(run: Run, file: Path) -> None:
    model = load_model("m", CATALOGUE_HASH)
    history = read_history(TransactionReader(file, load_mapping("dafu")))
    x = history.features[int(len(history) * WARM_UP_SHARE) :]
    assert model.reference is not None
    for one in model.reference.features:
        assert sum(one.counts) + one.missing == len(x)
        assert one.missing == int(np.isnan(x[:, INDEX[one.name]]).sum())
