from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow.csv import read_csv

from dafu.features.catalogue import CATALOGUE_HASH, INDEX
from dafu.ingest import TransactionReader, load_mapping
from dafu.models import IsolationForestFraudDetector, SequenceFraudDetector
from dafu.models.model import Model
from dafu.models.package import load_model, load_package
from dafu.models.recurrent import RecurrentModel
from dafu.notebook.errors import MissingArgumentError, NotebookError
from dafu.offline import run_batches
from dafu.rules import compile_rules
from dafu.schema import decode_decision
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage


def clock() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def trained(path: Any, learning: str = "unsupervised", **mode: Any) -> IsolationForestFraudDetector:
    detector = IsolationForestFraudDetector(n_estimators=20, seed=3, clock=clock)
    detector.load_and_analyze_data(path)
    detector.setup_learning_mode(learning)
    detector.setup_prediction_mode(**(mode or {"mode": "classic", "contamination": 0.05}))
    detector.preprocess_data()
    detector.train_models()
    return detector


@pytest.fixture(scope="module")
def forest(sparkov: Path) -> IsolationForestFraudDetector:
    return trained(sparkov, "supervised")


def own_stages(model: Model, path: Path, mapping: str) -> list[Any]:
    """Decisions and scores by the stages themselves, reading the file as `dafu score` does."""
    pipeline = Pipeline(
        UserStage(0), MerchantStage(compile_rules([], {}, {}, {}), model, Thresholds())
    )
    found: list[Any] = []
    for _, second in run_batches(TransactionReader(path, load_mapping(mapping)), pipeline, 97):
        decisions = [decode_decision(p) for p in second.decisions.present()]
        raw = model.score(second.features, model.column_index(INDEX)).raw
        found += list(zip(decisions, raw.tolist(), strict=True))
    return found


def test_a_stream_is_scored_as_by_a_worker(
    forest: IsolationForestFraudDetector, sparkov: Path, tmp_path: Path
) -> None:
    forest.save_model_package(tmp_path / "package")
    fresh = IsolationForestFraudDetector()
    fresh.load_model_package(tmp_path / "package")
    table = read_csv(sparkov)
    rows = fresh.predict_stream(table.slice(0, 100))
    rows += fresh.predict_stream(table.slice(100, 1).to_pylist()[0])
    rows += fresh.predict_stream(table.slice(101).to_pylist())
    expected = own_stages(load_model(tmp_path / "package", CATALOGUE_HASH), sparkov, "sparkov")
    assert len(rows) == len(expected) == table.num_rows
    for row, (decision, raw) in zip(rows, expected, strict=True):
        assert row["transaction_id"] == decision.transaction_id
        assert row["score"] == raw
        assert row["risk_score"] == decision.risk_score
        assert row["decision"] == decision.decision
        assert row["reasons"] == [r.text for r in decision.reasons]
    # And as the table was scored at once.
    assert [r["is_alert"] for r in rows] == forest.alerts().tolist()
    assert 0 < sum(r["is_alert"] for r in rows) < 0.2 * len(rows)


def test_repeats_and_bad_records_have_their_places(forest: IsolationForestFraudDetector) -> None:
    good = {
        "trans_num": "a", "cc_num": "1", "merchant": "m", "amt": 5.0,
        "trans_date_trans_time": "2020-06-21 12:14:25",
    }  # fmt: skip
    bad = {**good, "trans_num": "b", "amt": -1.0}
    forest.start_stream()
    rows = forest.predict_stream([good, bad, good, {**good, "trans_num": "c"}])
    assert [r["status"] for r in rows] == ["decided", "rejected", "duplicate", "decided"]
    assert "amount" in rows[1]["reasons"][0]
    assert forest.predict_stream(good)[0]["status"] == "duplicate"
    assert forest.stream_summary()["duplicate"] == 2
    forest.start_stream()
    assert forest.predict_stream(good)[0]["status"] == "decided"


def test_a_stream_can_go_on_from_the_loaded_data(
    forest: IsolationForestFraudDetector, sparkov: Path
) -> None:
    last = read_csv(sparkov).to_pylist()[-1]
    forest.start_stream(after_history=True)
    new = {**last, "trans_num": "another"}
    rows = forest.predict_stream([last, new])
    assert [r["status"] for r in rows] == ["duplicate", "decided"]
    forest.start_stream()
    assert forest.predict_stream(new)[0]["score"] != rows[1]["score"]


def test_streams_are_published_as_they_are_scored(
    forest: IsolationForestFraudDetector, sparkov: Path
) -> None:
    row = read_csv(sparkov).slice(0, 1)
    ((key, value),) = forest.preprocess_stream_data(row)
    document = json.loads(value)
    assert key == document["user_id"].encode()
    assert document["merchant_id"].startswith("fraud_")
    assert "is_fraud" not in document


