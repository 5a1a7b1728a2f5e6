"""Decisions as pages show them, and which of them somebody wants to see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from dafu.schema import Decision, DecisionName, FiredRule
from dafu.web.decisions.memory import Made
from dafu.web.endpoints import Call
from dafu.web.masking import mask

__all__ = ["Brief", "DecisionQuery", "Shown", "brief", "matching", "shown"]

Outcomes = Literal["all", "review,block", "review", "block", "approve"]


class DecisionQuery(Struct, frozen=True):
    """Which decisions: their outcomes, and the least risk."""

    outcome: Outcomes = "all"
    min_risk: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0


class Brief(Struct, frozen=True, gc=False):
    """The few things of a decision that are counted and filtered by."""

    decision: DecisionName
    risk_score: float
    rules_fired: list[FiredRule]


class Shown(NamedTuple):
    """A decision beside what is told of its record; times are epoch milliseconds."""

    decision: Decision
    latency_ms: int | None
    timestamp: int
    partition: int
    offset: int
    worker: str


brief: Final = msgspec.json.Decoder(Brief).decode
"""The payload of a decision, as far as a `Brief` goes."""


def matching(query: DecisionQuery) -> Callable[[Made], bool]:
    """Whether a decision is one of those that a query is after."""
    wanted = None if query.outcome == "all" else frozenset(query.outcome.split(","))
    if wanted is None and query.min_risk <= 0.0:
        return lambda _: True

    def matches(made: Made) -> bool:
        found = brief(made.payload)
        return (wanted is None or found.decision in wanted) and found.risk_score >= query.min_risk

    return matches


def shown(call: Call, decisions: Iterable[Made]) -> list[Shown]:
    """Decisions with their documents parsed once, as a caller may see them."""
    return [
        Shown(mask(m.decision, call), m.latency_ms, m.timestamp, m.partition, m.offset, m.worker)
        for m in decisions
    ]
