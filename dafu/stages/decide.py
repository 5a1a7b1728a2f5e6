"""From scores and rules to decisions: the arithmetic of risk, without state or transport.

The risk score is the larger of what the model and what the live rules say. Rules with an outcome
have the last word: block blocks, review asks for at least a review, approve lifts a review or a
block that stems from scores alone.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct

APPROVE: Final = 0
REVIEW: Final = 1
BLOCK: Final = 2
DECISIONS: Final = ("approve", "review", "block")
LEVELS: Final = ("low", "medium", "high", "critical")

RULE_NONE: Final = 0
RULE_APPROVE: Final = 1
RULE_REVIEW: Final = 2
RULE_BLOCK: Final = 3

DIGITS: Final = 6
"""Decimals of every score in a decision."""


Fraction = Annotated[float, Meta(ge=0.0, le=1.0, description="a number from 0 to 1")]


class Thresholds(Struct, frozen=True, forbid_unknown_fields=True):
    """Risk scores from which something holds; each boundary belongs to the higher side."""

    fraud: Fraction = 0.7
    """`is_fraud`, and at least `review`."""
    block: Fraction = 0.9
    medium: Fraction = 0.3
    high: Fraction = 0.6
    critical: Fraction = 0.85

    @property
    def version(self) -> str:
        """Twelve hex digits that change with any of the values."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]


class Verdicts(Struct, frozen=True):
    """Decisions of a batch: risk 0..1, index into DECISIONS and into LEVELS, is_fraud."""

    risk: np.ndarray
    decision: np.ndarray
    level: np.ndarray
    fraud: np.ndarray


def decide(
    model_risk: np.ndarray | None,
    rule_risk: np.ndarray,
    rule_outcome: np.ndarray,
    thresholds: Thresholds,
) -> Verdicts:
    """Combine the risk of the model (None: there is none) and of the live rules.

    Parameters
    ----------
    model_risk, rule_risk : float64 [n], 0..1
    rule_outcome : int8 [n], RULE_NONE, RULE_APPROVE, RULE_REVIEW or RULE_BLOCK
    """
    risk = rule_risk if model_risk is None else np.maximum(model_risk, rule_risk)
    risk = np.round(risk, DIGITS)
    by_score = np.where(
        risk >= thresholds.block, BLOCK, np.where(risk >= thresholds.fraud, REVIEW, APPROVE)
    )
    decision = by_score
    decision = np.where(rule_outcome == RULE_REVIEW, np.maximum(by_score, REVIEW), decision)
    decision = np.where(rule_outcome == RULE_APPROVE, APPROVE, decision)
    decision = np.where(rule_outcome == RULE_BLOCK, BLOCK, decision)
    bounds = np.array([thresholds.medium, thresholds.high, thresholds.critical])
    level = np.searchsorted(bounds, risk, side="right")
    return Verdicts(risk, decision.astype(np.int8), level.astype(np.int8), risk >= thresholds.fraud)
