"""What results were made from: the data in figures, and the versions of code and libraries."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import numpy as np
from msgspec import Struct

from dafu import __version__
from dafu.features.catalogue import CATALOGUE_HASH, FEATURES
from dafu.history import FRAUD, GENUINE, History

LIBRARIES: Final = (
    "numpy",
    "scikit-learn",
    "xgboost",
    "xgboost-cpu",
    "lightgbm",
    "optuna",
    "keras",
)


class DataDescription(Struct, frozen=True):
    """What was evaluated on. Times are ISO 8601 in UTC."""

    file: str
    transactions: int
    users: int
    merchants: int
    first: str | None
    last: str | None
    fraud: int
    genuine: int
    unlabelled: int
    duplicates: int
    rejected: dict[str, int]


def describe_data(file: str, history: History) -> DataDescription:
    """Say in figures what a history holds."""
    labels = history.labels
    n = len(history)
    return DataDescription(
        file=file,
        transactions=n,
        users=len(np.unique(history.users)),
        merchants=len(np.unique(history.merchants)),
        first=_iso(int(history.times.min())) if n else None,
        last=_iso(int(history.times.max())) if n else None,
        fraud=int((labels == FRAUD).sum()),
        genuine=int((labels == GENUINE).sum()),
        unlabelled=int(n - np.isin(labels, (FRAUD, GENUINE)).sum()),
        duplicates=history.duplicates,
        rejected=history.rejected,
    )


def versions() -> dict[str, str]:
    """Versions of dafu, its feature catalogue, Python and the libraries that train."""
    found = {
        "dafu": __version__,
        "catalogue": CATALOGUE_HASH,
        "features": str(len(FEATURES)),
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _iso(ms: int) -> str:
    return str(np.datetime_as_string(np.datetime64(ms, "ms"), timezone="UTC"))
