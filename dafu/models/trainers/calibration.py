"""Fitting probability calibrations to labelled scores, on rows that training has not seen.

Needs scikit-learn. `dafu.models.calibration` serves what is fitted here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dafu.models.calibration import BetaCalibration, IsotonicCalibration
from dafu.models.errors import TrainingError
from dafu.models.numeric import ODDS_LIMIT
from dafu.models.trainers.base import F64, labels, library


def fit_isotonic(scores: F64, y: NDArray[Any]) -> IsotonicCalibration:
    """The ascending function of the scores [n] that fits labels [n] (1: fraud) best in squares.

    Takes scores on any scale. Wants a thousand frauds or more; with fewer, `fit_beta` overfits
    less (Niculescu-Mizil and Caruana, "Predicting good probabilities with supervised learning",
    ICML 2005).

    Raises
    ------
    TrainingError
        If scikit-learn is missing, or the data does not allow a fit.
    """
    with library("scikit-learn"):
        from sklearn.isotonic import IsotonicRegression
    target = labels(y, _count(scores))
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
        np.asarray(scores, dtype=np.float64), target.astype(np.float64)
    )
    xs, ys = fitted.X_thresholds_, fitted.y_thresholds_
    if len(xs) == 1:  # scores that do not tell the classes apart
        xs, ys = np.array([xs[0], np.nextafter(xs[0], np.inf)]), np.repeat(ys, 2)
    return IsotonicCalibration(tuple(xs.tolist()), tuple(ys.tolist()))


def fit_beta(scores: F64, y: NDArray[Any]) -> BetaCalibration:
    """The beta calibration of scores [n] within 0..1 that makes labels [n] (1: fraud) most likely.

    Logistic regression on ln s and -ln(1 - s); a coefficient that comes out negative is left out,
    as Kull et al. (2017, section 4) do, so that the function ascends.

    Raises
    ------
    TrainingError
        If scikit-learn is missing, or the data does not allow a fit.
    """
    with library("scikit-learn"):
        from sklearn.linear_model import LogisticRegression
    target = labels(y, _count(scores))
    if np.any((scores < 0) | (scores > 1)):
        raise TrainingError("beta calibration takes scores within 0..1; fit_isotonic takes any")
    s = np.clip(np.asarray(scores, dtype=np.float64), ODDS_LIMIT, 1.0 - ODDS_LIMIT)
    columns = np.column_stack([np.log(s), -np.log1p(-s)])
    used = [0, 1]
    while used:
        # As good as unregularised, and strictly convex where the classes are separable.
        fitted = LogisticRegression(C=1e6, max_iter=1000, tol=1e-8).fit(columns[:, used], target)
        weights = dict(zip(used, fitted.coef_[0].tolist(), strict=True))
        negative = [k for k in used if weights[k] < 0]
        if not negative:
            return BetaCalibration(
                weights.get(0, 0.0), weights.get(1, 0.0), float(fitted.intercept_[0])
            )
        used.remove(min(negative, key=lambda k: weights[k]))
    share = float(target.mean())
    return BetaCalibration(0.0, 0.0, float(np.log(share / (1.0 - share))))


def _count(scores: F64) -> int:
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise TrainingError("calibration needs finite scores of one dimension")
    return len(scores)
