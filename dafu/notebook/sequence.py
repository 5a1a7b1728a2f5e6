"""The recurrent network, from a notebook; TensorFlow is needed for training alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from dafu.evaluation.evaluate import Learning
from dafu.history import UNKNOWN
from dafu.models.recurrent import Cell, RecurrentModel, Transform
from dafu.models.sequence_training import SequenceTrainer
from dafu.notebook.detector import F64, FraudDetector
from dafu.notebook.errors import NotebookError
from dafu.notebook.export import Clock, now
from dafu.notebook.prepared import Loaded, Prepared
from dafu.notebook.stream import Alert

INPUTS: Final[tuple[tuple[str, Transform], ...]] = (
    ("amount", "log1p"),
    ("amount_to_user_mean_30d", "log1p"),
    ("amount_zscore_30d", "log1p"),
    ("user_count_5m", "log1p"),
    ("user_count_1h", "log1p"),
    ("user_count_1d", "log1p"),
    ("seconds_since_last", "log1p"),
    ("seconds_since_last", "missing"),
    ("new_merchant", "identity"),
    ("new_device", "identity"),
    ("new_country", "identity"),
    ("km_since_last", "log1p"),
    ("speed_kmh", "log1p"),
    ("km_from_home", "log1p"),
    ("km_to_merchant", "log1p"),
    ("hour", "hour_sine"),
    ("hour", "hour_cosine"),
    ("is_weekend", "identity"),
)
"""What the network sees of a payment: features of stage one, of transactions alone."""


class SequenceFraudDetector(FraudDetector[RecurrentModel]):
    """Looks at each user's transactions one after the other, with a GRU or LSTM.

    Supervised, it learns the probability that a transaction is fraud; unsupervised, how badly a
    transaction is foreseen by those before it. A worker serves the package as its sequence model,
    whose view is the feature `sequence_risk`.

    Parameters
    ----------
    cell : "gru" or "lstm"
    sequence_length
        Rows through which gradients flow, besides as many that only warm the state.
    units, dropout, epochs, patience, learning_rate, batch_size
        See `dafu.models.sequence_training.SequenceTrainer`.
    seed
        Same seed, data, TensorFlow and machine: same model.
    clock
        Gives the time for file names.
    """

    kind = RecurrentModel
    _libraries = ("keras", "tensorflow")
    _extra = "sequence"

    def __init__(
        self,
        *,
        cell: Cell = "gru",
        sequence_length: int = 64,
        units: int = 32,
        dropout: float = 0.0,
        epochs: int = 30,
        patience: int = 4,
        learning_rate: float = 3e-3,
        batch_size: int = 128,
        seed: int = 0,
        clock: Clock = now,
    ) -> None:
        super().__init__(seed=seed, clock=clock)
        self.cell = cell
        self.sequence_length = sequence_length
        self.units = units
        self.dropout = dropout
        self.epochs = epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.batch_size = batch_size

    def _check_loaded(self, loaded: Loaded) -> None:
        lacking = [f for f in ("user_id", "timestamp") if f not in loaded.found.columns]
        if lacking:
            raise NotebookError(
                f"a sequence needs to know whose rows they are and when they were. "
                f"{loaded.found.explain_missing(loaded.named.name)}"
            )

    def _shown_risk(self) -> F64:
        return self._risk  # a worker hands it on as it is

    def _alert(self) -> Alert:
        mode, model = self._need_mode(), self._need_model()
        limit = mode.threshold
        if mode.detection == "classic":
            # A worker forwards the risk alone; it ascends with the score.
            limit = self._limit(model, "risk")
        return lambda _raw, risk: risk >= limit

    def _train(
        self, data: Prepared, learning: Learning, levels: Sequence[float]
    ) -> dict[float, RecurrentModel]:
        inputs = INPUTS
        if data.kind == "columns":
            inputs = tuple((name, "identity") for name in data.columns)
        trainer = SequenceTrainer(
            inputs,
            cell=self.cell,
            objective="fraud" if learning == "supervised" else "surprise",
            units=self.units,
            dropout=self.dropout,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            length=self.sequence_length,
            warm_up=self.sequence_length,
            patience=self.patience,
            seed=self.seed,
        )
        end = data.split
        labels = data.labels[:end].astype(np.float64)
        entity = data.users if data.entity is None else data.entity
        trainer.fit(
            data.x[:end],
            data.columns,
            entity[:end],
            data.times[:end],
            np.where(labels == UNKNOWN, np.nan, labels),
            counted=np.arange(end) >= data.warm_up,
        )
        model = trainer.export(**self._provenance(data))
        raw, risk = self._score_rows(model, data)
        models = {}
        for level in levels:
            limit = float(np.quantile(raw[data.warm_up : end], 1.0 - level))
            # Risk ascends with the score: the lowest risk of what is beyond is the same boundary.
            beyond = risk[data.warm_up : end][raw[data.warm_up : end] >= limit]
            models[level] = replace(
                model,
                thresholds={"raw": limit, "risk": float(beyond.min())},
                metrics={**model.metrics, "contamination": level},
            )
        return models

    def _score_rows(self, model: RecurrentModel, data: Prepared) -> tuple[F64, F64]:
        entity = data.users if data.entity is None else data.entity
        state = np.zeros((int(entity.max()) + 1, model.state_size), np.float32)
        scores = model.step(data.x, model.column_index(data.columns), entity, state)
        return scores.raw, scores.risk
