"""What both detectors have in common: from a table to a model, its figures, files and answers."""

from __future__ import annotations

import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Literal, NamedTuple, Self, TypeVar, get_args

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu import __version__
from dafu.evaluation.contenders import check_libraries
from dafu.evaluation.description import versions
from dafu.evaluation.evaluate import (
    Detection,
    Evaluation,
    Labelled,
    Learning,
    Rules,
    evaluate,
    scores_of,
)
from dafu.evaluation.metrics import Budget
from dafu.evaluation.report import write_report
from dafu.evaluation.thresholds import by_contamination
from dafu.features.catalogue import CATALOGUE_HASH
from dafu.history import FRAUD, GENUINE, UNKNOWN
from dafu.ingest import to_records
from dafu.models.isolation import IsolationForestModel
from dafu.models.package import load_package, save_package
from dafu.models.recurrent import RecurrentModel
from dafu.notebook.columns import FIELDS, PAYMENT, find_columns
from dafu.notebook.errors import NotebookError
from dafu.notebook.export import Clock, now, stamped, write_json, write_rows
from dafu.notebook.prepared import (
    Kind,
    Loaded,
    Prepared,
    labels_of,
    load,
    mapped,
    prepare,
    with_ids,
)
from dafu.notebook.prompts import given
from dafu.notebook.stream import DECIDED, Alert, ColumnStream, PaymentStream, Row
from dafu.notebook.tables import Named, TableLike, map_table, parsed_times, read_table
from dafu.offline import OutputFileError
from dafu.stages.decide import DIGITS, Thresholds

F64 = NDArray[np.float64]
M = TypeVar("M", IsolationForestModel, RecurrentModel)

CONTAMINATIONS: Final = (0.01, 0.05, 0.1)
CONTAMINATION: Final = 0.01
THRESHOLD: Final = 0.7
_LEARNING: Final = get_args(Learning)
_DETECTION: Final = get_args(Detection)


class Analysis(Struct, frozen=True):
    """What a table is taken for.

    Attributes
    ----------
    name : str
    rows : int
    kind : "payments" or "columns"
        payments: the stream's features are computed, and the model can be deployed to a worker.
        columns: the table's own columns are modelled.
    mapping : str
        The mapping in conf/mappings that fits; empty if columns were told by names and types.
    columns : dict
        Column by field.
    kinds : dict
        What each column's values are: number, time, truth, text or empty.
    missing : dict
        Share of missing cells by column, where there are any.
    frauds, genuine, unlabelled : int
        Labels.
    notes : list
        What to know about it.
    """

    name: str
    rows: int
    kind: Kind
    mapping: str
    columns: dict[str, str]
    kinds: dict[str, str]
    missing: dict[str, float]
    frauds: int
    genuine: int
    unlabelled: int
    notes: list[str]


class Mode(NamedTuple):
    """How alerts are chosen: `classic` by contamination, `risk` by a threshold."""

    detection: Detection
    contamination: float
    threshold: float


class Outcome(Struct, frozen=True):
    """What a model says of the rows that it was not trained on.

    Attributes
    ----------
    name : str
        Such as "contamination 0.05" or "risk 0.7".
    rows, alerts : int
    share : float
        Alerts of the rows.
    threshold : float
        Of the raw score for a contamination, else of the risk.
    evaluation : Evaluation or None
        Figures by labels; None for a table without them.
    """

    name: str
    rows: int
    alerts: int
    share: float
    threshold: float
    evaluation: Evaluation | None


