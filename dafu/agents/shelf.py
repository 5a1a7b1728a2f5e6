"""Models that are loaded: packages by reference, checked, warm, and why some are not there.

A package that can not be served is an alarm and not a crash: whoever asks goes on with another.
The first attempt is waited for, since what holds from a switch on is decided by it. Later ones
are made beside the work, so that a slow object store does not hold up decisions again and again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
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

LOAD_SECONDS: Final = 60.0
"""For reading and checking a package; what takes longer has failed."""

_Place = tuple[Level, ModelRef]


class Shelf:
    """Loads packages when they are asked for and keeps them.

    Parameters
    ----------
    configured : mapping of level to model or None
        What the worker was started with.
    """

    def __init__(self, configured: dict[Level, Packaged | None]) -> None:
        self._configured = configured
        self._models: dict[_Place, Packaged] = {}
        self._failed: dict[_Place, tuple[float, str]] = {}
        self._loading: dict[_Place, asyncio.Task[None]] = {}

    def alarms(self, level: Level) -> list[str]:
        """What could not be loaded at a level and why, for people."""
        return [
            f"{ref.name} {ref.version}: {why}"
            for (at, ref), (_, why) in self._failed.items()
            if at == level
        ]

    def held(self, level: Level, ref: ModelRef) -> Packaged | None:
        """The model if it is loaded, or what is configured if that is meant."""
        return self._configured[level] if ref.configured else self._models.get((level, ref))

    async def get(self, level: Level, ref: ModelRef) -> Packaged | None:
        """The model, None if it can not be had now (an alarm tells) or none is configured."""
        if ref.configured:
            return self._configured[level]
        place = level, ref
        failed = self._failed.get(place)
        if place not in self._models and place not in self._loading:
            if failed is not None and time.monotonic() - failed[0] < RETRY_SECONDS:
                return None
            self._loading[place] = asyncio.create_task(self._fetch(place))
        if failed is None and place in self._loading:
            await asyncio.shield(self._loading[place])
        return self._models.get(place)

    async def _fetch(self, place: _Place) -> None:
        level, ref = place
        try:
            self._models[place] = await self.load(level, ref)
        except (DafuError, OSError) as exc:
            self._failed[place] = time.monotonic(), str(exc)
            logger.critical(
                "model %s %s can not be used, others go on deciding: %s", ref.name, ref.version, exc
            )
        else:
            self._failed.pop(place, None)
        finally:
            del self._loading[place]

    def keep_only(self, level: Level, refs: Collection[ModelRef]) -> None:
        """Let go of the models of a level, and of the alarms, that nobody refers to any more."""
        for held in (self._models, self._failed):
            for place in [p for p in held if p[0] == level and p[1] not in refs]:
                del held[place]

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
        TimeoutError
            If it does not come within LOAD_SECONDS.
        """
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                model = await asyncio.to_thread(load_for, level, ref)
        except TimeoutError as exc:
            why = str(exc) or f"not loaded within {LOAD_SECONDS:g} s"
            raise TimeoutError(f"{ref.url}: {why}") from None
        # Not within the time: what a kind of model needs is compiled once an installation, and
        # giving up would mean to start all over again.
        await asyncio.to_thread(_warm, ref, model)
        return model


def load_for(level: Level, ref: ModelRef) -> Packaged:
    """Load a package, and check that it can be served at a level and is the one that is meant.

    Raises
    ------
    ModelPackageError
    """
    try:
        return _load(level, ref)
    except (DafuError, OSError):
        raise
    except Exception as exc:
        # Whatever a library makes of a damaged file: it must not end a worker.
        raise ModelPackageError(f"{ref.url}: {type(exc).__name__}: {exc}") from exc


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
    return model


def _warm(ref: ModelRef, model: Packaged) -> None:
    try:
        warm(model)
    except DafuError:
        raise
    except Exception as exc:
        raise ModelPackageError(f"{ref.url}: {type(exc).__name__}: {exc}") from exc


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
