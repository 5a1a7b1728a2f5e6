"""Why a tree ensemble gives a row its value: contributions of features that add up to it.

Two attributions. **Shapley values** of the path-dependent game (Lundberg et al., "From local
explanations to global understanding with explainable AI for trees", Nature Machine Intelligence
2020): what a feature adds, averaged over all orders in which features become known, an unknown one
being averaged over by the training rows that went either way. **Path credits** (Saabas 2014): the
change of the expected value along the row's own path, which costs no more than a prediction.

Shapley values are computed exactly. In a leaf's game feature i multiplies by o_i (1 if the row
follows the path at its splits, else 0) once it is known, and by z_i (the share of training rows
that do) before. The multilinear extension (Owen 1972) turns the average over orders into

    phi_i = leaf value * integral from 0 to 1 of (o_i - z_i) prod_{j != i} (t o_j + (1 - t) z_j) dt

whose integrand is a polynomial in t of a degree below the number of features on the path. So
Gauss-Legendre quadrature with half as many points is exact, and because the products of all leaves
below a node share their beginning, one pass over a tree does (the idea of Bifet, Read and Xu,
"Linear TreeSHAP", NeurIPS 2022, with quadrature in place of polynomial division): nodes times
points instead of leaves times depth squared, and nothing cancels.

Knows forests only: not what a value means, nor what a feature is called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dafu.kernel import kernel
from dafu.models.errors import ModelError
from dafu.models.forest import Forest, check_rows

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ShapleyForest:
    """A forest in the order in which its trees are walked: each node before its left subtree.

    Build it with `prepare_shapley`. An edge is named after the node that it leads to.

    Attributes
    ----------
    feature, threshold, missing_right
        Of the node's split; feature -1 for a leaf.
    depth : int32 [N]
        Edges above the node. The node before its parent's right child ends the left subtree.
    edge_feature : int32 [N]
        Feature of the parent's split, -1 for a root.
    is_right : bool [N]
        Whether it is its parent's right child.
    share : float64 [N]
        Share of the parent's training rows that went to it.
    earlier : int32 [N]
        Depth of the nearest edge above that splits the same feature, 0 if there is none.
    value : float64 [N]
        Value of a leaf; 0 for a split.
    max_depth : int
    expected : float
        Sum of the root values over the trees.
    points, weights : float64 [Q]
        Gauss-Legendre quadrature on 0..1, exact for the longest path.
    n_features : int
    """

    feature: I32
    threshold: F64
    missing_right: NDArray[np.bool_]
    depth: I32
    edge_feature: I32
    is_right: NDArray[np.bool_]
    share: F64
    earlier: I32
    value: F64
    max_depth: int
    expected: float
    points: F64
    weights: F64
    n_features: int


@lru_cache
def gauss_legendre(n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Points and weights on 0..1 of the quadrature with n points, exact up to degree 2n - 1.

    Newton's method in decimal arithmetic, rounded at the end: the same bits on every machine,
    which an eigenvalue solver does not promise.

    >>> gauss_legendre(2)[0]
    (0.21132486540518713, 0.7886751345948129)
    """
    points: list[float] = []
    weights: list[float] = []
    with localcontext() as context:
        context.prec = 50
        for i in range(n, 0, -1):
            x = Decimal(math.cos(math.pi * (i - 0.25) / (n + 0.5)))
            derivative = Decimal(1)
            for _ in range(8):
                before, at = Decimal(1), x
                for k in range(2, n + 1):
                    before, at = at, ((2 * k - 1) * x * at - (k - 1) * before) / k
                derivative = n * (x * at - before) / (x * x - 1)
                x -= at / derivative
            points.append(float((1 + x) / 2))
            weights.append(float(1 / ((1 - x * x) * derivative * derivative)))
    return tuple(points), tuple(weights)


