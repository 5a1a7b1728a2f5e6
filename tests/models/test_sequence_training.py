"""Training the recurrent network: Keras' own answers, windows, what it learns, when it stops."""

from __future__ import annotations

import sys
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score

from dafu.models.errors import TrainingError
from dafu.models.recurrent import (
    LOG_VARIANCE_LIMIT,
    Cell,
    Objective,
    RecurrentModel,
    SequenceInput,
    Transform,
    prepare,
)
from dafu.models.sequence_training import (
    SequenceTrainer,
    build_network,
    cut_windows,
    weights_of,
)
from tests.models.test_recurrent import CELLS, COLUMNS, INPUTS, KNOTS, OBJECTIVES, fresh, rows

F64 = NDArray[np.float64]

STEPS = 220
USERS = 4


@cache
def keras_answer(cell: Cell, objective: Objective) -> tuple[RecurrentModel, F64, Any, F64]:
    """A model, rows of interleaved users, and Keras' scores of each user's whole sequence."""
    network = build_network(cell, objective, len(INPUTS), 32, 16, seed=3)
    rng = np.random.default_rng(0)
    for layer in ("cell", "dense", "head"):  # biases are 0 in a new network
        of = network.get_layer(layer)
        of.set_weights([w + 0.1 * rng.normal(size=w.shape) for w in of.get_weights()])
    model = RecurrentModel(
        name="sequence",
        cell=cell,
        objective=objective,
        inputs=INPUTS,
        weights=weights_of(network),
        calibration=None if objective == "fraud" else KNOTS,
    )
    x, _ = rows(STEPS * USERS)
    entity = rng.permutation(np.repeat(np.arange(USERS), STEPS))
    inputs = prepare(INPUTS, x, model.column_index(COLUMNS))
    order = np.argsort(entity, kind="stable")
    sequences = inputs[order].reshape(USERS, STEPS, -1)
    outputs = network.predict(sequences, verbose=0).astype(np.float64)
    if objective == "fraud":
        scores = 1 / (1 + np.exp(-outputs[..., 0]))
    else:
        mean, spread = np.split(outputs, 2, axis=-1)
        log_variance = LOG_VARIANCE_LIMIT * np.tanh(spread / LOG_VARIANCE_LIMIT)
        nll = log_variance + (sequences - mean) ** 2 / np.exp(log_variance) + np.log(2 * np.pi)
        scores = 0.5 * nll.mean(axis=-1)
    expected = np.empty(len(x))
    expected[order] = scores.ravel()
    return model, x, entity, expected


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("cell", CELLS)
@given(cuts=st.sets(st.integers(1, STEPS * USERS - 1), max_size=20))
@settings(deadline=None, max_examples=8)
def test_the_stream_scores_as_keras_does(cell: Cell, objective: Objective, cuts: set[int]) -> None:
    model, x, entity, expected = keras_answer(cell, objective)
    columns, state = model.column_index(COLUMNS), fresh(model, USERS)
    edges = [0, *sorted(cuts), len(x)]
    raw = [model.step(x[a:b], columns, entity[a:b], state).raw for a, b in pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(raw), expected, rtol=0, atol=1e-5)


def test_a_network_without_a_dense_layer_is_taken_over() -> None:
    network = build_network("gru", "fraud", 2, 3, 0)
    weights = weights_of(network)
    assert weights.dense_kernel.shape == (3, 0)
    model = RecurrentModel(
        name="m",
        cell="gru",
        objective="fraud",
        inputs=(SequenceInput("a"), SequenceInput("b")),
        weights=weights,
    )
    x = np.random.default_rng(0).normal(size=(50, 2))
    raw = model.step(x, np.arange(2, dtype=np.int32), np.zeros(50, np.int64), fresh(model, 1)).raw
    logits = network.predict(x[None].astype(np.float32), verbose=0)[0, :, 0].astype(np.float64)
    np.testing.assert_allclose(raw, 1 / (1 + np.exp(-logits)), atol=1e-6)


@given(
    entity=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    seed=st.integers(0, 2**16),
    length=st.integers(1, 9),
    warm_up=st.integers(0, 9),
)
def test_windows_count_every_row_once(
    entity: list[int], seed: int, length: int, warm_up: int
) -> None:
    entities = np.array(entity)
    counted = np.random.default_rng(seed).random(len(entity)) < 0.5
    windows = cut_windows(entities, counted, length, warm_up)
    hits = windows.rows[windows.counted]
    assert sorted(hits.tolist()) == np.flatnonzero(counted).tolist()
    for rows_, counts in zip(windows.rows, windows.counted, strict=True):
        there = rows_[rows_ >= 0]
        assert (rows_[: len(there)] >= 0).all(), "padding comes last"
        assert len(there) <= length + warm_up
        assert not counts[len(there) :].any()
        assert len(set(entities[there])) == 1
        # Rows of one history, in its order and without gaps.
        history = np.flatnonzero(entities == entities[there[0]])
        at = int(np.searchsorted(history, there[0]))
        assert history[at : at + len(there)].tolist() == there.tolist()
        # Before the first row that counts lies all the warm-up there is.
        first = int(np.searchsorted(history, there[counts[: len(there)]][0]))
        assert first - at >= min(first, warm_up)


