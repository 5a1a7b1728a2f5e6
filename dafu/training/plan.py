"""What to train, from what, and how it is to be cut: everything that a training is asked for."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from dafu.features.catalogue import INDEX
from dafu.features.selections import BEHAVIOR, GENERAL, SELECTIONS, TAILS
from dafu.models.errors import TrainingError
from dafu.models.recurrent import RecurrentModel

UNSUPERVISED_MODELS: Final = ("isolation_forest", "tails")
SEQUENCE_MODELS: Final = ("gru", "lstm")
MODELS: Final = (*UNSUPERVISED_MODELS, "xgboost", "random_forest", *SEQUENCE_MODELS, "ensemble")
"""What can be trained; the first ones learn from no labels."""

FEATURES_OF: Final = {
    "isolation_forest": BEHAVIOR,
    "tails": TAILS,
    "xgboost": GENERAL,
    "random_forest": GENERAL,
    "ensemble": GENERAL,
}
"""What a model looks at unless the plan says otherwise; an ensemble's boosted trees, that is."""

SEQUENCE_RISK: Final = "sequence_risk"


class Plan(Struct, frozen=True, kw_only=True):
    """What a training is asked for.

    Attributes
    ----------
    model : str
        One of `MODELS`.
    seed : int
    features : tuple of str
        What a model of rows looks at; empty for `FEATURES_OF`.
    contamination : float
        Share of the training rows, above 0 up to 0.5, above whose score an unsupervised model puts
        its thresholds.
    delay_days : int
        How long labels take to become known. Features know of frauds no sooner, and the learning
        ends so long before the holdout begins.
    holdout : float or None
        Latest share of the transactions, within 0..0.9, that is not learned from: it calibrates,
        chooses thresholds and measures. None: none for unsupervised models, which need none, and a
        quarter for the others.
    alerts_per_day, false_positive_rate
        Thresholds to choose on the holdout, if any: as many alerts a day, or so large a share of
        the genuine.
    epochs : int
        Of a sequence model at the most.
    sequence : RecurrentModel or None
        A packaged sequence model, whose score is a feature of supervised models of rows.

    Raises
    ------
    TrainingError
        On construction, if the parts do not fit each other.
    """

    model: str = MODELS[0]
    seed: int = 0
    features: tuple[str, ...] = ()
    contamination: float = 0.01
    delay_days: int = 7
    holdout: float | None = None
    alerts_per_day: int | None = None
    false_positive_rate: float | None = None
    epochs: int = 20
    sequence: RecurrentModel | None = None

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise TrainingError(f"there is no model `{self.model}`; there are: {', '.join(MODELS)}")
        unknown = [name for name in self.features if name not in INDEX]
        if unknown:
            raise TrainingError(f"there is no feature {unknown[0]!r}; `dafu features` lists them")
        if self.features and self.model in SEQUENCE_MODELS:
            raise TrainingError("a sequence model has inputs of its own; leave out the features")
        if not 0.0 < self.contamination <= 0.5:
            raise TrainingError(
                f"contamination is {self.contamination}; it must be above 0 and at most 0.5"
            )
        if self.delay_days < 0 or not 0.0 <= self.held_out <= 0.9:
            raise TrainingError("the delay must not be negative, and the holdout within 0..0.9")
        if self.supervised and self.held_out == 0.0:
            raise TrainingError("a model that learns from labels needs a holdout to be measured on")
        if self.chooses and self.held_out == 0.0:
            raise TrainingError("thresholds are chosen on a holdout; say how large a share it is")
        if self.alerts_per_day is not None and self.alerts_per_day < 1:
            raise TrainingError("the alert budget must be at least 1 a day")
        if self.false_positive_rate is not None and not 0.0 < self.false_positive_rate < 1.0:
            raise TrainingError("the false-positive rate must be above 0 and below 1")
        if self.sequence is not None:
            if self.model not in ("xgboost", "random_forest", "ensemble"):
                raise TrainingError(f"{self.model} does not read the score of a sequence model")
            if not self.sequence.version:
                raise TrainingError("the sequence model has no version; package it first")
        elif SEQUENCE_RISK in self.features:
            raise TrainingError(
                f"{SEQUENCE_RISK} is the score of a sequence model; name its package"
            )

    @property
    def supervised(self) -> bool:
        """Whether it learns from labels."""
        return self.model not in UNSUPERVISED_MODELS

    @property
    def held_out(self) -> float:
        """The share that is not learned from."""
        if self.holdout is not None:
            return self.holdout
        return 0.25 if self.supervised else 0.0

    @property
    def chooses(self) -> bool:
        """Whether thresholds are to be chosen."""
        return self.alerts_per_day is not None or self.false_positive_rate is not None

    @property
    def row_features(self) -> tuple[str, ...]:
        """What a model of rows looks at, the score of the sequence model included."""
        names = self.features or FEATURES_OF[self.model]
        if self.sequence is not None and SEQUENCE_RISK not in names:
            names = (*names, SEQUENCE_RISK)
        return names

    @property
    def requires(self) -> dict[str, str]:
        """Name and version of the sequence model."""
        return {} if self.sequence is None else {self.sequence.name: self.sequence.version}


def feature_names(text: str) -> tuple[str, ...]:
    """A selection by its name, or features separated by commas; none for an empty text.

    >>> feature_names("amount, is_night")
    ('amount', 'is_night')
    """
    if text in SELECTIONS:
        return SELECTIONS[text]
    return tuple(name for part in text.split(",") if (name := part.strip()))
