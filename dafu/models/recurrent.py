"""A recurrent network over a user's whole history, stepped once a transaction.

The hidden state of a GRU or LSTM lives in the user's record. A transaction costs one step, however
long the history is: the idea of Branco et al., "Interleaved Sequence RNNs for Fraud Detection"
(KDD 2020). Two objectives are served:

- **fraud**: after the step, a sigmoid gives the probability that the transaction is fraud;
- **surprise**: before the step, the state predicts mean and variance of the transaction's inputs.
  The score is how badly that went: the mean negative log-likelihood of the inputs, in nats.

Arithmetic is float32, row by row in a fixed order, without BLAS and without the C library's
functions: the same transactions give the same bits however they are cut into batches. Knows no
TensorFlow and no files; `sequence_training` makes such a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, NamedTuple, get_args

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.kernel import kernel, long_kernel
from dafu.models.calibration import RankCalibration, interpolate
from dafu.models.errors import ModelError
from dafu.models.model import Arrays, Manifest, Provenance
from dafu.models.numeric import exp32, ln, sigmoid, sigmoid32, sine_of_turns, tanh32
from dafu.models.reference import ModelReference

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

Cell = Literal["gru", "lstm"]
Objective = Literal["fraud", "surprise"]
Transform = Literal["identity", "log1p", "missing", "hour_sine", "hour_cosine"]

TRANSFORMS: Final[tuple[Transform, ...]] = get_args(Transform)
"""What is done to a feature's value v before it is standardised.

`identity`: v. `log1p`: sign(v) ln(1 + |v|). `missing`: 1 if v is missing, else 0. `hour_sine`,
`hour_cosine`: of the angle that the hour of day v is on a clock of 24 hours.
"""

GATES: Final[dict[Cell, int]] = {"gru": 3, "lstm": 4}
STATES: Final[dict[Cell, int]] = {"gru": 1, "lstm": 2}
"""Vectors in the state: h of a GRU; h, then c of an LSTM."""

MAX_UNITS: Final = 64
LOG_VARIANCE_LIMIT: Final = 5.0
"""Predicted log-variances are limit * tanh(output / limit): no input may become infinitely sure."""
_MAX_WEIGHT: Final = 1e6
_LARGEST: Final = 1e300
_LOG_2PI_HALF: Final = 0.9189385332046727
_HALF: Final = np.float32(0.5)
_ONE: Final = np.float32(1.0)
_ZERO: Final = np.float32(0.0)
_LIMIT: Final = np.float32(LOG_VARIANCE_LIMIT)
_PER_LIMIT: Final = np.float32(1.0 / LOG_VARIANCE_LIMIT)


class SequenceScores(NamedTuple):
    """What a recurrent model says of n rows.

    Attributes
    ----------
    raw : float64 [n]
        Probability of fraud, or surprise in nats per input; NaN for rows that were skipped.
    risk : float64 [n]
        0..1: that probability, or the calibrated rank of the surprise; NaN for skipped rows.
    """

    raw: F64
    risk: F64


class SequenceInput(Struct, frozen=True, forbid_unknown_fields=True):
    """One input of the network: clip((transform(value) - mean) / scale, -limit, limit).

    `fill` takes the place of a missing value (NaN) before the transform.
    """

    feature: str
    transform: Transform = "identity"
    fill: float = 0.0
    mean: float = 0.0
    scale: float = 1.0
    limit: float = 8.0


@dataclass(frozen=True)
class Weights:
    """Weights of the network, all float32. I inputs, U units, G gates, H inputs of the head.

    The layout of rows is what makes the kernel fast: one input or unit feeds a contiguous row of
    all gates. Gates are in Keras' order: z, r, h of a GRU (`reset_after=True`), i, f, c, o of an
    LSTM, whose `recurrent_bias` is 0.

    Attributes
    ----------
    input_kernel : [I, G U]
    input_bias, recurrent_bias : [G U]
    recurrent_kernel : [U, G U]
    dense_kernel : [U, D]
    dense_bias : [D]
        A layer with ReLU between the state and the head; D is 0 where there is none.
    head_kernel : [H, O]
    head_bias : [O]
        H is D, or U if D is 0. O is 1 for fraud; for surprise 2 I, the means, then what becomes
        the log-variances.
    """

    input_kernel: F32
    input_bias: F32
    recurrent_kernel: F32
    recurrent_bias: F32
    dense_kernel: F32
    dense_bias: F32
    head_kernel: F32
    head_bias: F32


WEIGHTS: Final = tuple(f.name for f in fields(Weights))


def distinct_features(inputs: Sequence[SequenceInput]) -> tuple[str, ...]:
    """The features that inputs read, each once, in the order of their first use."""
    return tuple(dict.fromkeys(i.feature for i in inputs))


@dataclass(frozen=True)
class PackedInputs:
    """Inputs in the kernel's layout: `source` and `transform` int32 [I], `numbers` [I, 4].

    `source` counts in `distinct_features`; the numbers are fill, mean, scale and limit.
    """

    source: I32
    transform: I32
    numbers: F64

    @classmethod
    def of(cls, inputs: Sequence[SequenceInput]) -> PackedInputs:
        """Pack."""
        names = distinct_features(inputs)
        return cls(
            np.array([names.index(i.feature) for i in inputs], np.int32),
            np.array([TRANSFORMS.index(i.transform) for i in inputs], np.int32),
            np.array([(i.fill, i.mean, i.scale, i.limit) for i in inputs]).reshape(-1, 4),
        )


def prepare(inputs: Sequence[SequenceInput], x: NDArray[Any], columns: I32) -> F32:
    """The network's inputs [n, I] for rows x [n, F_all], as `RecurrentModel.step` makes them.

    `columns` int32 [F] says where in x each of `distinct_features(inputs)` is.
    """
    packed = PackedInputs.of(inputs)
    _check_columns(x, columns, len(distinct_features(inputs)))
    out = np.empty((len(x), len(inputs)), np.float32)
    _prepare(x, columns, packed.source, packed.transform, packed.numbers, out)
    return out


class RecurrentParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What a package's manifest says of a recurrent model besides what it says of every model.

    `calibration` holds knots (score, risk), None for the objective fraud.
    """

    cell: Cell
    objective: Objective
    inputs: tuple[SequenceInput, ...]
    calibration: tuple[tuple[float, float], ...] | None


