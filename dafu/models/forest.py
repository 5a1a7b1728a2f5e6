"""Tree ensembles as flat arrays, and the one kernel that serves them.

A `Forest` is the exchange form: what trainers produce, packages store and `check_forest` judges.
A `PackedForest` is the serving form, laid out for the cache. Isolation forests, random forests and
boosted trees differ only in what a leaf's value means, so this module does not know which of them
it serves, nor what a feature is called.

Three ideas make the kernel fast:

* **Attribution costs a table look-up.** The path to a leaf is fixed, hence so are the credits
  that the path gives to each group of features. They are summed once, when the forest is packed.
* **Descending is branch-free.** Siblings are neighbours, so the next node is
  `first_child + (x > threshold)`; a leaf leads to itself, so every row takes as many steps as its
  tree is deep and no branch depends on the data.
* **Tree by tree over a block of rows**, so that one tree and the block stay in the L1 cache. A row
  still adds up its trees in their order, which makes its result independent of its batch, bit for
  bit.

Comparison is scikit-learn's: the input is cast to float32 and compared with a float64 threshold.
For a float32 x, `x <= t` holds exactly if `x <= t32`, t32 being the largest float32 not above t:
hence the kernel compares float32 with float32 and loses nothing. (XGBoost's `x < t` is `x <= t'`
with t' the float32 before t.)

Missing values cost nothing in the descent. A forest is walked over **slots**, copies of a feature
with its missing values replaced when the rows are loaded: by a fill value, or, where each node
says where missing values go, by -inf (left) or +inf (right). A feature that some nodes send left
and others right has two slots, and each node looks at its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.kernel import long_kernel
from dafu.models.errors import ModelError

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

BLOCK_ROWS: Final = 64
"""Rows that pass through a tree together: 64 rows of 30 float32 are 7.5 kB of L1."""

NODE: Final = np.dtype(
    [("threshold", np.float32), ("feature", np.int32), ("child", np.int32), ("leaf", np.int32)]
)
"""A packed node, 16 bytes. `child` is the left child, the right one follows it; a leaf has itself
as its child and +inf as its threshold. `leaf` is the row of the payload, -1 for a split."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees one after another in flat arrays of N nodes; a child comes after its parent.

    Attributes
    ----------
    feature : int32 [N]
        Column a split looks at, -1 for a leaf.
    threshold : float64 [N]
        A row goes left if `float32(x) <= threshold`. 0 for a leaf.
    left, right : int32 [N]
        Indices of the children, -1 for a leaf.
    value : float64 [N]
        The expected leaf value once the node is reached: at a leaf its value, at a split the mean
        over its children weighted by training samples. In an isolation forest it is the whole path
        length, that is the node's depth plus the expected remaining depth.
    roots : int32 [T]
        Index of each tree's root, ascending; tree t owns the nodes up to the next root.
    n_features : int
        Columns of the matrices it was trained on.
    missing_right : bool [N] or None
        Whether a row whose value is missing (NaN) goes right; False for a leaf. None if whoever
        serves the forest fills missing values instead.
    cover : float64 [N] or None
        Weight of the training rows that reached the node, in the trainer's unit (rows, or sums of
        hessians). `value` of a split is the mean by it. None if the forest is not explained by
        Shapley values.
    """

    feature: I32
    threshold: F64
    left: I32
    right: I32
    value: F64
    roots: I32
    n_features: int
    missing_right: NDArray[np.bool_] | None = None
    cover: F64 | None = None

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.roots)


@dataclass(frozen=True, slots=True)
class PackedForest:
    """A forest in the kernel's layout. Build it with `pack`.

    Attributes
    ----------
    nodes : NODE [N]
        Each tree in breadth-first order.
    payload : float64 [leaves, 1 + G]
        Per leaf its value, then the credit of each group.
    roots, depths : int32 [T]
        Where a tree starts in `nodes`, and its number of steps from root to deepest leaf.
    slot_feature : int32 [S]
        The feature that each slot is a copy of; nodes refer to slots.
    slot_fill : float64 [S]
        What replaces a missing value in it.
    expected : float
        Mean of the root values over the trees: the prediction before any split.
    n_features, n_groups : int
        Columns it reads and groups it credits.
    """

    nodes: NDArray[np.void]
    payload: F64
    roots: I32
    depths: I32
    slot_feature: I32
    slot_fill: F64
    expected: float
    n_features: int
    n_groups: int

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.roots)


_DTYPES: Final = {
    "feature": np.dtype(np.int32),
    "threshold": np.dtype(np.float64),
    "left": np.dtype(np.int32),
    "right": np.dtype(np.int32),
    "value": np.dtype(np.float64),
    "roots": np.dtype(np.int32),
    "missing_right": np.dtype(np.bool_),
    "cover": np.dtype(np.float64),
}
ARRAYS: Final = tuple(_DTYPES)
"""The arrays of a `Forest`, by name."""
FILLED_ARRAYS: Final = ARRAYS[:6]
"""Those of a forest whose missing values are filled and that knows no cover."""


def check_forest(forest: Forest) -> None:
    """Refuse arrays that are not a forest which the kernel can walk safely.

    Raises
    ------
    ModelError
        Naming the array, the node and the expectation it breaks.
    """
    for name, dtype in _DTYPES.items():
        array = getattr(forest, name)
        if array is None and name not in FILLED_ARRAYS:
            continue
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
            found = f"{getattr(array, 'dtype', type(array).__name__)} {np.shape(array)}"
            raise ModelError(f"forest array '{name}' must be {dtype} of one dimension, is {found}")
    n = len(forest.feature)
    for name in ("threshold", "left", "right", "value", "missing_right", "cover"):
        array = getattr(forest, name)
        if array is not None and len(array) != n:
            raise ModelError(f"forest array '{name}' has {len(array)} entries, 'feature' has {n}")
    if len(forest.roots) == 0 or n == 0:
        raise ModelError("the forest has no trees")
    roots = forest.roots.astype(np.int64)
    if roots[0] != 0 or np.any(np.diff(roots) <= 0) or roots[-1] >= n:
        raise ModelError(f"forest array 'roots' must ascend from 0 and stay below {n}")

    def refuse(bad: NDArray[np.bool_], array: str, expectation: str) -> None:
        if bad.any():
            node = int(np.argmax(bad))
            shown = getattr(forest, array)[node]
            raise ModelError(
                f"forest array '{array}', node {node}: {shown} {expectation} "
                f"({int(bad.sum())} such nodes)"
            )

    split = forest.feature != -1
    refuse(
        (forest.feature < -1) | (forest.feature >= forest.n_features),
        "feature",
        f"is no feature index (0..{forest.n_features - 1}, or -1 for a leaf)",
    )
    refuse(split & ~np.isfinite(forest.threshold), "threshold", "is not finite")
    refuse(~np.isfinite(forest.value), "value", "is not finite")
    index = np.arange(n)
    tree = np.searchsorted(roots, index, side="right") - 1
    end = np.append(roots[1:], n)[tree]
    for name in ("left", "right"):
        child = getattr(forest, name)
        refuse(split & (child <= index), name, "is not after its parent, a cycle is possible")
        refuse(split & (child >= end), name, "lies outside its tree")
        refuse(~split & (child != -1), name, "is the child of a leaf, must be -1")
    parents = np.bincount(
        np.concatenate([forest.left[split], forest.right[split]]).astype(np.int64), minlength=n
    )
    wanted = np.ones(n, dtype=np.int64)
    wanted[roots] = 0
    refuse(parents != wanted, "left", "or its sibling array gives a node no parent or several")
    left, right = forest.value[forest.left], forest.value[forest.right]
    slack = 1e-9 * (1.0 + np.abs(forest.value))
    outside = (forest.value < np.minimum(left, right) - slack) | (
        forest.value > np.maximum(left, right) + slack
    )
    refuse(split & outside, "value", "is not between the values of its children")
    if forest.missing_right is not None:
        refuse(~split & forest.missing_right, "missing_right", "at a leaf, which leads nowhere")
    if forest.cover is not None:
        cover = forest.cover
        refuse(~(np.isfinite(cover) & (cover >= 0)), "cover", "is no weight")
        both = cover[forest.left] + cover[forest.right]
        refuse(split & ~((both > 0) & np.isfinite(both)), "cover", "has children without weight")
        with np.errstate(all="ignore"):
            mean = (cover[forest.left] * left + cover[forest.right] * right) / both
        refuse(split & ~(np.abs(forest.value - mean) <= slack), "value", "is no mean by cover")


def _floor32(threshold: F64) -> NDArray[np.float32]:
    """Return the largest float32 not above each threshold (-inf when there is no finite one)."""
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
        below = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded > threshold, below, rounded).astype(np.float32)


def pack(
    forest: Forest, feature_group: I32, n_groups: int, fill: F64 | None = None
) -> PackedForest:
    """Lay a forest out for the kernel and sum the credits along each path.

    A split credits `value[node] - value[child]` to the group of its feature, so that the credits
    of a path add up to `value[root] - value[leaf]`: Saabas' path attribution ("Interpreting random
    forests", 2014), signed so that a shorter isolation path is a positive credit.

    Parameters
    ----------
    forest
        Checked first; see `check_forest`.
    feature_group : int32 [n_features]
        Group of each feature, 0..n_groups-1.
    n_groups
        Number of groups G, at least 1.
    fill : float64 [n_features], finite, or None
        What replaces missing values, by feature. None: they go where the nodes send them
        (`Forest.missing_right`).

    Raises
    ------
    ModelError
        If the forest is malformed, a group index is out of range, or nothing says what becomes of
        missing values.
    """
    check_forest(forest)
    if n_groups < 1 or len(feature_group) != forest.n_features:
        raise ModelError(
            f"{len(feature_group)} group indices for {forest.n_features} features, "
            f"{n_groups} groups"
        )
    if np.any((feature_group < 0) | (feature_group >= n_groups)):
        raise ModelError(f"group indices must be within 0..{n_groups - 1}")
    slot_feature, slot_fill, slot = _slots(forest, fill)
    n = len(forest.feature)
    credit = np.zeros((n, n_groups))
    depths = np.zeros(forest.n_trees, dtype=np.int32)
    tree = np.empty(n, dtype=np.int64)
    tree[forest.roots] = np.arange(forest.n_trees)
    level = forest.roots.astype(np.int64)
    visited = [level]
    depth = 0
    while True:
        parent = level[forest.feature[level] >= 0]
        if len(parent) == 0:
            break
        depth += 1
        group = feature_group[forest.feature[parent]]
        for child in (forest.left[parent], forest.right[parent]):
            credit[child] = credit[parent]
            credit[child, group] += forest.value[parent] - forest.value[child]
            tree[child] = tree[parent]
        depths[tree[parent]] = depth
        siblings = np.stack([forest.left[parent], forest.right[parent]], axis=1)
        level = siblings.ravel().astype(np.int64)
        visited.append(level)
    breadth_first = np.concatenate(visited)
    # A stable sort by tree keeps siblings next to each other and levels in order.
    order = breadth_first[np.argsort(tree[breadth_first], kind="stable")]
    position = np.empty(n, dtype=np.int32)
    position[order] = np.arange(n, dtype=np.int32)

    leaf = forest.feature[order] < 0
    nodes = np.zeros(n, dtype=NODE)
    nodes["feature"] = slot[order]
    nodes["threshold"] = np.where(leaf, np.float32(np.inf), _floor32(forest.threshold[order]))
    nodes["child"] = np.where(leaf, np.arange(n), position[forest.left[order]])
    nodes["leaf"] = np.where(leaf, np.cumsum(leaf) - 1, -1)
    payload = np.column_stack([forest.value[order], credit[order]])[leaf]
    return PackedForest(
        nodes=nodes,
        payload=np.ascontiguousarray(payload),
        roots=position[forest.roots],
        depths=depths,
        slot_feature=slot_feature,
        slot_fill=slot_fill,
        expected=float(forest.value[forest.roots].mean()),
        n_features=forest.n_features,
        n_groups=n_groups,
    )


def _slots(forest: Forest, fill: F64 | None) -> tuple[I32, F64, I32]:
    """Feature [S] and fill value [S] of each slot, and the slot of each node [N], 0 for a leaf."""
    split = forest.feature >= 0
    right = forest.missing_right
    if fill is not None:
        if fill.shape != (forest.n_features,) or not np.isfinite(fill).all():
            raise ModelError(
                f"{fill.shape} fill values for {forest.n_features} features; all must be finite"
            )
        right = np.zeros(len(forest.feature), dtype=np.bool_)
    elif right is None:
        raise ModelError("the forest says neither what fills missing values nor where they go")
    # A slot is a feature and a direction; with a fill value the direction plays no part.
    wanted = forest.feature[split].astype(np.int64) * 2 + right[split]
    slots, inverse = np.unique(wanted, return_inverse=True)
    feature = (slots // 2).astype(np.int32)
    slot = np.zeros(len(forest.feature), dtype=np.int32)
    slot[split] = inverse
    values = np.where(slots % 2 == 1, np.inf, -np.inf) if fill is None else fill[feature]
    return feature, values, slot


@long_kernel
def _walk(
    x: NDArray[Any],
    columns: I32,
    fill: F64,
    nodes: NDArray[np.void],
    payload: F64,
    roots: I32,
    depths: I32,
    outputs: int,
    totals: F64,
) -> None:
    """Add the first `outputs` payload columns of every leaf reached to `totals` [n, outputs]."""
    n = x.shape[0]
    width = columns.shape[0]
    block = np.empty((BLOCK_ROWS, width), dtype=np.float32)
    for start in range(0, n, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, n - start)
        for r in range(rows):
            for j in range(width):
                v = x[start + r, columns[j]]
                block[r, j] = np.float32(fill[j] if v != v else v)  # noqa: PLR0124
        for t in range(roots.shape[0]):
            root = roots[t]
            depth = depths[t]
            # Four rows at once: their chains of dependent loads overlap, which more than halves the
            # time. Unsigned indices spare numba's test for negative ones.
            r = 0
            while r + 4 <= rows:
                i0 = i1 = i2 = i3 = np.uint64(root)
                for _ in range(depth):
                    n0, n1, n2, n3 = nodes[i0], nodes[i1], nodes[i2], nodes[i3]
                    x0 = block[r, np.uint64(n0.feature)]
                    x1 = block[r + 1, np.uint64(n1.feature)]
                    x2 = block[r + 2, np.uint64(n2.feature)]
                    x3 = block[r + 3, np.uint64(n3.feature)]
                    i0 = np.uint64(n0.child) + np.uint64(x0 > n0.threshold)
                    i1 = np.uint64(n1.child) + np.uint64(x1 > n1.threshold)
                    i2 = np.uint64(n2.child) + np.uint64(x2 > n2.threshold)
                    i3 = np.uint64(n3.child) + np.uint64(x3 > n3.threshold)
                l0, l1, l2, l3 = nodes[i0].leaf, nodes[i1].leaf, nodes[i2].leaf, nodes[i3].leaf
                for k in range(outputs):
                    totals[start + r, k] += payload[l0, k]
                    totals[start + r + 1, k] += payload[l1, k]
                    totals[start + r + 2, k] += payload[l2, k]
                    totals[start + r + 3, k] += payload[l3, k]
                r += 4
            while r < rows:
                i0 = np.uint64(root)
                for _ in range(depth):
                    n0 = nodes[i0]
                    x0 = block[r, np.uint64(n0.feature)]
                    i0 = np.uint64(n0.child) + np.uint64(x0 > n0.threshold)
                l0 = nodes[i0].leaf
                for k in range(outputs):
                    totals[start + r, k] += payload[l0, k]
                r += 1


def check_rows(n_features: int, x: NDArray[Any], columns: I32) -> None:
    """Check the shapes that kernels trust: a float matrix and a column of it for each feature.

    Raises
    ------
    ModelError
        Saying which does not fit.
    """
    if x.ndim != 2 or x.dtype not in (np.float64, np.float32):
        raise ModelError(f"features must be a float matrix [n, F], got {x.dtype} {x.shape}")
    if columns.shape != (n_features,):
        raise ModelError(f"the model has {n_features} features, got {columns.shape} column indices")
    if len(columns) and (columns.min() < 0 or columns.max() >= x.shape[1]):
        raise ModelError(
            f"column indices {int(columns.min())}..{int(columns.max())} do not fit a matrix "
            f"of {x.shape[1]} columns"
        )


def _totals(forest: PackedForest, x: NDArray[Any], columns: I32, outputs: int) -> F64:
    check_rows(forest.n_features, x, columns)
    totals = np.zeros((x.shape[0], outputs))
    _walk(
        x,
        columns[forest.slot_feature],
        forest.slot_fill,
        forest.nodes,
        forest.payload,
        forest.roots,
        forest.depths,
        outputs,
        totals,
    )
    return totals


def predict_sum(forest: PackedForest, x: NDArray[Any], columns: I32) -> F64:
    """Sum over the trees of the values of the leaves that each row reaches.

    Parameters
    ----------
    forest
        The packed forest with F features.
    x : float64 or float32 [n, F_full]
        The full feature matrix, NaN for missing.
    columns : int32 [F]
        For each feature of the forest its column in `x`.

    Returns
    -------
    float64 [n]
        The same bits for a row whatever the rest of its batch.
    """
    return _totals(forest, x, columns, 1).reshape(-1)


def predict_sum_and_credits(forest: PackedForest, x: NDArray[Any], columns: I32) -> tuple[F64, F64]:
    """As `predict_sum`, and the credits [n, G] summed over the trees.

    Per row the credits add up to `n_trees * expected - sum`, up to rounding.
    """
    totals = _totals(forest, x, columns, 1 + forest.n_groups)
    # Copies, because a view of one row would be another type of array, and be compiled for anew.
    return np.ascontiguousarray(totals[:, 0]), np.ascontiguousarray(totals[:, 1:])
