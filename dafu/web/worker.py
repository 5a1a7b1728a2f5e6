"""Views of the worker itself: its state, whether it is well, and what it computes."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from msgspec import Struct

from dafu.features.catalogue import ALIASES, CATALOGUE_HASH, FEATURES, Feature
from dafu.web.endpoints import Call, Endpoint
from dafu.web.metrics import Exposer, metrics_response
from dafu.web.principals import Permission
from dafu.web.problems import answer, problem
from dafu.web.status import Reporter, Status

__all__ = ["worker_endpoints"]


class Catalogue(Struct, frozen=True):
    """The features that rules and models may read."""

    hash: str
    features: tuple[Feature, ...]
    aliases: dict[str, str]


class Health(Struct, frozen=True):
    """`live` or `ready`."""

    status: str


def worker_endpoints(reporter: Reporter, exposer: Exposer) -> list[Endpoint]:
    """Status, features, metrics and health."""

    async def status(_: Call) -> web.Response:
        return answer(await reporter.status())

    async def features(_: Call) -> web.Response:
        return answer(Catalogue(CATALOGUE_HASH, tuple(FEATURES), dict(ALIASES)))

    async def metrics(call: Call) -> web.Response:
        return metrics_response(exposer, call.request)

    async def live(call: Call) -> web.Response:
        return _health(call, "live", reporter.dead())

    async def ready(call: Call) -> web.Response:
        return _health(call, "ready", reporter.not_ready())

    common: dict[str, Any] = {"method": "GET", "tag": "worker"}
    return [
        Endpoint(
            path="/v1/status",
            name="get_status",
            summary="Counters, versions, partitions and lag of this worker",
            permission=Permission.READ,
            handler=status,
            returns=Status,
            **common,
        ),
        Endpoint(
            path="/v1/features",
            name="get_features",
            summary="The feature catalogue",
            permission=Permission.READ,
            handler=features,
            returns=Catalogue,
            **common,
        ),
        Endpoint(
            path="/metrics",
            name="get_metrics",
            summary="Counters and sizes, for Prometheus",
            permission=Permission.OPERATE,
            handler=metrics,
            media="text/plain",
            **common,
        ),
        Endpoint(
            path="/health/live",
            name="get_live",
            summary="Whether the worker runs",
            permission=None,
            handler=live,
            returns=Health,
            problems={503: "It can not go on."},
            **common,
        ),
        Endpoint(
            path="/health/ready",
            name="get_ready",
            summary="Whether the worker should get traffic",
            permission=None,
            handler=ready,
            returns=Health,
            problems={503: "It should not; callers with a key are told why."},
            **common,
        ),
    ]


def _health(call: Call, what: str, reasons: list[str]) -> web.Response:
    if not reasons:
        return answer(Health(what))
    if not call.may(Permission.READ):
        return problem(503, f"not {what}")
    return problem(503, f"not {what}: {'; '.join(reasons)}", reasons=reasons)
