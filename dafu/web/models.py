"""Models over HTTP: which hold, deployments, and how good decisions were."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from aiohttp import web
from msgspec import Meta, Struct

from dafu.errors import DafuError
from dafu.models.package import read_manifest
from dafu.performance import Report
from dafu.registry import Action, ControlEvent, Level, Lineup, ModelRef, Registry, Role
from dafu.schema import LongText
from dafu.web.control import CHANGE_PROBLEMS, READ_PROBLEMS, ControlDesk, signed
from dafu.web.endpoints import Call, Endpoint
from dafu.web.judging import JudgingError, PerformanceDesk
from dafu.web.principals import Permission
from dafu.web.problems import RefusedError, answer, invalid, problem

__all__ = ["Deployment", "Models", "Promotion", "Rollback", "ask_for", "model_endpoints"]

PATIENCE: Final = 5.0
"""Seconds that a caller waits for figures to be worked out."""

_Version = Annotated[str, Meta(min_length=1, max_length=256)]


class Deployment(Struct, frozen=True, forbid_unknown_fields=True):
    """Which package, what for, and why."""

    url: Annotated[LongText, Meta(min_length=1)]
    role: Role = "champion"
    level: Level = "scoring"
    why: LongText = ""


class Promotion(Struct, frozen=True, forbid_unknown_fields=True):
    """Which of the models that look on, by its version, and why."""

    version: _Version
    level: Level = "scoring"
    why: LongText = ""


class Rollback(Struct, frozen=True, forbid_unknown_fields=True):
    """Of which models, and why."""

    level: Level = "scoring"
    why: LongText = ""


class InWork(Struct, frozen=True):
    """What was asked for is not ready yet."""

    detail: str


class Models(Struct, frozen=True):
    """What is deployed: of each level the champion, who looks on, and the champions before.

    A model without URL stands for what the workers are configured with. `number` is that of the
    last event that was granted, -1 for none.
    """

    number: int
    scoring: Lineup
    sequence: Lineup


def model_endpoints(desk: ControlDesk, judging: PerformanceDesk) -> list[Endpoint]:
    """List, deploy, promote, roll back, stop; and performance."""

    async def show(call: Call) -> web.Response:
        registry = await desk.registry(call.request)
        return registry if isinstance(registry, web.Response) else _shown(registry)

    def changed_by(action: Action) -> Any:
        async def change(call: Call) -> web.Response:
            partition = await desk.here(call.request)
            if isinstance(partition, web.Response):
                return partition
            refused = await ask_for(desk, call, action, call.body)
            return _shown(desk.agent.registry(partition)) if refused is None else refused

        return change

    async def performance(call: Call) -> web.Response:
        try:
            report = await judging.report(call.path("version"), PATIENCE)
        except JudgingError as exc:
            return problem(503, str(exc))
        if report is None:
            later = answer(InWork("it is being worked out; ask again"), status=202)
            later.headers["Retry-After"] = "5"
            return later
        return answer(report)

    def changing(name: Action, summary: str, body: type[Struct]) -> Endpoint:
        return Endpoint(
            method="POST",
            path=f"/v1/models/{name}",
            name=f"{name}_model",
            summary=summary,
            tag="models",
            permission=Permission.MODELS,
            handler=changed_by(name),
            body=body,
            returns=Models,
            problems=CHANGE_PROBLEMS,
        )

    return [
        Endpoint(
            method="GET",
            path="/v1/models",
            name="list_models",
            summary="The models that are deployed",
            tag="models",
            permission=Permission.READ,
            handler=show,
            returns=Models,
            problems=READ_PROBLEMS,
        ),
        changing("deploy", "Let a package decide, or look on", Deployment),
        changing("promote", "Let a model that looks on decide", Promotion),
        changing("stop", "Let a model no longer score", Promotion),
        changing("rollback", "Go back to the champion before", Rollback),
        Endpoint(
            method="GET",
            path="/v1/models/{version}/performance",
            name="get_model_performance",
            summary="How good the decisions of a model were, as far as it is known what was fraud",
            tag="models",
            permission=Permission.READ,
            handler=performance,
            returns=Report,
            also={202: InWork},
            problems={503: "The decisions could not be read."},
        ),
    ]


async def ask_for(
    desk: ControlDesk, call: Call, action: Action, asked: Deployment | Promotion | Rollback
) -> web.Response | None:
    """Ask for a change of models where they are registered; why it is refused, None if it is not.

    Raises
    ------
    RefusedError
        If there is no usable package at the URL of a deployment.
    """
    fields: dict[str, Any] = {}
    target: str = asked.level
    if isinstance(asked, Deployment):
        model = await _reference(asked.url)
        fields, target = {"role": asked.role, "model": model}, model.version
    elif isinstance(asked, Promotion):
        fields, target = {"version": asked.version}, asked.version
    event = ControlEvent(action=action, level=asked.level, **fields, **signed(call, asked.why))
    return await desk.ask(call, event, target)


async def _reference(url: str) -> ModelRef:
    try:
        manifest = await asyncio.to_thread(read_manifest, url)
    except (DafuError, OSError) as exc:
        raise RefusedError(invalid(f"no usable package: {exc}", "url", status=422)) from None
    return ModelRef(manifest.name, manifest.version, url)


def _shown(registry: Registry) -> web.Response:
    return answer(Models(registry.number, registry.scoring, registry.sequence))
