"""Tail surprises against a naive count, and what the model refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dafu.models.calibration import IDENTITY, fit_rank
from dafu.models.errors import ModelError, TrainingError
from dafu.models.tails import MAX_KNOTS, Side, TailsModel
from dafu.models.trainers import Description, TailsTrainer

F64 = NDArray[np.float64]

NAMES = ("amount", "count", "distance")
DESCRIPTION = Description(NAMES, ("amount", "behavior", "behavior"))
COLUMNS = np.arange(3, dtype=np.int32)
SIDES: tuple[Side, ...] = ("high", "high", "low")


def rows(n: int, seed: int) -> F64:
    rng = np.random.default_rng(seed)
    x = rng.lognormal(0.0, 1.0, (n, 3))
    x[:, 1] = np.floor(x[:, 1])
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


def counted(train: F64, x: F64) -> F64:
    """The score by its definition, value by value."""
    out = np.zeros(len(x))
    limit = np.log(len(train) + 1)
    for i in range(len(x)):
        for f, side in enumerate(SIDES):
            if np.isnan(x[i, f]):
                continue
            column = train[:, f]
            beyond = (column >= x[i, f]) if side == "high" else (column <= x[i, f])
            share = (1 + int(beyond.sum())) / (len(train) + 1)
            out[i] += (-np.log(share) / limit) ** 2
    return out / len(SIDES)


def made(train: F64, **options: Any) -> TailsModel:
    return TailsTrainer(SIDES, **options).fit(train).export(DESCRIPTION)


@given(st.integers(2, 200), st.integers(0, 10_000))
def test_few_rows_are_counted_exactly(n: int, seed: int) -> None:
    train = rows(n, seed)
    np.testing.assert_allclose(
        made(train).score(train, COLUMNS).raw, counted(train, train), atol=1e-12
    )


def test_knots_come_close_to_a_count_of_many_rows() -> None:
    train, probe = rows(20_000, 1), rows(500, 2)
    model = made(train)
    assert np.diff(model.start).max() <= MAX_KNOTS
    found, wanted = model.score(probe, COLUMNS).raw, counted(train, probe)
    assert np.abs(found - wanted).max() < 0.02
    assert np.abs(found - wanted).mean() < 0.002


def test_what_lies_farther_out_is_at_least_as_suspicious() -> None:
    model = made(rows(3000, 3))
    steps = np.linspace(0.0, 200.0, 2000)
    for f, side in enumerate(SIDES):
        x = np.full((len(steps), 3), np.nan)
        x[:, f] = steps if side == "high" else -steps
        raw = model.score(x, COLUMNS).raw
        assert (np.diff(raw) >= 0.0).all()
        assert raw[-1] == pytest.approx(1.0 / 3.0), "its share of the largest score"


def test_missing_and_unseen_features_are_no_surprise() -> None:
    train = rows(500, 4)
    train[:, 2] = np.nan
    model = made(train)
    nothing = np.full((1, 3), np.nan)
    far = np.array([[np.nan, np.nan, -1e9]])
    assert model.score(nothing, COLUMNS).raw[0] == 0.0
    assert model.score(far, COLUMNS).raw[0] == 0.0


def test_contributions_add_up_to_the_score() -> None:
    model, probe = made(rows(2000, 5)), rows(300, 6)
    found = model.explain(probe, COLUMNS)
    scores = model.score(probe, COLUMNS)
    np.testing.assert_allclose(found.expected + found.features.sum(axis=1), scores.raw, atol=1e-12)
    assert model.explained_risk(found).tobytes() == scores.group_risk.tobytes()
    odd = np.array([[1e6, 1.0, 1.0], [1.0, 1e6, 1.0]])
    assert np.argmax(model.score(odd, COLUMNS).group_risk, axis=1).tolist() == [0, 1]


def test_thresholds_follow_from_the_contamination() -> None:
    train = rows(4000, 7)
    model = made(train, contamination=0.05)
    raw = model.score(train, COLUMNS).raw
    assert np.mean(raw > model.thresholds["raw"]) == pytest.approx(0.05, abs=0.001)
    assert model.thresholds["risk"] == pytest.approx(
        model.calibration.risk(np.array([model.thresholds["raw"]]))[0]
    )
    assert model.metrics["training_rows"] == 4000


def test_trainings_that_can_not_be() -> None:
    train = rows(50, 8)
    with pytest.raises(TrainingError, match=r"contamination is 0\.7"):
        TailsTrainer(SIDES, contamination=0.7).fit(train)
    with pytest.raises(TrainingError, match="2 sides for 3 features"):
        TailsTrainer(("high", "low")).fit(train)
    with pytest.raises(TrainingError, match="call fit"):
        TailsTrainer(SIDES).export(DESCRIPTION)
    with pytest.raises(TrainingError, match="calibrated to ranks"):
        TailsTrainer(SIDES).fit(train).export(DESCRIPTION, calibration=IDENTITY)


def test_parts_that_do_not_fit_are_refused() -> None:
    model = made(rows(100, 9))
    value, surprise, start = model.value, model.surprise, model.start
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("2 sides for 3", {"sides": ("high", "low")}),
        ("2 averages for 3", {"average": (0.1, 0.1)}),
        ("average must lie", {"average": (0.1, 0.1, float("nan"))}),
        ("beginnings", {"start": start[:-1]}),
        ("from 1 to 256", {"start": np.array([0, 0, start[2], start[3]])}),
        ("from 1 to 256", {"start": start + 1}),
        ("knots", {"value": value[:-1]}),
        ("strictly ascending", {"value": np.zeros_like(value)}),
        ("finite", {"value": np.where(value == value[3], np.nan, value)}),
        ("must not descend", {"surprise": surprise[::-1].copy()}),
        ("must not descend", {"surprise": surprise * 2.0}),
        ("float32", {"value": value.astype(np.float32)}),
        ("group 'odd'", {"feature_groups": ("odd", "amount", "amount")}),
    ]
    for words, changed in wrong:
        with pytest.raises(ModelError, match=words):
            replace(model, **changed)
    replace(model, calibration=fit_rank(np.array([0.1, 0.2])))
