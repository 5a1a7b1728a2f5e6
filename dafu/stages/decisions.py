"""Decisions as bytes: verdicts, scores and reasons of a batch into payloads.

Everything that is the same for all rows, or can be rounded and formatted by whole columns, is; what
is left for each transaction is to build one `Decision` and encode it. Reasons are put into words
for the few transactions that have any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from dafu.features.catalogue import CATALOGUE_HASH
from dafu.models.isolation import IsolationForestModel, Scores
from dafu.rules import Evaluation, RuleSet
from dafu.schema import Decision, Explanations, FiredRule, Reason, Versions, encode_decision
from dafu.stages.decide import APPROVE, DECISIONS, DIGITS, LEVELS, Thresholds, Verdicts
from dafu.stages.reasons import model_reason

GROUPS: Final = ("amount", "behavior", "merchant")
"""Feature groups in the order of the fields of `Explanations`."""

RULES: Final = "rules"
"""What decisions call the rules where they name their scores."""

_NO_REASONS: Final[list[Reason]] = []
_NO_RULES: Final[list[FiredRule]] = []


class DecisionWriter:
    """Writes the decisions of one set of rules, model (None: rules alone) and thresholds."""

    def __init__(
        self, rules: RuleSet, model: IsolationForestModel | None, thresholds: Thresholds
    ) -> None:
        self._model = model.name if model else None
        self._order = [model.groups.index(g) for g in GROUPS] if model else []
        self._used = f"{model.name}+{RULES}" if model else RULES
        self._versions = Versions(
            rules.version, model.version if model else None, CATALOGUE_HASH, thresholds.version
        )

    def write(
        self,
        documents: Sequence[Any],
        times: np.ndarray,
        features: np.ndarray,
        evaluation: Evaluation,
        scores: Scores | None,
        verdicts: Verdicts,
    ) -> list[bytes]:
        """Payloads of n decisions, in order.

        Parameters
        ----------
        documents : n objects with transaction_id, user_id and merchant_id
        times : int64 [n], epoch milliseconds
        features : float64 [n, 83], catalogue order
        evaluation, scores, verdicts
            What rules, model (None: there is none) and thresholds made of the batch.
        """
        reasons, fired = self._reasons(features, evaluation, scores, verdicts)
        used, versions, degraded = self._used, self._versions, self._model is None
        return [
            encode_decision(
                Decision(
                    document.transaction_id,
                    document.user_id,
                    document.merchant_id,
                    stamp,
                    DECISIONS[decision],
                    risk,
                    LEVELS[level],
                    fraud,
                    confidence,
                    used,
                    by_model,
                    Explanations(*explanation),
                    reasons.get(i, _NO_REASONS),
                    fired.get(i, _NO_RULES),
                    versions,
                    degraded,
                )
            )
            for i, (
                document,
                stamp,
                decision,
                risk,
                level,
                fraud,
                confidence,
                by_model,
                explanation,
            ) in enumerate(
                zip(
                    documents,
                    np.datetime_as_string(times.astype("datetime64[ms]"), timezone="UTC").tolist(),
                    verdicts.decision.tolist(),
                    verdicts.risk.tolist(),
                    verdicts.level.tolist(),
                    verdicts.fraud.tolist(),
                    _rounded(np.maximum(verdicts.risk, 1.0 - verdicts.risk)),
                    self._scores(evaluation, scores),
                    self._explanations(evaluation, scores),
                    strict=True,
                )
            )
        ]

    def _scores(self, evaluation: Evaluation, scores: Scores | None) -> list[dict[str, float]]:
        by_rules = _rounded(evaluation.risk)
        if scores is None or self._model is None:
            return [{RULES: r} for r in by_rules]
        name = self._model
        return [{name: m, RULES: r} for m, r in zip(_rounded(scores.risk), by_rules, strict=True)]

    def _explanations(self, evaluation: Evaluation, scores: Scores | None) -> list[list[float]]:
        risks = np.column_stack([evaluation.group_risk[g] for g in GROUPS])
        if scores is not None:
            risks = np.maximum(risks, scores.group_risk[:, self._order])
        return _rounded(risks)

    def _reasons(
        self,
        features: np.ndarray,
        evaluation: Evaluation,
        scores: Scores | None,
        verdicts: Verdicts,
    ) -> tuple[dict[int, list[Reason]], dict[int, list[FiredRule]]]:
        """Reasons and fired rules of the rows that have any, by row; rules come first."""
        reasons: dict[int, list[Reason]] = {}
        fired: dict[int, list[FiredRule]] = {}
        for i in evaluation.rows_with_hits().tolist():
            hits = evaluation.hits(i)
            fired[i] = [FiredRule(h.rule_id, h.action, h.risk_score, h.mode) for h in hits]
            reasons[i] = [Reason(f"rule:{h.rule_id}", h.text) for h in hits if h.mode == "live"]
        if scores is not None and self._model is not None:
            notable = (verdicts.level > 0) | (verdicts.decision != APPROVE)
            for i in np.flatnonzero(notable).tolist():
                reason = model_reason(
                    self._model, scores.risk[i], scores.group_risk[i], features[i]
                )
                if reason is not None:
                    reasons.setdefault(i, []).append(reason)
        return reasons, fired


def _rounded(values: np.ndarray) -> list[Any]:
    rounded: list[Any] = np.round(values, DIGITS).tolist()
    return rounded