class FraudDetector(ABC, Generic[M]):
    """The steps from a table to a model, in the order of the methods."""

    kind: type[M]
    _libraries: tuple[str, ...]
    _extra: str

    def __init__(self, *, seed: int = 0, clock: Clock = now) -> None:
        self.seed = seed
        self._clock = clock
        self.learning: Learning | None = None
        self.mode: Mode | None = None
        self.model: M | None = None
        self.models: dict[float, M] = {}
        self.prepared: Prepared | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.stream_results: list[Row] = []
        self._loaded: Loaded | None = None
        self._columns: Mapping[str, str | None] | None = None
        self._time_format: str | None = None
        self._skip_bad = True
        self._raw = self._risk = np.empty(0)
        self._stream: PaymentStream | ColumnStream | None = None
        self._streamed = 0
        self._payments = True

    # -----------------------------------------------------------------------------------------
    # The table
    # -----------------------------------------------------------------------------------------

    def load_and_analyze_data(
        self,
        data: TableLike = None,
        *,
        columns: Mapping[str, str | None] | None = None,
        time_format: str | None = None,
        kind: Kind | None = None,
        skip_bad: bool = True,
    ) -> Analysis:
        """Read a table and find out which column is what.

        Parameters
        ----------
        data
            A path (.csv, .tsv, .parquet, .jsonl), a data frame, an Arrow table, or records. Left
            out, it is asked for at a terminal.
        columns
            Column by field for what is not found or found wrongly: `user_id`, `merchant_id`,
            `timestamp`, `amount`, `transaction_id`, `is_fraud`, `category` and so on; None for a
            field that the table does not have.
        time_format
            How times that are not ISO 8601 are written, as strptime has it.
        kind
            "payments" to insist on a table of payments, "columns" for a model of the table's own
            columns. By default the first if user, merchant, time and amount are found.
        skip_bad
            Leave out rows that are no valid transactions, and say so, instead of stopping.

        Raises
        ------
        NotebookError, MissingArgumentError
            Saying what was not found and how to give it.
        """
        if data is None:
            data = given(None, "the path of the data")
        if kind not in (None, *get_args(Kind)):
            raise NotebookError(f"kind is {kind!r}; it must be payments or columns")
        loaded = load(data, columns, time_format, kind)
        self._check_loaded(loaded)
        self._loaded, self._columns, self._time_format = loaded, columns, time_format
        self._skip_bad = skip_bad
        self._payments = loaded.kind == "payments"
        self.prepared, self.model, self.models, self.outcomes = None, None, {}, {}
        self._stream = None
        _warn(loaded.notes)
        return _analysis(loaded)

    def _check_loaded(self, loaded: Loaded) -> None:
        """Refuse a table that this detector has no use for."""

    def setup_learning_mode(self, mode: str | None = None) -> Self:
        """Say whether labels are learned from: "supervised" or "unsupervised".

        Raises
        ------
        MissingArgumentError
            If it is left out and there is no terminal to ask at, or is neither.
        """
        self.learning = given(mode, "the learning mode", _LEARNING)  # type: ignore[assignment]
        return self

    def setup_prediction_mode(
        self,
        mode: str | None = None,
        *,
        contamination: float = CONTAMINATION,
        threshold: float = THRESHOLD,
    ) -> Self:
        """Say what makes an alert.

        Parameters
        ----------
        mode
            "classic": the score is above that of all but the share `contamination` of the training
            rows. "risk": the risk is at least `threshold`.

        Raises
        ------
        MissingArgumentError
            If the mode is left out and there is no terminal to ask at, or is neither.
        NotebookError
            If a number is out of its range.
        """
        chosen = given(mode, "the prediction mode", _DETECTION)
        if not 0.0 < contamination <= 0.5:
            raise NotebookError(
                f"contamination is {contamination}; it must be above 0 and at most 0.5"
            )
        if not 0.0 <= threshold <= 1.0:
            raise NotebookError(f"threshold is {threshold}; it must be within 0..1")
        before = self.mode
        self.mode = Mode(chosen, contamination, threshold)  # type: ignore[arg-type]
        if self.models and self.mode != before:
            if chosen == "classic" and contamination not in self.models:
                self.mode = before
                raise NotebookError(
                    f"no model was trained for the contamination {contamination}; there are: "
                    f"{', '.join(f'{c:g}' for c in self.models)}"
                )
            self.model = self._chosen()
        self._stream = None
        return self

    def preprocess_data(
        self, *, test_share: float = 0.3, warm_up_share: float | None = None
    ) -> Prepared:
        """Compute features, and divide the rows by time.

        Missing cells stay missing, categories of a table's own columns become numbers by what the
        training rows hold; trainers fill and scale where their model needs it.

        Parameters
        ----------
        test_share
            The latest share of the rows is kept for `evaluate_models`.
        warm_up_share
            The first share of the rows only fills windows. By default a tenth of payments, and
            nothing of other tables.

        Raises
        ------
        NotebookError
            Before `load_and_analyze_data`, or if no rows are left to learn from.
        """
        loaded = self._need_loaded()
        if warm_up_share is None:
            warm_up_share = 0.1 if loaded.kind == "payments" else 0.0
        self.prepared = prepare(
            loaded, test_share=test_share, warm_up_share=warm_up_share, skip_bad=self._skip_bad
        )
        _warn(self.prepared.notes)
        return self.prepared

    # -----------------------------------------------------------------------------------------
    # The model
    # -----------------------------------------------------------------------------------------

    def train_models(
        self, contamination_levels: Sequence[float] = CONTAMINATIONS
    ) -> dict[float, M]:
        """Train, and set thresholds for several levels of contamination.

        The levels share what was learned, and differ in the thresholds of the model. Both modes
        have to be set up before.

        Returns
        -------
        dict of model by contamination
            `model` is the one that the prediction mode asks for.

        Raises
        ------
        NotebookError
            If a level is out of range, or the learning mode needs labels and there are none.
        TrainingError
            If a library is missing, or the data does not allow a training.
        """
        check_libraries("this training", self._libraries, self._extra)
        data = self.prepared or self.preprocess_data()
        learning, mode = self._need_learning(), self._need_mode()
        levels = sorted({*contamination_levels, mode.contamination})
        if not all(0.0 < level <= 0.5 for level in levels):
            raise NotebookError("levels of contamination must be above 0 and at most 0.5")
        if learning == "supervised":
            known = data.labels[data.warm_up : data.split]
            if not (known == FRAUD).any() or not (known == GENUINE).any():
                raise NotebookError(
                    "supervised learning needs both fraud and genuine rows among those to learn "
                    'from: name the column of labels with columns={"is_fraud": "..."}, take a '
                    "smaller test_share, or learn unsupervised"
                )
        trained = self._train(data, learning, levels)
        self.models = {level: _versioned(model) for level, model in trained.items()}
        self.model = self._chosen()
        self._raw, self._risk = self._score_rows(self.model, data)
        self.outcomes, self._stream, self.stream_results = {}, None, []
        return self.models

    @abstractmethod
    def _train(self, data: Prepared, learning: Learning, levels: Sequence[float]) -> dict[float, M]:
        """Models by contamination."""

    @abstractmethod
    def _score_rows(self, model: M, data: Prepared) -> tuple[F64, F64]:
        """Raw scores and risks [n] of all rows, in order, from empty state."""

    def _risk_meaning(self, model: M) -> Learning:
        """Whether the risk is a probability (supervised) or a rank (unsupervised)."""
        if isinstance(model, RecurrentModel) and model.objective == "fraud":
            return "supervised"
        return "unsupervised"

    def _chosen(self) -> M:
        mode = self._need_mode()
        return self.models.get(mode.contamination) or next(iter(self.models.values()))

    def evaluate_models(
        self, *, replicates: int = 200, budget: Budget | None = None
    ) -> dict[str, Outcome]:
        """Measure on the rows that were kept back: each contamination level, and the threshold.

        With labels there are figures with intervals by bootstrap (see docs/evaluation.md), without
        them counts of alerts.

        Parameters
        ----------
        replicates
            Of the bootstrap; 0 for no intervals.
        budget
            What a team can look at.

        Raises
        ------
        NotebookError
            Before `train_models`, or if no rows were kept back.
        EvaluationError
            If labels of these rows are all of one kind.
        """
        data, model, mode = self._need_trained()
        if data.split == len(data):
            raise NotebookError("no rows were kept back: preprocess_data takes a test_share")
        meaning = self._risk_meaning(model)
        asked = {
            f"contamination {level:g}": Rules(meaning, "classic", level, mode.threshold)
            for level in self.models
        }
        asked[f"risk {mode.threshold:g}"] = Rules(
            meaning, "risk", mode.contamination, mode.threshold
        )
        rows, labelled = self._kept_back(data)
        self.outcomes = {}
        for name, rules in asked.items():
            scores = scores_of(labelled, rules.detection)
            threshold = rules.threshold
            if rules.detection == "classic":
                threshold = by_contamination(scores, rules.contamination)
            alerts = int((scores >= threshold).sum())
            evaluation = None
            if (data.labels[data.split :] != UNKNOWN).any():
                evaluation = evaluate(
                    f"{model.name} {model.version}",
                    labelled,
                    rules,
                    budget=budget or Budget(),
                    replicates=replicates,
                    seed=self.seed,
                    data=data.description,
                    versions=versions(),
                    config={"learning": self.learning, "kind": data.kind, "rows": len(rows)},
                )
            self.outcomes[name] = Outcome(
                name, len(rows), alerts, alerts / len(rows), threshold, evaluation
            )
        return self.outcomes

    def _kept_back(self, data: Prepared) -> tuple[NDArray[np.int64], Labelled]:
        """The rows to evaluate: those with labels if there are any."""
        rows = np.arange(data.split, len(data))
        if (data.labels[rows] != UNKNOWN).any():
            rows = rows[data.labels[rows] != UNKNOWN]
        return rows, Labelled(
            data.labels[rows],
            data.users[rows],
            data.times[rows],
            data.amounts[rows],
            self._raw[rows],
            self._risk[rows],
        )

    def alerts(self) -> NDArray[np.bool_]:
        """Which of all rows [n] are alerts by the prediction mode, as `predict_stream` tells.

        Raises
        ------
        NotebookError
            Before `train_models`.
        """
        self._need_trained()
        alert = self._alert()
        pairs = zip(self._raw.tolist(), self._shown_risk().tolist(), strict=True)
        return np.array([alert(raw, risk) for raw, risk in pairs], dtype=np.bool_)

    def _shown_risk(self) -> F64:
        return np.round(self._risk, DIGITS)

    def _alert(self) -> Alert:
        mode, model = self._need_mode(), self._need_model()
        if mode.detection == "risk":
            return lambda _raw, risk: risk >= mode.threshold
        limit = self._limit(model, "raw")
        return lambda raw, _risk: raw >= limit

    def _limit(self, model: M, name: str) -> float:
        """The model's own threshold, which goes with its contamination."""
        if name not in model.thresholds:
            raise NotebookError(
                f"the package '{model.name}' has no threshold of a contamination; use "
                'setup_prediction_mode("risk", threshold=...)'
            )
        return model.thresholds[name]

    # -----------------------------------------------------------------------------------------
    # Files
    # -----------------------------------------------------------------------------------------

    def create_visualizations(self, directory: Path | str) -> list[Path]:
        """Write pictures of the kept back rows to a new directory in `directory`; gives the paths.

        With labels it is the report of `dafu evaluate`: index.html with distributions, curves,
        confusion matrix and calibration. Without, the distribution of the scores.

        Raises
        ------
        NotebookError
            Before `train_models`.
        OutputFileError
            If a file can not be written.
        """
        check_libraries("a picture", ("matplotlib",), "train")
        data, _, mode = self._need_trained()
        outcomes = self.outcomes or self.evaluate_models()
        name = f"contamination {mode.contamination:g}"
        if mode.detection == "risk":
            name = f"risk {mode.threshold:g}"
        outcome = outcomes[name]
        place = stamped(Path(directory), "report", "", self._clock)
        _, labelled = self._kept_back(data)
        scores = scores_of(labelled, mode.detection)
        if outcome.evaluation is not None:
            return write_report(place, outcome.evaluation, labelled.labels, scores)
        return [_histogram(place, outcome, scores)]

    def export_results(self, directory: Path | str) -> list[Path]:
        """Write scores of all rows as CSV and JSON, and figures as JSON; gives the paths.

        The names hold the time of writing.

        Raises
        ------
        NotebookError
            Before `train_models`.
        OutputFileError
            If a file can not be written.
        """
        data, model, mode = self._need_trained()
        outcomes = self.outcomes
        if not outcomes and data.split < len(data):
            outcomes = self.evaluate_models()
        parts = np.where(np.arange(len(data)) < data.split, "training", "test")
        parts[: data.warm_up] = "warm_up"
        rows = [
            {
                "transaction_id": name,
                "part": part,
                "score": raw,
                "risk_score": risk,
                "is_alert": alert,
                "is_fraud": None if label == UNKNOWN else label,
            }
            for name, part, raw, risk, alert, label in zip(
                data.ids,
                parts.tolist(),
                self._raw.tolist(),
                self._shown_risk().tolist(),
                self.alerts().tolist(),
                data.labels.tolist(),
                strict=True,
            )
        ]
        place = Path(directory)
        paths: list[Path] = [
            stamped(place, "predictions", each, self._clock) for each in (".csv", ".json")
        ]
        for path in paths:
            write_rows(path, rows)
        metrics = stamped(place, "metrics", ".json", self._clock)
        document = {
            "model": model.name,
            "version": model.version,
            "learning": self.learning,
            "prediction": mode._asdict(),
            "data": data.description,
            "thresholds": {f"{level:g}": m.thresholds for level, m in self.models.items()},
            "outcomes": outcomes,
        }
        write_json(metrics, msgspec.to_builtins(document))
        return [*paths, metrics]

    def save_model_package(self, path: Path | str, *, overwrite: bool = False) -> M:
        """Write the chosen model as a package that a worker can serve.

        Raises
        ------
        NotebookError
            Before a training, or if the model is of a table's own columns.
        ModelPackageError
            If the place is taken or can not be written.
        """
        model = self._need_model()
        if not self._payments:
            raise NotebookError(
                "this model is of the table's own columns, which no worker computes, so there is "
                "no package to deploy; load a table with user, merchant, time and amount, or say "
                'which columns they are: columns={"user_id": "...", "merchant_id": "...", '
                '"timestamp": "...", "amount": "..."}'
            )
        self.model = save_package(model, path, overwrite=overwrite)
        return self.model

    def load_model_package(self, path: Path | str) -> M:
        """Read a package, to score streams with; what was trained before is dropped.

        Without a prediction mode it becomes "classic" with the package's own threshold if it has
        one, else "risk".

        Raises
        ------
        ModelPackageError
            If it is damaged or was trained with another feature catalogue.
        NotebookError
            If the package is of another kind than this detector's.
        """
        model = load_package(path, CATALOGUE_HASH)
        if not isinstance(model, self.kind):
            raise NotebookError(
                f"{path} holds a model of kind {model.kind}, {type(self).__name__} takes "
                f"{self.kind.kind}"
            )
        self.model, self.models, self.outcomes = model, {}, {}
        self._payments = True
        self._stream, self.stream_results = None, []
        if self.mode is None:
            detection: Literal["classic", "risk"] = (
                "classic" if "raw" in model.thresholds else "risk"
            )
            contamination = model.metrics.get("contamination", CONTAMINATION)
            self.mode = Mode(detection, contamination, THRESHOLD)
        return model

    # -----------------------------------------------------------------------------------------
    # The stream
    # -----------------------------------------------------------------------------------------

    def start_stream(self, *, after_history: bool = False) -> Self:
        """Begin a stream anew; `predict_stream` does so by itself at its first call.

        Parameters
        ----------
        after_history
            Go on from the state that the loaded payments leave, so that their users are known.
            Records that are among them are then duplicates. By default state is empty.

        Raises
        ------
        NotebookError
            Without a model, or without payments to go on from.
        """
        model, alert = self._need_model(), self._alert()
        self.stream_results, self._streamed = [], 0
        if not self._payments:
            data, loaded = self._need_trained()[0], self._need_loaded()
            if after_history:
                raise NotebookError("only payments leave a state to go on from")
            if data.encoder is None:
                raise NotebookError("call preprocess_data and train_models first")
            entity = loaded.found.columns.get("user_id")
            self._stream = ColumnStream(model, data.encoder, entity, alert)
            return self
        thresholds = Thresholds()
        mode = self._need_mode()
        if mode.detection == "risk":
            block = max(thresholds.block, mode.threshold)
            thresholds = Thresholds(fraud=mode.threshold, block=block)
        stream = PaymentStream(model, thresholds, alert)
        if after_history:
            stream.run(mapped(self._need_loaded(), skip_bad=self._skip_bad).batches)
        self._stream = stream
        return self

    def preprocess_stream_data(self, records: TableLike) -> list[tuple[bytes | None, bytes]]:
        """Records as a producer would publish them: keys and JSON; scores nothing.

        Parameters
        ----------
        records
            Like the data of `load_and_analyze_data`, in order of arrival. Columns are those that
            were given or found there.

        Raises
        ------
        NotebookError
            If columns are not found, or the model is of a table's own columns.
        BadRowError
            If a cell can not be read.
        """
        if not self._payments:
            raise NotebookError("only payments can be published; predict_stream takes rows as such")
        return [record for batch in self._mapped(records) for record in to_records(batch)]

    def predict_stream(self, records: TableLike) -> list[Row]:
        """Score records, and carry on the state for the next call.

        Payments go through both stages of a worker that serves this model without rules, in one
        partition: features, scores and decisions are the same.

        Parameters
        ----------
        records
            As for `preprocess_stream_data`; a dictionary is one record.

        Returns
        -------
        list of dict
            One for each record, in order: `transaction_id`, `user_id`, `merchant_id`, `timestamp`,
            `status` ("decided", "duplicate" or "rejected"), `score`, `risk_score`, `is_alert` by
            the prediction mode, and of models that decide `decision`, `risk_level` and `reasons`.

        Raises
        ------
        NotebookError
            Without a model, or if columns are not found.
        BadRowError
            If a cell can not be read; nothing has been scored then.
        """
        if self._stream is None:
            self.start_stream()
        if isinstance(self._stream, ColumnStream):
            rows = self._stream.run(read_table(records).table)
        elif self._stream is not None:
            batches = self._mapped(records)
            rows = self._stream.run(batches)
            self._streamed += len(rows)
        self.stream_results += rows
        return rows

    def _mapped(self, records: TableLike) -> list[Any]:
        named = read_table(records)
        if self._loaded is not None and self._payments:
            # The same columns mean the same, and no others are guessed at.
            columns = dict.fromkeys(FIELDS) | self._loaded.found.columns
            present = {f: c if c in named.table.column_names else None for f, c in columns.items()}
            if all(present[field] is not None for field in PAYMENT):
                return self._with_columns(named, present)
        return self._with_columns(named, self._columns)

    def _with_columns(self, named: Named, columns: Mapping[str, str | None] | None) -> list[Any]:
        if self._time_format is not None and columns and columns.get("timestamp"):
            table = parsed_times(named.table, str(columns["timestamp"]), self._time_format)
            named = Named(named.name, table)
        found = find_columns(named, columns)
        if found.missing:
            raise NotebookError(found.explain_missing(named.name))
        named, found = with_ids(named, found, "stream-", self._streamed + 1)
        return map_table(named, found.document(), skip_bad=False).batches

    def export_stream_results(self, path: Path | str) -> list[Path]:
        """Write what `predict_stream` has answered since the stream began; gives the paths.

        Parameters
        ----------
        path
            A file that ends with .csv or .json, or a directory, which gets both, with the time of
            writing in their names.

        Raises
        ------
        NotebookError
            If nothing has been scored yet.
        OutputFileError
            If a file can not be written.
        """
        if not self.stream_results:
            raise NotebookError("nothing has been scored yet; call predict_stream")
        path = Path(path)
        paths = [path]
        if path.suffix not in (".csv", ".json"):
            paths = [stamped(path, "stream", s, self._clock) for s in (".csv", ".json")]
        for each in paths:
            write_rows(each, self.stream_results)
        return paths

    def stream_summary(self) -> dict[str, int]:
        """Records of the stream by status, and `alerts`."""
        counts = {"alerts": sum(bool(row["is_alert"]) for row in self.stream_results), DECIDED: 0}
        for row in self.stream_results:
            counts[row["status"]] = counts.get(row["status"], 0) + 1
        return counts

    # -----------------------------------------------------------------------------------------
    # What comes first
    # -----------------------------------------------------------------------------------------

    def _need_loaded(self) -> Loaded:
        if self._loaded is None:
            raise NotebookError("there is no data yet; call load_and_analyze_data")
        return self._loaded

    def _need_model(self) -> M:
        if self.model is None:
            raise NotebookError("there is no model; call train_models or load_model_package")
        return self.model

    def _need_trained(self) -> tuple[Prepared, M, Mode]:
        if self.prepared is None or self.model is None or not self.models:
            raise NotebookError("nothing has been trained yet; call train_models")
        return self.prepared, self.model, self._need_mode()

    def _need_learning(self) -> Learning:
        if self.learning is None:
            self.setup_learning_mode()
        return self.learning or "unsupervised"

    def _need_mode(self) -> Mode:
        if self.mode is None:
            self.setup_prediction_mode()
        return self.mode or Mode("classic", CONTAMINATION, THRESHOLD)

    def _provenance(self, data: Prepared) -> dict[str, Any]:
        """What a model records of its making."""
        return {
            "catalogue_hash": data.catalogue_hash,
            "data": f"file: {data.description.file}",
            "code": f"dafu {__version__}",
        }


