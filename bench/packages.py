"""A package of a recurrent network to serve: its cost is of interest, not its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from dafu.features.catalogue import CATALOGUE_HASH
from dafu.models.package import save_package
from dafu.models.recurrent import RecurrentModel, SequenceInput, Weights

FEATURES: Final = (
    "amount",
    "amount_to_user_mean_30d",
    "user_count_1h",
    "user_count_1d",
    "user_merchants_1h",
    "seconds_since_last",
    "km_since_last",
    "km_from_home",
    "new_device",
    "new_country",
    "new_merchant",
    "is_night",
)
UNITS: Final = 32
DENSE: Final = 16


def recurrent_package(directory: Path) -> Path:
    """Write a GRU with random weights; returns where."""
    rng = np.random.default_rng(0)
    shapes = {
        "input_kernel": (len(FEATURES), 3 * UNITS),
        "input_bias": (3 * UNITS,),
        "recurrent_kernel": (UNITS, 3 * UNITS),
        "recurrent_bias": (3 * UNITS,),
        "dense_kernel": (UNITS, DENSE),
        "dense_bias": (DENSE,),
        "head_kernel": (DENSE, 1),
        "head_bias": (1,),
    }
    model = RecurrentModel(
        name="gru",
        cell="gru",
        objective="fraud",
        inputs=tuple(SequenceInput(name, "log1p") for name in FEATURES),
        weights=Weights(
            **{k: rng.normal(0.0, 0.3, shape).astype(np.float32) for k, shape in shapes.items()}
        ),
        catalogue_hash=CATALOGUE_HASH,
    )
    path = directory / "gru"
    save_package(model, path, overwrite=True)
    return path
