"""What all trainers share: their protocol, the description of a model, checks of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dafu.models.calibration import Calibration
from dafu.models.errors import TrainingError
from dafu.models.model import GROUPS, Model, Provenance

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Weight = float | Literal["balanced"]
"""Weight of a fraudulent row beside a genuine one; balanced: so that both classes weigh the same.
Weights other than 1 distort probabilities: calibrate the model (`trainers.calibration`)."""


@dataclass(frozen=True)
class Description:
    """What an exported model says of itself.

    Attributes
    ----------
    feature_names, feature_groups : tuple of F names
        Name and group of each column of the training matrix.
    groups : tuple of G names
        The groups of the model, in the order of `Scores.group_risk`.
    name : str
        What decisions call it; empty for the name of its kind.
    catalogue_hash, data, code : str
        Which feature catalogue the columns follow, what it was trained on, by which code.
    requires : dict
        Versions of models whose outputs are among the features.
    """

    feature_names: tuple[str, ...]
    feature_groups: tuple[str, ...]
    groups: tuple[str, ...] = GROUPS
    name: str = ""
    catalogue_hash: str = ""
    data: str = ""
    code: str = ""
    requires: dict[str, str] = field(default_factory=dict)

    def arguments(self, kind: str, seed: int) -> dict[str, Any]:
        """Keyword arguments of the model's class."""
        return {
            "name": self.name or kind,
            "feature_names": self.feature_names,
            "groups": self.groups,
            "catalogue_hash": self.catalogue_hash,
            "provenance": Provenance(data=self.data, code=self.code, seed=seed),
            "requires": self.requires,
        }


class Trainer(Protocol):
    """Learns from rows, answers for rows, and exports what it learned."""

    def fit(self, x: NDArray[Any], y: NDArray[Any] | None) -> Self:
        """Learn from rows [n, F], NaN for missing, and labels [n] (1 for fraud).

        Raises
        ------
        TrainingError
            If the library is missing, or data or parameters do not allow a training.
        """

    def score(self, x: NDArray[Any]) -> F64:
        """The library's own scores [n] of rows [n, F]."""

    def export(
        self,
        description: Description,
        *,
        calibration: Calibration | None = None,
        thresholds: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Model:
        """Make the serving model; without a calibration, the kind's own."""


@contextmanager
def library(name: str, extra: str = "train") -> Iterator[None]:
    """Turn a failing import into an error that says what to install."""
    try:
        yield
    except ImportError as exc:
        raise TrainingError(
            f"training needs {name}, which is not installed; install it with "
            f"pip install 'dafu[{extra}]'"
        ) from exc


def rows32(x: NDArray[Any]) -> F32:
    """Training rows as float32 [n, F], NaN for missing.

    Raises
    ------
    TrainingError
        If there are fewer than two, or a value does not fit into float32.
    """
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1] == 0:
        raise TrainingError(f"training data of shape {x.shape}; it must be [rows, features]")
    if len(x) < 2:
        raise TrainingError(f"training needs at least 2 rows, got {len(x)}")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(x, dtype=np.float32)
    unusable = np.isinf(rows)
    if unusable.any():
        row, column = (int(v) for v in np.argwhere(unusable)[0])
        raise TrainingError(
            f"feature {column}, row {row}: {x[row, column]} does not fit into "
            "float32; clip it, or leave it missing (NaN)"
        )
    return rows


def labels(y: NDArray[Any] | None, n: int) -> NDArray[np.int8]:
    """Labels [n] as 0 and 1.

    Raises
    ------
    TrainingError
        If they are missing, of another length, not 0 and 1, or all the same.
    """
    if y is None:
        raise TrainingError("a classifier needs labels: 1 for fraud, 0 for genuine")
    y = np.asarray(y)
    if y.shape != (n,):
        raise TrainingError(f"labels of shape {y.shape} for {n} rows")
    if not np.isin(y, (0, 1)).all():
        raise TrainingError("labels must be 0 (genuine) and 1 (fraud)")
    if not 0 < int(np.count_nonzero(y)) < n:
        raise TrainingError(f"{int(np.count_nonzero(y))} of {n} rows are fraud; it takes both")
    return y.astype(np.int8)


def positive_weight(weight: Weight, y: NDArray[np.int8]) -> float:
    """The number that `weight` stands for with these labels."""
    if weight == "balanced":
        fraud = int(np.count_nonzero(y))
        return (len(y) - fraud) / fraud
    if not weight > 0:
        raise TrainingError(f"the weight of fraud is {weight}; it must be above 0")
    return float(weight)


def fitted(learned: Any) -> Any:
    """What `fit` has learned.

    Raises
    ------
    TrainingError
        If it has not been called.
    """
    if learned is None:
        raise TrainingError("call fit before score or export")
    return learned
