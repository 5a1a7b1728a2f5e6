"""Classifiers of trees: the library's answer to the last comparison, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dafu.models.errors import ModelError, TrainingError
from dafu.models.forest import ARRAYS, Forest, check_forest, pack, predict_sum
from dafu.models.trainers import LightGBMTrainer, RandomForestTrainer, XGBoostTrainer
from dafu.models.trees import BoostedTreesModel, RandomForestModel
from tests.models.zoo import DESCRIPTION, F64, INDEX, NAMES, fraud, payments, specimen

TRAINERS: dict[str, Callable[[], Any]] = {
    "XGBoost": lambda: XGBoostTrainer(1, n_estimators=20),
    "LightGBM": lambda: LightGBMTrainer(1, n_estimators=20),
    "random forest": lambda: RandomForestTrainer(1, n_estimators=10),
}
every_trainer = pytest.mark.parametrize("name", TRAINERS)


def around_thresholds(forest: Forest, x: F64) -> F64:
    """Rows with values on, and a float32 step around, every threshold; and missing ones."""
    rows = []
    for feature in range(forest.n_features):
        at = forest.threshold[forest.feature == feature]
        at = np.unique(at[np.abs(at) < 1e38].astype(np.float32))
        inf = np.float32(np.inf)
        values = np.concatenate(
            [at, np.nextafter(at, inf), np.nextafter(np.nextafter(at, inf), inf), -at]
        )
        values = np.append(values, np.nan)[:, None]
        base = x[np.arange(len(values)) % len(x)].copy()
        base[:, feature] = values[:, 0]
        rows.append(base)
    return np.concatenate(rows)


@every_trainer
def test_equals_the_library_between_float32_neighbours(name: str) -> None:
    x = payments(1)
    trainer: Any = TRAINERS[name]().fit(x, fraud(x, 2))
    model = trainer.export(DESCRIPTION)
    probe = around_thresholds(model.forest, payments(3))
    assert len(probe) > 500
    np.testing.assert_allclose(
        model.score(probe, INDEX).raw, trainer.score(probe), rtol=0, atol=1e-6
    )


@every_trainer
def test_missing_values_go_where_the_library_sends_them(name: str) -> None:
    """Also where training has seen none: LightGBM takes them for 0, the others have a default."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 7)).astype(np.float32).astype(np.float64)
    y = (x[:, 0] - x[:, 1] + rng.normal(size=800) > 0.5).astype(int)
    trainer: Any = TRAINERS[name]().fit(x, y)
    model = trainer.export(DESCRIPTION)
    probe = np.where(rng.random(x.shape) < 0.4, np.nan, x)
    np.testing.assert_allclose(
        model.score(probe, INDEX).raw, trainer.score(probe), rtol=0, atol=1e-6
    )
    low = trainer.score(np.nan_to_num(probe, nan=-9.0))
    assert np.abs(trainer.score(probe) - low).max() > 0.01, "they do not all go left"


@pytest.mark.parametrize("name", ["XGBoost", "LightGBM"])
def test_nodes_disagree_about_missing_values(name: str) -> None:
    """Of one feature some nodes send them left and others right: two slots of the kernel."""
    x = payments(1)
    trainer: Any = TRAINERS[name]().fit(x, fraud(x, 2))
    model = trainer.export(DESCRIPTION)
    assert np.bincount(model.packed.slot_feature).max() == 2
    assert set(model.packed.slot_fill.tolist()) == {-np.inf, np.inf}


def test_early_stopping_keeps_the_best_trees() -> None:
    x, held = payments(1), payments(3)
    trainer = XGBoostTrainer(1, n_estimators=200, learning_rate=0.5, early_stopping_rounds=5)
    trainer.fit(x, fraud(x, 2), validation=(held, fraud(held, 4)))
    model = trainer.export(DESCRIPTION)
    assert model.forest.n_trees < 100
    np.testing.assert_allclose(model.score(held, INDEX).raw, trainer.score(held), rtol=0, atol=1e-6)


def test_balanced_classes_raise_the_probability_of_fraud() -> None:
    x = payments(1)
    y = fraud(x, 2)
    share = y.mean()
    assert share < 0.4
    for plain, balanced in (
        (XGBoostTrainer(1), XGBoostTrainer(1, fraud_weight="balanced")),
        (LightGBMTrainer(1), LightGBMTrainer(1, fraud_weight="balanced")),
        (RandomForestTrainer(1, max_depth=4), RandomForestTrainer(1, 100, 4, 1, "balanced")),
    ):
        means = [t.fit(x, y).score(payments(3)).mean() for t in (plain, balanced)]
        assert means[1] > means[0] + 0.02


