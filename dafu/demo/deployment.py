"""The part of a demonstration that is about models: one looks on first, and decides later.

Publishes control events as `dafu models` does. Knows the broker; what becomes of the events is up
to the worker.
"""

from __future__ import annotations

import time
import uuid
from enum import Enum
from pathlib import Path
from typing import Final

from dafu.columns import ByteColumn
from dafu.features.catalogue import CATALOGUE_HASH
from dafu.models.package import load_package
from dafu.registry import CONTROL_KEY, Action, ControlEvent, ModelRef, Role, encode_event
from dafu.streaming.sender import BatchSender

PROMOTE_AT: Final = 0.5
"""Share of the live traffic's time after which the model that looked on decides."""

PROMOTE_SECONDS: Final = 15.0
"""The same where the traffic has no end."""

CHALLENGER: Final = Path(__file__).parents[1] / "models" / "challenger"
"""The package that ships for this: boosted trees and an isolation forest, on generated payments."""


class Standing(Enum):
    """What the second model does."""

    ABSENT = "not deployed"
    LOOKING_ON = "looks on"
    DECIDING = "decides"


class Deployment:
    """Deploys a second model as a challenger, and promotes it when its time has come.

    Parameters
    ----------
    sender : BatchSender
    topic : str
        Of control events, which must exist.
    seconds : float or None
        How long the live traffic lasts.
    """

    def __init__(self, sender: BatchSender, topic: str, seconds: float | None) -> None:
        package = load_package(CHALLENGER, CATALOGUE_HASH)
        self.model = ModelRef(package.name, package.version, str(CHALLENGER.resolve()))
        self.standing = Standing.ABSENT
        self._sender = sender
        self._topic = topic
        self._at = PROMOTE_SECONDS if seconds is None else seconds * PROMOTE_AT

    async def step(self, seconds: float) -> bool:
        """Do what is due after so many seconds of live traffic; whether there was anything."""
        if self.standing is Standing.ABSENT:
            await self._ask("deploy", "challenger")
            self.standing = Standing.LOOKING_ON
            return True
        if self.standing is Standing.LOOKING_ON and seconds >= self._at:
            await self._ask("promote", "champion")
            self.standing = Standing.DECIDING
            return True
        return False

    async def _ask(self, action: Action, role: Role) -> None:
        event = ControlEvent(
            event_id=uuid.uuid4().hex,
            action=action,
            role=role,
            model=self.model if action == "deploy" else None,
            version=self.model.version,
            by="dafu demo",
            why="to show how a model is tried and put in charge",
            at=time.time_ns() // 1_000_000,
        )
        keys, values = ByteColumn.of([CONTROL_KEY]), ByteColumn.of([encode_event(event)])
        await self._sender.send(self._topic, keys, values)
