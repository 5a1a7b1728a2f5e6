"""Noting in a model how its features and scores are distributed, for `dafu drift`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dafu.models.model import Model
from dafu.models.reference import SCORE, ModelReference, reference, references

MAX_ROWS: Final = 50_000
"""Rows that a reference is made of: with more, its shares get no better that matter."""

_M = TypeVar("_M", bound=Model)


def with_reference(model: _M, x: NDArray[Any], columns: Mapping[str, int]) -> _M:
    """The model with the reference that these rows give.

    Parameters
    ----------
    model
        Of any kind that scores rows.
    x : float [n >= 1, F_full]
        Rows like those that it will serve, NaN for missing; of more than `MAX_ROWS`, evenly spaced
        ones are taken. A supervised model scores its own training rows better than others: give it
        later rows, such as those that it was calibrated on, or its scores will seem to drift.
    columns
        Column of each feature in `x`, by name.

    Raises
    ------
    DriftError
        If there are no rows, or a value is infinite.
    """
    x = np.asarray(x)
    rows = np.ascontiguousarray(x[:: max(1, -(-len(x) // MAX_ROWS))])
    index = model.column_index(columns)
    features = references(model.feature_names, np.asarray(rows[:, index], dtype=np.float64))
    score = reference(SCORE, model.score(rows, index).raw)
    # Models are dataclasses, which the protocol does not say.
    changed: Any = replace(
        model,  # type: ignore[type-var]
        reference=ModelReference(tuple(features), score),
    )
    made: _M = changed
    return made