@every_trainer
def test_data_that_cannot_be_trained_on_is_refused(name: str) -> None:
    x = payments(1, 50)
    y = fraud(x, 2)
    make: Any = TRAINERS[name]
    with pytest.raises(TrainingError, match="needs labels"):
        make().fit(x, None)
    with pytest.raises(TrainingError, match=r"labels of shape \(49,\) for 50 rows"):
        make().fit(x, y[1:])
    with pytest.raises(TrainingError, match="0 of 50 rows are fraud"):
        make().fit(x, np.zeros(50))
    with pytest.raises(TrainingError, match=r"0 \(genuine\) and 1"):
        make().fit(x, y * 2)
    with pytest.raises(TrainingError, match="does not fit into float32"):
        make().fit(np.where(x == x[3, 0], 1e300, x), y)
    with pytest.raises(TrainingError, match="call fit before"):
        make().export(DESCRIPTION)
    with pytest.raises(TrainingError, match="call fit before"):
        make().score(x)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("XGBoost", "xgboost", "train"),
        ("LightGBM", "lightgbm", "lightgbm"),
        ("random forest", "sklearn.ensemble", "train"),
    ],
)
def test_a_missing_library_names_the_extra(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    x = payments(1, 50)
    with pytest.raises(TrainingError, match=rf"pip install 'dafu\[{extra}\]'"):
        TRAINERS[name]().fit(x, fraud(x, 2))


@pytest.mark.filterwarnings("ignore:categorical_feature keyword")
def test_what_is_not_served_is_refused() -> None:
    x = payments(1)
    y = fraud(x, 2)
    for trainer, says in (
        (XGBoostTrainer(1, 3, parameters={"booster": "dart"}), "XGBoost trained dart"),
        (XGBoostTrainer(1, 3, parameters={"objective": "reg:squarederror"}), "reg:squarederror"),
        (LightGBMTrainer(1, 3, parameters={"objective": "regression"}), "'regression'"),
        (LightGBMTrainer(1, 3, parameters={"zero_as_missing": True}), "zero_as_missing"),
        (LightGBMTrainer(1, 3, parameters={"linear_tree": True}), "linear trees"),
        (
            LightGBMTrainer(
                1, 3, parameters={"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}
            ),
            "averaging",
        ),
        (LightGBMTrainer(1, 3, parameters={"categorical_feature": [2]}), "categories"),
    ):
        with pytest.raises(TrainingError, match=says):
            trainer.fit(x, y).export(DESCRIPTION)
    with pytest.raises(TrainingError, match="XGBoost refuses"):
        XGBoostTrainer(1, parameters={"max_depth": -3}).fit(x, y)
    with pytest.raises(TrainingError, match="scikit-learn refuses"):
        RandomForestTrainer(1, parameters={"criterion": "luck"}).fit(x, y)
    with pytest.raises(TrainingError, match="weight of fraud is -1"):
        XGBoostTrainer(1, fraud_weight=-1.0).fit(x, y)


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    boosted = specimen("XGBoost").model
    forest = specimen("random forest").model
    assert isinstance(boosted, BoostedTreesModel)
    assert isinstance(forest, RandomForestModel)
    with pytest.raises(ModelError, match="base is inf"):
        replace(boosted, base=float("inf"))
    with pytest.raises(ModelError, match="6 feature groups for 7"):
        replace(boosted, feature_groups=boosted.feature_groups[1:])
    with pytest.raises(ModelError, match="'sequence' is none of"):
        replace(boosted, groups=("amount", "behavior", "merchant"))
    with pytest.raises(ModelError, match="lacks the array 'cover'"):
        replace(boosted, forest=replace(boosted.forest, cover=None))
    shifted = replace(forest.forest, value=forest.forest.value + 1.0)
    with pytest.raises(ModelError, match=r"not within 0\.\.1"):
        replace(forest, forest=shifted)


def test_forests_with_impossible_covers_are_refused() -> None:
    model = specimen("XGBoost").model
    assert isinstance(model, BoostedTreesModel)
    good = model.forest
    assert good.cover is not None
    assert good.missing_right is not None
    check_forest(good)
    leaf = int(np.argmax(good.feature < 0))
    split = int(np.argmax(good.feature >= 0))

    def changed(name: str, at: int, value: float) -> Forest:
        array = getattr(good, name).copy()
        array[at] = value
        return replace(good, **{name: array})

    for forest, says in (
        (changed("cover", leaf, -1.0), "is no weight"),
        (changed("cover", leaf, np.nan), "is no weight"),
        (changed("cover", leaf, good.cover[leaf] * 3), "is no mean by cover"),
        (changed("missing_right", leaf, True), "at a leaf"),
        (replace(good, cover=np.zeros(len(good.cover))), "children without weight"),
        (replace(good, cover=good.cover[1:]), "'cover' has"),
        (
            replace(good, missing_right=good.feature),  # type: ignore[arg-type]
            "'missing_right' must be bool",
        ),
    ):
        with pytest.raises(ModelError, match=says):
            check_forest(forest)
    assert set(ARRAYS) == set(model.arrays())
    assert good.feature[split] < len(NAMES)


def test_missing_values_follow_the_nodes_where_no_fill_is_given() -> None:
    forest = Forest(
        feature=np.array([0, -1, 0, -1, -1], np.int32),
        threshold=np.array([0.0, 0, 5.0, 0, 0]),
        left=np.array([1, -1, 3, -1, -1], np.int32),
        right=np.array([2, -1, 4, -1, -1], np.int32),
        value=np.array([2.0, 1.0, 3.0, 2.0, 4.0]),
        roots=np.zeros(1, np.int32),
        n_features=1,
        missing_right=np.array([True, False, False, False, False]),
    )
    x = np.array([[-1.0], [0.0], [3.0], [5.0], [6.0], [np.nan], [np.inf], [-np.inf]])
    column = np.zeros(1, np.int32)
    packed = pack(forest, column, 1)
    assert predict_sum(packed, x, column).tolist() == [1, 1, 2, 2, 4, 2, 4, 1]
    filled = pack(forest, column, 1, np.array([7.0]))
    assert predict_sum(filled, x, column).tolist() == [1, 1, 2, 2, 4, 4, 4, 1]
