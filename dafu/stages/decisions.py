"""Decisions as bytes: verdicts, scores and reasons of a batch into payloads.

A template decision, encoded once, gives everything that no row changes; a compiled kernel writes
each row's values into it. Reasons are put into words, and encoded one by one, for the few
transactions that have any.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from dafu.columns import ByteColumn
from dafu.features.catalogue import CATALOGUE_HASH
from dafu.models.model import Model, Scores
from dafu.rules import Evaluation, RuleSet
from dafu.schema import Decision, Explanations, FiredRule, Reason, Versions, encode_decision
from dafu.stages.decide import APPROVE, DECISIONS, DIGITS, LEVELS, Thresholds, Verdicts
from dafu.stages.decision_json import (
    MICRO,
    Template,
    number_slot,
    quoted_text_slot,
    text_slot,
    time_slot,
)
from dafu.stages.reasons import model_reasons

GROUPS: Final = ("amount", "behavior", "merchant")
"""Feature groups in the order of the fields of `Explanations`."""

RULES: Final = "rules"
"""What decisions call the rules where they name their scores."""

assert MICRO == 10**DIGITS

_encode = msgspec.json.Encoder().encode
_DECISIONS: Final = ByteColumn.of([_encode(name) for name in DECISIONS])
_LEVELS: Final = ByteColumn.of([_encode(name) for name in LEVELS])
_FRAUD: Final = ByteColumn.of([_encode(False), _encode(True)])
_EMPTY: Final = b"[]"


class DecisionIds(NamedTuple):
    """Whose decisions: n ids each, as what stands between the quotes in JSON (escapes kept)."""

    transaction_id: ByteColumn
    user_id: ByteColumn
    merchant_id: ByteColumn


class DecisionWriter:
    """Writes the decisions of one set of rules, model (None: rules alone) and thresholds."""

    def __init__(self, rules: RuleSet, model: Model | None, thresholds: Thresholds) -> None:
        self._model = model.name if model else None
        self._order = [model.groups.index(g) for g in GROUPS] if model else []
        names = [] if model is None else [model.name, *model.member_names]
        self._members = names[1:]
        by_model = {name: number_slot(6 + k) for k, name in enumerate(names)}
        self._template = Template(
            encode_decision(
                Decision(
                    transaction_id=quoted_text_slot(0),
                    user_id=quoted_text_slot(1),
                    merchant_id=quoted_text_slot(2),
                    timestamp=time_slot(),
                    decision=text_slot(3),
                    risk_score=number_slot(0),
                    risk_level=text_slot(4),
                    is_fraud=text_slot(5),
                    confidence=number_slot(1),
                    model_used=f"{model.name}+{RULES}" if model else RULES,
                    scores={**by_model, RULES: number_slot(2)},
                    explanations=Explanations(number_slot(3), number_slot(4), number_slot(5)),
                    reasons=text_slot(6),
                    rules_fired=text_slot(7),
                    versions=Versions(
                        rules.version,
                        model.version if model else None,
                        CATALOGUE_HASH,
                        thresholds.version,
                    ),
                    degraded=model is None,
                )
            )
        )

    def write(
        self,
        ids: DecisionIds,
        times: np.ndarray,
        features: np.ndarray,
        evaluation: Evaluation,
        scores: Scores | None,
        verdicts: Verdicts,
    ) -> ByteColumn:
        """Payloads of n decisions, in order: what `encode_decision` makes of each.

        Parameters
        ----------
        ids : DecisionIds of n
        times : int64 [n], epoch milliseconds
        features : float64 [n, 83], catalogue order
        evaluation, scores, verdicts
            What rules, model (None: there is none) and thresholds made of the batch.

        Raises
        ------
        UnwritableValueError
            If a risk is beyond 0..1 or no number, an id is absent, or a time is beyond the years
            1..9999.
        """
        reasons, fired = self._reasons(features, evaluation, scores, verdicts)
        texts = [
            *ids,
            _DECISIONS.take(verdicts.decision),
            _LEVELS.take(verdicts.level),
            _FRAUD.take(verdicts.fraud.astype(np.int64)),
            reasons,
            fired,
        ]
        return self._template.fill(texts, self._micros(evaluation, scores, verdicts), times)

    def _micros(
        self, evaluation: Evaluation, scores: Scores | None, verdicts: Verdicts
    ) -> np.ndarray:
        """All numbers in millionths, by the columns of the template's slots."""
        risk = verdicts.risk
        numbers = np.zeros((len(risk), 7 + len(self._members)))
        numbers[:, 0] = risk
        numbers[:, 1] = np.maximum(risk, 1.0 - risk)
        numbers[:, 2] = evaluation.risk
        for k, group in enumerate(GROUPS):
            numbers[:, 3 + k] = evaluation.group_risk[group]
        if scores is not None:
            np.maximum(numbers[:, 3:6], scores.group_risk[:, self._order], out=numbers[:, 3:6])
            numbers[:, 6] = scores.risk
            for k, name in enumerate(self._members):
                numbers[:, 7 + k] = scores.members[name]
        with np.errstate(invalid="ignore"):  # what is no number, the template refuses
            micros: np.ndarray = np.rint(numbers * MICRO).astype(np.int64)
        return micros

    def _reasons(
        self,
        features: np.ndarray,
        evaluation: Evaluation,
        scores: Scores | None,
        verdicts: Verdicts,
    ) -> tuple[ByteColumn, ByteColumn]:
        """Reasons and fired rules of each row as JSON; rules come first."""
        reasons: dict[int, list[Reason]] = {}
        fired: dict[int, list[FiredRule]] = {}
        for i in evaluation.rows_with_hits().tolist():
            hits = evaluation.hits(i)
            fired[i] = [FiredRule(h.rule_id, h.action, h.risk_score, h.mode) for h in hits]
            reasons[i] = [Reason(f"rule:{h.rule_id}", h.text) for h in hits if h.mode == "live"]
        if scores is not None and self._model is not None:
            rows = np.flatnonzero((verdicts.level > 0) | (verdicts.decision != APPROVE))
            found = model_reasons(
                self._model,
                scores.risk[rows],
                scores.group_risk[rows][:, self._order],
                features[rows],
            )
            for i, reason in zip(rows.tolist(), found, strict=True):
                if reason is not None:
                    reasons.setdefault(i, []).append(reason)
        n = len(verdicts.risk)
        return _lists(reasons, n), _lists(fired, n)


def _lists(by_row: dict[int, Any], n: int) -> ByteColumn:
    """JSON of n lists, most of which are empty and not in `by_row`."""
    encoded = ByteColumn.of([_EMPTY, *map(_encode, by_row.values())])
    which = np.zeros(n, dtype=np.int64)
    which[list(by_row)] = np.arange(1, len(by_row) + 1)
    return encoded.take(which)
