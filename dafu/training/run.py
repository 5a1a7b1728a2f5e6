"""From transactions to a model package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dafu.features.catalogue import DAY, INDEX
from dafu.history import History, read_history
from dafu.ingest import TransactionReader, load_mapping
from dafu.models.errors import ModelPackageError, TrainingError
from dafu.models.model import Model, Packaged
from dafu.models.package import save_package
from dafu.models.recurrent import RecurrentModel
from dafu.models.storage import MANIFEST
from dafu.models.trainers import with_reference
from dafu.training.ensembles import train_ensemble
from dafu.training.figures import choose_thresholds, measure
from dafu.training.periods import split_periods
from dafu.training.plan import SEQUENCE_MODELS, Plan
from dafu.training.rows import train_supervised, train_unsupervised
from dafu.training.sequences import train_sequence

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
M = TypeVar("M", bound=Packaged)

USERS: Final = 3000
MERCHANTS: Final = 400
DAYS: Final = 60
GENERATED: Final = f"generated: {USERS} users, {MERCHANTS} merchants, {DAYS} days, seed {{seed}}"

_LIBRARIES: Final = {
    "isolation_forest": ("sklearn",),
    "tails": (),
    "random_forest": ("sklearn",),
    "xgboost": ("xgboost", "sklearn"),
    "ensemble": ("xgboost", "sklearn"),
    "gru": ("keras", "tensorflow"),
    "lstm": ("keras", "tensorflow"),
}
_CALLED: Final = {"sklearn": "scikit-learn", "xgboost": "XGBoost", "keras": "Keras"}


def train(batches: Iterable[Any], plan: Plan, data: str) -> Packaged:
    """Train on mapped Arrow batches in time order; `data` says in words what they are.

    Raises
    ------
    TrainingError
        If data or plan do not allow it.
    """
    history = read_history(batches, label_delay=plan.delay_days * DAY, sequence=plan.sequence)
    return train_on(history, plan, data)


def train_on(history: History, plan: Plan, data: str) -> Packaged:
    """Train on a history whose features know of labels after the plan's delay; see `train`."""
    periods = split_periods(history, plan)
    rows = periods.measure
    if plan.model in SEQUENCE_MODELS:
        recurrent, scores = train_sequence(history, periods, plan, data)
        return _with_figures(recurrent, scores.risk[rows], history, rows, plan)
    make: Callable[..., Model] = train_unsupervised
    if plan.supervised:
        make = train_ensemble if plan.model == "ensemble" else train_supervised
    model = make(history, periods, plan, data)
    # Rows that it has not learned from say better how it will find others.
    seen = rows if len(rows) else periods.learn
    model = with_reference(model, history.features[seen], INDEX)
    if not len(rows):
        return model
    risk = model.score(history.features[rows], model.column_index(INDEX)).risk
    return _with_figures(model, risk, history, rows, plan)


def _with_figures(model: M, risk: F64, history: History, rows: I64, plan: Plan) -> M:
    """The model with what its risks [rows] of these rows of the history say of it."""
    labels = history.labels[rows]
    chosen = choose_thresholds(risk, labels, history.times[rows], plan)
    changed: Any = replace(
        cast(Any, model),
        thresholds={**model.thresholds, **chosen},
        metrics={**model.metrics, **measure(risk, labels)},
    )
    return cast(M, changed)


def check_before(model: str, out: Path) -> None:
    """Find out before the work, not after it, that a training can not end well.

    Raises
    ------
    TrainingError
        If a library is not installed.
    ModelPackageError
        If `out` is something else than a package, which a package may replace.
    """
    missing = [name for name in _LIBRARIES[model] if find_spec(name) is None]
    if missing:
        what = " and ".join(_CALLED.get(name, "TensorFlow") for name in missing)
        extra = "sequence" if model in SEQUENCE_MODELS else "train"
        raise TrainingError(
            f"training needs {what}, which is not installed; install it with "
            f"pip install 'dafu[{extra}]'"
        )
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken and not (out / MANIFEST).is_file():
        raise ModelPackageError(f"{out} exists and is no model package; choose another path")


def train_file(reader: TransactionReader, out: Path, plan: Plan) -> Packaged:
    """Train on a file in time order and write the package to `out`, replacing one there."""
    return save_package(train(reader, plan, f"file: {reader.path.name}"), out, overwrite=True)


def train_default(out: Path, plan: Plan) -> Packaged:
    """Train on generated transactions and write the package to `out`, replacing one there."""
    from dafu.generator import generate_traffic, write

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "transactions.parquet"
        write(generate_traffic(USERS, MERCHANTS, DAYS, plan.seed).batches, path)
        reader = TransactionReader(path, load_mapping("dafu"))
        model = train(reader, plan, GENERATED.format(seed=plan.seed))
    return save_package(model, out, overwrite=True)


def load_sequence(path: str, catalogue_hash: str) -> RecurrentModel:
    """The sequence model of a package.

    Raises
    ------
    ModelPackageError
        If there is none, or it is of another kind.
    """
    from dafu.models.package import load_package

    model = load_package(path, catalogue_hash)
    if not isinstance(model, RecurrentModel):
        raise ModelPackageError(f"{path}: a model of kind {model.kind} is no sequence model")
    return model
