"""Training the recurrent network with Keras and turning it into a serving model.

Needs the `sequence` extra, imported only when a training starts. Knows no feature code: it is given
a matrix, the columns of its features, whose rows they are and when they were.

The history of an entity is cut into windows of `length` rows. Each window is preceded by up to
`warm_up` earlier rows, which bring the state to where serving would have it and are in no loss, so
that gradients flow through warm_up + length steps at most. What decides about stopping is always
the serving kernel, which carries its states through the whole history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.models.calibration import RankCalibration, fit_rank
from dafu.models.errors import TrainingError
from dafu.models.model import Provenance
from dafu.models.recurrent import (
    GATES,
    LOG_VARIANCE_LIMIT,
    MAX_UNITS,
    Cell,
    Objective,
    RecurrentModel,
    SequenceInput,
    SequenceScores,
    Transform,
    Weights,
    distinct_features,
    prepare,
)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]

_LIMIT: Final = 8.0
_UNLIMITED: Final = 1e30
_NO_SPREAD: Final = 1e-9
_BUCKET: Final = 8
"""Batches whose windows are sorted by length together, so that less of them is padding."""


def _keras() -> Any:
    try:
        import keras
    except ImportError as exc:
        raise TrainingError(
            "training a recurrent model needs Keras and TensorFlow, which are not installed; "
            "install them with pip install 'dafu[sequence]'"
        ) from exc
    if keras.backend.backend() != "tensorflow":
        raise TrainingError(
            f"Keras runs on {keras.backend.backend()}, this training needs TensorFlow; set "
            "KERAS_BACKEND=tensorflow"
        )
    return keras


def build_network(
    cell: Cell,
    objective: Objective,
    n_inputs: int,
    units: int,
    dense_units: int,
    *,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    seed: int = 0,
) -> Any:
    """Keras model from inputs [B, T, I] to what the head puts out for each of them [B, T, O].

    For the objective fraud O is 1, the log-odds after the step. For surprise it is 2 I, the
    prediction of each row from the rows before it.

    Raises
    ------
    TrainingError
        If Keras or TensorFlow is not installed.
    """
    keras = _keras()
    layer = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[cell]
    initializers = keras.initializers
    inputs = keras.Input((None, n_inputs))
    hidden = layer(
        units,
        return_sequences=True,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        use_cudnn=False,
        kernel_initializer=initializers.GlorotUniform(seed),
        recurrent_initializer=initializers.Orthogonal(seed=seed + 1),
        seed=seed + 2,
        name="cell",
    )(inputs)
    if objective == "surprise":
        # A row is predicted from the state before it; before the first row that is 0.
        hidden = keras.ops.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
    if dense_units:
        hidden = keras.layers.Dense(
            dense_units,
            activation="relu",
            kernel_initializer=initializers.GlorotUniform(seed + 3),
            name="dense",
        )(hidden)
    if dropout:
        hidden = keras.layers.Dropout(dropout, seed=seed + 4)(hidden)
    outputs = keras.layers.Dense(
        1 if objective == "fraud" else 2 * n_inputs,
        kernel_initializer=initializers.GlorotUniform(seed + 5),
        name="head",
    )(hidden)
    return keras.Model(inputs, outputs)


def weights_of(network: Any) -> Weights:
    """The weights of a network that `build_network` made."""

    def arrays(layer: str) -> list[F32]:
        found = network.get_layer(layer).get_weights()
        return [np.ascontiguousarray(w, dtype=np.float32) for w in found]

    input_kernel, recurrent_kernel, bias = arrays("cell")
    input_bias, recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    units = len(recurrent_kernel)
    dense = (np.zeros((units, 0), np.float32), np.zeros(0, np.float32))
    if "dense" in {layer.name for layer in network.layers}:
        kernel, dense_bias = arrays("dense")
        dense = (kernel, dense_bias)
    head_kernel, head_bias = arrays("head")
    return Weights(
        input_kernel,
        np.ascontiguousarray(input_bias),
        recurrent_kernel,
        np.ascontiguousarray(recurrent_bias),
        *dense,
        head_kernel,
        head_bias,
    )


@dataclass(frozen=True)
class Windows:
    """Training windows: `rows` int64 [W, T] with -1 after the last, `counted` bool [W, T]."""

    rows: I64
    counted: Flags

    def __len__(self) -> int:
        return len(self.rows)


def cut_windows(entity: I64, counted: Flags, length: int, warm_up: int) -> Windows:
    """Cut the histories of entities into windows; every counted row counts in exactly one.

    Parameters
    ----------
    entity : int64 [n]
        Whose row it is; the rows of an entity are in the order of their arrival.
    counted : bool [n]
        The rows that are to be in the loss.
    length, warm_up
        Rows in which a window's rows may count, and rows before them that only warm the state.

    Examples
    --------
    >>> import numpy as np
    >>> entity = np.array([7, 7, 9, 7, 7])
    >>> counted = np.array([False, True, True, True, True])
    >>> cut_windows(entity, counted, length=2, warm_up=1).rows
    array([[ 0,  1,  3],
           [ 3,  4, -1],
           [ 2, -1, -1]])
    """
    order = np.argsort(entity, kind="stable")
    begins = np.flatnonzero(np.diff(entity[order], prepend=-1) != 0)
    in_order = counted[order]
    rows: list[I64] = []
    weights: list[Flags] = []
    for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
        hits = begin + np.flatnonzero(in_order[begin:end])
        if len(hits) == 0:
            continue
        for start in range(int(hits[0]), int(hits[-1]) + 1, length):
            stop = min(start + length, int(hits[-1]) + 1)
            if not in_order[start:stop].any():
                continue
            first = max(int(begin), start - warm_up)
            rows.append(order[first:stop])
            weights.append(in_order[first:stop] & (np.arange(first, stop) >= start))
    widest = max((len(r) for r in rows), default=0)
    shape = (len(rows), widest)
    windows = Windows(np.full(shape, -1, np.int64), np.zeros(shape, np.bool_))
    for i, (r, w) in enumerate(zip(rows, weights, strict=True)):
        windows.rows[i, : len(r)] = r
        windows.counted[i, : len(w)] = w
    return windows


def _fit_inputs(
    wanted: Sequence[tuple[str, Transform]],
    x: NDArray[Any],
    columns: Mapping[str, int],
    counted: Flags,
) -> tuple[SequenceInput, ...]:
    """Fill with the median, standardise by mean and standard deviation, of the counted rows."""
    inputs = []
    for feature, transform in wanted:
        if feature not in columns:
            raise TrainingError(f"feature '{feature}' is none of the columns")
        values = np.asarray(x[counted, columns[feature]], np.float64)
        if np.isinf(values).any():
            raise TrainingError(f"feature '{feature}' has infinite values")
        there = values[~np.isnan(values)]
        fill = float(np.median(there)) if len(there) else 0.0
        plain = SequenceInput(feature, transform, fill, limit=_UNLIMITED)
        done = prepare([plain], values[:, None], np.zeros(1, np.int32)).astype(np.float64)
        spread = float(done.std())
        inputs.append(
            SequenceInput(
                feature,
                transform,
                fill,
                float(done.mean()),
                spread if spread > _NO_SPREAD else 1.0,
                _LIMIT,
            )
        )
    return tuple(inputs)


@dataclass
class SequenceTrainer:
    """Trains a recurrent model; after `fit` it scores and exports.

    Attributes
    ----------
    inputs : sequence of (feature, transform)
        What the network sees of a transaction: features of stage one that depend on transactions
        alone, never on labels, since the state must not wait for them.
    cell, units, dense_units
        The network; `dense_units` 0 leaves out the layer between the state and the head.
    objective : "fraud" or "surprise"
        Supervised or not; see `dafu.models.recurrent`.
    dropout, recurrent_dropout : float
        Shares of inputs (and of the head's inputs), and of the state, left out in training.
    epochs, batch_size, learning_rate
        Of Adam; `batch_size` counts windows. Gradients are cut to norm 1.
    length, warm_up : int
        See `cut_windows`.
    fraud_weight : float
        How much more a fraudulent row counts in the loss. The exported bias takes it back, so the
        probability keeps to the share of fraud in the training rows.
    validation_share, patience
        The latest share of the counted rows is not trained on; training stops once their loss has
        not fallen for `patience` epochs, and the best epoch's weights are kept. With a share of 0
        all epochs run.
    seed : int
        Same seed, data, TensorFlow and machine: same model. TensorFlow does not promise the same
        bits on other machines or with other numbers of threads.

    References
    ----------
    Branco et al., "Interleaved Sequence RNNs for Fraud Detection", KDD 2020.
    """

    inputs: Sequence[tuple[str, Transform]]
    cell: Cell = "gru"
    objective: Objective = "fraud"
    units: int = 32
    dense_units: int = 16
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 3e-3
    length: int = 64
    warm_up: int = 64
    fraud_weight: float = 1.0
    validation_share: float = 0.15
    patience: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        rules: dict[str, bool] = {
            "inputs: at least one": len(self.inputs) > 0,
            f"cell: {' or '.join(GATES)}": self.cell in GATES,
            "objective: fraud or surprise": self.objective in ("fraud", "surprise"),
            f"units: 1..{MAX_UNITS}": 1 <= self.units <= MAX_UNITS,
            f"dense_units: 0..{MAX_UNITS}": 0 <= self.dense_units <= MAX_UNITS,
            "dropout: 0 or above, below 1": 0.0 <= self.dropout < 1.0,
            "recurrent_dropout: 0 or above, below 1": 0.0 <= self.recurrent_dropout < 1.0,
            "epochs, batch_size, length, patience: at least 1": min(
                self.epochs, self.batch_size, self.length, self.patience
            )
            >= 1,
            "warm_up: at least 0": self.warm_up >= 0,
            "learning_rate, fraud_weight: above 0": min(self.learning_rate, self.fraud_weight) > 0,
            "validation_share: 0 or above, below 1": 0.0 <= self.validation_share < 1.0,
            "seed: within 0..2^31": 0 <= self.seed < 1 << 31,
        }
        for rule, kept in rules.items():
            if not kept:
                raise TrainingError(f"parameter out of range: {rule}")
        self._model: RecurrentModel | None = None

    def fit(
        self,
        x: NDArray[Any],
        columns: Mapping[str, int],
        entity: NDArray[Any],
        time: NDArray[Any],
        labels: NDArray[Any] | None = None,
        *,
        counted: Flags | None = None,
        on_epoch: Callable[[int, float, float], None] | None = None,
    ) -> SequenceTrainer:
        """Train.

        Parameters
        ----------
        x : float [n, F_all]
            Rows of a feature matrix in the order of arrival, NaN for missing.
        columns
            Column in `x` by feature name.
        entity : int [n]
            Whose row it is, 0 or above.
        time : int or float [n]
            When it was, in any unit; validation rows are the latest.
        labels : float [n]
            1 for fraud, 0 for genuine, NaN for unknown. Needed for the objective fraud only.
        counted : bool [n]
            The rows to learn from, all by default. Others only warm the state: earlier history
            without labels, say. Rows with unknown labels do not count for the objective fraud.
        on_epoch
            Called after each epoch with its number, training loss and validation loss (NaN if
            there is no validation).

        Raises
        ------
        TrainingError
            If data or parameters do not allow a training, or Keras or TensorFlow is missing.
        """
        x, entity = np.asarray(x), np.asarray(entity, np.int64)
        labels, counted = self._check(x, entity, time, labels, counted)
        validation = np.zeros(len(x), np.bool_)
        if self.validation_share > 0.0:
            cut = np.quantile(np.asarray(time)[counted], 1.0 - self.validation_share)
            validation = counted & (np.asarray(time) >= cut)
        learned = counted & ~validation
        if self.objective == "fraud" and len(np.unique(labels[learned])) < 2:
            raise TrainingError(
                "the rows to learn from are all of one class; take a longer training period or a "
                "smaller validation_share"
            )
        if not learned.any():
            raise TrainingError("no rows are left to learn from; lower validation_share")
        inputs = _fit_inputs(self.inputs, x, columns, learned)
        names = distinct_features(inputs)
        x = np.asarray(x[:, [columns[n] for n in names]], np.float64)
        index = np.arange(len(names), dtype=np.int32)
        prepared = prepare(inputs, x, index)
        network = build_network(
            self.cell,
            self.objective,
            len(inputs),
            self.units,
            self.dense_units,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            seed=self.seed,
        )
        if self.objective == "fraud":
            # Start from the share of fraud instead of learning it step by step.
            share = float(np.mean(labels[learned])) * self.fraud_weight
            kernel, bias = network.get_layer("head").get_weights()
            bias[:] = np.log(share / (1.0 - float(np.mean(labels[learned]))))
            network.get_layer("head").set_weights([kernel, bias])

        def model() -> RecurrentModel:
            return self._serving(inputs, weights_of(network))

        best, best_loss, best_epoch = model(), np.inf, 0
        epoch = 0
        for epoch, loss in enumerate(self._epochs(network, prepared, labels, entity, learned), 1):
            candidate = model()
            measured = np.nan
            if validation.any():
                measured = _loss(candidate, x, index, entity, labels, validation)
            if on_epoch is not None:
                on_epoch(epoch, loss, measured)
            if not np.isfinite(loss):
                raise TrainingError(f"the loss is {loss} in epoch {epoch}; lower the learning_rate")
            if measured < best_loss or np.isnan(measured):
                best, best_loss, best_epoch = candidate, measured, epoch
            elif epoch - best_epoch >= self.patience:
                break
        metrics = {
            "epochs": float(epoch),
            "best_epoch": float(best_epoch),
            "training_rows": float(learned.sum()),
        }
        if validation.any():
            metrics["validation_loss"] = float(best_loss)
            metrics["validation_rows"] = float(validation.sum())
        if self.objective == "surprise":
            raw = best.step(x, index, entity, _states(best, entity)).raw
            best = replace(best, calibration=fit_rank(raw[counted]))
        self._model = replace(best, metrics=metrics)
        return self

    def score(
        self, x: NDArray[Any], columns: Mapping[str, int], entity: NDArray[Any]
    ) -> SequenceScores:
        """Score rows [n, F_all] in the order of arrival, from the beginning of every history.

        Raises
        ------
        TrainingError
            Before `fit`.
        """
        model, entity = self._fitted(), np.asarray(entity, np.int64)
        own = np.asarray(np.asarray(x)[:, model.column_index(columns)], np.float64)
        index = np.arange(own.shape[1], dtype=np.int32)
        return model.step(own, index, entity, _states(model, entity))

    def export(
        self, name: str = "sequence", *, catalogue_hash: str = "", data: str = "", code: str = ""
    ) -> RecurrentModel:
        """The model for serving.

        Parameters
        ----------
        name, catalogue_hash, data, code
            Recorded in the model: what to call it, which feature catalogue the columns follow,
            what it was trained on and by which version of the code.

        Raises
        ------
        TrainingError
            Before `fit`.
        """
        return replace(
            self._fitted(),
            name=name,
            catalogue_hash=catalogue_hash,
            provenance=Provenance(data, code, self.seed),
        )

    def _fitted(self) -> RecurrentModel:
        if self._model is None:
            raise TrainingError("nothing has been trained yet; call fit first")
        return self._model

    def _check(
        self,
        x: NDArray[Any],
        entity: I64,
        time: NDArray[Any],
        labels: NDArray[Any] | None,
        counted: Flags | None,
    ) -> tuple[F64, Flags]:
        n = len(x)
        if x.ndim != 2 or n == 0:
            raise TrainingError(f"training rows are of shape {x.shape}, must be [n, F] with n >= 1")
        if labels is None:
            if self.objective == "fraud":
                raise TrainingError("the objective fraud needs labels; without them use surprise")
            labels = np.full(n, np.nan)
        counted = np.ones(n, np.bool_) if counted is None else np.asarray(counted, np.bool_)
        for what, found in (
            ("entities", entity),
            ("times", time),
            ("labels", labels),
            ("counted flags", counted),
        ):
            if np.shape(found) != (n,):
                raise TrainingError(f"{n} rows but {what} of shape {np.shape(found)}")
        if entity.min() < 0:
            raise TrainingError("entities must be numbered from 0")
        labels = np.asarray(labels, np.float64)
        if not np.isin(labels[~np.isnan(labels)], (0.0, 1.0)).all():
            raise TrainingError("labels must be 1, 0 or NaN")
        if self.objective == "fraud":
            counted = counted & ~np.isnan(labels)
        if not counted.any():
            raise TrainingError("no row counts: there is nothing to learn from")
        return labels, counted

    def _serving(self, inputs: tuple[SequenceInput, ...], weights: Weights) -> RecurrentModel:
        calibration = None
        if self.objective == "fraud":
            # Odds were learned with frauds counted `fraud_weight` times.
            bias = weights.head_bias - np.float32(np.log(self.fraud_weight))
            weights = replace(weights, head_bias=bias)
        else:
            calibration = RankCalibration((0.0, 1.0), (0.0, 1.0))  # until the scores are known
        return RecurrentModel(
            name="sequence",
            cell=self.cell,
            objective=self.objective,
            inputs=inputs,
            weights=weights,
            calibration=calibration,
        )

    def _epochs(self, network: Any, prepared: F32, labels: F64, entity: I64, learned: Flags) -> Any:
        """Train epoch after epoch; yields each one's loss."""
        step = _training_step(network, self.objective, prepared.shape[1], self.learning_rate)
        windows = cut_windows(entity, learned, self.length, self.warm_up)
        lengths = (windows.rows >= 0).sum(axis=1)
        targets = np.nan_to_num(labels).astype(np.float32)
        weight = np.where(targets > 0, self.fraud_weight, 1.0).astype(np.float32)
        rng = np.random.default_rng(self.seed)
        size, bucket = self.batch_size, self.batch_size * _BUCKET
        for _ in range(self.epochs):
            order = rng.permutation(len(windows))
            batches = []
            for start in range(0, len(order), bucket):
                part = order[start : start + bucket]
                part = part[np.argsort(lengths[part], kind="stable")]
                batches += [part[i : i + size] for i in range(0, len(part), size)]
            loss = total = 0.0
            for k in rng.permutation(len(batches)):
                batch = batches[k]
                widest = int(lengths[batch].max())
                rows, counts = windows.rows[batch, :widest], windows.counted[batch, :widest]
                w = weight[rows] * counts
                batch_loss = float(step(prepared[rows] * (rows >= 0)[..., None], targets[rows], w))
                loss += batch_loss * float(w.sum())
                total += float(w.sum())
            yield loss / total


def _training_step(network: Any, objective: Objective, n: int, learning_rate: float) -> Any:
    """The compiled function (inputs [B, T, I], labels [B, T], weights [B, T]) to weighted loss."""
    keras = _keras()
    import tensorflow as tf

    optimizer = keras.optimizers.Adam(learning_rate, global_clipnorm=1.0)
    optimizer.build(network.trainable_variables)

    def losses(inputs: Any, labels: Any, outputs: Any) -> Any:
        if objective == "fraud":
            return tf.nn.sigmoid_cross_entropy_with_logits(labels, outputs[..., 0])
        limit = LOG_VARIANCE_LIMIT
        log_variance = limit * tf.tanh(outputs[..., n:] / limit)
        off = inputs - outputs[..., :n]
        nll = 0.5 * (log_variance + off * off * tf.exp(-log_variance))
        return tf.reduce_mean(nll, axis=-1) + 0.5 * float(np.log(2 * np.pi))

    def step(inputs: Any, labels: Any, weights: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = network(inputs, training=True)
            each = losses(inputs, labels, outputs) * weights
            loss = tf.reduce_sum(each) / tf.reduce_sum(weights)
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        return loss

    flat = tf.TensorSpec((None, None), tf.float32)
    signature = [tf.TensorSpec((None, None, n), tf.float32), flat, flat]
    return tf.function(step, input_signature=signature, autograph=False)


def _loss(
    model: RecurrentModel,
    x: F64,
    index: NDArray[np.int32],
    entity: I64,
    labels: F64,
    rows: Flags,
) -> float:
    """Loss of the serving model on these rows: of probabilities in nats, or mean surprise."""
    end = int(np.flatnonzero(rows)[-1]) + 1
    raw = model.step(x[:end], index, entity[:end], _states(model, entity)).raw
    raw, labels = raw[rows[:end]], labels[rows]
    if model.objective == "surprise":
        return float(raw.mean())
    p = np.clip(raw, 1e-12, 1.0 - 1e-12)
    return float(-np.mean(np.where(labels > 0, np.log(p), np.log1p(-p))))


def _states(model: RecurrentModel, entity: I64) -> F32:
    entities = int(entity.max()) + 1 if len(entity) else 0
    return np.zeros((entities, model.state_size), np.float32)
