"""The model kinds that packages may hold. A new kind is one line in `KINDS`."""

from __future__ import annotations

from typing import Final

from dafu.models.ensemble import EnsembleModel
from dafu.models.isolation import IsolationForestModel
from dafu.models.model import Packaged
from dafu.models.recurrent import RecurrentModel
from dafu.models.tails import TailsModel
from dafu.models.trees import BoostedTreesModel, RandomForestModel

KINDS: Final[dict[str, type[Packaged]]] = {
    IsolationForestModel.kind: IsolationForestModel,
    BoostedTreesModel.kind: BoostedTreesModel,
    RandomForestModel.kind: RandomForestModel,
    EnsembleModel.kind: EnsembleModel,
    TailsModel.kind: TailsModel,
    RecurrentModel.kind: RecurrentModel,
}
"""Class by `kind`, as manifests spell it."""