def prepare_shapley(forest: Forest) -> ShapleyForest:
    """Order a checked forest for `shapley_values`.

    Raises
    ------
    ModelError
        If the forest does not know its covers or where missing values go.
    """
    if forest.cover is None or forest.missing_right is None:
        raise ModelError(
            "Shapley values need a forest with covers and directions of missing values"
        )
    n = len(forest.feature)
    order = np.empty(n, dtype=np.int64)
    parent = np.full(n, -1, dtype=np.int64)
    depth = np.zeros(n, dtype=np.int32)
    earlier = np.zeros(n, dtype=np.int32)
    longest = _preorder(
        forest.feature, forest.left, forest.right, forest.roots, order, parent, depth, earlier
    )
    edge = np.where(parent >= 0, forest.feature[parent], -1)
    both = np.where(
        forest.feature >= 0, forest.cover[forest.left] + forest.cover[forest.right], 1.0
    )
    share = np.where(parent >= 0, forest.cover / both[parent], 1.0)
    points, weights = gauss_legendre(max(1, (longest + 1) // 2))
    return ShapleyForest(
        feature=forest.feature[order],
        threshold=forest.threshold[order],
        missing_right=forest.missing_right[order],
        depth=depth[order],
        edge_feature=edge[order].astype(np.int32),
        is_right=((parent >= 0) & (forest.right[parent] == np.arange(n)))[order],
        share=share[order],
        earlier=earlier[order],
        value=np.where(forest.feature >= 0, 0.0, forest.value)[order],
        max_depth=int(depth.max()),
        expected=float(forest.value[forest.roots].sum()),
        points=np.array(points),
        weights=np.array(weights),
        n_features=forest.n_features,
    )


def shapley_values(forest: ShapleyForest, x: NDArray[Any], columns: I32) -> F64:
    """Shapley values [n, F] of the sum over the trees.

    Per row they add up to that sum less `forest.expected`, up to rounding. The same bits for a row
    whatever the rest of its batch.

    Parameters
    ----------
    forest
        Prepared by `prepare_shapley`, with F features.
    x : float64 or float32 [n, F_full]
        The full feature matrix, NaN for missing.
    columns : int32 [F]
        For each feature of the forest its column in `x`.
    """
    check_rows(forest.n_features, x, columns)
    out = np.zeros((len(x), forest.n_features))
    _shapley(
        x,
        columns,
        forest.feature,
        forest.threshold,
        forest.missing_right,
        forest.depth,
        forest.edge_feature,
        forest.is_right,
        forest.share,
        forest.earlier,
        forest.value,
        forest.max_depth,
        forest.points,
        forest.weights,
        out,
    )
    return out


def path_credits(forest: Forest, x: NDArray[Any], columns: I32, fill: F64) -> F64:
    """Path credits [n, F] of the sum over the trees, missing values filled by feature.

    Per row they add up to that sum less the sum of the root values, up to rounding.
    """
    check_rows(forest.n_features, x, columns)
    out = np.zeros((len(x), forest.n_features))
    _credit_paths(
        x,
        columns,
        fill,
        forest.feature,
        forest.threshold,
        forest.left,
        forest.right,
        forest.value,
        forest.roots,
        out,
    )
    return out


@kernel
def _preorder(
    feature: I32,
    left: I32,
    right: I32,
    roots: I32,
    order: NDArray[np.int64],
    parent: NDArray[np.int64],
    depth: I32,
    earlier: I32,
) -> int:
    """Fill order, parents, depths and earlier edges; return the most features on any path."""
    n = feature.shape[0]
    stack = np.empty(n, dtype=np.int64)
    path = np.empty(n + 1, dtype=np.int32)  # feature of the edge at each depth
    distinct = np.zeros(n, dtype=np.int32)
    longest = 0
    at = 0
    for root in roots:
        stack[0] = root
        size = 1
        while size > 0:
            size -= 1
            node = stack[size]
            order[at] = node
            at += 1
            d = depth[node]
            if parent[node] >= 0:
                path[d] = feature[parent[node]]
                k = d - 1
                while k > 0 and path[k] != path[d]:
                    k -= 1
                earlier[node] = k
                distinct[node] = distinct[parent[node]] + (1 if k == 0 else 0)
                longest = max(longest, distinct[node])
            if feature[node] >= 0:
                for child in (right[node], left[node]):
                    parent[child] = node
                    depth[child] = d + 1
                    stack[size] = child
                    size += 1
    return longest


@kernel
def _shapley(
    x: NDArray[Any],
    columns: I32,
    feature: I32,
    threshold: F64,
    missing_right: NDArray[np.bool_],
    depth: I32,
    edge_feature: I32,
    is_right: NDArray[np.bool_],
    share: F64,
    earlier: I32,
    value: F64,
    max_depth: int,
    points: F64,
    weights: F64,
    out: F64,
) -> None:
    n_nodes = feature.shape[0]
    n_points = points.shape[0]
    width = columns.shape[0]
    row = np.empty(width, dtype=np.float32)
    # By depth on the present path. Edge d: whether the row takes it and all earlier ones of its
    # feature, the share of training rows that do, the inverse of the feature's factor in the
    # product (where the row takes it), and (o - z) / factor. Depth 0 stands for no edge: taken, of
    # share 1 and factor 1. Unsigned indices spare numba's test for negative ones.
    taken = np.empty(max_depth + 1, dtype=np.bool_)
    shares = np.empty(max_depth + 1)
    inverse = np.ones((max_depth + 1) * n_points)
    ratio = np.zeros((max_depth + 1) * n_points)
    product = np.ones((max_depth + 1) * n_points)
    below = np.zeros((max_depth + 1) * n_points)  # over leaves met below: value * product
    on_path = np.empty(max_depth + 1, dtype=np.int64)
    right = np.empty(max_depth + 1, dtype=np.bool_)  # where the row goes at the node of depth d
    rest = 1.0 - points
    unknown = -1.0 / rest  # (o - z) / factor where o is 0
    taken[0] = True
    shares[0] = 1.0
    for i in range(x.shape[0]):
        for j in range(width):
            row[j] = np.float32(x[i, columns[j]])
        for at in range(n_nodes):
            d = np.uint64(depth[at])
            here = d * np.uint64(n_points)
            on_path[d] = at
            if d > np.uint64(0):
                above = here - np.uint64(n_points)
                e = np.uint64(earlier[at])
                same = e * np.uint64(n_points)
                hot = right[d - np.uint64(1)] == is_right[at]
                z = shares[e] * share[at]
                shares[d] = z
                taken[d] = taken[e] and hot
                if taken[d]:
                    for k in range(n_points):
                        q = np.uint64(k)
                        f = points[q] + rest[q] * z
                        product[here + q] = product[above + q] * f * inverse[same + q]
                        inverse[here + q] = 1.0 / f
                        ratio[here + q] = (1.0 - z) * inverse[here + q]
                elif taken[e]:
                    for k in range(n_points):
                        q = np.uint64(k)
                        product[here + q] = product[above + q] * (rest[q] * z) * inverse[same + q]
                        ratio[here + q] = unknown[q]
                else:
                    for k in range(n_points):
                        q = np.uint64(k)
                        product[here + q] = product[above + q] * share[at]
                        ratio[here + q] = unknown[q]
            split = feature[at]
            if split >= 0:
                v = row[split]
                missing = v != v  # noqa: PLR0124
                right[d] = missing_right[at] if missing else np.float64(v) > threshold[at]
                for k in range(n_points):
                    below[here + np.uint64(k)] = 0.0
                continue
            for k in range(n_points):
                q = np.uint64(k)
                below[here + q] = value[at] * product[here + q]
            # The path ends here: settle every edge whose subtree is complete.
            end = np.uint64(depth[at + 1] if at + 1 < n_nodes else 0)
            while d > np.uint64(0) and d >= end:
                here = d * np.uint64(n_points)
                above = here - np.uint64(n_points)
                node = on_path[d]
                # Below this edge its own ratio holds, in place of an earlier edge's.
                same = np.uint64(earlier[node]) * np.uint64(n_points)
                s = 0.0
                for k in range(n_points):
                    q = np.uint64(k)
                    b = below[here + q]
                    s += weights[q] * b * (ratio[here + q] - ratio[same + q])
                    below[above + q] += b
                out[i, edge_feature[node]] += s
                d -= np.uint64(1)


@kernel
def _credit_paths(
    x: NDArray[Any],
    columns: I32,
    fill: F64,
    feature: I32,
    threshold: F64,
    left: I32,
    right: I32,
    value: F64,
    roots: I32,
    out: F64,
) -> None:
    for i in range(x.shape[0]):
        for root in roots:
            node = root
            while feature[node] >= 0:
                f = feature[node]
                v = x[i, columns[f]]
                v = np.float32(fill[f] if v != v else v)  # noqa: PLR0124
                child = right[node] if np.float64(v) > threshold[node] else left[node]
                out[i, f] += value[child] - value[node]
                node = child
