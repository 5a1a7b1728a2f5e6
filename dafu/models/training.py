"""Training an isolation forest with scikit-learn and turning it into a serving model.

Needs the `train` extra, imported only when a training starts. Knows no feature code: it is given a
matrix, the names of its columns and their groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dafu.models.calibration import fit_rank
from dafu.models.errors import TrainingError
from dafu.models.forest import Forest
from dafu.models.isolation import IsolationForestModel, average_path_length
from dafu.models.model import GROUPS, Provenance

F64 = NDArray[np.float64]


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
    """Train an isolation forest and calibrate it on its training rows.

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
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError as exc:
        raise TrainingError(
            "training needs scikit-learn, which is not installed; install it with "
            "pip install 'dafu[train]'"
        ) from exc
    x = np.asarray(x, dtype=np.float64)
    _check(x, feature_names, groups, contamination, n_estimators, max_samples)
    fill = _medians(x)
    filled = np.where(np.isnan(x), fill, x).astype(np.float32)
    psi = min(max_samples, len(filled))
    trained = IsolationForest(
        n_estimators=n_estimators,
        max_samples=psi,
        contamination="auto",
        random_state=seed,
    ).fit(filled)

    scores = -cast(F64, trained.score_samples(filled))
    calibration = fit_rank(scores)
    threshold = float(np.quantile(scores, 1.0 - contamination))
    return IsolationForestModel(
        name=name,
        feature_names=tuple(feature_names),
        feature_groups=tuple(groups),
        groups=tuple(group_names),
        fill=tuple(float(v) for v in fill),
        forest=forest_from_sklearn(trained),
        max_samples=psi,
        calibration=calibration,
        catalogue_hash=catalogue_hash,
        thresholds={
            "raw": threshold,
            "risk": float(calibration.risk(np.array([threshold]))[0]),
        },
        metrics={
            "training_rows": float(len(scores)),
            "contamination": contamination,
            "raw_mean": float(scores.mean()),
            "raw_max": float(scores.max()),
        },
        provenance=Provenance(data=data, code=code, seed=seed),
    )


def forest_from_sklearn(trained: Any) -> Forest:
    """Flatten a fitted `sklearn.ensemble.IsolationForest`; `value` is the path length.

    Only forests whose trees see every feature (`max_features=1.0`) are taken.
    """
    names = ("feature", "threshold", "left", "right", "value")
    parts: dict[str, list[NDArray[Any]]] = {n: [] for n in names}
    roots: list[int] = []
    offset = 0
    for estimator, seen in zip(trained.estimators_, trained.estimators_features_, strict=True):
        if len(seen) != trained.n_features_in_:
            raise TrainingError(
                f"a tree was trained on {len(seen)} of {trained.n_features_in_} features; "
                "train with max_features=1.0"
            )
        tree = estimator.tree_
        leaf = tree.children_left < 0
        parts["feature"].append(np.where(leaf, -1, tree.feature))
        parts["threshold"].append(np.where(leaf, 0.0, tree.threshold))
        parts["left"].append(np.where(leaf, -1, tree.children_left + offset))
        parts["right"].append(np.where(leaf, -1, tree.children_right + offset))
        parts["value"].append(_path_lengths(tree))
        roots.append(offset)
        offset += tree.node_count
    flat = {n: np.concatenate(parts[n]) for n in names}
    return Forest(
        feature=flat["feature"].astype(np.int32),
        threshold=flat["threshold"].astype(np.float64),
        left=flat["left"].astype(np.int32),
        right=flat["right"].astype(np.int32),
        value=flat["value"].astype(np.float64),
        roots=np.array(roots, dtype=np.int32),
        n_features=int(trained.n_features_in_),
    )


def _path_lengths(tree: Any) -> F64:
    """Expected path length of the training rows that reach each node.

    At a leaf of n rows it is depth + c(n); scikit-learn counts the root's depth as 1.
    """
    rows = tree.n_node_samples
    depth = tree.compute_node_depths() - 1.0
    value: F64 = depth + np.array([average_path_length(int(n)) for n in rows])
    # Children come after their parent, so going backwards meets them first.
    for node in range(tree.node_count - 1, -1, -1):
        left, right = tree.children_left[node], tree.children_right[node]
        if left >= 0:
            both = rows[left] + rows[right]
            value[node] = (rows[left] * value[left] + rows[right] * value[right]) / both
    return value


def _medians(x: F64) -> F64:
    fill = np.zeros(x.shape[1])
    for j in range(x.shape[1]):
        present = x[~np.isnan(x[:, j]), j]
        if len(present):
            fill[j] = np.median(present)
    return fill


def _check(
    x: F64,
    feature_names: Sequence[str],
    groups: Sequence[str],
    contamination: float,
    n_estimators: int,
    max_samples: int,
) -> None:
    if x.ndim != 2 or x.shape[1] != len(feature_names) or x.shape[1] != len(groups):
        raise TrainingError(
            f"training data of shape {x.shape} for {len(feature_names)} feature names and "
            f"{len(groups)} groups; it must be [rows, features]"
        )
    if len(x) < 2:
        raise TrainingError(f"training needs at least 2 rows, got {len(x)}")
    with np.errstate(over="ignore"):
        unusable = np.isinf(x.astype(np.float32))
    if unusable.any():
        row, column = (int(v) for v in np.argwhere(unusable)[0])
        raise TrainingError(
            f"feature '{feature_names[column]}', row {row}: {x[row, column]} does not fit into "
            "float32; clip it, or leave it missing (NaN)"
        )
    if not 0.0 < contamination <= 0.5:
        raise TrainingError(f"contamination is {contamination}; it must be above 0 and at most 0.5")
    if n_estimators < 1 or max_samples < 2:
        raise TrainingError(
            f"n_estimators is {n_estimators} (at least 1), max_samples {max_samples} (at least 2)"
        )
