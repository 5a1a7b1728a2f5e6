"""Pages of models: which hold, what they say, whether that shifts, and how right it was."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np
from aiohttp import web
from msgspec import Struct

from dafu.evaluation.drift import Verdict, drift, reference, verdict
from dafu.registry import Level, Lineup, ModelRef, Role
from dafu.schema import CandidateScore, Versions
from dafu.web.console.rendering import page
from dafu.web.control import ControlDesk
from dafu.web.decisions.decision_endpoints import feed_started
from dafu.web.decisions.feed import DecisionFeed
from dafu.web.endpoints import Call
from dafu.web.judging import JudgingError, PerformanceDesk
from dafu.web.problems import problem
from dafu.web.status import Reporter

__all__ = ["ModelPages", "Said", "Voice", "voices"]

LOOKED_AT: Final = 20_000
"""Decisions that figures of traffic are of, at most."""

ENOUGH: Final = 2_000
"""Scores on either side without which nothing is said of a shift: of fewer, chance alone makes an
index of some hundredths."""

_SLICE: Final = 500
_WAIT_SECONDS: Final = 8.0


class Said(Struct, frozen=True, gc=False):
    """What of a decision tells of models."""

    scores: dict[str, float]
    versions: Versions
    candidates: list[CandidateScore] = []


class Voice(NamedTuple):
    """What a model says of recent traffic.

    `psi` compares its later scores with its earlier ones, None where there are too few.
    """

    role: str
    model: str
    version: str | None
    decisions: int
    mean: float
    high: float
    psi: float | None
    verdict: Verdict | None


class _Seat(NamedTuple):
    """A model in the lineup of a level."""

    level: Level
    role: Role | Literal["former champion"]
    model: ModelRef | None


class ModelPages:
    """The pages of models.

    Parameters
    ----------
    desk : ControlDesk
    judging : PerformanceDesk
    feed : DecisionFeed
    reporter : Reporter
        Of the worker.
    """

    def __init__(
        self,
        desk: ControlDesk,
        judging: PerformanceDesk,
        feed: DecisionFeed,
        reporter: Reporter,
    ) -> None:
        self._desk = desk
        self._judging = judging
        self._feed = feed
        self._reporter = reporter

    async def listed(self, call: Call) -> web.Response:
        """The lineups, and what the models say."""
        registry = await self._desk.registry(call.request)
        if isinstance(registry, web.Response):
            return registry
        await feed_started(self._feed)
        made = await self._feed.search(LOOKED_AT, lambda _: True)
        found = []
        for start in range(0, len(made), _SLICE):
            found += [_decode(m.payload) for m in made[start : start + _SLICE]]
            await asyncio.sleep(0)
        status = await self._reporter.status()
        seats = [*_seats("scoring", registry.scoring), *_seats("sequence", registry.sequence)]
        return page(
            call,
            "models.html",
            title="Models",
            seats=seats,
            voices=voices(reversed(found)),
            looked_at=len(found),
            configured=status.model,
            alarms=[alarm for level in status.models.values() for alarm in level.alarms],
        )

    async def performance(self, call: Call) -> web.Response:
        """Decisions beside what became known of them; worked out while somebody waits."""
        try:
            report = await self._judging.report(wait=_WAIT_SECONDS)
        except JudgingError as exc:
            return problem(503, str(exc), headers={"Retry-After": "30"})
        return page(call, "performance.html", title="Performance", report=report)


def voices(said: Iterable[Said]) -> list[Voice]:
    """What each model says of decisions, which come oldest first."""
    scores: defaultdict[tuple[str, str, str | None], list[float]] = defaultdict(list)
    for one in said:
        for name, score in one.scores.items():
            version = one.versions.rules if name == "rules" else one.versions.model
            scores["rules" if name == "rules" else "champion", name, version].append(score)
        for candidate in one.candidates:
            scores[candidate.role, candidate.model, candidate.version].append(candidate.risk_score)
    return [_voice(*key, np.array(found)) for key, found in sorted(scores.items(), key=_order)]


def _order(item: tuple[tuple[str, str, str | None], list[float]]) -> tuple[str, str, str]:
    (role, name, version), _ = item
    return role, name, version or ""


def _voice(role: str, name: str, version: str | None, found: np.ndarray) -> Voice:
    half = len(found) // 2
    psi: float | None = None
    word: Verdict | None = None
    if half >= ENOUGH:
        shift = drift(reference(name, found[:half]), found[half:])
        if math.isfinite(shift.psi):
            psi, word = shift.psi, verdict(shift)
    mean, high = float(found.mean()), float((found >= 0.6).mean())
    return Voice(role, name, version, len(found), mean, high, psi, word)


def _seats(level: Level, lineup: Lineup) -> list[_Seat]:
    seats = [_Seat(level, "champion", lineup.champion)]
    seats += [_Seat(level, c.role, c.model) for c in lineup.candidates]
    seats += [_Seat(level, "former champion", m) for m in reversed(lineup.former)]
    return seats


_decode: Final = msgspec.json.Decoder(Said).decode
