"""Data in figures, and versions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dafu.evaluation.description import describe_data, versions
from dafu.features.catalogue import CATALOGUE_HASH, FEATURES
from dafu.history import History, read_history


def test_a_history_in_figures() -> None:
    names = pa.array(["a", "b", "c"])
    history = History(
        names,
        np.array([0, 1, 1]),
        np.array([2, 2, 0]),
        names,
        names,
        np.array([5, 3, 86_400_001]),
        np.ones(3),
        np.array([1, 0, -1], np.int8),
        np.zeros((3, len(FEATURES))),
        duplicates=4,
        rejected={"empty": 1},
    )
    found = describe_data("f.csv", history)
    assert (found.transactions, found.users, found.merchants) == (3, 2, 2)
    assert (found.fraud, found.genuine, found.unlabelled) == (1, 1, 1)
    assert (found.first, found.last) == ("1970-01-01T00:00:00.003Z", "1970-01-02T00:00:00.001Z")
    assert (found.duplicates, found.rejected) == (4, {"empty": 1})
    nothing = describe_data("f.csv", read_history([]))
    assert (nothing.transactions, nothing.first, nothing.last) == (0, None, None)


def test_versions_name_code_and_catalogue() -> None:
    found = versions()
    assert found["catalogue"] == CATALOGUE_HASH
    assert found["features"] == str(len(FEATURES))
    assert found["numpy"] == np.__version__
