"""Trainings on small generated data: what is learned from, what comes out, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from dafu.features.catalogue import CATALOGUE_HASH, DAY, INDEX
from dafu.features.selections import BEHAVIOR, SUPERVISED
from dafu.generator import generate
from dafu.history import UNKNOWN, History, read_history
from dafu.ingest.columns import TYPES
from dafu.models.calibration import BetaCalibration
from dafu.models.ensemble import EnsembleModel
from dafu.models.errors import ModelPackageError, TrainingError
from dafu.models.model import Model
from dafu.models.package import load_package, save_package
from dafu.models.recurrent import RecurrentModel
from dafu.training import MODELS, Plan, load_sequence
from dafu.training.figures import choose_thresholds, measure
from dafu.training.periods import split_periods
from dafu.training.plan import feature_names
from dafu.training.run import train_on

COMMON: dict[str, Any] = {"seed": 3, "delay_days": 2, "holdout": 0.4}
ROW_MODELS = ("tails", "isolation_forest", "xgboost", "random_forest", "ensemble")


def batches() -> list[Any]:
    table = generate(users=100, merchants=25, days=30, seed=12, fraud_rate=0.05)
    made: list[Any] = []
    for batch in table.drop(["fraud_scenario"]).to_batches():
        at = batch.schema.get_field_index("timestamp")
        times = batch.column(at).cast(TYPES["timestamp"])
        made.append(batch.set_column(at, "timestamp", times))
    return made


@pytest.fixture(scope="module")
def history() -> History:
    return read_history(batches(), label_delay=2 * DAY)


@pytest.mark.parametrize("name", ROW_MODELS)
def test_what_comes_out_is_served_and_measured(name: str, history: History, tmp_path: Path) -> None:
    plan = Plan(model=name, **COMMON, alerts_per_day=5, false_positive_rate=0.1)
    model = train_on(history, plan, "file: x")
    save_package(model, tmp_path / "m")
    loaded = load_package(tmp_path / "m", CATALOGUE_HASH)
    assert isinstance(loaded, Model)
    assert (loaded.provenance.data, loaded.provenance.seed) == ("file: x", 3)
    periods = split_periods(history, plan)
    rows = periods.measure
    scores = loaded.score(history.features[rows], loaded.column_index(INDEX))
    labels = history.labels[rows]
    assert loaded.metrics["training_rows"] == len(periods.learn)
    assert loaded.metrics["holdout_rows"] == len(rows)
    assert loaded.metrics.items() >= measure(scores.risk, labels).items()
    assert loaded.metrics["holdout_auc_roc"] > 0.6
    days = (history.times[rows].max() - history.times[rows].min()) / DAY
    assert 0 < (scores.risk >= loaded.thresholds["alerts_per_day"]).sum() <= 5 * days
    genuine = scores.risk[labels == 0]
    assert np.mean(genuine >= loaded.thresholds["false_positive_rate"]) <= 0.1
    again = train_on(history, plan, "file: x")
    assert save_package(again, tmp_path / "again").version == loaded.version
    if name in ("xgboost", "random_forest"):
        assert isinstance(loaded.calibration, BetaCalibration)  # type: ignore[attr-defined]
    if plan.supervised:
        share = labels.mean()
        assert 0.3 * share < scores.risk.mean() < 3.0 * share, "a probability"


@pytest.mark.parametrize("name", ROW_MODELS)
def test_the_holdout_changes_nothing_that_is_learned(name: str, history: History) -> None:
    plan = Plan(model=name, **COMMON)
    periods = split_periods(history, plan)
    labels = history.labels.copy()
    labels[periods.measure] = np.roll(labels[periods.measure], 1)
    features = history.features.copy()
    features[periods.measure] *= 2.0
    changed = structs.replace(history, labels=labels, features=features)
    one: Any = train_on(history, plan, "")
    other: Any = train_on(changed, plan, "")
    assert one.parameters() == other.parameters()
    for key, array in one.arrays().items():
        assert array.tobytes() == other.arrays()[key].tobytes()


def test_periods_follow_each_other(history: History) -> None:
    labels = history.labels.copy()
    labels[::7] = UNKNOWN
    gaps = structs.replace(history, labels=labels)
    times = history.times
    learn, calibrate, measured = split_periods(gaps, Plan(model="xgboost", **COMMON))
    assert times[learn].max() + 2 * DAY < times[calibrate].min()
    assert times[calibrate].max() < times[measured].min()
    assert learn.min() >= len(history) // 3
    for part in (learn, calibrate, measured):
        assert (labels[part] != UNKNOWN).all()
    whole = split_periods(gaps, Plan(model="tails"))
    assert whole.learn.tolist() == list(range(len(history) // 3, len(history)))
    assert len(whole.calibrate) == len(whole.measure) == 0
    sequence = split_periods(gaps, Plan(model="gru", **COMMON))
    assert len(sequence.calibrate) == 0
    assert len(sequence.measure) > len(measured)


def test_a_history_without_frauds_teaches_nothing(history: History) -> None:
    none = structs.replace(history, labels=np.zeros_like(history.labels))
    with pytest.raises(TrainingError, match=r"to learn from, 0 of them fraud"):
        train_on(none, Plan(model="xgboost", **COMMON), "")
    unknown = structs.replace(history, labels=np.full_like(history.labels, UNKNOWN))
    train_on(unknown, Plan(model="tails"), "")
    with pytest.raises(TrainingError, match="needs labels in the holdout"):
        train_on(unknown, Plan(model="tails", holdout=0.3, false_positive_rate=0.1), "")


def test_an_ensemble_reads_a_sequence_models_score(history: History, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    plan = Plan(model="gru", **COMMON, epochs=1, alerts_per_day=5)
    made = train_on(history, plan, "file: x")
    assert isinstance(made, RecurrentModel)
    assert {"holdout_auc_roc", "training_rows"} <= made.metrics.keys()
    assert "alerts_per_day" in made.thresholds
    saved = save_package(made, tmp_path / "gru")
    loaded = load_sequence(str(tmp_path / "gru"), CATALOGUE_HASH)
    plan = Plan(model="ensemble", **COMMON, sequence=loaded)
    seen = read_history(batches(), label_delay=2 * DAY, sequence=loaded)
    assert not np.isnan(seen.features[:, INDEX["sequence_risk"]]).any()
    ensemble = train_on(seen, plan, "")
    assert isinstance(ensemble, EnsembleModel)
    assert ensemble.requires == {"gru": saved.version}
    assert "sequence_risk" in ensemble.feature_names
    assert ensemble.members[0].requires == {"gru": saved.version}
    assert ensemble.members[1].requires == {}
    save_package(ensemble, tmp_path / "ensemble")
    with pytest.raises(ModelPackageError, match="is no sequence model"):
        load_sequence(str(tmp_path / "ensemble"), CATALOGUE_HASH)
    with pytest.raises(TrainingError, match="tails does not read"):
        Plan(model="tails", sequence=loaded)


def test_thresholds_that_can_not_be(history: History) -> None:
    times, labels = history.times[:100], np.zeros(100, np.int8)
    with pytest.raises(TrainingError, match="no threshold keeps alerts_per_day to 3"):
        choose_thresholds(np.ones(100), labels, times, Plan(holdout=0.2, alerts_per_day=3))
    assert measure(np.ones(100), labels) == {"holdout_rows": 100.0, "holdout_frauds": 0.0}


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("no model `cnn`", {"model": "cnn"}),
        ("no feature 'nope'", {"features": ("amount", "nope")}),
        ("inputs of its own", {"model": "gru", "features": ("amount",)}),
        ("contamination", {"contamination": 0.0}),
        ("holdout within", {"holdout": 0.95}),
        ("delay must not", {"delay_days": -1}),
        ("needs a holdout", {"model": "xgboost", "holdout": 0.0}),
        ("chosen on a holdout", {"alerts_per_day": 5}),
        ("at least 1 a day", {"holdout": 0.2, "alerts_per_day": 0}),
        ("false-positive rate must", {"holdout": 0.2, "false_positive_rate": 1.0}),
        ("name its package", {"model": "xgboost", "features": ("sequence_risk",)}),
    ],
)
def test_plans_that_can_not_be(words: str, options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=words):
        Plan(**options)


def test_features_by_name() -> None:
    assert feature_names("supervised") == SUPERVISED
    assert feature_names("amount, is_night,") == ("amount", "is_night")
    assert feature_names("") == ()
    assert Plan().row_features == BEHAVIOR
    assert Plan().model == MODELS[0] == "isolation_forest"