def growing(n_users: int = 150, length: int = 40, seed: int = 0) -> dict[str, Any]:
    """Amounts of interleaved users; fraud is the third of a run of growing amounts."""
    rng = np.random.default_rng(seed)
    amount = rng.uniform(1, 100, (length, n_users))
    fraud = np.zeros((length, n_users))
    fraud[2:] = (amount[2:] > amount[1:-1]) & (amount[1:-1] > amount[:-2])
    return {
        "x": np.column_stack([np.zeros(amount.size), amount.ravel()]),
        "columns": {"amount": 1},
        "entity": np.tile(np.arange(n_users), length),
        "time": np.repeat(np.arange(length), n_users),
        "labels": fraud.ravel(),
    }


def trainer(**changes: Any) -> SequenceTrainer:
    inputs: list[tuple[str, Transform]] = [("amount", "identity")]
    plain: dict[str, Any] = {
        "inputs": inputs,
        "units": 16,
        "dense_units": 8,
        "epochs": 12,
        "batch_size": 32,
        "length": 20,
        "warm_up": 6,
        "learning_rate": 0.02,
        "validation_share": 0.2,
    }
    return SequenceTrainer(**plain | changes)


@pytest.fixture(scope="module")
def learned() -> SequenceTrainer:
    return trainer().fit(**growing())


def test_it_learns_what_no_single_row_shows(learned: SequenceTrainer) -> None:
    train, test = growing(), growing(seed=1)
    memoryless = HistGradientBoostingClassifier(random_state=0).fit(train["x"], train["labels"])
    plain = average_precision_score(test["labels"], memoryless.predict_proba(test["x"])[:, 1])
    scores = learned.score(test["x"], test["columns"], test["entity"])
    assert average_precision_score(test["labels"], scores.raw) > 0.9 > plain + 0.4


def test_the_export_scores_as_the_trainer(learned: SequenceTrainer) -> None:
    model = learned.export("runs", catalogue_hash="cafe", data="generated", code="test")
    assert (model.name, model.catalogue_hash) == ("runs", "cafe")
    assert (model.provenance.data, model.provenance.code) == ("generated", "test")
    data = growing(seed=2)
    state = fresh(model, 150)
    columns = model.column_index(data["columns"])
    parts = [
        model.step(data["x"][i : i + 777], columns, data["entity"][i : i + 777], state).raw
        for i in range(0, len(data["x"]), 777)
    ]
    whole = learned.score(data["x"], data["columns"], data["entity"]).raw
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def small(**changes: Any) -> dict[str, Any]:
    return growing(40, 20) | changes


def test_same_seed_same_model() -> None:
    def weights(seed: int) -> list[bytes]:
        settled = trainer(epochs=1, dropout=0.2, recurrent_dropout=0.2, seed=seed)
        model = settled.fit(**small()).export()
        return [a.tobytes() for a in model.arrays().values()]

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_rows_that_do_not_count_only_warm_the_state() -> None:
    data = small()
    counted = data["time"] >= 10
    otherwise = np.where(counted, data["labels"], 1 - data["labels"])
    unknown = np.where(counted, data["labels"], np.nan)
    one = trainer(epochs=1).fit(**data | {"labels": otherwise}, counted=counted).export()
    two = trainer(epochs=1).fit(**data | {"labels": unknown}).export()
    for name, array in one.arrays().items():
        assert two.arrays()[name].tobytes() == array.tobytes(), name
    assert one.metrics["training_rows"] + one.metrics["validation_rows"] == 400
    x = data["x"].copy()
    x[~counted, 1] *= -1
    warmed = trainer(epochs=1).fit(**data | {"x": x}, counted=counted).export()
    assert any(a.tobytes() != warmed.arrays()[n].tobytes() for n, a in one.arrays().items())


def test_training_stops_when_nothing_is_gained() -> None:
    """On labels that are noise the validation loss soon rises; the best epoch is kept."""
    noise = (np.random.default_rng(0).random(800) < 0.3).astype(float)
    data = small(labels=noise)
    seen: list[tuple[int, float, float]] = []
    stopped = trainer(epochs=200, patience=3, length=8).fit(
        **data, on_epoch=lambda *figures: seen.append(figures)
    )
    metrics = stopped.export().metrics
    assert metrics["epochs"] == len(seen) == metrics["best_epoch"] + 3 < 200
    losses = [v for _, _, v in seen]
    assert metrics["validation_loss"] == min(losses) == losses[int(metrics["best_epoch"]) - 1]
    late = data["time"] >= np.quantile(data["time"], 0.8)
    p = stopped.score(data["x"], data["columns"], data["entity"]).raw[late]
    loss = -np.mean(np.where(noise[late] > 0, np.log(p), np.log(1 - p)))
    assert loss == pytest.approx(min(losses), rel=1e-9)


