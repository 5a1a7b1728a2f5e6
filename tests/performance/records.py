"""Decisions and labels to judge."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dafu.schema import CandidateScore, Decision, Explanations, Label, Versions

DAY = 86_400_000
START = 1_772_409_600_000
"""2026-03-02T00:00:00Z, a Monday."""


def iso(time: int) -> str:
    moment = datetime.fromtimestamp(time / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time % 1000:03}Z"


def decision(
    transaction: str,
    time: int,
    outcome: Any = "approve",
    risk: float = 0.1,
    *,
    user: str = "u",
    model: str | None = "v1",
    rules: str = "r1",
    candidates: Sequence[CandidateScore] = (),
) -> Decision:
    return Decision(
        transaction_id=transaction,
        user_id=user,
        merchant_id="m",
        timestamp=iso(time),
        decision=outcome,
        risk_score=risk,
        risk_level="low",
        is_fraud=outcome != "approve",
        confidence=0.75,
        model_used="rules" if model is None else "forest+rules",
        scores={"rules": risk},
        explanations=Explanations(0.0, 0.0, 0.0, 0.0),
        reasons=[],
        rules_fired=[],
        versions=Versions(rules, model, None, "f", "t"),
        degraded=model is None,
        candidates=list(candidates),
    )


def label(
    transaction: str, observed: int, fraud: bool = True, *, user: str = "u", **more: Any
) -> Label:
    return Label(transaction, user, fraud, "chargeback", observed, **more)