def test_results_are_exported_and_read_again(
    forest: IsolationForestFraudDetector, tmp_path: Path
) -> None:
    outcomes = forest.evaluate_models(replicates=2)
    assert set(outcomes) >= {"contamination 0.01", "contamination 0.05", "contamination 0.1"}
    assert all(o.evaluation is not None for o in outcomes.values())
    table, rows, metrics = forest.export_results(tmp_path)
    assert [p.name for p in (table, rows, metrics)] == [
        "predictions-20260102T030405Z.csv",
        "predictions-20260102T030405Z.json",
        "metrics-20260102T030405Z.json",
    ]
    back = list(csv.DictReader(table.open()))
    again = json.loads(rows.read_bytes())
    assert len(back) == len(again)
    assert [float(r["score"]) for r in back] == [r["score"] for r in again]
    assert sum(r["is_alert"] for r in again) == forest.alerts().sum()
    document = json.loads(metrics.read_bytes())
    assert document["version"] == forest.model.version  # type: ignore[union-attr]
    assert set(document["thresholds"]) == {"0.01", "0.05", "0.1"}
    assert forest.export_results(tmp_path)[0].name == "predictions-20260102T030405Z-2.csv"
    pictures = forest.create_visualizations(tmp_path / "pictures")
    assert {p.suffix for p in pictures} >= {".png", ".html"}
    assert all(p.stat().st_size for p in pictures)


def test_levels_share_trees_and_differ_in_thresholds(forest: IsolationForestFraudDetector) -> None:
    limits = [forest.models[level].thresholds["raw"] for level in (0.01, 0.05, 0.1)]
    assert limits == sorted(limits, reverse=True) and len(set(limits)) == 3
    versions = {m.version for m in forest.models.values()}
    assert len(versions) == 3 and "" not in versions
    forest.setup_prediction_mode("classic", contamination=0.1)
    assert forest.model is forest.models[0.1]
    with pytest.raises(NotebookError, match="no model was trained for"):
        forest.setup_prediction_mode("classic", contamination=0.2)
    forest.setup_prediction_mode("risk", threshold=0.4)
    assert forest.alerts().sum() == (np.round(forest._risk, 6) >= 0.4).sum()
    forest.setup_prediction_mode("classic", contamination=0.05)


def test_supervised_trees_have_seen_no_fraud(sparkov: Path) -> None:
    supervised, other = trained(sparkov, "supervised"), trained(sparkov)
    data = supervised.prepared
    assert data is not None
    part = data.labels[data.warm_up : data.split]
    model = supervised.model
    assert model is not None and other.model is not None
    assert model.metrics["training_rows"] == (part != 1).sum()
    assert other.model.metrics["training_rows"] == len(part)
    assert (part == 1).any()


@pytest.mark.parametrize("name", ["handbook", "odd"])
def test_other_names_give_the_same_scores(
    name: str, handbook: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What the handbook's table lacks, the odd one lacks as well; times differ below a second."""
    detector = trained(request.getfixturevalue(name))
    assert detector.prepared is not None and detector.prepared.kind == "payments"
    reference = trained(handbook)
    np.testing.assert_allclose(np.sort(detector._raw), np.sort(reference._raw), rtol=0.0, atol=0.05)
    detector.save_model_package(tmp_path / "p")
    assert load_model(tmp_path / "p", CATALOGUE_HASH).version == detector.model.version  # type: ignore[union-attr]


def creditcard(n: int = 400) -> list[dict[str, Any]]:
    """A table of anonymous columns, as many are."""
    rng = np.random.default_rng(5)
    label = rng.random(n) < 0.05
    v = rng.normal(size=(n, 3)) + 3.0 * label[:, None]
    return [
        {"Time": float(k), "V1": a, "V2": b, "V3": c, "Amount": 9.5, "Class": int(y)}
        for k, ((a, b, c), y) in enumerate(zip(v.tolist(), label.tolist(), strict=True))
    ]


def test_a_table_that_is_no_payments_is_modelled_by_its_columns(tmp_path: Path) -> None:
    rows = creditcard()
    with pytest.warns(UserWarning, match="modelled by its own columns"):
        detector = trained(rows, "supervised")
    outcome = detector.evaluate_models(replicates=0)["contamination 0.05"]
    assert outcome.evaluation is not None
    auc = outcome.evaluation.metrics["auc_roc"].value
    assert auc is not None and auc > 0.8
    with pytest.raises(NotebookError, match="no worker computes"):
        detector.save_model_package(tmp_path / "p")
    assert not (tmp_path / "p").exists()
    streamed = detector.predict_stream(rows[:150]) + detector.predict_stream(rows[150:])
    assert [r["score"] for r in streamed] == detector._raw.tolist()
    with pytest.raises(NotebookError, match="only payments"):
        detector.preprocess_stream_data(rows)


def test_without_labels_there_are_counts_and_a_picture(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "Class"} for row in creditcard()]
    with pytest.warns(UserWarning):
        detector = trained(rows)
    outcomes = detector.evaluate_models()
    assert all(o.evaluation is None for o in outcomes.values())
    assert outcomes["contamination 0.1"].alerts == 12
    (picture,) = detector.create_visualizations(tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.warns(UserWarning), pytest.raises(NotebookError, match="supervised learning needs"):
        trained(rows, "supervised")


def test_bad_rows_are_left_out_and_told(payments: Any) -> None:
    rows = payments.slice(0, 200).to_pylist()
    rows[7]["amount"] = None
    rows[8]["amount"] = -2.0
    detector = IsolationForestFraudDetector()
    detector.load_and_analyze_data(rows)
    with pytest.warns(UserWarning, match="2 rows are no valid transactions"):
        assert len(detector.preprocess_data()) == 198
    detector.load_and_analyze_data(rows, skip_bad=False)
    with pytest.raises(Exception, match="row 8"):
        detector.preprocess_data()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nobody_is_asked_without_a_terminal(monkeypatch: pytest.MonkeyPatch, payments: Any) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr("sys.stdin", io.StringIO("supervised\n"))
    detector = IsolationForestFraudDetector()
    for call in (
        detector.load_and_analyze_data,
        detector.setup_learning_mode,
        detector.setup_prediction_mode,
    ):
        with pytest.raises(MissingArgumentError, match="no terminal"):
            call()
    detector.load_and_analyze_data(payments)
    with pytest.raises(MissingArgumentError, match="learning mode"):
        detector.train_models()
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(MissingArgumentError, match="no terminal"):
        detector.setup_learning_mode()


def test_people_at_a_terminal_are_asked_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("unsupervised\nmaybe\n"))
    detector = IsolationForestFraudDetector().setup_learning_mode()
    assert detector.learning == "unsupervised"
    with pytest.raises(MissingArgumentError, match="'maybe'"):
        detector.setup_prediction_mode()
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    detector.setup_prediction_mode("risk", threshold=0.6)