@dataclass(frozen=True, kw_only=True)
class RecurrentModel:
    """A recurrent network with everything that serving it needs.

    Attributes
    ----------
    name : str
        What decisions call it.
    cell : "gru" or "lstm"
    objective : "fraud" or "surprise"
    inputs : tuple of I inputs
    weights : Weights
    calibration : RankCalibration or None
        From surprise to risk; None for fraud, whose probability is the risk.
    groups : tuple of str
        The one group of features that the score belongs to: it is of a history, not split.
    catalogue_hash, thresholds, metrics, provenance, requires, version, reference
        As in every model package; `requires` is empty, no other model's output is an input.

    Raises
    ------
    ModelError
        On construction, if the parts do not fit each other.
    """

    kind: ClassVar[str] = "recurrent"

    name: str
    cell: Cell
    objective: Objective
    inputs: tuple[SequenceInput, ...]
    weights: Weights
    calibration: RankCalibration | None = None
    groups: tuple[str, ...] = ("behavior",)
    catalogue_hash: str = ""
    thresholds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    requires: dict[str, str] = field(default_factory=dict)
    version: str = ""
    reference: ModelReference | None = None

    def __post_init__(self) -> None:
        if self.cell not in GATES:
            raise self._error(f"cell {self.cell!r} is none of {', '.join(GATES)}")
        if self.objective not in get_args(Objective):
            raise self._error(f"objective {self.objective!r} is neither fraud nor surprise")
        if (self.calibration is None) != (self.objective == "fraud"):
            raise self._error("surprise needs a calibration and a probability has none")
        self._check_inputs()
        self._check_weights()

    def _error(self, what: str) -> ModelError:
        return ModelError(f"model '{self.name}': {what}")

    def _check_inputs(self) -> None:
        if not self.inputs:
            raise self._error("has no inputs")
        for i in self.inputs:
            if i.transform not in TRANSFORMS:
                raise self._error(f"transform {i.transform!r} is none of {', '.join(TRANSFORMS)}")
            if not all(math.isfinite(v) for v in (i.fill, i.mean, i.scale, i.limit)):
                raise self._error(f"input '{i.feature}': every number must be finite")
            if i.scale <= 0.0 or not 0.0 < i.limit <= 100.0:
                raise self._error(
                    f"input '{i.feature}': scale is {i.scale} (above 0), limit {i.limit} "
                    "(above 0, at most 100)"
                )
        pairs = [(i.feature, i.transform) for i in self.inputs]
        twice = sorted({p for p in pairs if pairs.count(p) > 1})
        if twice:
            raise self._error(f"input '{twice[0][0]}' ({twice[0][1]}) is listed twice")

    def _check_weights(self) -> None:
        w = self.weights
        if w.recurrent_kernel.ndim != 2 or not 1 <= len(w.recurrent_kernel) <= MAX_UNITS:
            raise self._error(f"units must be within 1..{MAX_UNITS}")
        n, units = len(self.inputs), len(w.recurrent_kernel)
        wide, dense = GATES[self.cell] * units, w.dense_bias.size
        heads = 1 if self.objective == "fraud" else 2 * n
        shapes = {
            "input_kernel": (n, wide),
            "input_bias": (wide,),
            "recurrent_kernel": (units, wide),
            "recurrent_bias": (wide,),
            "dense_kernel": (units, dense),
            "dense_bias": (dense,),
            "head_kernel": (dense or units, heads),
            "head_bias": (heads,),
        }
        for name, shape in shapes.items():
            array = getattr(w, name)
            if array.shape != shape or array.dtype != np.float32:
                raise self._error(f"{name} is {array.dtype} {array.shape}, must be float32 {shape}")
            if not array.flags.c_contiguous:
                raise self._error(f"{name} must be contiguous")
            if not np.all(np.abs(array) <= _MAX_WEIGHT):  # so that no sum overflows
                raise self._error(f"{name} has a weight that is not within 1e6 of 0")
        if dense > MAX_UNITS:
            raise self._error(f"the dense layer has {dense} units, at most {MAX_UNITS}")

    @property
    def units(self) -> int:
        """Units of the cell, U."""
        return len(self.weights.recurrent_kernel)

    @property
    def state_size(self) -> int:
        """Numbers (float32) in an entity's state, S: U for a GRU, 2 U for an LSTM."""
        return STATES[self.cell] * self.units

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The features it reads, in the order of `columns`."""
        return distinct_features(self.inputs)

    @cached_property
    def _packed(self) -> PackedInputs:
        return PackedInputs.of(self.inputs)

    def column_index(self, columns: Mapping[str, int]) -> I32:
        """Where this model's features are in a matrix with these columns (column by name).

        Raises
        ------
        ModelError
            Naming the features that the matrix lacks.
        """
        missing = [n for n in self.feature_names if n not in columns]
        if missing:
            raise self._error(
                f"needs features that are not computed: {', '.join(missing)}; retrain it with the "
                "present feature catalogue"
            )
        return np.array([columns[n] for n in self.feature_names], dtype=np.int32)

    def step(self, x: F64, columns: I32, entity: I64, state: F32) -> SequenceScores:
        """Step entities' states through rows, in order, and score each row.

        Parameters
        ----------
        x : float64 [n, F_all]
            Rows of a feature matrix, NaN for missing.
        columns : int32 [F]
            Column of each feature of this model in `x`; see `column_index`.
        entity : int64 [n]
            Whose row it is, a row of `state`; -1 skips the row.
        state : float32 [E, S]
            Changed in place; 0 for an entity without history.

        Raises
        ------
        ModelError
            If shapes or entities do not fit; nothing has been changed then.
        """
        _check_columns(x, columns, len(self.feature_names))
        if state.ndim != 2 or state.shape[1] != self.state_size or state.dtype != np.float32:
            raise self._error(
                f"state is {state.dtype} {state.shape}, must be float32 [entities, "
                f"{self.state_size}]"
            )
        if entity.shape != (len(x),):
            raise self._error(f"{len(x)} rows but entities of shape {entity.shape}")
        if len(entity) and not -1 <= int(entity.min()) <= int(entity.max()) < len(state):
            raise self._error(f"entities must be within -1..{len(state) - 1}")
        w, packed, surprise = self.weights, self._packed, self.objective == "surprise"
        raw = np.full(len(x), np.nan)
        _step(
            x,
            columns,
            entity,
            state,
            packed.source,
            packed.transform,
            packed.numbers,
            self.cell == "lstm",
            surprise,
            w.input_kernel,
            w.input_bias,
            w.recurrent_kernel,
            w.recurrent_bias,
            w.dense_kernel,
            w.dense_bias,
            w.head_kernel,
            w.head_bias,
            raw,
        )
        return SequenceScores(raw, self._risk(raw))

    def _risk(self, raw: F64) -> F64:
        risk = raw.copy()
        if self.calibration is not None:
            xs, ys = np.array(self.calibration.scores), np.array(self.calibration.risks)
            _risks(raw, xs, ys, risk)
        return risk

    def parameters(self) -> dict[str, Any]:
        """The content of `RecurrentParameters` as JSON values."""
        knots = None
        if self.calibration is not None:
            knots = tuple(zip(self.calibration.scores, self.calibration.risks, strict=True))
        parameters = RecurrentParameters(self.cell, self.objective, self.inputs, knots)
        builtins: dict[str, Any] = msgspec.to_builtins(parameters)
        return builtins

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The weights by name."""
        return {name: getattr(self.weights, name) for name in WEIGHTS}

    @classmethod
    def assemble(cls, manifest: Manifest, arrays: Arrays) -> RecurrentModel:
        """Build the model from what a package holds.

        Raises
        ------
        ModelError
            If a parameter or an array is missing, unknown, or does not fit the rest.
        """
        try:
            parameters = msgspec.convert(manifest.parameters, RecurrentParameters)
        except msgspec.ValidationError as exc:
            raise ModelError(f"parameters of the {cls.kind} model: {exc}") from exc
        if set(arrays) != set(WEIGHTS):
            odd = ", ".join(sorted(set(WEIGHTS) ^ set(arrays)))
            raise ModelError(f"a {cls.kind} model has exactly its arrays, differs in {odd}")
        if tuple(manifest.features) != distinct_features(parameters.inputs):
            raise ModelError(f"the features of the {cls.kind} model are not those of its inputs")
        calibration = None
        if parameters.calibration is not None:
            knots = parameters.calibration
            calibration = RankCalibration(tuple(s for s, _ in knots), tuple(r for _, r in knots))
        return cls(
            name=manifest.name,
            cell=parameters.cell,
            objective=parameters.objective,
            inputs=parameters.inputs,
            weights=Weights(**{n: np.ascontiguousarray(arrays[n]) for n in WEIGHTS}),
            calibration=calibration,
            groups=tuple(manifest.groups),
            catalogue_hash=manifest.catalogue_hash,
            thresholds=dict(manifest.thresholds),
            metrics=dict(manifest.metrics),
            provenance=manifest.provenance,
            requires=dict(manifest.requires),
            version=manifest.version,
            reference=manifest.reference,
        )


