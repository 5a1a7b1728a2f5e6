"""From a raw score to a risk in 0..1: monotone functions, fitted to past scores.

Two meanings of risk. A **rank calibration** is no probability: a risk of 0.5 says that one training
transaction in a hundred looked at least this unusual, and nothing about how many of those were
fraud. It puts the scores of different models on one scale, on which thresholds keep their meaning
after retraining, and needs no labels. A **probability calibration** is fitted to labels: of the
transactions with a risk of 0.5, half were fraud. `type` says which one it is.

Serving needs no library; fitting a probability calibration needs the `train` extra
(`dafu.models.trainers.calibration`).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar, Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.models.errors import ModelError
from dafu.models.numeric import ODDS_LIMIT, ln, sigmoid

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

Meaning = Literal["rank", "probability"]


class RankCalibration(
    Struct, frozen=True, dict=True, forbid_unknown_fields=True, tag_field="type", tag="rank"
):
    """Linear between knots: `scores` strictly ascending, `risks` ascending within 0..1.

    Raises
    ------
    ModelError
        On construction, if the knots do not describe a monotone function into 0..1.
    """

    meaning: ClassVar[Meaning] = "rank"

    scores: tuple[float, ...]
    risks: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_knots(self.scores, self.risks)

    @cached_property
    def knots(self) -> tuple[F64, F64]:
        """Scores and risks as arrays."""
        return np.array(self.scores), np.array(self.risks)

    def risk(self, score: F64) -> F64:
        """Risks of scores of any shape; beyond the knots the outermost risk holds."""
        return _at_knots(score, *self.knots)


class IsotonicCalibration(
    Struct, frozen=True, dict=True, forbid_unknown_fields=True, tag_field="type", tag="isotonic"
):
    """A probability, linear between knots as in `RankCalibration`.

    Raises
    ------
    ModelError
        On construction, if the knots do not describe a monotone function into 0..1.
    """

    meaning: ClassVar[Meaning] = "probability"

    scores: tuple[float, ...]
    risks: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_knots(self.scores, self.risks)

    @cached_property
    def knots(self) -> tuple[F64, F64]:
        """Scores and risks as arrays."""
        return np.array(self.scores), np.array(self.risks)

    def risk(self, score: F64) -> F64:
        """Risks of scores of any shape; beyond the knots the outermost risk holds."""
        return _at_knots(score, *self.knots)


class BetaCalibration(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="beta"
):
    """A probability: sigmoid(a ln s - b ln(1 - s) + c) of a score s within 0..1.

    Kull, Silva Filho and Flach, "Beta calibration" (AISTATS 2017), equation 5. With a = b it is
    Platt's scaling of the log-odds, with a = b = 1 and c = 0 the identity. Scores are kept within
    1e-12..1 - 1e-12.

    Raises
    ------
    ModelError
        On construction, if a or b is negative, which would let the function descend, or a
        coefficient is not finite.
    """

    meaning: ClassVar[Meaning] = "probability"

    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.a, self.b, self.c)):
            raise ModelError("calibration: every coefficient must be finite")
        if self.a < 0 or self.b < 0:
            raise ModelError(f"calibration: a is {self.a}, b is {self.b}; neither may be negative")

    def risk(self, score: F64) -> F64:
        """Risks of scores of any shape."""
        out = np.empty(score.shape)
        _beta(np.ascontiguousarray(score).reshape(-1), self.a, self.b, self.c, out.reshape(-1))
        return out


Calibration = RankCalibration | IsotonicCalibration | BetaCalibration


def _check_knots(scores: tuple[float, ...], risks: tuple[float, ...]) -> None:
    if len(scores) < 2 or len(scores) != len(risks):
        raise ModelError(
            f"calibration: needs two or more knots, has {len(scores)} scores and {len(risks)} risks"
        )
    xs, ys = np.array(scores), np.array(risks)
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ModelError("calibration: every knot must be finite")
    if np.any(np.diff(xs) <= 0):
        raise ModelError("calibration: scores must be strictly ascending")
    if np.any(np.diff(ys) < 0) or ys[0] < 0 or ys[-1] > 1:
        raise ModelError("calibration: risks must not descend and must lie within 0..1")


IDENTITY: Final = IsotonicCalibration((0.0, 1.0), (0.0, 1.0))
"""Takes a score within 0..1 for the probability that it claims to be."""


def fit_rank(scores: F64) -> RankCalibration:
    """Fit a rank calibration to training scores [n], n >= 1, all finite.

    Where quantiles coincide (many equal scores) the lowest of their risks holds: what is common
    is not risky.

    Examples
    --------
    >>> import numpy as np
    >>> c = fit_rank(np.linspace(0.3, 0.7, 10_001))
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
    return RankCalibration(tuple(xs), tuple(ys))


def _at_knots(score: F64, xs: F64, ys: F64) -> F64:
    out = np.empty(score.shape)
    flat = np.ascontiguousarray(score).reshape(-1)
    _interpolate_all(flat, xs, ys, out.reshape(-1))
    return out


@kernel
def interpolate(s: float, xs: F64, ys: F64) -> float:
    """Value at `s` of the function through the knots (xs, ys), constant beyond them."""
    last = xs.shape[0] - 1
    if s <= xs[0]:
        return float(ys[0])
    if s >= xs[last]:
        return float(ys[last])
    low, high = 0, last  # xs[low] < s <= xs[high]
    while high - low > 1:
        middle = (low + high) // 2
        if xs[middle] < s:
            low = middle
        else:
            high = middle
    # The weight is in 0..1 even after rounding, so no result leaves its two knots.
    w = (s - xs[low]) / (xs[high] - xs[low])
    return float(min(ys[high], ys[low] + w * (ys[high] - ys[low])))


@kernel
def _interpolate_all(scores: F64, xs: F64, ys: F64, out: F64) -> None:
    for i in range(scores.shape[0]):
        out[i] = interpolate(scores[i], xs, ys)


@kernel
def _beta(scores: F64, a: float, b: float, c: float, out: F64) -> None:
    for i in range(scores.shape[0]):
        s = min(max(scores[i], ODDS_LIMIT), 1.0 - ODDS_LIMIT)
        out[i] = sigmoid(a * ln(s) - b * ln(1.0 - s) + c)