def test_without_validation_all_epochs_run() -> None:
    seen: list[float] = []
    done = trainer(epochs=3, validation_share=0.0).fit(
        **small(), on_epoch=lambda epoch, loss, validation: seen.append(validation)
    )
    assert np.isnan(seen).all()
    assert done.export().metrics == {"epochs": 3, "best_epoch": 3, "training_rows": 800}


def test_weighted_frauds_leave_the_probability_alone() -> None:
    """Fraud without a pattern: whatever its weight, its probability is its share."""
    rng = np.random.default_rng(0)
    data = growing(100, 40)
    data["labels"] = (rng.random(4000) < 0.05).astype(float)
    for weight in (1.0, 15.0):
        fitted = trainer(epochs=2, fraud_weight=weight, learning_rate=0.003).fit(**data)
        p = fitted.score(data["x"], data["columns"], data["entity"]).raw
        assert 0.03 < p.mean() < 0.08


def test_surprise_is_at_what_breaks_a_habit() -> None:
    """Users alternate between two amounts; out of turn, each is as usual as ever by itself."""
    rng = np.random.default_rng(0)
    users, length = 80, 40
    turn = (np.arange(length)[:, None] + rng.integers(0, 2, users)) % 2
    broken = rng.random((length, users)) < 0.03
    broken[:8] = False
    amount = np.where(turn ^ broken, 50.0, 10.0) + rng.normal(0, 1.0, (length, users))
    fitted = trainer(objective="surprise", cell="lstm", epochs=15).fit(
        amount.reshape(-1, 1),
        {"amount": 0},
        np.tile(np.arange(users), length),
        np.repeat(np.arange(length), users),
    )
    scores = fitted.score(amount.reshape(-1, 1), {"amount": 0}, np.tile(np.arange(users), length))
    assert roc_auc_score(broken.ravel(), scores.raw) > 0.95
    usual = np.median(scores.risk[~broken.ravel()])
    assert usual < 0.2
    assert np.median(scores.risk[broken.ravel()]) > 0.3
    assert fitted.export().metrics["validation_loss"] < 1.0


def test_missing_values_are_learned_from() -> None:
    data = small()
    x = data["x"].copy()
    x[::3, 1] = np.nan
    inputs = [("amount", "identity"), ("amount", "missing")]
    fitted = trainer(inputs=inputs, epochs=1).fit(**data | {"x": x})
    assert np.isfinite(fitted.score(x, data["columns"], data["entity"]).raw).all()
    first, second = fitted.export().inputs
    learned_rows = data["time"] < np.quantile(data["time"], 0.8)
    assert first.fill == pytest.approx(np.nanmedian(x[learned_rows, 1]))
    assert second.mean == pytest.approx(np.isnan(x[learned_rows, 1]).mean(), abs=1e-6)


def test_a_column_that_never_changes_does_no_harm() -> None:
    data = small()
    x = np.full((800, 2), np.nan)
    fitted = trainer(epochs=1).fit(**data | {"x": x})
    assert np.isfinite(fitted.score(x, data["columns"], data["entity"]).raw).all()


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"inputs": []}, "at least one"),
        ({"cell": "rnn"}, "gru or lstm"),
        ({"objective": "magic"}, "fraud or surprise"),
        ({"units": 65}, r"units: 1\.\.64"),
        ({"dense_units": -1}, "dense_units"),
        ({"dropout": 1.0}, "dropout"),
        ({"recurrent_dropout": -0.1}, "recurrent_dropout"),
        ({"patience": 0}, "patience"),
        ({"warm_up": -1}, "warm_up"),
        ({"fraud_weight": 0.0}, "fraud_weight"),
        ({"validation_share": 1.0}, "validation_share"),
        ({"seed": -1}, "seed"),
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        trainer(**changes)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"labels": None}, "needs labels"),
        ({"labels": np.zeros(800)}, "one class"),
        ({"labels": np.full(800, np.nan)}, "no row counts"),
        ({"labels": np.full(800, 0.5)}, "1, 0 or NaN"),
        ({"labels": np.zeros(3)}, r"labels of shape \(3,\)"),
        ({"entity": np.full(800, -1)}, "numbered from 0"),
        ({"columns": {"sum": 0}}, "'amount' is none"),
        ({"x": np.full((800, 2), np.inf)}, "infinite"),
        ({"x": np.zeros((0, 2))}, r"\(0, 2\)"),
        ({"counted": np.zeros(800, bool)}, "no row counts"),
    ],
)
def test_data_that_allow_no_training_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        trainer().fit(**small(**changes))


def test_nothing_is_scored_or_exported_before_it_is_trained() -> None:
    with pytest.raises(TrainingError, match="call fit first"):
        trainer().export()
    with pytest.raises(TrainingError, match="call fit first"):
        trainer().score(np.zeros((1, 1)), {"amount": 0}, np.zeros(1))


def test_without_keras_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(TrainingError, match=r"dafu\[sequence\]"):
        trainer().fit(**small())
