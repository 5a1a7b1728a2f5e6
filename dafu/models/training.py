"""Training an isolation forest in one call; `trainers` has the other kinds.

Needs the `train` extra, imported only when a training starts. Knows no feature code: it is given a
matrix, the names of its columns and their groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dafu.models.errors import TrainingError
from dafu.models.isolation import IsolationForestModel
from dafu.models.model import GROUPS
from dafu.models.trainers.base import Description, rows32
from dafu.models.trainers.isolation import IsolationForestTrainer
from dafu.models.trainers.reference import with_reference


def train_isolation_forest(
    x: NDArray[Any],
    feature_names: Sequence[str],
    groups: Sequence[str],
    *,
    seed: int,
    contamination: float = 0.01,
    n_estimators: int = 100,
    max_samples: int = 256,
    group_names: Sequence[str] = GROUPS,
    name: str = "isolation_forest",
    catalogue_hash: str = "",
    data: str = "",
    code: str = "",
) -> IsolationForestModel:
    """Train an isolation forest, calibrate it on its training rows and note how they look.

    Parameters
    ----------
    x : float [n, F]
        Training rows, NaN for missing. What is missing is filled with the feature's median (0 for
        a feature that is always missing); the same values fill it in serving.
    feature_names, groups
        Name and group of each of the F columns.
    seed
        Same seed, data and scikit-learn: same model, bit for bit.
    contamination
        Share of the training rows, within 0..0.5, above whose score the thresholds are put.
    n_estimators, max_samples
        Trees, and rows per tree (psi); no more than n. 100 and 256 are the paper's.
    group_names
        The groups of the model, in the order of `Scores.group_risk`.
    name, catalogue_hash, data, code
        Recorded in the model: what to call it, which feature catalogue the columns follow, what
        it was trained on and by which version of the code.

    Raises
    ------
    TrainingError
        If scikit-learn is not installed, or data or parameters do not allow a training.
    ModelError
        If names and groups do not fit each other.

    References
    ----------
    Liu, Ting, Zhou: "Isolation Forest", ICDM 2008.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != len(feature_names) or x.shape[1] != len(groups):
        raise TrainingError(
            f"training data of shape {x.shape} for {len(feature_names)} feature names and "
            f"{len(groups)} groups; it must be [rows, features]"
        )
    rows32(x, tuple(feature_names))
    trainer = IsolationForestTrainer(seed, contamination, n_estimators, max_samples).fit(x)
    model = trainer.export(
        Description(
            tuple(feature_names),
            tuple(groups),
            tuple(group_names),
            name,
            catalogue_hash,
            data,
            code,
        )
    )
    return with_reference(model, x, {name: k for k, name in enumerate(feature_names)})