def _check_columns(x: NDArray[Any], columns: I32, features: int) -> None:
    if x.ndim != 2 or columns.shape != (features,):
        raise ModelError(
            f"rows of shape {x.shape} and columns of shape {columns.shape} for {features} features"
        )
    if not 0 <= int(columns.min()) <= int(columns.max()) < x.shape[1]:
        raise ModelError(f"columns must be within 0..{x.shape[1] - 1}")


@kernel
def _input(
    value: float, transform: int, fill: float, mean: float, scale: float, limit: float
) -> Any:
    """One input, float32; `transform` is an index into TRANSFORMS."""
    missing = math.isnan(value)
    if missing:
        value = fill
    if transform == 1:
        size = ln(1.0 + min(abs(value), _LARGEST))
        value = size if value >= 0.0 else -size
    elif transform == 2:
        value = 1.0 if missing else 0.0
    elif transform >= 3:
        turns = min(max(value, -48.0), 48.0) / 24.0
        value = sine_of_turns(turns if transform == 3 else turns + 0.25)
    return np.float32(min(max((value - mean) / scale, -limit), limit))


@kernel
def _prepare(
    x: Any, columns: Any, source: Any, transform: Any, numbers: Any, out: np.ndarray
) -> None:
    for i in range(x.shape[0]):
        for j in range(source.shape[0]):
            out[i, j] = _input(
                x[i, columns[source[j]]],
                transform[j],
                numbers[j, 0],
                numbers[j, 1],
                numbers[j, 2],
                numbers[j, 3],
            )


