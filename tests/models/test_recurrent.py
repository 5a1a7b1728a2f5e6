"""The recurrent kernel against a plain cell in NumPy; any cut into batches; what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dafu.models.calibration import RankCalibration
from dafu.models.errors import ModelError
from dafu.models.model import Manifest, Provenance
from dafu.models.recurrent import (
    GATES,
    LOG_VARIANCE_LIMIT,
    TRANSFORMS,
    WEIGHTS,
    Cell,
    Objective,
    RecurrentModel,
    SequenceInput,
    Transform,
    Weights,
    prepare,
)

F64 = NDArray[np.float64]

CELLS: tuple[Cell, ...] = ("gru", "lstm")
OBJECTIVES: tuple[Objective, ...] = ("fraud", "surprise")
INPUTS = (
    SequenceInput("amount", "log1p", 20.0, 3.0, 1.2),
    SequenceInput("amount", "identity", 20.0, 50.0, 80.0, 4.0),
    SequenceInput("gap", "missing", mean=0.1, scale=0.3),
    SequenceInput("gap", "log1p", 3600.0, 8.0, 2.0),
    SequenceInput("hour", "hour_sine"),
    SequenceInput("hour", "hour_cosine"),
    SequenceInput("zscore", "log1p"),
)
COLUMNS = {"gap": 4, "hour": 0, "zscore": 2, "amount": 1}
KNOTS = RankCalibration((0.0, 1.0, 2.0, 9.0), (0.0, 0.1, 0.6, 0.99))


def make_model(
    cell: Cell = "gru",
    objective: Objective = "fraud",
    units: int = 9,
    dense: int = 5,
    seed: int = 0,
    inputs: tuple[SequenceInput, ...] = INPUTS,
) -> RecurrentModel:
    rng = np.random.default_rng(seed)
    n, wide = len(inputs), GATES[cell] * units

    def draw(*shape: int) -> NDArray[np.float32]:
        return np.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), np.float32)

    heads = 1 if objective == "fraud" else 2 * n
    weights = Weights(
        draw(n, wide),
        draw(wide),
        draw(units, wide),
        draw(wide) if cell == "gru" else np.zeros(wide, np.float32),
        draw(units, dense) if dense else np.zeros((units, 0), np.float32),
        draw(dense) if dense else np.zeros(0, np.float32),
        draw(dense or units, heads),
        draw(heads),
    )
    return RecurrentModel(
        name="sequence",
        cell=cell,
        objective=objective,
        inputs=inputs,
        weights=weights,
        calibration=None if objective == "fraud" else KNOTS,
    )


def rows(n: int = 400, entities: int = 5, seed: int = 1) -> tuple[F64, NDArray[np.int64]]:
    """A matrix with the columns of COLUMNS and one that nobody reads, and whose rows they are."""
    rng = np.random.default_rng(seed)
    x = np.full((n, 5), np.nan)
    x[:, 0] = rng.integers(0, 24, n)
    x[:, 1] = rng.lognormal(3, 1, n)
    x[:, 2] = np.where(rng.random(n) < 0.3, np.nan, rng.normal(0, 3, n))
    x[:, 4] = np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(9, 2, n))
    return x, rng.integers(0, entities, n)


def fresh(model: RecurrentModel, entities: int = 5) -> NDArray[np.float32]:
    return np.zeros((entities, model.state_size), np.float32)


def naive_inputs(inputs: tuple[SequenceInput, ...], row: F64) -> F64:
    out = []
    for i in inputs:
        v = row[COLUMNS[i.feature]]
        missing, v = np.isnan(v), i.fill if np.isnan(v) else v
        angle = 2 * np.pi * v / 24
        t = {
            "identity": v,
            "log1p": np.sign(v) * np.log1p(abs(v)),
            "missing": float(missing),
            "hour_sine": np.sin(angle),
            "hour_cosine": np.cos(angle),
        }[i.transform]
        out.append(np.clip((t - i.mean) / i.scale, -i.limit, i.limit))
    return np.array(out)


def naive_scores(model: RecurrentModel, x: F64, entity: NDArray[np.int64]) -> F64:
    """The textbook's equations in float64, one history after the other."""

    def s(v: Any) -> Any:
        return 1 / (1 + np.exp(-v))

    w = {k: v.astype(np.float64) for k, v in model.arrays().items()}
    scores = np.full(len(x), np.nan)

    def head(h: F64) -> F64:
        if w["dense_bias"].size:
            h = np.maximum(h @ w["dense_kernel"] + w["dense_bias"], 0)
        return h @ w["head_kernel"] + w["head_bias"]

    for e in range(int(entity.max()) + 1):
        h = c = np.zeros(model.units)
        for i in np.flatnonzero(entity == e):
            v = naive_inputs(model.inputs, x[i])
            if model.objective == "surprise":
                mean, spread = np.split(head(h), 2)
                log_variance = LOG_VARIANCE_LIMIT * np.tanh(spread / LOG_VARIANCE_LIMIT)
                variance = np.exp(log_variance)
                density = np.exp(-((v - mean) ** 2) / 2 / variance) / np.sqrt(2 * np.pi * variance)
                scores[i] = np.mean(-np.log(density))
            gx = np.split(v @ w["input_kernel"] + w["input_bias"], GATES[model.cell])
            gh = np.split(h @ w["recurrent_kernel"] + w["recurrent_bias"], GATES[model.cell])
            if model.cell == "gru":
                z, r = s(gx[0] + gh[0]), s(gx[1] + gh[1])
                h = z * h + (1 - z) * np.tanh(gx[2] + r * gh[2])
            else:
                g = [a + b for a, b in zip(gx, gh, strict=True)]
                c = s(g[1]) * c + s(g[0]) * np.tanh(g[2])
                h = s(g[3]) * np.tanh(c)
            if model.objective == "fraud":
                scores[i] = s(head(h)[0])
    return scores