def test_steps_out_of_order_say_what_comes_first() -> None:
    detector = IsolationForestFraudDetector()
    for call, words in (
        (detector.preprocess_data, "load_and_analyze_data"),
        (detector.evaluate_models, "train_models"),
        (detector.alerts, "train_models"),
        (lambda: detector.predict_stream([{}]), "load_model_package"),
        (lambda: detector.export_stream_results("x.csv"), "predict_stream"),
    ):
        with pytest.raises(NotebookError, match=words):
            call()


@pytest.mark.parametrize(("cell", "learning"), [("gru", "supervised"), ("lstm", "unsupervised")])
def test_a_sequence_model_from_table_to_stream(
    cell: Any, learning: str, payments: Any, tmp_path: Path
) -> None:
    pytest.importorskip("keras")
    detector = SequenceFraudDetector(
        cell=cell, sequence_length=8, units=4, dropout=0.1, epochs=1, patience=1, clock=clock
    )
    detector.load_and_analyze_data(payments)
    detector.setup_learning_mode(learning).setup_prediction_mode("classic", contamination=0.05)
    detector.preprocess_data()
    detector.train_models()
    if learning == "unsupervised":
        assert detector.evaluate_models(replicates=0)["contamination 0.05"].alerts > 0
    saved = detector.save_model_package(tmp_path / "package")
    package = load_package(tmp_path / "package", CATALOGUE_HASH)
    assert isinstance(package, RecurrentModel) and package.version == saved.version
    fresh = SequenceFraudDetector()
    fresh.load_model_package(tmp_path / "package")
    rows = fresh.predict_stream(payments.slice(0, 50)) + fresh.predict_stream(payments.slice(50))
    assert [r["risk_score"] for r in rows] == detector._risk.tolist()
    assert [r["is_alert"] for r in rows] == detector.alerts().tolist()
    assert 0 < detector.alerts().sum() < 0.3 * len(rows)
    with pytest.raises(NotebookError, match="holds a model of kind recurrent"):
        IsolationForestFraudDetector().load_model_package(tmp_path / "package")


def test_sequences_need_users_and_times() -> None:
    with pytest.raises(NotebookError, match="whose rows they are"):
        SequenceFraudDetector().load_and_analyze_data(creditcard())


def test_models_are_had_without_burden() -> None:
    code = (
        "import sys, dafu.models\n"
        "heavy = {'dafu.notebook', 'pandas', 'sklearn', 'tensorflow', 'keras', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules)\n"
        "from dafu.models import SequenceFraudDetector, UserBehaviorAnalyzer\n"
        # Arrow imports pandas by itself where it is installed.
        "assert not (heavy - {'dafu.notebook', 'pandas'}) & set(sys.modules)\n"
        "try:\n    dafu.models.nothing\nexcept AttributeError:\n    print('fine')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "fine\n"