@kernel
def _add_rows(vector: Any, rows: Any, out: Any) -> None:
    """out += vector @ rows, row after row: every element of `out` has its sum in that order."""
    n, width = rows.shape
    j = 0
    while j + 3 < n:
        # Four rows a pass save loads and stores of `out`; the order of additions stays.
        a, b, c, d = vector[j], vector[j + 1], vector[j + 2], vector[j + 3]
        for k in range(width):
            out[k] = (
                ((out[k] + a * rows[j, k]) + b * rows[j + 1, k]) + c * rows[j + 2, k]
            ) + d * rows[j + 3, k]
        j += 4
    while j < n:
        a = vector[j]
        for k in range(width):
            out[k] += a * rows[j, k]
        j += 1


@kernel
def _step_gru(h: Any, gx: Any, gh: Any) -> None:
    """One step of a GRU: `gx` and `gh` are what inputs and state add to the gates z, r and h."""
    n = h.shape[0]
    for k in range(2 * n):
        gx[k] = sigmoid32(gx[k] + gh[k])
    for k in range(n):
        candidate = tanh32(gx[2 * n + k] + gx[n + k] * gh[2 * n + k])
        h[k] = gx[k] * h[k] + (_ONE - gx[k]) * candidate


@kernel
def _step_lstm(h: Any, c: Any, gx: Any, gh: Any) -> None:
    """One step of an LSTM: `gx` and `gh` are what inputs and state add to the gates i, f, c, o."""
    n = h.shape[0]
    for k in range(2 * n):
        gx[k] = sigmoid32(gx[k] + gh[k])
    for k in range(n):
        gx[2 * n + k] = tanh32(gx[2 * n + k] + gh[2 * n + k])
        gx[3 * n + k] = sigmoid32(gx[3 * n + k] + gh[3 * n + k])
    for k in range(n):
        c[k] = gx[n + k] * c[k] + gx[k] * gx[2 * n + k]
        h[k] = gx[3 * n + k] * tanh32(c[k])


