"""What the endpoints about decisions take and give, as types; the OpenAPI document has them too."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from dafu.schema import (
    Decision,
    DecisionName,
    Explanations,
    Moment,
    Reason,
    RiskLevel,
    Unit,
    Versions,
)

__all__ = [
    "ById",
    "DecisionFilter",
    "DecisionList",
    "DecisionQuery",
    "Listed",
    "Labelled",
    "Labels",
    "Pending",
    "ProblemDocument",
    "ScoreBatch",
    "ScoreQuery",
    "Scored",
    "ScoredBatch",
    "ScoredItem",
    "StreamQuery",
    "fallback",
]

MOST_ITEMS: Final = 1_000
"""In one request."""

Timeout = Annotated[int, Meta(ge=1, le=30_000)]


class ScoreQuery(Struct, frozen=True):
    """How long to wait for the decision, in milliseconds; the worker's setting by default."""

    timeout_ms: Timeout | None = None


class Scored(Decision, frozen=True, kw_only=True, omit_defaults=True):
    """A decision as on the topic, and how long it took to answer.

    With `fallback` it is none: nobody had decided in time, and `decision` is what the worker is
    configured to answer then. Nothing else is claimed: what a decision would say is null or empty.
    """

    risk_score: Unit | None  # type: ignore[assignment]
    risk_level: RiskLevel | None  # type: ignore[assignment]
    is_fraud: bool | None  # type: ignore[assignment]
    confidence: Annotated[float, Meta(ge=0.5, le=1.0)] | None  # type: ignore[assignment]
    explanations: Explanations | None  # type: ignore[assignment]
    versions: Versions | None  # type: ignore[assignment]
    processing_time_ms: float
    fallback: bool = False


def fallback(
    key: tuple[str, str], merchant_id: str, at: str, decision: DecisionName, ms: float, why: str
) -> Scored:
    """The configured answer for want of a decision."""
    return Scored(
        transaction_id=key[1],
        user_id=key[0],
        merchant_id=merchant_id,
        timestamp=at,
        decision=decision,
        risk_score=None,
        risk_level=None,
        is_fraud=None,
        confidence=None,
        model_used="none",
        scores={},
        explanations=None,
        reasons=[Reason("fallback", why)],
        rules_fired=[],
        versions=None,
        degraded=True,
        processing_time_ms=ms,
        fallback=True,
    )


class Pending(Struct, frozen=True):
    """The transaction was published and is not decided yet; `location` is where to look."""

    transaction_id: str
    user_id: str
    location: str
    status: Literal["pending"] = "pending"


class ProblemDocument(Struct, frozen=True, omit_defaults=True):
    """Problem details (RFC 9457); `field` is the path of what is wrong, `reason` a stable code."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    field: str | None = None
    reason: str | None = None


class ScoreBatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Transactions, each as in `POST /v1/score`; each is judged by itself."""

    transactions: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MOST_ITEMS)]


class ScoredItem(Struct, frozen=True, omit_defaults=True):
    """What `POST /v1/score` would have answered: its status, and one of the three documents."""

    status: int
    decision: Scored | None = None
    pending: Pending | None = None
    problem: ProblemDocument | None = None


class ScoredBatch(Struct, frozen=True):
    """One result for each transaction, in their order."""

    results: list[ScoredItem]


class DecisionFilter(Struct, frozen=True):
    """Which decisions; what is not given does not matter.

    `rule` is the id of a rule that fired, live or in shadow.
    """

    user_id: str | None = None
    merchant_id: str | None = None
    decision: DecisionName | None = None
    min_score: Unit | None = None
    rule: str | None = None


class StreamQuery(DecisionFilter, frozen=True):
    """Which decisions to stream."""


class DecisionQuery(DecisionFilter, frozen=True):
    """Which decisions, and how many; `since` and `until` are about the payment's time."""

    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100


class ById(Struct, frozen=True):
    """Whose transaction it is; its time makes it quick to find among those decided long ago."""

    user_id: Annotated[str, Meta(min_length=1, max_length=256)]
    timestamp: Moment | None = None


class Listed(Struct, frozen=True):
    """A decision, and what its record says of how it was made.

    `decided_at` is when it was published, `latency_ms` how long after the transaction was, `worker`
    who decided, `partition` and `offset` where it is on the topic.
    """

    decision: Decision
    decided_at: str
    latency_ms: int | None
    worker: str
    partition: int
    offset: int


class DecisionList(Struct, frozen=True):
    """Decisions, newest first, out of so many that the worker remembers.

    `reaches_back_to` is when the oldest of them was published, null if there are none: what was
    decided before is not listed.
    """

    decisions: list[Listed]
    remembered: int
    reaches_back_to: str | None


class Labelled(Struct, frozen=True):
    """A label that was published."""

    transaction_id: str
    user_id: str


class Labels(Struct, frozen=True):
    """Which labels were published, in their order."""

    accepted: list[Labelled]
