"""Tail surprises: how far out on its suspicious side each feature of a transaction lies.

Each feature's surprise is -ln of the share of training rows that lie at least as far out as the
row does, on the one side of the feature that is known to be suspicious. The score is the mean of
their squares. A simple relative of ECOD (Li, Zhao, Hu, Botta, Ionescu, Chen, "ECOD: Unsupervised
outlier detection using empirical cumulative distribution functions", IEEE TKDE 2023), which adds up
both tails of all features without squares. The square lets one far tail outweigh several middling
features: a fraud stands out in something, not in everything.

Knows no library and no files; `trainers.tails` makes such a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from msgspec import Struct, to_builtins
from numpy.typing import NDArray

from dafu.kernel import long_kernel
from dafu.models.calibration import RankCalibration, interpolate
from dafu.models.errors import ModelError
from dafu.models.forest import check_rows
from dafu.models.model import (
    Arrays,
    Contributions,
    Manifest,
    ModelBase,
    Scores,
    base_fields,
    check_arrays,
    group_index,
    read_parameters,
    sum_by_group,
)

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

Side = Literal["high", "low"]

MAX_KNOTS: Final = 256
"""Knots of a feature's distribution."""

ARRAYS: Final = ("start", "value", "surprise")


class TailsParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest says of a tails model; see `TailsModel`."""

    feature_groups: tuple[str, ...]
    sides: tuple[Side, ...]
    average: tuple[float, ...]
    calibration: RankCalibration


@dataclass(frozen=True, kw_only=True)
class TailsModel(ModelBase):
    """Distributions of features with everything that serving them needs.

    Attributes
    ----------
    feature_groups : tuple of F names
        The group of each feature, one of `groups`.
    sides : tuple of F "high" or "low"
        On which side of each feature the suspicious values lie.
    start : int64 [F + 1]
        Where each feature's knots begin and end; one to `MAX_KNOTS` of them.
    value : float64 [K]
        Knots, strictly ascending within a feature; of a "low" feature the negated values.
    surprise : float64 [K]
        At each knot, -ln of the share of training rows at least as far out, divided by the largest
        that the training allows: ascending, within 0..1. Linear between knots, which is
        interpolating the share on a logarithmic scale; constant beyond them. What is missing is
        no surprise: 0.
    average : tuple of F floats
        Mean of the squared surprise in training, by feature; explanations are measured from there.
    calibration : RankCalibration
        From score to risk.

    The raw score is the mean over the features of the squared surprises, within 0..1. The
    thresholds are `raw` and `risk`, above which lies the share of training rows called
    contamination.

    Raises
    ------
    ModelError
        On construction, if the parts do not fit each other.
    """

    kind: ClassVar[str] = "tails"

    feature_groups: tuple[str, ...]
    sides: tuple[Side, ...]
    start: I64
    value: F64
    surprise: F64
    average: tuple[float, ...]
    calibration: RankCalibration

    def __post_init__(self) -> None:
        super().__post_init__()
        me, wanted = f"model '{self.name}'", len(self.feature_names)
        for what, found in (
            ("feature groups", len(self.feature_groups)),
            ("sides", len(self.sides)),
            ("averages", len(self.average)),
            ("beginnings of knots", self.start.size - 1),
        ):
            if found != wanted:
                raise ModelError(f"{me}: {found} {what} for {wanted} feature names")
        for what, array, dtype in (
            ("start", self.start, np.int64),
            ("value", self.value, np.float64),
            ("surprise", self.surprise, np.float64),
        ):
            if array.ndim != 1 or array.dtype != dtype:
                raise ModelError(f"{me}: {what} is {array.dtype} of {array.ndim} dimensions")
        counts = np.diff(self.start)
        if self.start[0] != 0 or counts.min() < 1 or counts.max() > MAX_KNOTS:
            raise ModelError(
                f"{me}: a feature has from 1 to {MAX_KNOTS} knots, one after the other"
            )
        if len(self.value) != self.start[-1] or len(self.surprise) != self.start[-1]:
            raise ModelError(
                f"{me}: {len(self.value)} values and {len(self.surprise)} surprises for "
                f"{int(self.start[-1])} knots"
            )
        if not (np.isfinite(self.value).all() and np.isfinite(self.surprise).all()):
            raise ModelError(f"{me}: every knot must be finite")
        within = np.setdiff1d(np.arange(1, len(self.value)), self.start)
        if np.any(self.value[within] <= self.value[within - 1]):
            raise ModelError(f"{me}: the knots of a feature must be strictly ascending")
        if (
            np.any(self.surprise[within] < self.surprise[within - 1])
            or self.surprise.min() < 0.0
            or self.surprise.max() > 1.0
        ):
            raise ModelError(f"{me}: surprises must not descend and must lie within 0..1")
        if not all(0.0 <= a <= 1.0 for a in self.average):
            raise ModelError(f"{me}: every average must lie within 0..1")
        _ = self._group_index

    def parameters(self) -> dict[str, Any]:
        """What the manifest holds besides `ModelBase`."""
        parameters: dict[str, Any] = to_builtins(
            TailsParameters(self.feature_groups, self.sides, self.average, self.calibration)
        )
        return parameters

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The knots."""
        return {name: getattr(self, name) for name in ARRAYS}

    @classmethod
    def assemble(cls, manifest: Manifest, arrays: Arrays) -> Self:
        """Build the model from its package; see `Packaged`."""
        p = read_parameters(manifest, TailsParameters)
        check_arrays(cls.kind, arrays, ARRAYS)
        return cls(
            **base_fields(manifest),
            feature_groups=p.feature_groups,
            sides=p.sides,
            average=p.average,
            calibration=p.calibration,
            start=arrays["start"],
            value=arrays["value"],
            surprise=arrays["surprise"],
        )

    @cached_property
    def _group_index(self) -> I32:
        return group_index(self.name, self.feature_groups, self.groups)

    @cached_property
    def _signs(self) -> F64:
        return np.array([1.0 if side == "high" else -1.0 for side in self.sides])

    @cached_property
    def _shares(self) -> F64:
        """What each feature adds to the score of the average row, float64 [F]."""
        return np.array(self.average) / len(self.average)

    @cached_property
    def _expected(self) -> float:
        expected = 0.0
        for share in self._shares.tolist():
            expected += share
        return expected

    def _credits(self, x: NDArray[Any], column_index: I32) -> tuple[F64, F64]:
        """Scores [n], and by how much each feature moves them from the average [n, F]."""
        check_rows(len(self.feature_names), x, column_index)
        raw, credits = np.empty(len(x)), np.empty((len(x), len(self.feature_names)))
        _walk(
            x,
            column_index,
            self._signs,
            self.start,
            self.value,
            self.surprise,
            self._shares,
            raw,
            credits,
        )
        return raw, credits

    def score(self, x: NDArray[Any], column_index: I32) -> Scores:
        """Score rows of the full feature matrix.

        Parameters
        ----------
        x : float64 or float32 [n, F_full]
            The full feature matrix, NaN for missing.
        column_index : int32 [F]
            Column of each feature of this model in `x`; see `column_index`.

        Raises
        ------
        ModelError
            If the shapes do not fit.
        """
        raw, credits = self._credits(x, column_index)
        groups = sum_by_group(credits, self._group_index, len(self.groups))
        return Scores(raw, self.calibration.risk(raw), self._group_risk(groups))

    def explain(self, x: NDArray[Any], column_index: I32) -> Contributions:
        """By how much each feature moves the score from its average; arguments as for `score`.

        The score is a sum over features, so these are its Shapley values.
        """
        _, credits = self._credits(x, column_index)
        groups = sum_by_group(credits, self._group_index, len(self.groups))
        return Contributions(credits, groups, self._expected)

    def explained_risk(self, contributions: Contributions) -> F64:
        """Risk had only one group moved the score from its average, [n, G]; 0 if it lowered it."""
        return self._group_risk(contributions.groups)

    def _group_risk(self, lifts: F64) -> F64:
        risk = self.calibration.risk(self._expected + lifts)
        risk[lifts <= 0.0] = 0.0
        return risk


@long_kernel
def _walk(
    x: NDArray[Any],
    columns: I32,
    signs: F64,
    start: I64,
    value: F64,
    surprise: F64,
    shares: F64,
    raw: F64,
    credits: F64,
) -> None:
    n_features = columns.shape[0]
    for i in range(x.shape[0]):
        total = 0.0
        for f in range(n_features):
            seen = signs[f] * x[i, columns[f]]
            s = 0.0
            if not np.isnan(seen):
                begin, end = start[f], start[f + 1]
                s = interpolate(seen, value[begin:end], surprise[begin:end])
            total += s * s
            credits[i, f] = s * s / n_features - shares[f]
        raw[i] = total / n_features