@kernel
def _head(
    h: Any,
    dense_kernel: Any,
    dense_bias: Any,
    head_kernel: Any,
    head_bias: Any,
    hidden: Any,
    out: Any,
) -> None:
    """The network's outputs for a state, before any sigmoid."""
    for k in range(out.shape[0]):
        out[k] = head_bias[k]
    if hidden.shape[0] == 0:
        _add_rows(h, head_kernel, out)
        return
    for k in range(hidden.shape[0]):
        hidden[k] = dense_bias[k]
    _add_rows(h, dense_kernel, hidden)
    for k in range(hidden.shape[0]):
        hidden[k] = max(hidden[k], _ZERO)
    _add_rows(hidden, head_kernel, out)


@kernel
def _surprise(inputs: Any, out: Any) -> Any:
    """Mean negative log-likelihood of inputs [I] under predictions `out` [2 I]; overwrites them."""
    n = inputs.shape[0]
    for j in range(n):
        log_variance = _LIMIT * tanh32(out[n + j] * _PER_LIMIT)
        off = inputs[j] - out[j]
        out[j] = _HALF * (log_variance + off * off * exp32(-log_variance))
    total = 0.0
    for j in range(n):
        total += out[j]
    return total / n + _LOG_2PI_HALF


@long_kernel
def _step(
    x: Any,
    columns: Any,
    entity: Any,
    state: Any,
    source: Any,
    transform: Any,
    numbers: Any,
    lstm: bool,
    surprise: bool,
    input_kernel: Any,
    input_bias: Any,
    recurrent_kernel: Any,
    recurrent_bias: Any,
    dense_kernel: Any,
    dense_bias: Any,
    head_kernel: Any,
    head_bias: Any,
    raw: Any,
) -> None:
    units, width = recurrent_kernel.shape
    inputs = np.empty(source.shape[0], np.float32)
    h = np.empty(units, np.float32)
    c = np.empty(units, np.float32)
    gx = np.empty(width, np.float32)
    gh = np.empty(width, np.float32)
    hidden = np.empty(dense_bias.shape[0], np.float32)
    out = np.empty(head_bias.shape[0], np.float32)
    for i in range(x.shape[0]):
        e = entity[i]
        if e < 0:
            continue
        for j in range(inputs.shape[0]):
            inputs[j] = _input(
                x[i, columns[source[j]]],
                transform[j],
                numbers[j, 0],
                numbers[j, 1],
                numbers[j, 2],
                numbers[j, 3],
            )
        for k in range(units):
            h[k] = state[e, k]
        if surprise:
            _head(h, dense_kernel, dense_bias, head_kernel, head_bias, hidden, out)
            raw[i] = _surprise(inputs, out)
        for k in range(width):
            gx[k] = input_bias[k]
            gh[k] = recurrent_bias[k]
        _add_rows(inputs, input_kernel, gx)
        _add_rows(h, recurrent_kernel, gh)
        if lstm:
            for k in range(units):
                c[k] = state[e, units + k]
            _step_lstm(h, c, gx, gh)
            for k in range(units):
                state[e, units + k] = c[k]
        else:
            _step_gru(h, gx, gh)
        for k in range(units):
            state[e, k] = h[k]
        if not surprise:
            _head(h, dense_kernel, dense_bias, head_kernel, head_bias, hidden, out)
            raw[i] = sigmoid(out[0])


@kernel
def _risks(raw: F64, xs: F64, ys: F64, risk: F64) -> None:
    for i in range(raw.shape[0]):
        if not math.isnan(raw[i]):
            risk[i] = interpolate(raw[i], xs, ys)