@pytest.mark.parametrize("dense", [0, 5])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("cell", CELLS)
def test_scores_are_the_textbooks(cell: Cell, objective: Objective, dense: int) -> None:
    model = make_model(cell, objective, dense=dense)
    x, entity = rows()
    scores = model.step(x, model.column_index(COLUMNS), entity, fresh(model))
    np.testing.assert_allclose(scores.raw, naive_scores(model, x, entity), rtol=1e-5, atol=1e-5)
    expected = scores.raw if objective == "fraud" else KNOTS.risk(scores.raw)
    np.testing.assert_array_equal(scores.risk, expected)


@pytest.mark.parametrize("units", [1, 2, 3, 4, 7, 32, 64])
def test_any_number_of_units(units: int) -> None:
    model = make_model("lstm", units=units, dense=units)
    x, entity = rows(60)
    raw = model.step(x, model.column_index(COLUMNS), entity, fresh(model)).raw
    np.testing.assert_allclose(raw, naive_scores(model, x, entity), atol=1e-5)


@given(
    cell=st.sampled_from(CELLS),
    objective=st.sampled_from(OBJECTIVES),
    cuts=st.sets(st.integers(1, 119), max_size=12),
)
@settings(deadline=None, max_examples=40)
def test_any_cut_into_batches_gives_the_same_bits(
    cell: Cell, objective: Objective, cuts: set[int]
) -> None:
    model = make_model(cell, objective)
    x, entity = rows(120)
    columns = model.column_index(COLUMNS)
    whole_state, state = fresh(model), fresh(model)
    whole = model.step(x, columns, entity, whole_state)
    edges = [0, *sorted(cuts), 120]
    parts = [model.step(x[a:b], columns, entity[a:b], state) for a, b in pairwise(edges)]
    assert np.concatenate([p.raw for p in parts]).tobytes() == whole.raw.tobytes()
    assert np.concatenate([p.risk for p in parts]).tobytes() == whole.risk.tobytes()
    assert state.tobytes() == whole_state.tobytes()


