"""The models that a backtest compares, by name: how each is trained on rows of a history.

A contender is given the whole history and the rows to train on, so that a model of rows picks
their features and a model of sequences can look at what came before each. `TABULAR` trainers need
not know any of that: they have `fit(x, y)` and `score(x)`. Adding a model is one entry in
`CONTENDERS`. Libraries are imported when a training starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.errors import DafuError
from dafu.evaluation.handbook import handbook_features
from dafu.features.catalogue import FEATURES, INDEX
from dafu.features.selections import SUPERVISED, TAILS, UNSUPERVISED
from dafu.history import FRAUD, UNKNOWN, History
from dafu.models.calibration import IDENTITY, Calibration
from dafu.models.ensemble import EnsembleModel
from dafu.models.errors import TrainingError
from dafu.training.settings import (
    ISOLATION_FOREST,
    Parameters,
    forest_arguments,
    xgboost_arguments,
)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

CALIBRATION_SHARE: Final = 0.25
"""Latest share of the training rows to which an ensemble's calibration is fitted."""


class ContenderError(DafuError):
    """No such model, or one that can not be trained here."""


class Data:
    """A history, and the tables that contenders are trained on.

    Parameters
    ----------
    history : History
    delay_days : int
        How long labels take to become known.
    """

    def __init__(self, history: History, delay_days: int) -> None:
        self.history = history
        self.delay_days = delay_days
        self._handbook: F64 | None = None

    def columns(self, names: Sequence[str], rows: I64) -> F64:
        """Float64 [rows, len(names)]: these features of the catalogue, of these rows."""
        wanted = np.array([INDEX[name] for name in names])
        picked: F64 = self.history.features[rows[:, None], wanted]
        return picked

    def handbook(self) -> F64:
        """Float64 [n, 15]: the handbook's features, computed at the first call."""
        if self._handbook is None:
            h = self.history
            self._handbook = handbook_features(
                h.times, h.users, h.merchants, h.amounts, h.labels, self.delay_days
            )
        return self._handbook


class Contender(Protocol):
    """A model to train and to score with."""

    def fit(self, data: Data, rows: I64) -> None:
        """Train on these rows (ascending) of the history; some labels may be unknown."""
        ...

    def score(self, data: Data, rows: I64) -> F64:
        """Scores of rows, higher is more suspicious, float64 [rows]."""
        ...


class Trainer(Protocol):
    """A model of rows, as most libraries have them."""

    def fit(self, x: F64, y: NDArray[np.int8]) -> Any:
        """Train on features [n, F], NaN for missing, and labels [n] (1 fraud, 0 genuine)."""
        ...

    def score(self, x: F64) -> F64:
        """Scores [n] of features [n, F], higher is more suspicious."""
        ...


class Tabular:
    """A contender made of a trainer.

    Parameters
    ----------
    make : function of the number of training rows
        Gives a trainer.
    table : function of Data and rows
        Gives the features of these rows of the history.
    supervised : bool
        Whether rows without a known label are of no use.
    """

    def __init__(
        self,
        make: Callable[[int], Trainer],
        table: Callable[[Data, I64], F64],
        *,
        supervised: bool,
    ) -> None:
        self._make = make
        self._trainer: Trainer | None = None
        self._table = table
        self._supervised = supervised

    def fit(self, data: Data, rows: I64) -> None:
        """Train on these rows."""
        labels = data.history.labels[rows]
        if self._supervised:
            rows, labels = rows[labels != UNKNOWN], labels[labels != UNKNOWN]
            kinds = len(np.unique(labels))
            if kinds < 2:
                frauds = int((labels == FRAUD).sum())
                raise TrainingError(
                    f"{len(rows):,} training rows with labels, {frauds:,} of them fraud: "
                    "supervised training needs both fraud and genuine transactions"
                )
        self._trainer = self._make(len(rows))
        self._trainer.fit(self._table(data, rows), labels)

    def score(self, data: Data, rows: I64) -> F64:
        """Scores of rows."""
        if self._trainer is None:
            raise TrainingError("call fit before score")
        return self._trainer.score(self._table(data, rows))


