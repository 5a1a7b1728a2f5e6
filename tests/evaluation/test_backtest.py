"""Backtests on generated payments: what models see, and that nothing of the test goes in."""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar

import numpy as np
import pytest
from msgspec import structs

from dafu.evaluation import contenders
from dafu.evaluation.backtest import run_backtest, search
from dafu.evaluation.contenders import CONTENDERS, ContenderError, Data, Kind, make_contender
from dafu.evaluation.metrics import METRICS, Budget, Measure, Sample
from dafu.evaluation.protocol import Fold, folds_before, split
from dafu.generator import generate
from dafu.history import History, read_history
from dafu.ingest.columns import TYPES
from dafu.models.errors import TrainingError

DAY = 86_400_000
START = 1_735_689_600_000  # 2025-01-01, where generated payments begin
LATEST = Fold(START + 24 * DAY, 6, 3, 4)
SMALL = {"n_estimators": 5, "max_depth": 4}


@pytest.fixture(scope="module")
def history() -> History:
    table = generate(users=120, merchants=30, days=38, seed=11, fraud_rate=0.04)
    batches: list[Any] = []
    for batch in table.drop(["fraud_scenario"]).to_batches():
        at = batch.schema.get_field_index("timestamp")
        times = batch.column(at).cast(TYPES["timestamp"])
        batches.append(batch.set_column(at, "timestamp", times))
    return read_history(batches, label_delay=3 * DAY)


@pytest.fixture
def data(history: History) -> Data:
    return Data(history, 3)


class Recorder:
    """A contender that remembers what it was given and scores by amount."""

    seen: ClassVar[list[tuple[str, list[int]]]] = []

    def fit(self, data: Data, rows: np.ndarray) -> None:
        self.seen.append(("fit", rows.tolist()))

    def score(self, data: Data, rows: np.ndarray) -> np.ndarray:
        self.seen.append(("score", rows.tolist()))
        amounts: np.ndarray = data.history.amounts[rows]
        return amounts


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    kind = Kind("by amount", (), "train", lambda _parameters, _seed: Recorder())
    monkeypatch.setitem(CONTENDERS, "recorder", kind)
    monkeypatch.setattr(Recorder, "seen", [])
    return Recorder


def ticks() -> Any:
    return iter(range(10**6)).__next__


def backtest(data: Data, models: list[str], folds: int = 2, **options: Any) -> Any:
    defaults: dict[str, Any] = {"budget": Budget(5, 5), "replicates": 20, "seed": 3}
    defaults["parameters"] = {"baseline": SMALL, "random_forest": SMALL}
    return run_backtest(data, LATEST, folds, models, clock=ticks(), **{**defaults, **options})


def test_a_model_sees_the_rows_of_its_fold(data: Data, recorder: type[Recorder]) -> None:
    said: list[str] = []
    result = backtest(data, ["recorder"], on_step=said.append)
    h = data.history
    for k, fold in enumerate((LATEST, LATEST.earlier(4))):
        part = split(fold, h.times, h.users, h.labels)
        assert recorder.seen[2 * k : 2 * k + 2] == [
            ("fit", part.train.tolist()),
            ("score", part.test.tolist()),
        ]
        shown = result.folds[k]
        assert shown.fold == fold
        assert (shown.train_rows, shown.test_rows) == (len(part.train), len(part.test))
        assert shown.test_frauds == (h.labels[part.test] == 1).sum()
        sample = Sample(
            h.amounts[part.test],
            h.labels[part.test],
            h.users[part.test],
            part.test_days,
            h.amounts[part.test],
        )
        expected = Measure(sample, Budget(5, 5))()
        values = [shown.models["recorder"].metrics[name].value for name in METRICS]
        assert values == expected.tolist()
        assert (shown.models["recorder"].fit_seconds, said[k]) == (
            1.0,
            f"recorder: {fold.describe()}",
        )
    mean = result.means["recorder"]["auc_roc"]
    each = [part.models["recorder"].metrics["auc_roc"].value for part in result.folds]
    assert mean.value == pytest.approx(np.mean(each))
    assert mean.low <= mean.value <= mean.high
    assert result.differences == {}


