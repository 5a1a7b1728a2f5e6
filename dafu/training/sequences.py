"""Training a recurrent network over each user's transactions."""

from __future__ import annotations

from typing import Final

import numpy as np

from dafu import __version__
from dafu.features.catalogue import CATALOGUE_HASH, INDEX
from dafu.history import UNKNOWN, History
from dafu.models.recurrent import Cell, RecurrentModel, SequenceScores, Transform
from dafu.models.sequence_training import SequenceTrainer
from dafu.training.periods import Periods
from dafu.training.plan import Plan

INPUTS: Final[tuple[tuple[str, Transform], ...]] = (
    ("amount", "log1p"),
    ("seconds_since_last", "log1p"),
    ("new_device", "missing"),
    ("new_device", "identity"),
    ("new_merchant", "identity"),
    ("hour", "hour_sine"),
    ("hour", "hour_cosine"),
    ("km_from_home", "log1p"),
    ("km_since_last", "log1p"),
    ("amount_to_user_mean_30d", "log1p"),
)
"""Of a transaction and what came right before it; windows are for the network to make."""


def train_sequence(
    history: History, periods: Periods, plan: Plan, data: str
) -> tuple[RecurrentModel, SequenceScores]:
    """A network whose score is the probability of fraud, and its scores of the whole history.

    All transactions bring its states to where serving would have them; it learns from those of the
    learning period alone, the latest of which say when to stop.
    """
    cell: Cell = "lstm" if plan.model == "lstm" else "gru"
    counted = np.zeros(len(history), np.bool_)
    counted[periods.learn] = True
    labels = np.where(history.labels == UNKNOWN, np.nan, history.labels.astype(np.float64))
    # Nothing after the learning period is looked at, not even for the states.
    end = int(periods.learn[-1]) + 1
    trainer = SequenceTrainer(INPUTS, cell=cell, epochs=plan.epochs, seed=plan.seed % (1 << 31))
    trainer.fit(
        history.features[:end],
        INDEX,
        history.users[:end],
        history.times[:end],
        labels[:end],
        counted=counted[:end],
    )
    model = trainer.export(
        plan.model, catalogue_hash=CATALOGUE_HASH, data=data, code=f"dafu {__version__}"
    )
    return model, trainer.score(history.features, INDEX, history.users)