def _columns(names: Sequence[str]) -> Callable[[Data, I64], F64]:
    return lambda data, rows: data.columns(names, rows)


class Kind(Struct, frozen=True):
    """An entry of the registry.

    Attributes
    ----------
    description : str
    libraries : sequence of str
        Modules that must be installed.
    extra : str
        Which extra of dafu installs them.
    make : function
        A contender from parameters and a seed.
    space : function or None
        Suggests parameters to a trial of Optuna; None if there are none to search.
    """

    description: str
    libraries: tuple[str, ...]
    extra: str
    make: Callable[[Parameters, int], Contender]
    space: Callable[[Any], dict[str, Any]] | None = None


def make_contender(name: str, parameters: Parameters, seed: int) -> Contender:
    """Build a model by name.

    Raises
    ------
    ContenderError
        If there is none of that name, or a library is missing.
    """
    return check_contender(name).make(parameters, seed)


def check_contender(name: str) -> Kind:
    """The registry's entry, with its libraries installed; raises as `make_contender`."""
    kind = CONTENDERS.get(name)
    if kind is None:
        raise ContenderError(f"there is no model `{name}`; there are: {', '.join(CONTENDERS)}")
    check_libraries(f"the model `{name}`", kind.libraries, kind.extra)
    return kind


def check_libraries(what: str, libraries: Sequence[str], extra: str) -> None:
    """Find out before the work whether the libraries for it are there.

    Raises
    ------
    ContenderError
        Naming those that are not, and the extra of dafu that brings them.
    """
    missing = [library for library in libraries if find_spec(library) is None]
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        raise ContenderError(
            f"{what} needs {' and '.join(missing)}, which {verb} not installed; install "
            f"{'them' if len(missing) > 1 else 'it'} with pip install 'dafu[{extra}]'"
        )


# ---------------------------------------------------------------------------------------------
# The models
# ---------------------------------------------------------------------------------------------


class Mean:
    """The calibrated mean of the risks of several models, as `dafu.models.ensemble` serves it.

    Parameters
    ----------
    trainers : sequence of function of the number of training rows
        Each makes a trainer of a classifier.
    names : sequence of F names
        The features that the rows have.
    seed : int
    """

    def __init__(
        self, trainers: Sequence[Callable[[int], Any]], names: Sequence[str], seed: int
    ) -> None:
        self._trainers = trainers
        self._names = tuple(names)
        self._columns = {name: i for i, name in enumerate(self._names)}
        self._seed = seed
        self._model: EnsembleModel | None = None

    def fit(self, x: F64, y: NDArray[np.int8]) -> None:
        """Train on features [n, F] and labels [n], in time order.

        The calibration is fitted to the latest rows, on scores of models that were trained on the
        rows before them. What is kept is trained on all rows.
        """
        from dafu.models.trainers.calibration import fit_beta

        cut = int(len(x) * (1.0 - CALIBRATION_SHARE))
        calibration: Calibration = IDENTITY
        if min(len(np.unique(part)) for part in (y[:cut], y[cut:])) == 2:
            early = [make(cut).fit(x[:cut], y[:cut]).score(x[cut:]) for make in self._trainers]
            calibration = fit_beta(np.mean(early, axis=0), y[cut:])
        self._model = self._combined(
            [make(len(x)).fit(x, y) for make in self._trainers], x, calibration
        )

    def _combined(self, trained: Sequence[Any], x: F64, calibration: Calibration) -> EnsembleModel:
        from dafu.models.trainers import Description
        from dafu.models.trainers.ensemble import weighted_ensemble

        groups = tuple(FEATURES[INDEX[name]].group for name in self._names)
        members = [
            trainer.export(Description(self._names, groups, name=f"member_{k}"))
            for k, trainer in enumerate(trained)
        ]
        return weighted_ensemble(
            members,
            [1.0] * len(members),
            x,
            self._columns,
            Description(self._names, groups),
            seed=self._seed,
            calibration=calibration,
        )

    def score(self, x: F64) -> F64:
        """Risks [n] of features [n, F]."""
        if self._model is None:
            raise TrainingError("call fit before score")
        return self._model.score(x, self._model.column_index(self._columns)).risk


