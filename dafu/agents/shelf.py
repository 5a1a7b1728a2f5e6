"""Models that are loaded: packages by reference, checked, warm, and why some are not there.

A package that can not be served is an alarm and not a crash: whoever asks goes on with another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import numpy as np

from dafu.errors import DafuError
from dafu.features.catalogue import CATALOGUE_HASH, FEATURES, INDEX, USER_FEATURES, USER_INDEX
from dafu.models.errors import ModelPackageError
from dafu.models.model import Model, Packaged
from dafu.models.package import load_package
from dafu.models.recurrent import RecurrentModel
from dafu.registry import Level, Lineup, ModelRef

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 30.0
"""After a package could not be loaded, until it is tried again."""


class Shelf:
    """Loads packages when they are asked for and keeps them.

    Parameters
    ----------
    configured : mapping of level to model or None
        What the worker was started with.
    """

    def __init__(self, configured: dict[Level, Packaged | None]) -> None:
        self._configured = configured
        self._models: dict[tuple[Level, ModelRef], Packaged] = {}
        self._failed: dict[tuple[Level, ModelRef], tuple[float, str]] = {}

    @property
    def alarms(self) -> list[str]:
        """What could not be loaded and why, for people."""
        return [f"{ref.name} {ref.version}: {why}" for (_, ref), (_, why) in self._failed.items()]

    async def get(self, level: Level, ref: ModelRef) -> Packaged | None:
        """The model, None if it can not be had now (an alarm tells) or none is configured."""
        if ref.configured:
            return self._configured[level]
        place = level, ref
        if place in self._models:
            return self._models[place]
        failed = self._failed.get(place)
        if failed is not None and time.monotonic() - failed[0] < RETRY_SECONDS:
            return None
        try:
            model = self._models[place] = await self.load(level, ref)
        except (DafuError, OSError) as exc:
            self._failed[place] = time.monotonic(), str(exc)
            logger.critical(
                "model %s %s can not be used, others go on deciding: %s", ref.name, ref.version, exc
            )
            return None
        self._failed.pop(place, None)
        return model

    async def champion(self, level: Level, lineup: Lineup) -> Packaged | None:
        """The champion, or else the latest one before that can be had."""
        if lineup.champion is None:
            return None
        for ref in (lineup.champion, *reversed(lineup.former)):
            if ref is not None and (model := await self.get(level, ref)) is not None:
                return model
        return self._configured[level]

    async def load(self, level: Level, ref: ModelRef) -> Packaged:
        """Load and check a package, beside the event loop.

        Raises
        ------
        ModelPackageError
            If it can not be served at this level, or is not the version that was asked for.
        """
        return await asyncio.to_thread(_load, level, ref)


def _load(level: Level, ref: ModelRef) -> Packaged:
    model = load_package(ref.url, CATALOGUE_HASH)
    if model.version != ref.version:
        raise ModelPackageError(
            f"{ref.url}: holds version {model.version}, not {ref.version}: deploy what is there, "
            "or put the right package in its place"
        )
    if not isinstance(model, Model if level == "scoring" else RecurrentModel):
        raise ModelPackageError(
            f"{ref.url}: a model of kind {model.kind} does not serve at the level {level}"
        )
    warm(model)
    return model


def warm(model: Packaged) -> None:
    """Compile what serving the model needs, so that no decision waits for it."""
    if isinstance(model, RecurrentModel):
        x = np.zeros((1, len(USER_FEATURES)))
        state = np.zeros((1, model.state_size), np.float32)
        model.step(x, model.column_index(USER_INDEX), np.zeros(1, np.int64), state)
    elif isinstance(model, Model):
        x = np.zeros((1, len(FEATURES)))
        columns = model.column_index(INDEX)
        model.score(x, columns)
        model.explained_risk(model.explain(x, columns))
