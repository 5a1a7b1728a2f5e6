"""Distributions of features for tail surprises: no labels, no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from dafu.models.calibration import Calibration, RankCalibration, fit_rank
from dafu.models.errors import TrainingError
from dafu.models.tails import MAX_KNOTS, Side, TailsModel
from dafu.models.trainers.base import F64, Description, fitted, rows32

BEYOND: Final = 0.1
"""How far beyond the farthest training value, as a share of it, the surprise reaches its limit."""


@dataclass
class TailsTrainer:
    """Tail surprises, calibrated to the ranks of their training rows.

    The surprise of a value x is -ln((1 + rows at least as far out) / (1 + rows)), measured in that
    of a value farther out than all rows. Rows in which a feature is missing count as not far out.

    Attributes
    ----------
    sides : sequence of F "high" or "low", or None
        On which side of each feature the suspicious values lie; None: all on the high one.
    contamination : float
        Share of the training rows, within 0..0.5, above whose score the thresholds are put.
    seed : int
        For the record only: nothing is drawn.
    """

    sides: Sequence[Side] | None = None
    contamination: float = 0.01
    seed: int = 0
    knots: list[tuple[F64, F64]] | None = field(default=None, init=False, repr=False)
    signs: F64 = field(default_factory=lambda: np.empty(0), init=False, repr=False)
    average: F64 = field(default_factory=lambda: np.empty(0), init=False, repr=False)
    scores: F64 = field(default_factory=lambda: np.empty(0), init=False, repr=False)

    def fit(self, x: NDArray[Any], y: NDArray[Any] | None = None) -> Self:  # noqa: ARG002
        """Learn from rows [n, F], NaN for missing; labels play no part.

        Raises
        ------
        TrainingError
            If data or parameters do not allow a training.
        """
        if not 0.0 < self.contamination <= 0.5:
            raise TrainingError(
                f"contamination is {self.contamination}; it must be above 0 and at most 0.5"
            )
        rows32(x)
        rows = np.asarray(x, dtype=np.float64)
        sides = ["high"] * rows.shape[1] if self.sides is None else list(self.sides)
        if len(sides) != rows.shape[1] or not set(sides) <= {"high", "low"}:
            raise TrainingError(f"{len(sides)} sides for {rows.shape[1]} features; high or low")
        self.signs = np.array([1.0 if side == "high" else -1.0 for side in sides])
        self.knots = [_knots(rows[:, f] * sign) for f, sign in enumerate(self.signs)]
        squares = self._squares(rows)
        self.average = squares.mean(axis=0)
        self.scores = squares.mean(axis=1)
        return self

    def _squares(self, x: NDArray[Any]) -> F64:
        rows = np.asarray(x, dtype=np.float64) * self.signs
        out = np.zeros(rows.shape)
        for f, (values, surprises) in enumerate(fitted(self.knots)):
            there = ~np.isnan(rows[:, f])
            out[there, f] = np.interp(rows[there, f], values, surprises) ** 2
        return out

    def score(self, x: NDArray[Any]) -> F64:
        """Scores [n] of rows [n, F], within 0..1."""
        scores: F64 = self._squares(x).mean(axis=1)
        return scores

    def export(
        self,
        description: Description,
        *,
        calibration: Calibration | None = None,
        thresholds: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> TailsModel:
        """Make the serving model; thresholds and metrics are added to those of the training.

        Raises
        ------
        TrainingError
            If a calibration is given that is none of ranks.
        """
        knots = fitted(self.knots)
        calibration = calibration or fit_rank(self.scores)
        if not isinstance(calibration, RankCalibration):
            raise TrainingError("tail surprises are calibrated to ranks, with fit_rank")
        threshold = float(np.quantile(self.scores, 1.0 - self.contamination))
        return TailsModel(
            **description.arguments(TailsModel.kind, self.seed),
            feature_groups=description.feature_groups,
            sides=tuple("high" if sign > 0 else "low" for sign in self.signs),
            start=np.cumsum([0, *(len(values) for values, _ in knots)]).astype(np.int64),
            value=np.concatenate([values for values, _ in knots]),
            surprise=np.concatenate([surprises for _, surprises in knots]),
            average=tuple(float(a) for a in self.average),
            calibration=calibration,
            thresholds={
                "raw": threshold,
                "risk": float(calibration.risk(np.array([threshold]))[0]),
                **(thresholds or {}),
            },
            metrics={
                "training_rows": float(len(self.scores)),
                "contamination": self.contamination,
                "raw_mean": float(self.scores.mean()),
                "raw_max": float(self.scores.max()),
                **(metrics or {}),
            },
        )


def _knots(column: F64) -> tuple[F64, F64]:
    """Values and surprises of a feature [n]; at most MAX_KNOTS, evenly spaced in surprise.

    So the far tail keeps its single values, and the body, where a share changes little from one
    value to the next, has few knots.
    """
    there = np.sort(column[~np.isnan(column)])
    if len(there) == 0:
        return np.zeros(1), np.zeros(1)  # nothing is known of it: no value is a surprise
    values, first = np.unique(there, return_index=True)
    limit = np.log1p(len(column))
    surprises = (limit - np.log1p(len(there) - first)) / limit
    if len(values) > MAX_KNOTS - 1:
        wanted = np.linspace(surprises[0], surprises[-1], MAX_KNOTS - 1)
        at = np.unique(np.searchsorted(surprises, wanted).clip(0, len(values) - 1))
        values, surprises = values[at], surprises[at]
    beyond = max(values[-1] + BEYOND * abs(values[-1]), float(np.nextafter(values[-1], np.inf)))
    return (
        np.append(values, beyond),
        np.append(np.maximum(surprises, 0.0), 1.0),
    )
