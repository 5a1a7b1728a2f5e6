"""Training the isolation forest on features that the stream's own stages compute.

Without a file it trains on generated transactions with fixed parameters, which is how the default
model that ships was made: `dafu train --out dafu/models/default`. Needs the `train` extra.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu import __version__
from dafu.errors import DafuError
from dafu.features.catalogue import CATALOGUE_HASH, FEATURES, INDEX
from dafu.ingest import TransactionReader, load_mapping
from dafu.models.errors import ModelPackageError, TrainingError
from dafu.models.isolation import IsolationForestModel
from dafu.models.package import save_package
from dafu.models.storage import MANIFEST
from dafu.models.training import train_isolation_forest
from dafu.offline import run_batches
from dafu.rules import compile_rules
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage

MODEL_FEATURES: Final = (
    "amount",
    "amount_to_user_mean_30d",
    "amount_to_user_median_30d",
    "amount_zscore_30d",
    "user_amount_sum_1h",
    "user_amount_sum_1d",
    "user_count_5m",
    "user_count_1h",
    "user_count_1d",
    "user_merchants_1h",
    "user_merchants_1d",
    "user_devices_1d",
    "user_ips_1d",
    "user_countries_1d",
    "new_device",
    "new_country",
    "new_ip",
    "new_merchant",
    "km_since_last",
    "speed_kmh",
    "km_from_home",
    "km_to_merchant",
    "seconds_since_last",
    "is_night",
    "merchant_count_5m",
    "merchant_count_1h",
    "merchant_users_5m",
    "merchant_users_1h",
    "amount_to_merchant_mean_30d",
    "merchant_age_days",
)
"""What the forest looks at: figures that stand out in fraud, none that grow with an account."""

USERS: Final = 3000
MERCHANTS: Final = 400
DAYS: Final = 60
GENERATED: Final = f"generated: {USERS} users, {MERCHANTS} merchants, {DAYS} days, seed {{seed}}"
WARM_UP_SHARE: Final = 1 / 3
"""Leading share of the transactions that only fills windows and is not trained on."""

TREES: Final = 100
ROWS_PER_TREE: Final = 512


def feature_matrix(batches: Iterable[Any]) -> NDArray[np.float64]:
    """Every feature of every transaction [n, F], as the stream computes them."""
    pipeline = Pipeline(
        UserStage(0), MerchantStage(compile_rules([], {}, {}, {}), None, Thresholds())
    )
    rows = [second.features for _, second in run_batches(batches, pipeline, 1000)]
    if not rows:
        raise DafuError("there are no transactions to train on")
    return np.vstack(rows)


def train(
    batches: Iterable[Any], data: str, *, seed: int, contamination: float
) -> IsolationForestModel:
    """Train on mapped Arrow batches in time order; `data` says in words what they are.

    The labels play no part: the model is unsupervised.
    """
    matrix = feature_matrix(batches)
    matrix = matrix[int(len(matrix) * WARM_UP_SHARE) :]
    columns = [INDEX[name] for name in MODEL_FEATURES]
    return train_isolation_forest(
        matrix[:, columns],
        MODEL_FEATURES,
        [FEATURES[c].group for c in columns],
        seed=seed,
        contamination=contamination,
        n_estimators=TREES,
        max_samples=min(ROWS_PER_TREE, len(matrix)),
        catalogue_hash=CATALOGUE_HASH,
        data=data,
        code=f"dafu {__version__}",
    )


def check_before(out: Path) -> None:
    """Find out before the work, not after it, that a training can not end well.

    Raises
    ------
    TrainingError
        If scikit-learn is not installed.
    ModelPackageError
        If `out` is something else than a package, which a package may replace.
    """
    if find_spec("sklearn") is None:
        raise TrainingError(
            "training needs scikit-learn, which is not installed; install it with "
            "pip install 'dafu[train]'"
        )
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken and not (out / MANIFEST).is_file():
        raise ModelPackageError(f"{out} exists and is no model package; choose another path")


def train_file(
    reader: TransactionReader, out: Path, *, seed: int, contamination: float
) -> IsolationForestModel:
    """Train on a file in time order and write the package to `out`, replacing one there."""
    data = f"file: {reader.path.name}"
    model = train(reader, data, seed=seed, contamination=contamination)
    return save_package(model, out, overwrite=True)


def train_default(out: Path, *, seed: int, contamination: float) -> IsolationForestModel:
    """Train on generated transactions and write the package to `out`, replacing one there."""
    from dafu.generator import generate_batches, write

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "transactions.parquet"
        write(generate_batches(USERS, MERCHANTS, DAYS, seed), path)
        reader = TransactionReader(path, load_mapping("dafu"))
        model = train(reader, GENERATED.format(seed=seed), seed=seed, contamination=contamination)
    return save_package(model, out, overwrite=True)
