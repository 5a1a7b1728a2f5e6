"""Shapley values against their definition, and against XGBoost's and LightGBM's own."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dafu.models.errors import ModelError
from dafu.models.forest import Forest
from dafu.models.shapley import gauss_legendre, path_credits, prepare_shapley, shapley_values
from dafu.models.trainers import LightGBMTrainer, XGBoostTrainer
from tests.models.zoo import DESCRIPTION, INDEX, fraud, payments

F64 = NDArray[np.float64]
FEATURES = 4
COLUMNS = np.arange(FEATURES, dtype=np.int32)


def goes_right(forest: Forest, node: int, row: F64) -> bool:
    assert forest.missing_right is not None
    x = np.float32(row[forest.feature[node]])
    return bool(forest.missing_right[node] if np.isnan(x) else x > forest.threshold[node])


def game(forest: Forest, row: F64, known: frozenset[int], node: int) -> float:
    """Expected value of the tree below `node` when only the `known` features are."""
    assert forest.cover is not None
    f = int(forest.feature[node])
    if f < 0:
        return float(forest.value[node])
    left, right = int(forest.left[node]), int(forest.right[node])
    if f in known:
        return game(forest, row, known, right if goes_right(forest, node, row) else left)
    a, b = forest.cover[left], forest.cover[right]
    return float(
        (a * game(forest, row, known, left) + b * game(forest, row, known, right)) / (a + b)
    )


def by_definition(forest: Forest, row: F64, n_features: int = FEATURES) -> F64:
    """Average over all orders of what each feature adds."""
    values = {
        known: sum(game(forest, row, known, int(root)) for root in forest.roots)
        for size in range(n_features + 1)
        for known in map(frozenset, combinations(range(n_features), size))
    }
    phi = np.zeros(n_features)
    for f in range(n_features):
        for known, value in values.items():
            if f not in known:
                size = len(known)
                orders = math.factorial(size) * math.factorial(n_features - size - 1)
                phi[f] += orders / math.factorial(n_features) * (values[known | {f}] - value)
    return phi


@st.composite
def forests(draw: st.DrawFn) -> Forest:
    """Trees of any shape, features repeating on paths, covers of zero, missing values anywhere."""
    arrays: dict[str, list[float]] = {
        n: [] for n in ("feature", "threshold", "left", "right", "value", "missing_right", "cover")
    }

    def node(depth: int) -> int:
        at = len(arrays["feature"])
        leaf = {"feature": -1, "threshold": 0.0, "left": -1, "right": -1, "missing_right": 0}
        weight = draw(st.sampled_from((0.0, 0.5, 1.0, 7.0, 1000.0)))
        for name, value in {**leaf, "value": draw(st.floats(-3, 3)), "cover": weight}.items():
            arrays[name].append(value)
        if depth < 7 and draw(st.integers(0, 3)):
            left, right = node(depth + 1), node(depth + 1)
            if arrays["cover"][left] + arrays["cover"][right] == 0.0:
                arrays["cover"][left] = 1.0
            a, b = arrays["cover"][left], arrays["cover"][right]
            x, y = arrays["value"][left], arrays["value"][right]
            split = {
                "feature": draw(st.integers(0, FEATURES - 1)),
                "threshold": draw(st.sampled_from((-1.0, 0.0, 0.5, 2.0))),
                "left": left,
                "right": right,
                "missing_right": draw(st.booleans()),
                "value": (a * x + b * y) / (a + b),
                "cover": a + b,
            }
            for name, value in split.items():
                arrays[name][at] = value
        return at

    roots = [node(0) for _ in range(draw(st.integers(1, 3)))]
    types = {"threshold": np.float64, "value": np.float64, "cover": np.float64}
    made: dict[str, Any] = {
        n: np.array(v, dtype=np.bool_ if n == "missing_right" else types.get(n, np.int32))
        for n, v in arrays.items()
    }
    return Forest(
        **made,
        roots=np.array(roots, np.int32),
        n_features=FEATURES,
    )


rows = st.lists(
    st.tuples(*[st.sampled_from((np.nan, -2.0, 0.0, 0.25, 0.5, 3.0))] * FEATURES),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150)
@given(forests(), rows)
def test_shapley_values_are_those_of_the_definition(
    forest: Forest, described: list[tuple[float, ...]]
) -> None:
    prepared = prepare_shapley(forest)
    x = np.array(described)
    found = shapley_values(prepared, x, COLUMNS)
    for i, row in enumerate(x):
        np.testing.assert_allclose(found[i], by_definition(forest, row), atol=1e-10)
    nobody = sum(game(forest, x[0], frozenset(), int(root)) for root in forest.roots)
    assert prepared.expected == pytest.approx(nobody, abs=1e-10)


def test_a_deep_path_of_one_feature_after_another() -> None:
    """Twelve features on one path: half as many points of the quadrature are just enough."""
    depth = 12
    n = 2 * depth + 1
    split = np.arange(depth) * 2
    feature = np.full(n, -1, np.int32)
    feature[split] = np.arange(depth)
    left, right = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    left[split], right[split] = split + 1, split + 2
    rng = np.random.default_rng(0)
    cover, value = rng.uniform(0.5, 3.0, n), rng.normal(size=n)
    for node in split[::-1]:
        a, b = cover[left[node]], cover[right[node]]
        cover[node] = a + b
        value[node] = (a * value[left[node]] + b * value[right[node]]) / (a + b)
    forest = Forest(
        feature, np.zeros(n), left, right, value, np.zeros(1, np.int32), depth,
        np.zeros(n, np.bool_), cover,
    )  # fmt: skip
    x = rng.normal(size=(3, depth))
    found = shapley_values(prepare_shapley(forest), x, np.arange(depth, dtype=np.int32))
    for i in range(3):
        np.testing.assert_allclose(found[i], by_definition(forest, x[i], depth), atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 32])
def test_the_quadrature_is_exact_for_polynomials_of_its_degree(n: int) -> None:
    points, weights = gauss_legendre(n)
    assert all(0.0 < p < 1.0 for p in points)
    assert list(points) == sorted(points)
    for degree in range(2 * n):
        exact = Fraction(1, degree + 1)
        found = sum(
            Fraction(w) * Fraction(p) ** degree for p, w in zip(points, weights, strict=True)
        )
        assert abs(found - exact) < Fraction(1, 10**15)
    reference, _ = np.polynomial.legendre.leggauss(n)
    np.testing.assert_allclose(points, (1 + reference) / 2, atol=1e-14)


def test_equals_xgboosts_contributions() -> None:
    import xgboost

    x, probe = payments(1), payments(5, 200)
    trainer = XGBoostTrainer(1, n_estimators=30, max_depth=6).fit(x, fraud(x, 2))
    found = trainer.export(DESCRIPTION).explain(probe, INDEX)
    theirs = trainer.booster.predict(xgboost.DMatrix(probe), pred_contribs=True)
    np.testing.assert_allclose(found.features, theirs[:, :-1], atol=1e-5)
    np.testing.assert_allclose(found.expected, theirs[:, -1], atol=1e-5)
    assert np.abs(found.features).max() > 0.5


def test_equals_lightgbms_contributions() -> None:
    x, probe = payments(1), payments(5, 200)
    trainer = LightGBMTrainer(1, n_estimators=30).fit(x, fraud(x, 2))
    found = trainer.export(DESCRIPTION).explain(probe, INDEX)
    theirs = trainer.booster.predict(probe, pred_contrib=True)
    np.testing.assert_allclose(found.features, theirs[:, :-1], atol=1e-10)
    np.testing.assert_allclose(found.expected, theirs[:, -1], atol=1e-10)


@settings(max_examples=60)
@given(forests(), rows)
def test_path_credits_follow_the_rows_path(
    forest: Forest, described: list[tuple[float, ...]]
) -> None:
    fill = np.array([0.1, -0.5, 2.5, 0.5])
    x = np.array(described)
    found = path_credits(forest, x, COLUMNS, fill)
    for i, row in enumerate(np.where(np.isnan(x), fill, x)):
        wanted = np.zeros(FEATURES)
        for root in forest.roots:
            node = int(root)
            while forest.feature[node] >= 0:
                right = goes_right(forest, node, row)
                child = int(forest.right[node] if right else forest.left[node])
                wanted[forest.feature[node]] += forest.value[child] - forest.value[node]
                node = child
        np.testing.assert_allclose(found[i], wanted, atol=1e-12)


def test_a_forest_without_covers_is_refused() -> None:
    x = payments(1)
    forest = XGBoostTrainer(1, n_estimators=2).fit(x, fraud(x, 2)).export(DESCRIPTION).forest
    with pytest.raises(ModelError, match="need a forest with covers"):
        prepare_shapley(replace(forest, cover=None))