def _versioned(model: M) -> M:
    """The model with the version that its package will have."""
    with tempfile.TemporaryDirectory() as directory:
        return save_package(model, Path(directory) / "package")


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=3)


def _analysis(loaded: Loaded) -> Analysis:
    table, found = loaded.named.table, loaded.found
    n = table.num_rows
    empty = {name: table.column(name).null_count / n for name in found.profile}
    labels = labels_of(table, found.columns.get("is_fraud"))
    return Analysis(
        name=loaded.named.name,
        rows=n,
        kind=loaded.kind,
        mapping=found.mapping,
        columns=found.columns,
        kinds={name: column.kind for name, column in found.profile.items()},
        missing={name: share for name, share in empty.items() if share > 0},
        frauds=int((labels == FRAUD).sum()),
        genuine=int((labels == GENUINE).sum()),
        unlabelled=int((labels == UNKNOWN).sum()),
        notes=list(loaded.notes),
    )


def _histogram(place: Path, outcome: Outcome, scores: F64) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(scores, bins=50, color="#0072b2")
    axes.axvline(outcome.threshold, color="black", linestyle="--", label="threshold")
    axes.set(title=f"Scores, {outcome.name}", xlabel="score", ylabel="rows", yscale="log")
    axes.legend()
    path = place / "scores.png"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            FigureCanvasAgg(figure).print_png(file)
    except OSError as exc:
        raise OutputFileError(f"{path} can not be written: {exc.strerror or exc}") from exc
    return path
