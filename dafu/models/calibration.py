"""From an anomaly score to a risk in 0..1: a monotone piecewise-linear function of rank.

A **rank calibration, not a probability**: a risk of 0.5 says that one training transaction in a
hundred looked at least this unusual, and nothing about how many of those were fraud. It puts the
scores of different models on one scale, on which thresholds keep their meaning after retraining.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.models.errors import ModelError

F64 = NDArray[np.float64]

QUANTILE_RISKS: Final = (
    (0.0, 0.0),
    (0.50, 0.05),
    (0.90, 0.20),
    (0.99, 0.50),
    (0.999, 0.75),
    (0.9999, 0.90),
)
"""(quantile of the training scores, risk). Risk 0.5, where review starts to make sense, is placed
at one in a hundred, the order of magnitude of what analysts can look at."""

BEYOND: Final = (1.1, 0.99)
"""(multiple of the largest training score, risk): room for what training never saw."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Knots of the function: `scores` strictly ascending, `risks` ascending within 0..1.

    Raises
    ------
    ModelError
        On construction, if the knots do not describe a monotone function into 0..1.
    """

    scores: tuple[float, ...]
    risks: tuple[float, ...]

    def __post_init__(self) -> None:
        scores, risks = np.array(self.scores), np.array(self.risks)
        if len(scores) < 2 or len(scores) != len(risks):
            raise ModelError(
                f"calibration: needs two or more knots, has {len(scores)} scores and "
                f"{len(risks)} risks"
            )
        if not (np.isfinite(scores).all() and np.isfinite(risks).all()):
            raise ModelError("calibration: every knot must be finite")
        if np.any(np.diff(scores) <= 0):
            raise ModelError("calibration: scores must be strictly ascending")
        if np.any(np.diff(risks) < 0) or risks[0] < 0 or risks[-1] > 1:
            raise ModelError("calibration: risks must not descend and must lie within 0..1")

    def risk(self, score: F64) -> F64:
        """Risks of scores [n]; beyond the knots the outermost risk holds."""
        xs, ys = np.array(self.scores), np.array(self.risks)
        return np.array([interpolate(s, xs, ys) for s in score], dtype=np.float64)


def fit_calibration(scores: F64) -> Calibration:
    """Fit the knots to training scores [n], n >= 1, all finite.

    Where quantiles coincide (many equal scores) the lowest of their risks holds: what is common
    is not risky.

    Examples
    --------
    >>> import numpy as np
    >>> c = fit_calibration(np.linspace(0.3, 0.7, 10_001))
    >>> [round(float(r), 3) for r in c.risk(np.array([0.1, 0.5, 0.66, 0.696, 0.9]))]
    [0.0, 0.05, 0.2, 0.5, 0.99]
    """
    if len(scores) == 0 or not np.isfinite(scores).all():
        raise ModelError("calibration: needs finite training scores, at least one")
    xs: list[float] = []
    ys: list[float] = []
    at = np.quantile(scores, [q for q, _ in QUANTILE_RISKS])
    for score, (_, risk) in zip(at, QUANTILE_RISKS, strict=True):
        if not xs or score > xs[-1]:
            xs.append(float(score))
            ys.append(risk)
    top = float(scores.max())
    factor, risk = BEYOND
    xs.append(max(top * factor, float(np.nextafter(top, np.inf))))
    ys.append(risk)
    return Calibration(tuple(xs), tuple(ys))


@kernel
def interpolate(s: float, xs: F64, ys: F64) -> float:
    """Value at `s` of the function through the knots (xs, ys), constant beyond them."""
    last = xs.shape[0] - 1
    if s <= xs[0]:
        return float(ys[0])
    if s >= xs[last]:
        return float(ys[last])
    k = 1
    while xs[k] < s:
        k += 1
    # The weight is in 0..1 even after rounding, so no result leaves its two knots.
    w = (s - xs[k - 1]) / (xs[k] - xs[k - 1])
    return float(min(ys[k], ys[k - 1] + w * (ys[k] - ys[k - 1])))
