"""Payloads against decisions put together and encoded one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.features.catalogue import ALIASES, CATALOGUE_HASH, INDEX
from dafu.loading import load_stages
from dafu.models.ensemble import EnsembleModel, Part
from dafu.models.isolation import IsolationForestModel
from dafu.models.model import GROUPS, Model, Scores
from dafu.registry import Role
from dafu.rules import Evaluation, parse_rules
from dafu.schema import (
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    CandidateScore,
    Decision,
    Explanations,
    FiredRule,
    Reason,
    Versions,
    encode_decision,
)
from dafu.settings import load_settings
from dafu.stages import decision_json
from dafu.stages.decide import APPROVE, DECISIONS, LEVELS, Thresholds, Verdicts, decide
from dafu.stages.decision_json import UnwritableValueError
from dafu.stages.decisions import DecisionIds, DecisionWriter, feature_text
from dafu.stages.names import RULE_NAMES
from dafu.stages.reasons import model_reasons

RULES = parse_rules(
    """
version: 1
rules:
  - {id: large, condition: amount > 1000, action: review, risk_score: 0.654321,
     reason: "large, from {country}"}
  - {id: odd, condition: country != "DE", action: block, risk_score: 0.000009, mode: shadow}
  - {id: known, condition: country == "DE", action: approve, risk_score: 0.0, priority: 1}
  - {id: both, condition: amount > 5000 and is_night, action: block, risk_score: 1.0}
