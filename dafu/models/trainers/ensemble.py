"""Combining served models into an ensemble, on rows that none of them has been trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from dafu.models.calibration import IDENTITY, Calibration
from dafu.models.ensemble import EnsembleModel, Input, Part, member_input
from dafu.models.errors import TrainingError
from dafu.models.model import Model
from dafu.models.trainers.base import F64, Description, labels, library
from dafu.models.trainers.calibration import fit_beta, fit_isotonic

RIDGE: Final = 1e-3
"""Penalty on the square of a standardised weight, per row: keeps twins from trading places."""


def weighted_ensemble(
    members: Sequence[Model],
    weights: Sequence[float],
    x: NDArray[Any],
    columns: Mapping[str, int],
    description: Description,
    *,
    seed: int = 0,
    calibration: Calibration = IDENTITY,
) -> EnsembleModel:
    """The weighted mean of the members' risks.

    Parameters
    ----------
    members, weights
        K models and their weights, not negative; they are divided by their sum.
    x : float [n, F_full]
        Rows whose mean risks stand for the average row in explanations.
    columns
        Column of each feature in `x`, by name.
    description, seed, calibration
        What the model says of itself. Without a calibration, the mean is the risk.
    """
    total = float(sum(weights))
    if len(weights) != len(members) or min(weights, default=-1.0) < 0 or not total > 0:
        raise TrainingError(f"{len(weights)} weights for {len(members)} members; none negative")
    inputs = _inputs(members, ["risk"] * len(members), x, columns)
    return _export(
        members,
        [
            Part("risk", w / total, float(a))
            for w, a in zip(weights, inputs.mean(axis=0), strict=True)
        ],
        "identity",
        0.0,
        calibration,
        description,
        seed,
        {},
    )


def stacked_ensemble(
    members: Sequence[Model],
    x: NDArray[Any],
    y: NDArray[Any],
    columns: Mapping[str, int],
    description: Description,
    *,
    seed: int = 0,
    calibration: Literal["none", "beta", "isotonic"] = "none",
    inputs: Sequence[Input] | None = None,
) -> EnsembleModel:
    """A logistic regression over the members' scores, none with a negative weight.

    Parameters
    ----------
    members
        K models.
    x : float [n, F_full], y : [n]
        Rows and labels (1: fraud) that no member was trained on.
    columns
        Column of each feature in `x`, by name.
    description, seed
        What the model says of itself.
    calibration
        What to fit on top, to the same rows: the regression gives probabilities already, if its
        inputs are in line with log-odds.
    inputs
        What to take of each member; without it, the log-odds of a calibrated probability's raw
        score, and the raw score of any other.

    Raises
    ------
    TrainingError
        If scikit-learn is missing, or the data does not allow a fit.
    """
    with library("scikit-learn"):
        from scipy.optimize import minimize
    target = labels(y, len(x)).astype(np.float64)
    wanted = list(inputs) if inputs is not None else [_default_input(m) for m in members]
    values = _inputs(members, wanted, x, columns)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    spread = np.ptp(values, axis=0)  # exactly 0 for equal scores, which a rounded `scale` is not
    if not np.all(spread > 0):
        silent = members[int(np.argmin(spread))].name
        raise TrainingError(f"member '{silent}' gives every row the same score; leave it out")
    standard = (values - mean) / scale
    share = float(target.mean())

    def loss(theta: F64) -> tuple[float, F64]:
        z = theta[0] + (standard * theta[1:]).sum(axis=1)
        error = 1.0 / (1.0 + np.exp(-z)) - target
        value = np.logaddexp(0.0, z).mean() - (target * z).mean() + RIDGE * (theta[1:] ** 2).sum()
        slope = (standard * error[:, None]).mean(axis=0) + 2.0 * RIDGE * theta[1:]
        return float(value), np.concatenate([[error.mean()], slope])

    start = np.concatenate([[np.log(share / (1.0 - share))], np.ones(len(members))])
    bounds = [(None, None), *[(0.0, None)] * len(members)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    weights = found.x[1:] / scale
    model = _export(
        members,
        [Part(i, float(w), float(a)) for i, w, a in zip(wanted, weights, mean, strict=True)],
        "logistic",
        float(found.x[0] - (weights * mean).sum()),
        IDENTITY,
        description,
        seed,
        {"rows": float(len(x)), "fraud": float(target.sum())},
    )
    if calibration == "none":
        return model
    raw = model.score(x, model.column_index(columns)).raw
    fit = fit_beta if calibration == "beta" else fit_isotonic
    return replace(model, calibration=fit(raw, y))


def _default_input(member: Model) -> Input:
    calibration = getattr(member, "calibration", None)
    return "log_odds" if getattr(calibration, "meaning", "") == "probability" else "raw"


def _inputs(
    members: Sequence[Model],
    wanted: Sequence[Input],
    x: NDArray[Any],
    columns: Mapping[str, int],
) -> F64:
    if not members or len(wanted) != len(members):
        raise TrainingError(f"{len(wanted)} inputs for {len(members)} members; it takes some")
    return np.stack(
        [
            member_input(member.score(x, member.column_index(columns)), each)
            for member, each in zip(members, wanted, strict=True)
        ],
        axis=1,
    )


def _export(
    members: Sequence[Model],
    parts: Sequence[Part],
    link: Literal["identity", "logistic"],
    intercept: float,
    calibration: Calibration,
    description: Description,
    seed: int,
    metrics: dict[str, float],
) -> EnsembleModel:
    arguments = description.arguments(EnsembleModel.kind, seed)
    for member in members:
        arguments["requires"] = {**arguments["requires"], **member.requires}
    return EnsembleModel(
        **arguments,
        feature_groups=description.feature_groups,
        members=tuple(members),
        parts=tuple(parts),
        link=link,
        intercept=intercept,
        calibration=calibration,
        metrics=metrics,
    )
