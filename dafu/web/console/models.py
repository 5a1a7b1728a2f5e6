"""Pages of models: which hold, what they say, whether that shifts, and how right it was."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Final, Literal, NamedTuple, get_args
from urllib.parse import urlencode

import msgspec
import numpy as np
from aiohttp import web
from msgspec import Meta, Struct

from dafu.evaluation.drift import Verdict, drift, reference, verdict
from dafu.registry import LEVELS, Action, Level, Lineup, ModelRef, Role
from dafu.schema import CandidateScore, Versions
from dafu.web.console.forms import read_form
from dafu.web.console.rendering import page
from dafu.web.control import ControlDesk
from dafu.web.decisions.decision_endpoints import feed_started
from dafu.web.decisions.feed import DecisionFeed
from dafu.web.endpoints import Call
from dafu.web.judging import JudgingError, PerformanceDesk
from dafu.web.models import Deployment, Promotion, Rollback, ask_for
from dafu.web.problems import RefusedError, invalid, problem
from dafu.web.status import Reporter

__all__ = ["ModelPages", "ModelsQuery", "Said", "Voice", "voices"]

LOOKED_AT: Final = 20_000
"""Decisions that figures of traffic are of, at most."""

ENOUGH: Final = 2_000
"""Scores on either side without which nothing is said of a shift: of fewer, chance alone makes an
index of some hundredths."""

SHORTEST_WHY: Final = 3
"""Characters; who changes what decides on payments says why."""

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


class ModelsQuery(Struct, frozen=True):
    """What was just asked for, to be told once more."""

    done: Annotated[str, Meta(max_length=20)] = ""


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
            goes_back=[level for level in LEVELS if getattr(registry, level).former],
            levels=LEVELS,
            roles=get_args(Role),
            done=call.query.done,
        )

    async def deploy(self, call: Call) -> web.Response:
        """Let a package decide, or look on, and go back to the models."""
        return await self._changed(call, "deploy", Deployment)

    async def promote(self, call: Call) -> web.Response:
        """Let a model that looks on decide."""
        return await self._changed(call, "promote", Promotion)

    async def stop(self, call: Call) -> web.Response:
        """Let a model no longer score."""
        return await self._changed(call, "stop", Promotion)

    async def roll_back(self, call: Call) -> web.Response:
        """Go back to the champion before."""
        return await self._changed(call, "rollback", Rollback)

    async def _changed(
        self, call: Call, action: Action, kind: type[Deployment | Promotion | Rollback]
    ) -> web.Response:
        partition = await self._desk.here(call.request)
        if isinstance(partition, web.Response):
            return partition
        form = await read_form(call.request, kind)
        if len(form.why) < SHORTEST_WHY:
            raise RefusedError(invalid(f"say why, in {SHORTEST_WHY} characters at least", "why"))
        refused = await ask_for(self._desk, call, action, form)
        if refused is not None:
            return refused
        raise web.HTTPSeeOther(f"/console/models?{urlencode({'done': action})}")

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