""",
    RULE_NAMES,
    ALIASES,
)
THRESHOLDS = Thresholds()
_loaded = load_stages(load_settings())[1].model
assert isinstance(_loaded, IsolationForestModel)
MODEL = _loaded
ODD_MODEL = replace(MODEL, name='of "\u00fcbel" \0 \\')
RULES_MODEL = replace(MODEL, name="rules")
ENSEMBLE = EnsembleModel(
    name="both",
    feature_names=MODEL.feature_names,
    feature_groups=MODEL.feature_groups,
    groups=tuple(reversed(MODEL.groups)),
    catalogue_hash=MODEL.catalogue_hash,
    members=(MODEL, ODD_MODEL),
    parts=(Part("risk", 0.5, 0.1), Part("risk", 0.5, 0.1)),
    link="identity",
)

risks = st.floats(0.0, 1.0).map(abs) | st.sampled_from(
    (0.0, 1e-6, 4.9e-7, 0.3, 0.7, 0.9999996, 1.0)
)
ids = st.text(max_size=8) | st.sampled_from(
    ("plain", 'a "quoted" \\ one', "\0", "\u00e9\u2028", "")
)
row_values = st.tuples(
    st.tuples(ids, ids, ids),
    st.integers(MIN_TIMESTAMP_MS, MAX_TIMESTAMP_MS - 1),
    st.sampled_from((0.0, 5.0, 1234.5, 99_999.0)),
    st.sampled_from((None, "DE", 'F"R\\', "\u00fc\n")),
    st.sampled_from((0.0, 1.0, np.nan)),
    risks,
    st.tuples(risks, risks, risks, risks, risks),
)
batches = st.lists(row_values, min_size=1, max_size=12)
Made = tuple[
    DecisionIds,
    np.ndarray,
    np.ndarray,
    Evaluation,
    Scores | None,
    Verdicts,
    np.ndarray,
    list[np.ndarray],
    dict[int, Reason],
]
RING = Reason("ring:r", "shares \u00fc with 2 users")
CANDIDATES: list[tuple[Role, Model]] = [("shadow", MODEL)]


def made(rows: list[Any], model: Model | None) -> Made:
    """What the stage hands to the writer for a batch of described rows."""
    n = len(rows)
    names, times, amounts, countries, nights, risk, groups = zip(*rows, strict=True)
    features = np.full((n, len(INDEX)), np.nan)
    features[:, INDEX["amount"]] = amounts
    features[:, INDEX["is_night"]] = nights
    columns = {name: np.full(n, None) for name in RULES.names}
    columns["amount"] = features[:, INDEX["amount"]]
    columns["is_night"] = features[:, INDEX["is_night"]]
    columns["country"] = np.array(countries, dtype=object)
    evaluation = RULES.evaluate(columns, n)
    scores = None
    if model is not None:
        of_group = dict(zip(MODEL.groups, np.array(groups).T, strict=True))
        scores = Scores(
            np.array(risk),
            np.array(risk),
            np.stack([of_group.get(g, np.ones(n)) for g in model.groups], axis=1),
            {name: np.array(risk) / (2 + k) for k, name in enumerate(model.member_names)},
        )
    verdicts = decide(
        None if scores is None else scores.risk, evaluation.risk, evaluation.outcome, THRESHOLDS
    )
    written = DecisionIds(*(_json_strings(column) for column in zip(*names, strict=True)))
    sequence = np.array([time % 3 for time in times], np.uint64)
    looking_on = [np.array(amounts) % 7 / 10]
    found = (written, np.array(times), features, evaluation, scores, verdicts, sequence, looking_on)
    return *found, {i: RING for i, time in enumerate(times) if time % 2}


def _json_strings(texts: tuple[str, ...]) -> ByteColumn:
    return ByteColumn.of([msgspec.json.encode(text)[1:-1] for text in texts])


def naive(
    row: Any,
    i: int,
    model: Model | None,
    features: np.ndarray,
    evaluation: Evaluation,
    scores: Scores | None,
    verdicts: Verdicts,
    sequence: np.ndarray,
    looking_on: list[np.ndarray],
    rings: dict[int, Reason],
) -> bytes:
    """The payload of row `i`, from its values and those of the batch."""
    names, time = row[:2]
    risk = float(verdicts.risk[i])
    by_group = dict.fromkeys(GROUPS, 0.0)
    by_group |= {g: float(evaluation.group_risk[g][i]) for g in evaluation.group_risk}
    by_source = {}
    hits = evaluation.hits(i)
    reasons = [Reason(f"rule:{h.rule_id}", h.text) for h in hits if h.mode == "live"]
    reasons += [rings[i]] if i in rings else []
    if model is not None and scores is not None:
        by_source[model.name] = float(np.round(scores.risk[i], 6))
        for k, name in enumerate(model.member_names):
            by_source[name] = float(np.round(scores.risk[i] / (2 + k), 6))
        one = slice(i, i + 1)
        group_risk = scores.group_risk[one]
        told = []
        if verdicts.decision[i] != APPROVE:
            columns = model.column_index(INDEX)
            why = model.explain(features[one], columns)
            group_risk = model.explained_risk(why)
            most = sorted(range(len(columns)), key=lambda f: -why.features[0, f])[:3]
            told = [
                f"{model.feature_names[f]} {feature_text(features[i, columns[f]])}"
                for f in most
                if why.features[0, f] > 0
            ]
        ordered = np.zeros((1, len(GROUPS)))
        for k, group in enumerate(GROUPS):
            if group in model.groups:
                ordered[0, k] = group_risk[0, model.groups.index(group)]
                by_group[group] = max(by_group[group], float(ordered[0, k]))
        if verdicts.level[i] > 0 or verdicts.decision[i] != APPROVE:
            found = model_reasons(model.name, scores.risk[one], ordered, features[one])
            reasons += [reason for reason in found if reason is not None]
        if told:
            reasons.append(Reason(f"model:{model.name}", f"raised most by {', '.join(told)}"))
    by_source["rules"] = float(np.round(evaluation.risk[i], 6))
    return encode_decision(
        Decision(
            transaction_id=names[0],
            user_id=names[1],
            merchant_id=names[2],
            timestamp=str(np.datetime_as_string(np.datetime64(time, "ms"), timezone="UTC")),
            decision=DECISIONS[verdicts.decision[i]],
            risk_score=risk,
            risk_level=LEVELS[verdicts.level[i]],
            is_fraud=bool(verdicts.fraud[i]),
            confidence=float(np.round(max(risk, 1.0 - risk), 6)),
            model_used="rules" if model is None else f"{model.name}+rules",
            scores=by_source,
            explanations=Explanations(*(float(np.round(by_group[g], 6)) for g in GROUPS)),
            reasons=reasons,
            rules_fired=[FiredRule(h.rule_id, h.action, h.risk_score, h.mode) for h in hits],
            versions=Versions(
                RULES.version,
                None if model is None else model.version,
                f"{sequence[i]:016x}" if sequence[i] else None,
                CATALOGUE_HASH,
                THRESHOLDS.version,
            ),
            degraded=model is None,
            candidates=[
                CandidateScore(
                    "shadow", MODEL.name, MODEL.version, float(np.round(looking_on[0][i], 6))
                )
            ],
        )
    )


@pytest.mark.parametrize("model", [MODEL, ODD_MODEL, RULES_MODEL, ENSEMBLE, None])
@settings(max_examples=60, deadline=None)
@given(rows=batches)
def test_payloads_are_encoded_decisions(model: Model | None, rows: Any) -> None:
    writer = DecisionWriter(RULES, model, THRESHOLDS, CANDIDATES)
    whole = made(rows, model)
    payloads = writer.write(*whole).tolist()
    assert payloads == [naive(row, i, model, *whole[2:]) for i, row in enumerate(rows)]
    alone = [writer.write(*made([row], model))[0] for row in rows]
    assert payloads == alone, "a row's payload does not depend on the rest of the batch"


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.001, 1.001])
def test_what_is_no_risk_is_not_published(wrong: float) -> None:
    row = (("t", "u", "m"), MIN_TIMESTAMP_MS, 5.0, None, 0.0, wrong, (0.0,) * 5)
    with pytest.raises(UnwritableValueError, match="number in millionths"):
        DecisionWriter(RULES, MODEL, THRESHOLDS, CANDIDATES).write(*made([row], MODEL))


def test_one_compiled_kernel_whatever_the_batch_is_made_of() -> None:
    plain = (("t", "u", "m"), MIN_TIMESTAMP_MS, 5.0, None, 0.0, 0.5, (0.0, 0.1, 0.0, 0.2, 0.3))
    odd = (('"', "\0", "\u00e9"), MIN_TIMESTAMP_MS, 5e4, "DE", 1.0, 0.9, (0.0, 0.1, 0.0, 0.2, 0.3))
    fill: Any = decision_json._fill
    DecisionWriter(RULES, MODEL, THRESHOLDS, CANDIDATES).write(*made([plain], MODEL))
    compiled = len(fill.signatures)
    for model in (MODEL, None):
        for rows in ([odd], [odd, plain] * 3):
            DecisionWriter(RULES, model, THRESHOLDS, CANDIDATES).write(*made(rows, model))
    assert len(fill.signatures) == compiled
