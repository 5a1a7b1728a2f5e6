"""Isolation forests for tests, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from dafu.models.isolation import IsolationForestModel
from dafu.models.trainers import Description, IsolationForestTrainer, with_reference


def train_isolation_forest(
    x: NDArray[Any],
    names: Sequence[str],
    groups: Sequence[str],
    *,
    seed: int,
    name: str = "",
    catalogue_hash: str = "",
    data: str = "",
    code: str = "",
    **parameters: Any,
) -> IsolationForestModel:
    """Train on rows [n, F] with these names and groups of features, and note how they look."""
    description = Description(
        tuple(names),
        tuple(groups),
        name=name,
        catalogue_hash=catalogue_hash,
        data=data,
        code=code,
    )
    model = IsolationForestTrainer(seed, **parameters).fit(x).export(description)
    return with_reference(model, x, {each: k for k, each in enumerate(names)})
