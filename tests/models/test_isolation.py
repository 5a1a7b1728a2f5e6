"""What the model says of a row: score, risk, risk by group; and how it is trained."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from dafu.models.calibration import RankCalibration, fit_rank
from dafu.models.errors import ModelError, TrainingError
from dafu.models.forest import predict_sum_and_credits
from dafu.models.isolation import IsolationForestModel, average_path_length
from dafu.models.package import save_package
from tests.models.forests import train_isolation_forest

NAMES = ("amount", "ratio", "count", "speed", "merchant_mean", "merchant_users")
FEATURE_GROUPS = ("amount", "amount", "behavior", "behavior", "merchant", "merchant")
COLUMNS = np.arange(6, dtype=np.int32)


def data(n: int = 4000, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).lognormal(0.0, 1.0, (n, 6))


@pytest.fixture(scope="module")
def model() -> IsolationForestModel:
    return train_isolation_forest(data(), NAMES, FEATURE_GROUPS, seed=7)


def test_anomaly_is_scikit_learns_score(model: IsolationForestModel) -> None:
    trained = IsolationForest(n_estimators=100, max_samples=256, random_state=7)
    trained.fit(data().astype(np.float32))
    probe = data(1000, 1) * 3
    np.testing.assert_allclose(
        model.score(probe, COLUMNS).raw, -trained.score_samples(probe), atol=1e-12
    )


def test_anomaly_alone_has_the_same_bits(model: IsolationForestModel) -> None:
    probe = data(333, 2)
    assert model.anomaly(probe, COLUMNS).tobytes() == model.score(probe, COLUMNS).raw.tobytes()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_scores_do_not_depend_on_the_batch(model: IsolationForestModel, size: int) -> None:
    probe = data(1000, 3)
    probe[::5, 1] = np.nan
    whole = model.score(probe, COLUMNS)
    parts = [model.score(probe[i : i + size], COLUMNS) for i in range(0, 1000, size)]
    for k in ("raw", "risk", "group_risk"):
        joined = np.concatenate([getattr(p, k) for p in parts])
        assert joined.tobytes() == getattr(whole, k).tobytes()


def test_the_unusual_group_gets_the_blame(model: IsolationForestModel) -> None:
    usual = np.ones((1, 6))
    calm = model.score(usual, COLUMNS)
    assert calm.risk[0] < 0.1
    for g, columns in enumerate(((0, 1), (2, 3), (4, 5))):
        odd = usual.copy()
        odd[0, columns] = 500.0
        scores = model.score(odd, COLUMNS)
        assert scores.risk[0] > calm.risk[0]
        assert int(np.argmax(scores.group_risk[0])) == g
        others = np.delete(scores.group_risk[0], g)
        assert scores.group_risk[0, g] > 2 * others.max()


def test_group_risk_follows_from_the_credits(model: IsolationForestModel) -> None:
    probe = data(500, 4)
    scores = model.score(probe, COLUMNS)
    packed = model.packed
    _, credits = predict_sum_and_credits(packed, probe, COLUMNS)
    mean = credits / packed.n_trees
    alone = 2.0 ** (-(packed.expected - mean) / average_path_length(256))
    knots = model.calibration
    expected = np.where(mean > 0, np.interp(alone, knots.scores, knots.risks), 0.0)
    np.testing.assert_allclose(scores.group_risk, expected, atol=1e-12)
    np.testing.assert_allclose(
        scores.risk, np.interp(scores.raw, knots.scores, knots.risks), atol=1e-12
    )
    assert (expected == 0.0).any()
    assert (expected > 0.0).any()


def test_risk_has_the_documented_ranks(model: IsolationForestModel) -> None:
    risk = model.score(data(), COLUMNS).risk
    for quantile, wanted in ((0.5, 0.05), (0.9, 0.20), (0.99, 0.50), (0.999, 0.75)):
        assert np.quantile(risk, quantile) == pytest.approx(wanted, abs=0.01)
    assert model.thresholds["risk"] == pytest.approx(0.5, abs=1e-6)


@given(st.lists(st.floats(0.2, 1.0), min_size=1, max_size=40))
def test_any_calibration_is_monotone_within_its_range(scores: list[float]) -> None:
    fitted = fit_rank(np.array(scores))
    grid = np.sort(np.concatenate([np.linspace(0.0, 1.3, 200), np.array(scores)]))
    risk = fitted.risk(grid)
    assert (np.diff(risk) >= 0).all()
    assert risk[0] >= 0.0
    assert risk[-1] == 0.99


@pytest.mark.parametrize(
    ("scores", "risks", "says"),
    [
        ((0.1,), (0.1,), "two or more"),
        ((0.1, 0.2), (0.1,), "two or more"),
        ((0.1, float("nan")), (0.1, 0.2), "finite"),
        ((0.2, 0.2), (0.1, 0.2), "strictly ascending"),
        ((0.1, 0.2), (0.2, 0.1), "not descend"),
        ((0.1, 0.2), (0.2, 1.1), "within 0..1"),
    ],
)
def test_unusable_knots_are_refused(
    scores: tuple[float, ...], risks: tuple[float, ...], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        RankCalibration(scores, risks)


def test_missing_values_are_filled_with_the_training_median() -> None:
    x = data(500)
    x[::3, 0] = np.nan
    x[:, 3] = np.nan
    trained = train_isolation_forest(x, NAMES, FEATURE_GROUPS, seed=1, n_estimators=10)
    assert trained.fill[0] == np.median(x[~np.isnan(x[:, 0]), 0])
    assert trained.fill[3] == 0.0
    filled = np.where(np.isnan(x), np.array(trained.fill), x)
    assert np.array_equal(trained.anomaly(x, COLUMNS), trained.anomaly(filled, COLUMNS))


def test_fewer_rows_than_max_samples() -> None:
    x = data(40)
    trained = train_isolation_forest(x, NAMES, FEATURE_GROUPS, seed=1, n_estimators=10)
    assert trained.max_samples == 40
    oracle = IsolationForest(n_estimators=10, max_samples=40, random_state=1)
    oracle.fit(x.astype(np.float32))
    np.testing.assert_allclose(trained.anomaly(x, COLUMNS), -oracle.score_samples(x), atol=1e-12)


def test_the_contaminated_share_of_training_lies_above_the_threshold(
    model: IsolationForestModel,
) -> None:
    share = float((model.anomaly(data(), COLUMNS) > model.thresholds["raw"]).mean())
    assert share == pytest.approx(0.01, abs=0.001)


def test_data_that_cannot_be_trained_on_is_refused() -> None:
    x = data(10)
    with pytest.raises(TrainingError, match=r"feature 3, row 4: 1e\+39 does not fit"):
        bad = x.copy()
        bad[4, 3] = 1e39
        train_isolation_forest(bad, NAMES, FEATURE_GROUPS, seed=1)
    with pytest.raises(TrainingError, match="at least 2 rows"):
        train_isolation_forest(x[:1], NAMES, FEATURE_GROUPS, seed=1)
    with pytest.raises(ModelError, match="5 feature names"):
        train_isolation_forest(x, NAMES[:5], FEATURE_GROUPS, seed=1)
    with pytest.raises(TrainingError, match=r"contamination is 0\.7"):
        train_isolation_forest(x, NAMES, FEATURE_GROUPS, seed=1, contamination=0.7)
    with pytest.raises(TrainingError, match="max_samples 1"):
        train_isolation_forest(x, NAMES, FEATURE_GROUPS, seed=1, max_samples=1)
    with pytest.raises(ModelError, match="'weather' is none of"):
        train_isolation_forest(x, NAMES, ("weather", *FEATURE_GROUPS[1:]), seed=1)


def test_parts_that_do_not_fit_each_other_are_refused(model: IsolationForestModel) -> None:
    with pytest.raises(ModelError, match="5 fill values for 6"):
        replace(model, fill=model.fill[:5])
    with pytest.raises(ModelError, match="every fill value must be finite"):
        replace(model, fill=(float("nan"), *model.fill[1:]))
    with pytest.raises(ModelError, match="'ratio' is listed twice"):
        replace(model, feature_names=("ratio", *NAMES[1:]))
    with pytest.raises(ModelError, match="max_samples is 1"):
        replace(model, max_samples=1)


def test_features_are_found_by_name(model: IsolationForestModel) -> None:
    where = {name: 10 - i for i, name in enumerate(NAMES)}
    assert model.column_index(where).tolist() == [10, 9, 8, 7, 6, 5]
    del where["speed"]
    with pytest.raises(ModelError, match="not computed: speed"):
        model.column_index(where)


def test_training_without_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(TrainingError, match=r"dafu\[train\]"):
        train_isolation_forest(data(10), NAMES, FEATURE_GROUPS, seed=1)


def test_serving_does_not_need_the_train_extra(model: IsolationForestModel, tmp_path: Path) -> None:
    """Load and score in a process that can import no library of any extra."""
    save_package(model, tmp_path / "m")
    probe = data(50, 9)
    np.save(tmp_path / "probe.npy", probe)
    code = (
        "import sys\n"
        "for name in ('sklearn', 'scipy', 'xgboost', 'lightgbm', 'fsspec'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        "import dafu.models.trainers\n"
        "from dafu.models.package import load_model\n"
        f"model = load_model({str(tmp_path / 'm')!r}, None)\n"
        f"x = np.load({str(tmp_path / 'probe.npy')!r})\n"
        "bad = {'faust', 'asyncio', 'aiokafka'} & set(sys.modules)\n"
        "assert not bad, bad\n"
        "print(model.score(x, np.arange(6, dtype=np.int32)).risk.tobytes().hex())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == model.score(probe, COLUMNS).risk.tobytes().hex()
