"""Decisions as the merchants agent publishes them, made up for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from dafu.agents.shell import SOURCE_PLACE
from dafu.schema import Decision, Explanations, FiredRule, Reason, Versions, encode_decision
from dafu.streaming.records import encode_headers
from dafu.web.decisions.memory import Made, hashes_of


def decision(user: str, transaction: str, **changes: Any) -> Decision:
    fields: dict[str, Any] = {
        "transaction_id": transaction,
        "user_id": user,
        "merchant_id": "shop",
        "timestamp": "2026-03-01T10:15:00.000Z",
        "decision": "approve",
        "risk_score": 0.25,
        "risk_level": "low",
        "is_fraud": False,
        "confidence": 0.75,
        "model_used": "rules",
        "scores": {"rules": 0.25},
        "explanations": Explanations(0.25, 0.0, 0.0, 0.0),
        "reasons": [Reason("rule:large", "amount 12,400 > 10,000")],
        "rules_fired": [FiredRule("large", "review", 0.25, "live")],
        "versions": Versions("r", None, None, "f", "t"),
        "degraded": False,
    }
    return Decision(**{**fields, **changes})


def made(
    user: str,
    transaction: str,
    offset: int = 0,
    source: tuple[int, int] | None = None,
    **changes: Any,
) -> Made:
    place = [] if source is None else [("dafu-source", SOURCE_PLACE.pack(*source))]
    headers = encode_headers([*place, ("dafu-latency-ms", b"12"), ("dafu-worker", b"host:1")])
    payload = encode_decision(decision(user, transaction, **changes))
    return Made(payload, 0, offset, 1_700_000_000_000 + offset, headers)


def hashes(*users: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return hashes_of([user.encode() for user in users])