def _forests(parameters: Parameters, seed: int) -> Callable[[int], Any]:
    def make(_rows: int) -> Any:
        from dafu.models.trainers import RandomForestTrainer

        return RandomForestTrainer(seed, **forest_arguments(parameters))

    return make


def _boosted(parameters: Parameters, seed: int) -> Callable[[int], Any]:
    def make(rows: int) -> Any:
        from dafu.models.trainers import XGBoostTrainer

        return XGBoostTrainer(seed, **xgboost_arguments(rows, parameters))

    return make


def _baseline(parameters: Parameters, seed: int) -> Contender:
    trainers = _forests({"max_depth": 20, **parameters}, seed)
    return Tabular(trainers, lambda data, rows: data.handbook()[rows], supervised=True)


def _random_forest(parameters: Parameters, seed: int) -> Contender:
    return Tabular(_forests(parameters, seed), _columns(SUPERVISED), supervised=True)


def _xgboost(parameters: Parameters, seed: int) -> Contender:
    return Tabular(_boosted(parameters, seed), _columns(SUPERVISED), supervised=True)


def _ensemble(parameters: Parameters, seed: int) -> Contender:
    members = (
        _boosted(parameters.get("xgboost", {}), seed),
        _forests(parameters.get("random_forest", {}), seed),
    )
    return Tabular(
        lambda _rows: Mean(members, SUPERVISED, seed), _columns(SUPERVISED), supervised=True
    )


def _isolation_forest(parameters: Parameters, seed: int) -> Contender:
    def make(_rows: int) -> Any:
        from dafu.models.trainers import IsolationForestTrainer

        return IsolationForestTrainer(seed, **{**ISOLATION_FOREST, **parameters})

    return Tabular(make, _columns(UNSUPERVISED), supervised=False)


def _tails(parameters: Parameters, seed: int) -> Contender:
    def make(_rows: int) -> Any:
        from dafu.models.trainers import TailsTrainer

        return TailsTrainer(seed=seed, **parameters)

    return Tabular(make, _columns(TAILS), supervised=False)


def _forest_space(trial: Any) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 50, 200, step=50),
        "max_depth": trial.suggest_int("max_depth", 5, 20),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 20, log=True),
        "max_features": trial.suggest_float("max_features", 0.1, 0.6),
    }


def _xgboost_space(trial: Any) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 50, 400, step=50),
        "max_depth": trial.suggest_int("max_depth", 3, 8),
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.2, 1.0),
        "min_child_weight": trial.suggest_float("min_child_weight", 0.05, 5.0, log=True),
        "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 20.0, log=True),
    }


def _isolation_space(trial: Any) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 50, 300, step=50),
        "max_samples": trial.suggest_categorical("max_samples", [256, 512, 1024, 2048, 4096]),
    }


CONTENDERS: Final[dict[str, Kind]] = {
    "baseline": Kind(
        "the handbook's own 15 features and a random forest of 100 trees, depth 20",
        ("sklearn",),
        "train",
        _baseline,
    ),
    "tails": Kind(
        "how far out on their suspicious sides a few features lie; learns from no labels",
        (),
        "train",
        _tails,
    ),
    "isolation_forest": Kind(
        "an isolation forest on a few features; learns from no labels",
        ("sklearn",),
        "train",
        _isolation_forest,
        _isolation_space,
    ),
    "random_forest": Kind(
        "a random forest of 100 trees, depth 10",
        ("sklearn",),
        "train",
        _random_forest,
        _forest_space,
    ),
    "xgboost": Kind(
        "100 boosted trees, depth 3", ("xgboost", "sklearn"), "train", _xgboost, _xgboost_space
    ),
    "ensemble": Kind(
        "the calibrated mean of these two", ("xgboost", "sklearn"), "train", _ensemble
    ),
}
"""Models by name, in the order in which they are compared by default."""