@pytest.mark.parametrize("cell", CELLS)
def test_the_neighbours_in_a_batch_do_not_matter(cell: Cell) -> None:
    model = make_model(cell)
    x, entity = rows()
    columns = model.column_index(COLUMNS)
    together = model.step(x, columns, entity, fresh(model)).raw
    for e in range(5):
        mine = entity == e
        alone = model.step(x[mine], columns, np.zeros(mine.sum(), np.int64), fresh(model, 1)).raw
        assert alone.tobytes() == together[mine].tobytes()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_of_nobody_are_skipped(objective: Objective) -> None:
    model = make_model(objective=objective)
    x, entity = rows()
    columns = model.column_index(COLUMNS)
    skipped = np.arange(len(x)) % 3 == 0
    state, dense_state = fresh(model), fresh(model)
    scores = model.step(x, columns, np.where(skipped, -1, entity), state)
    dense = model.step(x[~skipped], columns, entity[~skipped], dense_state)
    assert scores.raw[~skipped].tobytes() == dense.raw.tobytes()
    assert np.isnan(scores.raw[skipped]).all()
    assert np.isnan(scores.risk[skipped]).all()
    assert state.tobytes() == dense_state.tobytes()


def test_surprise_is_of_the_transaction_given_what_came_before() -> None:
    """Changing a transaction changes its own surprise; a fraud model's too, by its new state."""
    for objective in OBJECTIVES:
        model = make_model(objective=objective)
        x, _ = rows(3)
        entity, columns = np.zeros(3, np.int64), model.column_index(COLUMNS)
        before = model.step(x, columns, entity, fresh(model, 1)).raw
        x[1, COLUMNS["amount"]] *= 1000
        after = model.step(x, columns, entity, fresh(model, 1)).raw
        assert before[0] == after[0]
        assert before[1] != after[1]
        assert before[2] != after[2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0])
@pytest.mark.parametrize("cell", CELLS)
def test_no_value_makes_a_score_that_is_none(cell: Cell, value: float) -> None:
    for objective in OBJECTIVES:
        model = make_model(cell, objective)
        x, state = np.full((300, 5), value), fresh(model, 1)
        scores = model.step(x, model.column_index(COLUMNS), np.zeros(300, np.int64), state)
        assert np.isfinite(scores.raw).all()
        assert np.isfinite(state).all()
        assert ((scores.risk >= 0) & (scores.risk <= 1)).all()


def test_a_missing_value_is_the_fill() -> None:
    model = make_model(inputs=INPUTS[:2])
    x, _ = rows(2)
    x[0, COLUMNS["amount"]], x[1, COLUMNS["amount"]] = np.nan, 20.0
    raw = model.step(x, model.column_index(COLUMNS), np.arange(2), fresh(model)).raw
    assert raw[0] == raw[1]


@pytest.mark.parametrize("transform", TRANSFORMS)
@given(value=st.floats(-1e6, 1e6) | st.just(float("nan")))
def test_inputs_are_the_textbooks(transform: Transform, value: float) -> None:
    if transform.startswith("hour") and not np.isnan(value):
        value = abs(value) % 24
    i = SequenceInput("amount", transform, fill=7.0, mean=0.5, scale=2.0, limit=9.0)
    row = np.full((1, 5), value)
    got = prepare([i], row, np.array([1], np.int32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0], naive_inputs((i,), row[0]), rtol=1e-6, atol=1e-6)


