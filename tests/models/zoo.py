"""Small models of every kind on synthetic payments, each with its library's own answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.models.ensemble import EnsembleModel
from dafu.models.model import Model
from dafu.models.trainers import (
    Description,
    IsolationForestTrainer,
    LightGBMTrainer,
    RandomForestTrainer,
    TailsTrainer,
    XGBoostTrainer,
)
from dafu.models.trainers.calibration import fit_beta, fit_isotonic
from dafu.models.trainers.ensemble import stacked_ensemble, weighted_ensemble

F64 = NDArray[np.float64]

NAMES: Final = ("amount", "ratio", "count", "speed", "night", "merchant_mean", "never")
GROUPS: Final = ("amount", "behavior", "merchant", "sequence")
FEATURE_GROUPS: Final = (
    "amount", "amount", "behavior", "behavior", "behavior", "merchant", "sequence",
)  # fmt: skip
DESCRIPTION: Final = Description(
    NAMES, FEATURE_GROUPS, GROUPS, catalogue_hash="abc", data="payments", code="test"
)
COLUMNS: Final = {name: i for i, name in enumerate(NAMES)}
INDEX: Final = np.arange(len(NAMES), dtype=np.int32)
ROWS: Final = 1500


def payments(seed: int, n: int = ROWS) -> F64:
    """Rows with ties, a flag, missing values and a feature that is never there; float32 values."""
    rng = np.random.default_rng(seed)
    x = rng.lognormal(0.0, 1.0, (n, len(NAMES)))
    x[:, 2] = np.floor(x[:, 2])
    x[:, 4] = rng.random(n) < 0.3
    x[rng.random(x.shape) < 0.1] = np.nan
    x[:, 0] = np.abs(np.nan_to_num(x[:, 0], nan=1.0))  # the one that is always there
    x[:, 6] = np.nan
    return x.astype(np.float32).astype(np.float64)


def fraud(x: F64, seed: int) -> NDArray[np.int8]:
    """Labels that depend on the features, and on whether one is missing."""
    noise = np.random.default_rng(seed).normal(0.0, 0.7, len(x))
    z = np.log(x[:, 0]) + np.nan_to_num(x[:, 2], nan=2.0) * 0.5 + np.nan_to_num(x[:, 4])
    return (z + np.isnan(x[:, 3]) + noise > 2.6).astype(np.int8)


@dataclass(frozen=True)
class Specimen:
    """A served model, and what its raw scores [n] have to be."""

    model: Model
    library: Callable[[F64], F64]


def _trained(trainer: Any, **options: Any) -> Specimen:
    x = payments(1)
    trainer.fit(x, fraud(x, 2))
    return Specimen(trainer.export(DESCRIPTION, **options), trainer.score)


def _isolation(seed: int) -> Specimen:
    return _trained(IsolationForestTrainer(seed, n_estimators=12, max_samples=128))


def _tails(seed: int) -> Specimen:
    """Nothing is drawn in training, so the seed is that of the rows."""
    sides: Any = ("high", "high", "low", "high", "high", "low", "high")
    trainer = TailsTrainer(sides, seed=seed).fit(payments(seed))
    return Specimen(trainer.export(DESCRIPTION), trainer.score)


def _xgboost(seed: int) -> Specimen:
    sampled = {"subsample": 0.7, "colsample_bynode": 0.8}
    return _trained(XGBoostTrainer(seed, n_estimators=12, max_depth=4, parameters=sampled))


def _xgboost_balanced(seed: int) -> Specimen:
    trainer = XGBoostTrainer(
        seed, n_estimators=8, fraud_weight="balanced", parameters={"subsample": 0.5}
    )
    specimen = _trained(trainer)
    x = payments(3)
    return _trained(trainer, calibration=fit_beta(specimen.library(x), fraud(x, 4)))


def _lightgbm(seed: int) -> Specimen:
    sampled = {"bagging_fraction": 0.7, "bagging_freq": 1, "min_data_in_leaf": 5}
    return _trained(LightGBMTrainer(seed, n_estimators=12, num_leaves=15, parameters=sampled))


def _random_forest(seed: int) -> Specimen:
    return _trained(RandomForestTrainer(seed, n_estimators=12, max_depth=9))


def _random_forest_balanced(seed: int) -> Specimen:
    trainer = RandomForestTrainer(
        seed, n_estimators=8, max_depth=5, class_weight="balanced_subsample"
    )
    specimen = _trained(trainer)
    x = payments(3)
    return _trained(trainer, calibration=fit_isotonic(specimen.library(x), fraud(x, 4)))


def _members(seed: int) -> list[Specimen]:
    made = []
    for k, make in enumerate((_isolation, _xgboost, _random_forest_balanced)):
        specimen = make(seed)
        model: Any = specimen.model
        made.append(Specimen(replace(model, name=f"m{k}"), specimen.library))
    return made


def _weighted(seed: int) -> Specimen:
    members = _members(seed)
    weights = (0.5, 2.0, 1.5)
    model = weighted_ensemble(
        [m.model for m in members], weights, payments(3), COLUMNS, DESCRIPTION
    )

    def mean(x: F64) -> F64:
        risks = [m.model.calibration.risk(m.library(x)) for m in members]  # type: ignore[attr-defined]
        return np.asarray(np.average(risks, axis=0, weights=weights))

    return Specimen(model, mean)


def _stacked(seed: int) -> Specimen:
    members = _members(seed)
    x = payments(3)
    model = stacked_ensemble(
        [m.model for m in members], x, fraud(x, 4), COLUMNS, DESCRIPTION, calibration="isotonic"
    )
    return Specimen(model, lambda x: stacked_by_hand(model, [m.library(x) for m in members]))


def stacked_by_hand(model: EnsembleModel, raw: list[F64]) -> F64:
    """sigmoid(intercept + weighted sum), from the members' raw scores [n] each."""
    z = np.full(len(raw[0]), model.intercept)
    for part, score in zip(model.parts, raw, strict=True):
        p = np.clip(score, 1e-12, 1 - 1e-12)
        z += part.weight * (np.log(p / (1 - p)) if part.input == "log_odds" else score)
    return np.asarray(1.0 / (1.0 + np.exp(-z)))


MAKERS: Final[dict[str, Callable[[int], Specimen]]] = {
    "isolation forest": _isolation,
    "tails": _tails,
    "XGBoost": _xgboost,
    "XGBoost, balanced, beta": _xgboost_balanced,
    "LightGBM": _lightgbm,
    "random forest": _random_forest,
    "random forest, balanced, isotonic": _random_forest_balanced,
    "weighted ensemble": _weighted,
    "stacked ensemble": _stacked,
}


@cache
def specimen(name: str, seed: int = 1) -> Specimen:
    """The model of that name, made once."""
    return MAKERS[name](seed)
