"""The kernel against scikit-learn, and the properties that replay and attribution rest on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from dafu.models.errors import ModelError
from dafu.models.forest import (
    Forest,
    _floor32,
    check_forest,
    pack,
    predict_sum,
    predict_sum_and_credits,
)
from dafu.models.isolation import average_path_length
from dafu.models.trainers.isolation import forest_from_sklearn

F64 = NDArray[np.float64]


def identity(n: int) -> NDArray[np.int32]:
    return np.arange(n, dtype=np.int32)


def scores_of(trained: Any, x: NDArray[Any], fill: F64 | None = None) -> F64:
    f = x.shape[1]
    forest = forest_from_sklearn(trained)
    packed = pack(forest, np.zeros(f, dtype=np.int32), 1, np.zeros(f) if fill is None else fill)
    total = predict_sum(packed, x, identity(f))
    psi = trained.max_samples_
    return np.asarray(2.0 ** (-total / packed.n_trees / average_path_length(psi)))


def lognormal(n: int, f: int, seed: int) -> F64:
    return np.random.default_rng(seed).lognormal(0.0, 1.5, (n, f))


def test_equals_scikit_learn_on_random_data() -> None:
    x = lognormal(3000, 12, 1)
    trained = IsolationForest(n_estimators=60, max_samples=256, random_state=3).fit(x[:2000])
    np.testing.assert_allclose(scores_of(trained, x), -trained.score_samples(x), atol=1e-12)


def test_equals_scikit_learn_on_constants_and_ties() -> None:
    rng = np.random.default_rng(5)
    x = np.column_stack(
        [
            np.full(1000, 7.25),
            rng.integers(0, 3, 1000),
            np.where(rng.random(1000) < 0.99, 0.0, 1.0),
            rng.integers(0, 50, 1000) / 10.0,
        ]
    )
    trained = IsolationForest(n_estimators=50, max_samples=128, random_state=0).fit(x)
    np.testing.assert_allclose(scores_of(trained, x), -trained.score_samples(x), atol=1e-12)


def test_equals_scikit_learn_where_every_feature_is_constant() -> None:
    x = np.full((100, 2), 3.0)
    trained = IsolationForest(n_estimators=10, max_samples=64, random_state=0).fit(x)
    probe = np.array([[3.0, 3.0], [1e9, -1e9]])
    np.testing.assert_allclose(scores_of(trained, probe), -trained.score_samples(probe), atol=1e-12)


def test_equals_scikit_learn_between_float32_neighbours() -> None:
    """Inputs on, and half a float32 step around, every threshold of the forest."""
    x = lognormal(2000, 4, 9) * np.array([1.0, 1e-6, 1e6, 1e20])
    trained = IsolationForest(n_estimators=40, max_samples=256, random_state=2).fit(x)
    forest = forest_from_sklearn(trained)
    probes = []
    for feature in range(4):
        thresholds = forest.threshold[forest.feature == feature]
        step = np.spacing(np.abs(thresholds).astype(np.float32)).astype(np.float64)
        for shift in (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0):
            rows = np.tile(np.median(x, axis=0), (len(thresholds), 1))
            rows[:, feature] = thresholds + shift * step
            probes.append(rows)
    probe = np.concatenate(probes)
    assert len(probe) > 5000
    np.testing.assert_allclose(scores_of(trained, probe), -trained.score_samples(probe), atol=1e-12)


def test_extreme_inputs_go_where_scikit_learn_sends_them() -> None:
    x = lognormal(500, 2, 4)
    trained = IsolationForest(n_estimators=30, max_samples=128, random_state=1).fit(x)
    big = float(np.finfo(np.float32).max)
    values = [-np.inf, -big, -0.0, 0.0, 1e-45, big, np.inf]
    probe = np.array([(a, b) for a in values for b in values])
    ours = scores_of(trained, probe)
    np.testing.assert_allclose(ours, -trained.score_samples(probe), atol=1e-12)


def test_missing_values_take_the_fill_of_their_feature() -> None:
    x = lognormal(1000, 3, 6)
    trained = IsolationForest(n_estimators=30, max_samples=128, random_state=1).fit(x)
    fill = np.array([0.5, 40.0, 1.0])
    holes = np.where(np.random.default_rng(0).random(x.shape) < 0.3, np.nan, x)
    filled = np.where(np.isnan(holes), fill, holes)
    np.testing.assert_allclose(
        scores_of(trained, holes, fill), -trained.score_samples(filled), atol=1e-12
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 63, 64, 65, 1000])
def test_a_row_scores_the_same_bits_in_any_batch(dtype: type, size: int) -> None:
    x: NDArray[Any] = lognormal(1000, 9, 8).astype(dtype)
    x[::13, 2] = np.nan
    trained = IsolationForest(n_estimators=100, max_samples=256, random_state=2)
    trained.fit(np.nan_to_num(x))
    packed = pack(forest_from_sklearn(trained), identity(9) % 3, 3, np.zeros(9))
    alone = [predict_sum_and_credits(packed, x[i : i + 1], identity(9)) for i in range(1000)]
    for start in range(0, 1000, size):
        total, credits = predict_sum_and_credits(packed, x[start : start + size], identity(9))
        plain = predict_sum(packed, x[start : start + size], identity(9))
        assert plain.tobytes() == total.tobytes()
        for i, row in enumerate(range(start, min(start + size, 1000))):
            assert total[i : i + 1].tobytes() == alone[row][0].tobytes()
            assert credits[i].tobytes() == alone[row][1][0].tobytes()


def test_columns_are_found_in_a_wider_matrix() -> None:
    x = lognormal(200, 5, 3)
    trained = IsolationForest(n_estimators=20, max_samples=64, random_state=0).fit(x)
    packed = pack(forest_from_sklearn(trained), np.zeros(5, dtype=np.int32), 1, np.zeros(5))
    columns = np.array([11, 0, 7, 3, 9], dtype=np.int32)
    wide = np.full((200, 12), np.nan)
    wide[:, columns] = x
    expected = predict_sum(packed, x, identity(5))
    assert predict_sum(packed, wide, columns).tobytes() == expected.tobytes()
    in_columns = np.asfortranarray(wide)
    assert predict_sum(packed, in_columns, columns).tobytes() == expected.tobytes()


def naive(forest: Forest, groups: NDArray[np.int32], g: int, row: F64) -> tuple[float, F64]:
    """Walk the exchange form node by node, crediting as the definition says."""
    total, credit = 0.0, np.zeros(g)
    depth = np.zeros(len(forest.feature))
    for node in range(len(forest.feature)):
        if forest.feature[node] >= 0:
            depth[forest.left[node]] = depth[forest.right[node]] = depth[node] + 1
    remaining = forest.value - depth
    for root in forest.roots:
        node = int(root)
        while forest.feature[node] >= 0:
            f = forest.feature[node]
            goes_left = float(np.float32(row[f])) <= forest.threshold[node]
            child = int(forest.left[node] if goes_left else forest.right[node])
            credit[groups[f]] += remaining[node] - (1.0 + remaining[child])
            node = child
        total += forest.value[node]
    return total, credit


def test_credits_are_the_changes_of_the_expected_remaining_depth() -> None:
    x = lognormal(300, 6, 12)
    trained = IsolationForest(n_estimators=25, max_samples=64, random_state=4).fit(x)
    forest = forest_from_sklearn(trained)
    groups = np.array([0, 2, 1, 1, 0, 2], dtype=np.int32)
    packed = pack(forest, groups, 3, np.zeros(6))
    total, credits = predict_sum_and_credits(packed, x, identity(6))
    for i in range(0, 300, 7):
        oracle_total, oracle_credit = naive(forest, groups, 3, x[i])
        assert total[i] == pytest.approx(oracle_total, abs=1e-9)
        np.testing.assert_allclose(credits[i], oracle_credit, atol=1e-9)
    np.testing.assert_allclose(
        credits.sum(axis=1), packed.expected * packed.n_trees - total, atol=1e-9
    )


@st.composite
def forests(draw: st.DrawFn) -> Forest:
    """Any shape of tree, including lone leaves and chains deeper than isolation trees get."""
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    right: list[int] = []
    value: list[float] = []
    numbers = st.floats(-3, 3, width=32)

    def node(depth: int) -> int:
        at = len(feature)
        feature.append(-1)
        threshold.append(0.0)
        left.append(-1)
        right.append(-1)
        value.append(draw(numbers))
        if depth < 12 and draw(st.booleans()):
            feature[at] = draw(st.integers(0, 2))
            threshold[at] = draw(st.floats(-3, 3))
            left[at] = node(depth + 1)
            right[at] = node(depth + 1)
            value[at] = (value[left[at]] + value[right[at]]) / 2
        return at

    roots = [node(0) for _ in range(draw(st.integers(1, 4)))]
    i32 = np.int32
    return Forest(
        np.array(feature, i32),
        np.array(threshold),
        np.array(left, i32),
        np.array(right, i32),
        np.array(value),
        np.array(roots, i32),
        3,
    )


@settings(max_examples=60, deadline=None)
@given(forests(), st.lists(st.tuples(*[st.floats(-4, 4)] * 3), min_size=1, max_size=9))
def test_any_forest_is_walked_as_defined(forest: Forest, rows: list[tuple[float, ...]]) -> None:
    groups = np.array([0, 1, 1], dtype=np.int32)
    packed = pack(forest, groups, 2, np.zeros(3))
    x = np.array(rows)
    total, credits = predict_sum_and_credits(packed, x, identity(3))
    for i, row in enumerate(x):
        oracle_total, oracle_credit = naive(forest, groups, 2, row)
        assert total[i] == pytest.approx(oracle_total, abs=1e-9)
        np.testing.assert_allclose(credits[i], oracle_credit, atol=1e-9)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False))
@example(-3.402823364973241e38, 0.0)  # its float32 neighbour is -inf
def test_a_float32_threshold_decides_as_the_float64_one(threshold: float, x: float) -> None:
    rounded = float(_floor32(np.array([threshold]))[0])
    assert (x <= rounded) == (x <= threshold)


GOOD = Forest(
    feature=np.array([0, -1, 1, -1, -1, -1], np.int32),
    threshold=np.array([1.0, 0, 2.0, 0, 0, 0]),
    left=np.array([1, -1, 3, -1, -1, -1], np.int32),
    right=np.array([2, -1, 4, -1, -1, -1], np.int32),
    value=np.array([2.0, 1.0, 2.5, 2.0, 3.0, 1.0]),
    roots=np.array([0, 5], np.int32),
    n_features=2,
)


def i32(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"feature": GOOD.feature.astype(np.int64)}, "'feature' must be int32"),
        ({"threshold": np.zeros((2, 3))}, "'threshold' must be float64 of one dimension"),
        ({"left": i32(1, -1)}, "'left' has 2 entries"),
        ({"roots": i32()}, "no trees"),
        ({"roots": i32(1, 5)}, "'roots' must ascend from 0"),
        ({"roots": i32(0, 6)}, "'roots' must ascend from 0"),
        ({"feature": i32(2, -1, 1, -1, -1, -1)}, "node 0: 2 is no feature index"),
        ({"feature": i32(-2, -1, 1, -1, -1, -1)}, "node 0: -2 is no feature index"),
        ({"threshold": np.array([np.nan, 0, 2, 0, 0, 0])}, "node 0: nan is not finite"),
        ({"value": np.array([2, np.inf, 2.5, 2, 3, 1])}, "node 1: inf is not finite"),
        ({"left": i32(0, -1, 3, -1, -1, -1)}, "node 0: 0 is not after its parent"),
        ({"right": i32(2, -1, 0, -1, -1, -1)}, "node 2: 0 is not after its parent"),
        ({"right": i32(2, -1, 5, -1, -1, -1)}, "node 2: 5 lies outside its tree"),
        ({"right": i32(2, -1, 99, -1, -1, -1)}, "node 2: 99 lies outside its tree"),
        ({"left": i32(1, 3, 3, -1, -1, -1)}, "node 1: 3 is the child of a leaf"),
        ({"right": i32(2, -1, 3, -1, -1, -1)}, "no parent or several"),
        ({"value": np.array([9.0, 1, 2.5, 2, 3, 1])}, "node 0: 9.0 is not between"),
    ],
)
def test_malformed_forests_are_refused(change: dict[str, NDArray[Any]], says: str) -> None:
    check_forest(GOOD)
    with pytest.raises(ModelError, match=says):
        check_forest(replace(GOOD, **change))  # type: ignore[arg-type]


def test_arguments_that_do_not_fit_are_refused() -> None:
    packed = pack(GOOD, i32(0, 0), 1, np.zeros(2))
    with pytest.raises(ModelError, match="do not fit a matrix of 1 columns"):
        predict_sum(packed, np.zeros((3, 1)), identity(2))
    with pytest.raises(ModelError, match="2 features"):
        predict_sum(packed, np.zeros((3, 2)), identity(1))
    with pytest.raises(ModelError, match="float matrix"):
        predict_sum(packed, np.zeros((3, 2), dtype=np.int64), identity(2))
    with pytest.raises(ModelError, match=r"within 0\.\.0"):
        pack(GOOD, i32(0, 1), 1, np.zeros(2))
    with pytest.raises(ModelError, match="all must be finite"):
        pack(GOOD, i32(0, 0), 1, np.array([0.0, np.nan]))
    with pytest.raises(ModelError, match="neither what fills missing values nor where they go"):
        pack(GOOD, i32(0, 0), 1)
    assert predict_sum(packed, np.zeros((0, 2)), identity(2)).shape == (0,)