def test_importing_it_imports_no_tensorflow() -> None:
    code = (
        "import sys, dafu.models.recurrent, dafu.models.sequence_training;"
        "assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"state": np.zeros((5, 10), np.float32)}, r"float32 \(5, 10\)"),
        ({"state": np.zeros((5, 9))}, "float64"),
        ({"entity": np.full(400, 5)}, r"within -1\.\.4"),
        ({"entity": np.full(400, -2)}, r"within -1\.\.4"),
        ({"entity": np.zeros(399, np.int64)}, "400 rows"),
        ({"columns": np.array([0, 1, 2, 5], np.int32)}, r"within 0\.\.4"),
        ({"columns": np.array([0, 1, 2], np.int32)}, "4 features"),
        ({"x": np.zeros(400)}, "rows of shape"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    model = make_model()
    x, entity = rows()
    state = fresh(model)
    arguments: dict[str, Any] = {
        "x": x,
        "columns": model.column_index(COLUMNS),
        "entity": entity,
        "state": state,
        **change,
    }
    with pytest.raises(ModelError, match=message):
        model.step(**arguments)
    assert not state.any()


def test_a_missing_feature_is_named() -> None:
    with pytest.raises(ModelError, match="zscore"):
        make_model().column_index({"amount": 0, "gap": 1, "hour": 2})


def changed_weight(name: str, array: Any) -> dict[str, Any]:
    return {"weights": replace(make_model().weights, **{name: array})}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cell": "rnn"}, "cell 'rnn'"),
        ({"objective": "magic"}, "objective 'magic'"),
        ({"calibration": KNOTS}, "probability has none"),
        ({"objective": "surprise"}, "needs a calibration"),
        ({"inputs": ()}, "no inputs"),
        ({"inputs": (*INPUTS[:-1], INPUTS[0])}, "listed twice"),
        ({"inputs": (*INPUTS[:-1], SequenceInput("zscore", scale=0.0))}, "scale is 0"),
        ({"inputs": (*INPUTS[:-1], SequenceInput("zscore", limit=1e9))}, "limit"),
        ({"inputs": (*INPUTS[:-1], SequenceInput("zscore", mean=np.inf))}, "finite"),
        ({"inputs": (*INPUTS[:-1], SequenceInput("z", cast(Any, "cube")))}, "transform 'cube'"),
        ({"inputs": INPUTS[:-1]}, "input_kernel is"),
        ({"cell": "lstm"}, "input_kernel is"),
        (changed_weight("head_bias", np.full(1, np.nan, np.float32)), "head_bias has a weight"),
        (changed_weight("head_bias", np.full(1, 1e9, np.float32)), "head_bias has a weight"),
        (changed_weight("head_bias", np.zeros(1)), "head_bias is float64"),
        (changed_weight("head_kernel", np.zeros((4, 1), np.float32)), "head_kernel is"),
        (changed_weight("recurrent_kernel", np.zeros((65, 195), np.float32)), r"1\.\.64"),
        (changed_weight("recurrent_kernel", np.zeros(27, np.float32)), r"1\.\.64"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(make_model(), **change)


def manifest(model: RecurrentModel) -> Manifest:
    """What a package's manifest says of a model."""
    as_json = msgspec.json.encode(model.parameters())
    return Manifest(
        format_version=2,
        kind=model.kind,
        name="sequence",
        version="abc",
        provenance=Provenance(),
        catalogue_hash="0123",
        groups=["behavior"],
        features=list(model.feature_names),
        requires={},
        parameters=msgspec.json.decode(as_json),
        thresholds={},
        metrics={"epochs": 3.0},
        files={},
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_model_comes_back_from_its_parts(cell: Cell, objective: Objective) -> None:
    model = make_model(cell, objective)
    back = RecurrentModel.assemble(manifest(model), model.arrays())
    x, entity = rows()
    scores = [
        m.step(x, m.column_index(COLUMNS), entity, fresh(m)).risk.tobytes() for m in (model, back)
    ]
    assert scores[0] == scores[1]
    assert (back.version, back.catalogue_hash, back.metrics) == ("abc", "0123", {"epochs": 3.0})
    assert back.parameters() == model.parameters()


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_array_is_named(name: str) -> None:
    model = make_model()
    arrays = {k: v for k, v in model.arrays().items() if k != name}
    with pytest.raises(ModelError, match=name):
        RecurrentModel.assemble(manifest(model), arrays)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cell": "rnn"}, "cell"),
        ({"inputs": "amount"}, "inputs"),
        ({"extra": 1}, "extra"),
        ({"calibration": [[0.0, "high"]]}, "calibration"),
        ({"calibration": [[0.0, 1.0]]}, "calibration"),
    ],
)
def test_wrong_parameters_are_refused(change: dict[str, Any], message: str) -> None:
    model = make_model()
    right = manifest(model)
    wrong = msgspec.structs.replace(right, parameters=right.parameters | change)
    with pytest.raises(ModelError, match=message):
        RecurrentModel.assemble(wrong, model.arrays())


def test_features_must_be_those_of_the_inputs() -> None:
    model = make_model()
    right = manifest(model)
    wrong = msgspec.structs.replace(right, features=right.features[::-1])
    with pytest.raises(ModelError, match="features"):
        RecurrentModel.assemble(wrong, model.arrays())