def test_the_registered_models_tell_fraud(data: Data) -> None:
    models = list(CONTENDERS)
    assert models[0] == "baseline"
    result = backtest(data, models, folds=1)
    for name in models:
        assert result.means[name]["auc_roc"].value > 0.6, name
    assert set(result.differences) == set(models[1:])
    gain = result.means["xgboost"]["auc_roc"].value - result.means["baseline"]["auc_roc"].value
    assert result.differences["xgboost"]["auc_roc"].value == pytest.approx(gain)
    again = backtest(data, models, folds=1)
    assert again.means == result.means


def test_labels_that_are_not_known_yet_change_no_score(data: Data) -> None:
    """Nothing that became a label within the delay before a transaction may move its score."""
    h = data.history
    part = split(LATEST, h.times, h.users, h.labels)
    labels = h.labels.copy()
    first = part.test[part.test_days == 0]
    labels[h.times >= LATEST.test_start + DAY - LATEST.delay_days * DAY] = 0
    assert (labels != h.labels).sum() > 10
    for name in CONTENDERS:
        parameters = SMALL if name in ("baseline", "random_forest", "xgboost") else {}
        scores = []
        for known in (h.labels, labels):
            changed = Data(structs.replace(h, labels=known), 3)
            contender = make_contender(name, parameters, 0)
            contender.fit(changed, part.train)
            scores.append(contender.score(changed, first))
        assert scores[0].tobytes() == scores[1].tobytes(), name


def test_unknown_labels_are_neither_trained_on_nor_tested(
    data: Data, recorder: type[Recorder]
) -> None:
    h = data.history
    labels = h.labels.copy()
    labels[::3] = -1
    unknown = Data(structs.replace(h, labels=labels), 3)
    result = backtest(unknown, ["recorder", "random_forest"], folds=1)
    rows = recorder.seen[1][1]
    assert rows
    assert (labels[rows] >= 0).all()
    assert result.folds[0].test_rows == len(rows)
    none = Data(structs.replace(h, labels=np.where(h.times < LATEST.train_end, 0, h.labels)), 3)
    with pytest.raises(TrainingError, match=r"0 of them fraud: supervised training needs both"):
        backtest(none, ["random_forest"], folds=1)


def test_a_search_looks_only_at_what_was_known(data: Data, recorder: type[Recorder]) -> None:
    kind = structs.replace(
        CONTENDERS["recorder"], space=lambda trial: {"k": trial.suggest_int("k", 1, 5)}
    )
    CONTENDERS["recorder"] = kind
    done: list[tuple[int, float]] = []
    found = search(
        data,
        LATEST,
        "recorder",
        trials=3,
        n_folds=2,
        metric="auc_roc",
        budget=Budget(),
        seed=1,
        on_trial=lambda n, best: done.append((n, best)),
    )
    assert found is not None
    assert [n for n, _ in done] == [1, 2, 3]
    assert 1 <= found.parameters["k"] <= 5
    assert found.folds == [fold.describe() for fold in folds_before(LATEST, 2)]
    used = {row for _, rows in recorder.seen for row in rows}
    assert data.history.times[sorted(used)].max() < LATEST.train_end


def test_a_search_finds_parameters_that_a_model_takes(data: Data) -> None:
    common: dict[str, Any] = {"trials": 2, "n_folds": 1, "budget": Budget(5, 5), "seed": 1}
    for name in ("random_forest", "xgboost", "isolation_forest"):
        found = search(data, LATEST, name, metric="average_precision", **common)
        assert found is not None
        backtest(data, [name], folds=1, parameters={name: found.parameters})
        assert search(data, LATEST, name, metric="average_precision", **common) == found
    assert search(data, LATEST, "baseline", metric="cost", **common) is None
    assert search(data, LATEST, "tails", metric="cost", **common) is None


def test_models_that_are_not_there(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContenderError, match=r"no model `cnn`; there are: baseline, .*xgboost"):
        backtest(data, ["cnn"])
    real = importlib.util.find_spec
    monkeypatch.setattr(contenders, "find_spec", lambda n: None if n == "xgboost" else real(n))
    with pytest.raises(ContenderError, match=r"`xgboost` needs xgboost, .*'dafu\[train\]'"):
        backtest(data, ["baseline", "xgboost"])
