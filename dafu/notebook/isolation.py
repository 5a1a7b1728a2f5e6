"""The isolation forest, from a notebook."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dafu.evaluation.evaluate import Learning
from dafu.features.catalogue import FEATURES, INDEX
from dafu.features.selections import BEHAVIOR
from dafu.history import FRAUD
from dafu.models.isolation import IsolationForestModel
from dafu.models.trainers.base import Description
from dafu.models.trainers.isolation import IsolationForestTrainer
from dafu.notebook.detector import F64, FraudDetector
from dafu.notebook.export import Clock, now
from dafu.notebook.prepared import Prepared
from dafu.training.settings import SHIPPED_FOREST

OWN_GROUP = "columns"
"""The one group of features of a table that is no payments."""


class IsolationForestFraudDetector(FraudDetector[IsolationForestModel]):
    """Finds transactions that stand apart, with an isolation forest.

    The learning mode says what the forest sees: unsupervised, all training rows; supervised, all
    but those that are known to be fraud, so that what it takes for ordinary is genuine. The risk
    is a rank in both (see `dafu.models.calibration`).

    Parameters
    ----------
    n_estimators, max_samples
        Trees, and rows per tree.
    seed
        Same seed, data and scikit-learn: same model.
    clock
        Gives the time for file names.

    Examples
    --------
    See docs/notebooks.md.
    """

    kind = IsolationForestModel
    _libraries = ("sklearn",)
    _extra = "train"

    def __init__(
        self,
        *,
        n_estimators: int = SHIPPED_FOREST["n_estimators"],
        max_samples: int = SHIPPED_FOREST["max_samples"],
        seed: int = 0,
        clock: Clock = now,
    ) -> None:
        super().__init__(seed=seed, clock=clock)
        self.n_estimators = n_estimators
        self.max_samples = max_samples

    def _train(
        self, data: Prepared, learning: Learning, levels: Sequence[float]
    ) -> dict[float, IsolationForestModel]:
        names: tuple[str, ...] = tuple(data.columns)
        groups, of_model = (OWN_GROUP,) * len(names), (OWN_GROUP,)
        description = Description(names, groups, of_model, **self._provenance(data))
        if data.kind == "payments":
            names = BEHAVIOR
            groups = tuple(FEATURES[INDEX[name]].group for name in names)
            description = Description(names, groups, **self._provenance(data))
        rows = np.arange(data.warm_up, data.split)
        if learning == "supervised":
            rows = rows[data.labels[rows] != FRAUD]
        columns = np.array([data.columns[name] for name in names])
        x = data.x[np.ix_(rows, columns)]
        trainer = IsolationForestTrainer(
            self.seed, levels[0], self.n_estimators, min(self.max_samples, max(len(x), 2))
        ).fit(x)
        models = {}
        for level in levels:
            trainer.contamination = level  # of the thresholds only: the trees stay
            models[level] = trainer.export(description)
        return models

    def _score_rows(self, model: IsolationForestModel, data: Prepared) -> tuple[F64, F64]:
        scores = model.score(data.x, model.column_index(data.columns))
        return scores.raw, scores.risk
