"""Settings of the libraries that have done well on past weeks of several data sets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

Parameters = Mapping[str, Any]

RANDOM_FOREST: Final[Parameters] = MappingProxyType({"n_estimators": 100, "max_depth": 10})
"""Deeper trees learn the training week by heart."""

XGBOOST: Final[Parameters] = MappingProxyType({"n_estimators": 100, "max_depth": 3})

EXACT_ROWS: Final = 200_000
"""Up to so many training rows XGBoost tries every split; beyond, bins are a good deal faster."""

ISOLATION_FOREST: Final[Parameters] = MappingProxyType({"n_estimators": 100, "max_samples": 2048})
"""On few features and with frauds among the rows: of 256 rows most trees would see no fraud."""

SHIPPED_FOREST: Final[Parameters] = MappingProxyType({"n_estimators": 100, "max_samples": 512})
"""Of the isolation forest that ships."""


def xgboost_arguments(rows: int, parameters: Parameters) -> dict[str, Any]:
    """Arguments of `XGBoostTrainer` for a training on so many rows; `parameters` go ahead."""
    method = {"tree_method": "exact"} if rows <= EXACT_ROWS else {}
    own = ("n_estimators", "max_depth", "learning_rate", "fraud_weight")
    return trainer_arguments({**XGBOOST, **method, **parameters}, own)


def forest_arguments(parameters: Parameters) -> dict[str, Any]:
    """Arguments of `RandomForestTrainer`; `parameters` go ahead of what is set here."""
    own = ("n_estimators", "max_depth", "min_samples_leaf", "class_weight")
    return trainer_arguments({**RANDOM_FOREST, **parameters}, own)


def trainer_arguments(parameters: Parameters, own: tuple[str, ...]) -> dict[str, Any]:
    """A trainer's own arguments by name, all others as `parameters`, the library's."""
    named = {name: value for name, value in parameters.items() if name in own}
    named["parameters"] = {k: value for k, value in parameters.items() if k not in own}
    return named
