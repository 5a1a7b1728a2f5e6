"""Probability calibrations, and the arithmetic that they and the trees rest on."""

from __future__ import annotations

import math
import sys
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.models.calibration import (
    IDENTITY,
    BetaCalibration,
    Calibration,
    IsotonicCalibration,
    RankCalibration,
)
from dafu.models.errors import ModelError, TrainingError
from dafu.models.numeric import ln, log_odds, sigmoid
from dafu.models.trainers.calibration import fit_beta, fit_isotonic


@given(st.floats(min_value=2.3e-308, allow_infinity=False))
def test_ln_is_accurate(x: float) -> None:
    assert ln(x) == pytest.approx(math.log(x), rel=4e-16, abs=1e-15)


@given(st.floats(allow_nan=False))
def test_sigmoid_is_accurate_and_stays_within_its_range(x: float) -> None:
    found = sigmoid(x)
    assert 0.0 <= found <= 1.0
    if abs(x) < 600:
        exact = 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
        assert found == pytest.approx(exact, rel=2e-15 + abs(x) * 3e-16)


@given(st.floats(-25, 25))
def test_log_odds_undo_the_sigmoid(x: float) -> None:
    p = sigmoid(x)
    assert log_odds(p) == pytest.approx(x, abs=4e-16 / (p * (1 - p)) + 1e-14)
    assert math.isfinite(log_odds(0.0))
    assert log_odds(1.0) == pytest.approx(-log_odds(0.0), rel=1e-4)


def drawn(n: int, seed: int) -> tuple[Any, Any]:
    """Scores that overstate: the probability of fraud is their square."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.5, 2.0, n)
    return scores, (rng.random(n) < scores**2).astype(int)


@pytest.mark.parametrize("fit", [fit_beta, fit_isotonic])
def test_calibrated_scores_are_probabilities(fit: Any) -> None:
    calibration = fit(*drawn(40_000, 1))
    assert calibration.meaning == "probability"
    scores, y = drawn(40_000, 2)
    risk = calibration.risk(scores)
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 1.0)):
        within = (risk >= low) & (risk < high)
        assert within.sum() > 300
        assert risk[within].mean() == pytest.approx(y[within].mean(), abs=0.03)
    np.testing.assert_allclose(risk, scores**2, atol=0.15)


def test_beta_calibration_finds_the_function_that_drew_the_labels() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.01, 0.99, 100_000)
    true = BetaCalibration(1.7, 0.6, -0.5)
    assert true.risk(scores)[0] == pytest.approx(
        1 / (1 + np.exp(0.5) * (1 - scores[0]) ** 0.6 / scores[0] ** 1.7), rel=1e-12
    )
    found = fit_beta(scores, rng.random(len(scores)) < true.risk(scores))
    assert (found.a, found.b, found.c) == pytest.approx((1.7, 0.6, -0.5), abs=0.08)


def test_beta_calibration_never_descends() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.01, 0.99, 5000)
    upside_down = rng.random(5000) < 1.0 - scores
    flat = fit_beta(scores, upside_down)
    assert (flat.a, flat.b) == (0.0, 0.0)
    assert flat.risk(scores).tolist() == pytest.approx([upside_down.mean()] * 5000)
    bent = fit_beta(scores, rng.random(5000) < np.where(scores < 0.5, 0.3 - 0.2 * scores, scores))
    assert bent.a >= 0.0 <= bent.b
    assert (np.diff(bent.risk(np.linspace(0, 1, 1001))) >= 0).all()


def test_isotonic_calibration_is_scikit_learns() -> None:
    from sklearn.isotonic import IsotonicRegression

    scores, y = drawn(3000, 3)
    reference = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, y)
    grid = np.linspace(-0.5, 1.5, 4001)
    np.testing.assert_allclose(
        fit_isotonic(scores, y).risk(grid), reference.predict(grid), atol=1e-12
    )
    same = fit_isotonic(np.full(10, 0.3), np.arange(10) % 2)
    assert same.risk(np.array([0.0, 0.3, 1.0])).tolist() == [0.5, 0.5, 0.5]


def test_every_shape_is_calibrated_alike() -> None:
    scores = np.linspace(0, 1, 24)
    for calibration in (IDENTITY, BetaCalibration(2.0, 0.5, 0.1), RankCalibration((0, 1), (0, 1))):
        flat = calibration.risk(scores)
        assert calibration.risk(scores.reshape(6, 4)).tobytes() == flat.tobytes()
        assert calibration.risk(scores.reshape(4, 6).T).tolist() == flat.reshape(4, 6).T.tolist()
    assert np.array_equal(IDENTITY.risk(scores), scores)


def test_the_manifest_tells_calibrations_apart() -> None:
    for calibration in (
        RankCalibration((0.1, 0.7), (0.0, 0.9)),
        IsotonicCalibration((0.1, 0.7), (0.0, 0.9)),
        BetaCalibration(1.0, 2.0, 3.0),
    ):
        raw = msgspec.json.encode(calibration)
        assert msgspec.json.decode(raw, type=Calibration) == calibration


def test_what_is_no_calibration_is_refused() -> None:
    for coefficients in ((-0.1, 1.0, 0.0), (1.0, -0.1, 0.0)):
        with pytest.raises(ModelError, match="neither may be negative"):
            BetaCalibration(*coefficients)
    with pytest.raises(ModelError, match="must be finite"):
        BetaCalibration(1.0, 1.0, float("nan"))
    scores, y = drawn(100, 1)
    with pytest.raises(TrainingError, match=r"scores within 0\.\.1"):
        fit_beta(scores + 1.0, y)
    with pytest.raises(TrainingError, match="finite scores"):
        fit_isotonic(np.array([np.nan, 1.0]), np.array([0, 1]))
    with pytest.raises(TrainingError, match="it takes both"):
        fit_isotonic(scores, np.ones(100))


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn.isotonic", "sklearn.linear_model"):
        monkeypatch.setitem(sys.modules, module, None)
    for fit in (fit_beta, fit_isotonic):
        with pytest.raises(TrainingError, match=r"pip install 'dafu\[train\]'"):
            fit(*drawn(100, 1))
