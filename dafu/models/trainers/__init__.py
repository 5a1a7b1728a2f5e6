"""Trainers: from a feature matrix, through the library that learns, to a model that dafu serves.

Every trainer has `fit(x, y)`, `score(x)` (the library's own answer) and `export(description)`: a
serving model whose raw score is that answer. Libraries are imported when a training starts, and
come with the `train` extra. Nothing here knows feature code: a matrix and names come in.
"""

from dafu.models.trainers.base import Description, Trainer
from dafu.models.trainers.isolation import IsolationForestTrainer
from dafu.models.trainers.lightgbm import LightGBMTrainer
from dafu.models.trainers.random_forest import RandomForestTrainer
from dafu.models.trainers.reference import with_reference
from dafu.models.trainers.tails import TailsTrainer
from dafu.models.trainers.xgboost import XGBoostTrainer

__all__ = [
    "Description",
    "IsolationForestTrainer",
    "LightGBMTrainer",
    "RandomForestTrainer",
    "TailsTrainer",
    "Trainer",
    "XGBoostTrainer",
    "with_reference",
]
