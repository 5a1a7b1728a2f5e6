"""The models that a backtest compares, by name: how each is trained on rows of a history.

A contender is given the whole history and the rows to train on, so that a model of rows picks
their features and a model of sequences can look at what came before each. `TABULAR` trainers need
not know any of that: they have `fit(x, y)` and `score(x)`. Adding a model is one entry in
`CONTENDERS`. Libraries are imported when a training starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.errors import DafuError
from dafu.evaluation.handbook import handbook_features
from dafu.features.catalogue import CATALOGUE_HASH, FEATURES, INDEX
from dafu.history import FRAUD, UNKNOWN, History
from dafu.models.errors import TrainingError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Parameters = Mapping[str, Any]


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

    def catalogue(self) -> F64:
        """Float64 [n, F]: the features of the catalogue."""
        return self.history.features

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
    trainer : Trainer
    table : function of Data
        Gives the features of all rows of the history.
    supervised : bool
        Whether rows without a known label are of no use.
    """

    def __init__(
        self,
        trainer: Trainer,
        table: Callable[[Data], F64],
        supervised: bool,
    ) -> None:
        self._trainer = trainer
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
        self._trainer.fit(self._table(data)[rows], labels)

    def score(self, data: Data, rows: I64) -> F64:
        """Scores of rows."""
        return self._trainer.score(self._table(data)[rows])


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
# Trainers
# ---------------------------------------------------------------------------------------------


class _RandomForest:
    """Scikit-learn's random forest."""

    def __init__(self, parameters: Parameters, seed: int) -> None:
        self._parameters = {"n_estimators": 100, "max_depth": 20, **parameters}
        self._seed = seed

    def fit(self, x: F64, y: NDArray[np.int8]) -> None:
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(**self._parameters, random_state=self._seed, n_jobs=1)
        self._forest = forest.fit(x, y)

    def score(self, x: F64) -> F64:
        return np.asarray(self._forest.predict_proba(x)[:, 1], dtype=np.float64)


class _XGBoost:
    """Boosted trees of XGBoost."""

    def __init__(self, parameters: Parameters, seed: int) -> None:
        defaults = {
            "n_estimators": 200,
            "max_depth": 5,
            "learning_rate": 0.05,
            "subsample": 0.8,
            "colsample_bytree": 0.5,
            "min_child_weight": 5.0,
        }
        self._parameters = {**defaults, **parameters}
        self._seed = seed

    def fit(self, x: F64, y: NDArray[np.int8]) -> None:
        from xgboost import XGBClassifier

        trees = XGBClassifier(
            **self._parameters, tree_method="hist", random_state=self._seed, n_jobs=1
        )
        self._trees = trees.fit(x, y)

    def score(self, x: F64) -> F64:
        return np.asarray(self._trees.predict_proba(x)[:, 1], dtype=np.float64)


class _IsolationForest:
    """The isolation forest that `dafu train` makes, served by the stream's own kernel."""

    def __init__(self, parameters: Parameters, seed: int) -> None:
        from dafu.training import ROWS_PER_TREE, TREES

        self._parameters = {"n_estimators": TREES, "max_samples": ROWS_PER_TREE, **parameters}
        self._seed = seed

    def fit(self, x: F64, y: NDArray[np.int8]) -> None:  # noqa: ARG002
        from dafu.models.training import train_isolation_forest
        from dafu.training import MODEL_FEATURES

        columns = [INDEX[name] for name in MODEL_FEATURES]
        parameters = dict(self._parameters)
        parameters["max_samples"] = min(parameters["max_samples"], len(x))
        self._model = train_isolation_forest(
            x[:, columns],
            MODEL_FEATURES,
            [FEATURES[c].group for c in columns],
            seed=self._seed,
            catalogue_hash=CATALOGUE_HASH,
            **parameters,
        )

    def score(self, x: F64) -> F64:
        return self._model.score(x, self._model.column_index(INDEX))[0]


def _baseline(parameters: Parameters, seed: int) -> Contender:
    return Tabular(_RandomForest(parameters, seed), Data.handbook, True)


def _random_forest(parameters: Parameters, seed: int) -> Contender:
    return Tabular(_RandomForest(parameters, seed), Data.catalogue, True)


def _xgboost(parameters: Parameters, seed: int) -> Contender:
    return Tabular(_XGBoost(parameters, seed), Data.catalogue, True)


def _isolation_forest(parameters: Parameters, seed: int) -> Contender:
    return Tabular(_IsolationForest(parameters, seed), Data.catalogue, False)


def _forest_space(trial: Any) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 50, 200, step=50),
        "max_depth": trial.suggest_int("max_depth", 5, 30),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 20, log=True),
        "max_features": trial.suggest_float("max_features", 0.05, 0.6),
    }


def _xgboost_space(trial: Any) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 50, 400, step=50),
        "max_depth": trial.suggest_int("max_depth", 3, 8),
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.2, 1.0),
        "min_child_weight": trial.suggest_float("min_child_weight", 0.5, 20.0, log=True),
        "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 20.0, log=True),
    }


def _isolation_space(trial: Any) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 50, 300, step=50),
        "max_samples": trial.suggest_categorical("max_samples", [128, 256, 512, 1024, 4096]),
    }


CONTENDERS: Final[dict[str, Kind]] = {
    "baseline": Kind(
        "the handbook's own 15 features and a random forest of 100 trees, depth 20",
        ("sklearn",),
        "train",
        _baseline,
    ),
    "isolation_forest": Kind(
        "the unsupervised forest that `dafu train` makes",
        ("sklearn",),
        "train",
        _isolation_forest,
        _isolation_space,
    ),
    "random_forest": Kind(
        "a random forest on all features", ("sklearn",), "train", _random_forest, _forest_space
    ),
    "xgboost": Kind(
        "boosted trees on all features", ("xgboost", "sklearn"), "train", _xgboost, _xgboost_space
    ),
}
"""Models by name, in the order in which they are compared by default."""
