"""Decisions as bytes: verdicts, scores and reasons of a batch into payloads.

A template decision, encoded once, gives everything that no row changes; a compiled kernel writes
each row's values into it. Reasons are put into words, and encoded one by one, for the few
transactions that have any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from dafu.columns import ByteColumn, positions
from dafu.features.catalogue import CATALOGUE_HASH, INDEX
from dafu.models.model import GROUPS, Contributions, Model, Scores
from dafu.registry import Role
from dafu.rules import Evaluation, RuleSet
from dafu.schema import (
    CandidateScore,
    Decision,
    Explanations,
    FiredRule,
    Reason,
    Versions,
    encode_decision,
)
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

_FIXED: Final = 3 + len(GROUPS)
"""Number slots before those of models: risk, confidence, rules, groups."""

TOP_FEATURES: Final = 3
"""How many features a reviewed or blocked decision names that raised the model's score most."""

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
    """Writes the decisions of one set of rules, models and thresholds.

    Parameters
    ----------
    rules : RuleSet
    model : Model or None
        The one that decides; without it rules decide alone.
    thresholds : Thresholds
    candidates : sequence of (role, Model)
        Those whose scores are only noted.
    """

    def __init__(
        self,
        rules: RuleSet,
        model: Model | None,
        thresholds: Thresholds,
        candidates: Sequence[tuple[Role, Model]] = (),
    ) -> None:
        self._model = model
        self._columns = np.empty(0, np.int32) if model is None else model.column_index(INDEX)
        names = [] if model is None else [model.name, *model.member_names]
        self._members = names[1:]
        by_model = {name: number_slot(_FIXED + k) for k, name in enumerate(names)}
        first = _FIXED + len(names)
        looking_on = [
            CandidateScore(role, m.name, m.version, number_slot(first + k))  # type: ignore[arg-type]
            for k, (role, m) in enumerate(candidates)
        ]
        self._numbers = first + len(looking_on)
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
                    explanations=Explanations(*map(number_slot, range(3, _FIXED))),
                    reasons=text_slot(6),
                    rules_fired=text_slot(7),
                    versions=Versions(
                        rules.version,
                        model.version if model else None,
                        text_slot(8),
                        CATALOGUE_HASH,
                        thresholds.version,
                    ),
                    degraded=model is None,
                    candidates=looking_on,
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
        sequence: np.ndarray,
        candidates: Sequence[np.ndarray] = (),
        rings: Mapping[int, Reason] | None = None,
        lists: Mapping[int, Sequence[Reason]] | None = None,
    ) -> ByteColumn:
        """Payloads of n decisions, in order: what `encode_decision` makes of each.

        Parameters
        ----------
        ids : DecisionIds of n
        times : int64 [n], epoch milliseconds
        features : float64 [n, F], catalogue order
            As the model saw them.
        evaluation, scores, verdicts
            What rules, model (None: there is none) and thresholds made of the batch.
        sequence : uint64 [n]
            The sequence model whose view is among the features, 0 for none.
        candidates : sequence of float64 [n]
            Risks by the models that look on.
        rings : mapping of row to Reason
            What is to be said of rings that users are in.
        lists : mapping of row to sequence of Reason
            What is to be said of lists that something of the transaction is on.

        Raises
        ------
        UnwritableValueError
            If a risk is beyond 0..1 or no number, an id is absent, or a time is beyond the years
            1..9999.
        """
        rows = positions(verdicts.decision != APPROVE)
        contributions = None
        if scores is not None and self._model is not None and rows.size:
            contributions = self._model.explain(features[rows], self._columns)
            explained = scores.group_risk.copy()
            explained[rows] = self._model.explained_risk(contributions)
            scores = scores._replace(group_risk=explained)
        group_risk = None if scores is None else self._by_group(scores.group_risk)
        told = {} if contributions is None else self._told(features, rows, contributions)
        reasons, fired = self._reasons(
            features, evaluation, scores, group_risk, verdicts, told, rings or {}, lists or {}
        )
        texts = [
            *ids,
            _DECISIONS.take(verdicts.decision),
            _LEVELS.take(verdicts.level),
            _FRAUD.take(verdicts.fraud.astype(np.int64)),
            reasons,
            fired,
            _hex_or_null(sequence),
        ]
        micros = self._micros(evaluation, scores, group_risk, verdicts, candidates)
        return self._template.fill(texts, micros, times)

    def _by_group(self, group_risk: np.ndarray) -> np.ndarray:
        """Columns by GROUPS; 0 for groups that the model does not have."""
        assert self._model is not None
        out = np.zeros((len(group_risk), len(GROUPS)))
        for k, group in enumerate(GROUPS):
            if group in self._model.groups:
                out[:, k] = group_risk[:, self._model.groups.index(group)]
        return out

    def _told(
        self, features: np.ndarray, rows: np.ndarray, contributions: Contributions
    ) -> dict[int, str]:
        """Which features of each row raise its score most, with their values."""
        assert self._model is not None
        names = self._model.feature_names
        top = np.argsort(-contributions.features, axis=1, kind="stable")[:, :TOP_FEATURES]
        values = features[rows[:, None], self._columns]
        told: dict[int, str] = {}
        for row, best, shares, own in zip(
            rows.tolist(), top.tolist(), contributions.features, values, strict=True
        ):
            parts = [f"{names[f]} {feature_text(own[f])}" for f in best if shares[f] > 0.0]
            if parts:
                told[row] = ", ".join(parts)
        return told

    def _micros(
        self,
        evaluation: Evaluation,
        scores: Scores | None,
        group_risk: np.ndarray | None,
        verdicts: Verdicts,
        candidates: Sequence[np.ndarray],
    ) -> np.ndarray:
        """All numbers in millionths, by the columns of the template's slots."""
        risk = verdicts.risk
        numbers = np.zeros((len(risk), self._numbers))
        numbers[:, 0] = risk
        numbers[:, 1] = np.maximum(risk, 1.0 - risk)
        numbers[:, 2] = evaluation.risk
        for k, group in enumerate(GROUPS):
            if group in evaluation.group_risk:
                numbers[:, 3 + k] = evaluation.group_risk[group]
        if scores is not None and group_risk is not None:
            np.maximum(numbers[:, 3:_FIXED], group_risk, out=numbers[:, 3:_FIXED])
            numbers[:, _FIXED] = scores.risk
            for k, name in enumerate(self._members):
                numbers[:, _FIXED + 1 + k] = scores.members[name]
        for k, looked_on in enumerate(candidates):
            numbers[:, self._numbers - len(candidates) + k] = looked_on
        with np.errstate(invalid="ignore"):  # what is no number, the template refuses
            micros: np.ndarray = np.rint(numbers * MICRO).astype(np.int64)
        return micros

    def _reasons(
        self,
        features: np.ndarray,
        evaluation: Evaluation,
        scores: Scores | None,
        group_risk: np.ndarray | None,
        verdicts: Verdicts,
        told: Mapping[int, str],
        rings: Mapping[int, Reason],
        lists: Mapping[int, Sequence[Reason]],
    ) -> tuple[ByteColumn, ByteColumn]:
        """Reasons and fired rules of each row as JSON: rules first, then lists, then the ring."""
        reasons: dict[int, list[Reason]] = {}
        fired: dict[int, list[FiredRule]] = {}
        for i in evaluation.rows_with_hits().tolist():
            hits = evaluation.hits(i)
            fired[i] = [FiredRule(h.rule_id, h.action, h.risk_score, h.mode) for h in hits]
            reasons[i] = [Reason(f"rule:{h.rule_id}", h.text) for h in hits if h.mode == "live"]
        for i, on_lists in lists.items():
            reasons.setdefault(i, []).extend(on_lists)
        for i, reason in rings.items():
            reasons.setdefault(i, []).append(reason)
        if scores is not None and group_risk is not None and self._model is not None:
            rows = positions((verdicts.level > 0) | (verdicts.decision != APPROVE))
            found = model_reasons(
                self._model.name, scores.risk[rows], group_risk[rows], features[rows]
            )
            for i, by_model in zip(rows.tolist(), found, strict=True):
                if by_model is not None:
                    reasons.setdefault(i, []).append(by_model)
                if i in told:
                    source = f"model:{self._model.name}"
                    most = Reason(source, f"raised most by {told[i]}")
                    reasons.setdefault(i, []).append(most)
        n = len(verdicts.risk)
        return _lists(reasons, n), _lists(fired, n)


def feature_text(value: float) -> str:
    """A feature's value for people, with six significant digits; the same everywhere."""
    return "missing" if np.isnan(value) else f"{value:.6g}"


def _hex_or_null(numbers: np.ndarray) -> ByteColumn:
    """JSON of each number: sixteen hexadecimal digits as a string, null for 0."""
    distinct, which = np.unique(numbers, return_inverse=True)
    texts = [_encode(f"{int(n):016x}" if n else None) for n in distinct]
    return ByteColumn.of(texts).take(which)


def _lists(by_row: dict[int, Any], n: int) -> ByteColumn:
    """JSON of n lists, most of which are empty and not in `by_row`."""
    encoded = ByteColumn.of([_EMPTY, *map(_encode, by_row.values())])
    which = np.zeros(n, dtype=np.int64)
    which[list(by_row)] = np.arange(1, len(by_row) + 1)
    return encoded.take(which)
