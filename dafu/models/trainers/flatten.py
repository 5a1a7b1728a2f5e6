"""A library's trees as a `Forest`: ordered, with expected values, without unreachable nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.models.forest import Forest


class Tree(NamedTuple):
    """One tree of N nodes, the root first; `left` is negative for a leaf, whose value counts."""

    feature: NDArray[Any]
    threshold: NDArray[Any]
    left: NDArray[Any]
    right: NDArray[Any]
    value: NDArray[Any]
    cover: NDArray[Any]
    missing_right: NDArray[Any]


def flatten(trees: Iterable[Tree], n_features: int) -> Forest:
    """Breadth-first trees one after another; a split's value is its children's mean by cover."""
    parts: list[dict[str, NDArray[Any]]] = []
    roots: list[int] = []
    offset = 0
    for tree in trees:
        roots.append(offset)
        parts.append(_flat(tree, offset))
        offset += len(parts[-1]["feature"])
    flat = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Forest(roots=np.array(roots, dtype=np.int32), n_features=n_features, **flat)


def _flat(tree: Tree, offset: int) -> dict[str, NDArray[Any]]:
    value = tree.value.astype(np.float64)
    cover = tree.cover.astype(np.float64)
    levels = [np.zeros(1, dtype=np.int64)]
    while True:
        parents = levels[-1][tree.left[levels[-1]] >= 0]
        if not parents.size:
            break
        children = np.stack([tree.left[parents], tree.right[parents]], axis=1)
        levels.append(children.ravel().astype(np.int64))
    for level in reversed(levels):
        parents = level[tree.left[level] >= 0]
        left, right = tree.left[parents], tree.right[parents]
        mean = (cover[left] * value[left] + cover[right] * value[right]) / (
            cover[left] + cover[right]
        )
        low, high = np.minimum(value[left], value[right]), np.maximum(value[left], value[right])
        value[parents] = np.clip(mean, low, high)
    order = np.concatenate(levels)
    position = np.empty(len(value), dtype=np.int64)
    position[order] = np.arange(offset, offset + len(order))
    leaf = tree.left[order] < 0
    return {
        "feature": np.where(leaf, -1, tree.feature[order]).astype(np.int32),
        "threshold": np.where(leaf, 0.0, tree.threshold[order]).astype(np.float64),
        "left": np.where(leaf, -1, position[tree.left[order]]).astype(np.int32),
        "right": np.where(leaf, -1, position[tree.right[order]]).astype(np.int32),
        "value": value[order],
        "cover": cover[order],
        "missing_right": tree.missing_right[order].astype(np.bool_) & ~leaf,
    }
