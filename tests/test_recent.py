"""Rules tried on transactions that were judged a moment ago, against the rules as they ran."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from dafu.features.catalogue import INDEX
from dafu.loading import load_stages
from dafu.recent import SAMPLE, RecentlyJudged, Trial
from dafu.rules import RuleSet
from dafu.schema import decode_decision
from dafu.settings import load_settings
from dafu.stages.batch import MerchantOutput
from dafu.stages.names import compile_document
from dafu.stages.pipeline import Pipeline
from tests.integration.payments import payments

N = 900


def judged(cut: int) -> tuple[list[MerchantOutput], RuleSet]:
    users, merchants = load_stages(load_settings({"MODEL_STORAGE_PATH": "none"}), rings=False)
    pipeline = Pipeline(users, merchants)
    records = payments(N, seed=3)
    outputs = []
    for at in range(0, N, cut):
        piece = records[at : at + cut]
        outputs.append(pipeline.run([key for key, _ in piece], [value for _, value in piece])[1])
    return outputs, merchants.rules


def tried(recent: RecentlyJudged, rules: RuleSet) -> Trial:
    run = recent.trial(rules)
    for _ in run.steps():
        pass
    return run.result()


def kept(outputs: list[MerchantOutput], most: int = N) -> RecentlyJudged:
    recent = RecentlyJudged(most)
    for output in outputs:
        assert output.judged is not None
        recent.add(output.judged)
    return recent


def test_the_rules_in_force_fire_as_they_did() -> None:
    outputs, rules = judged(100)
    found = tried(kept(outputs), rules)
    decisions = [decode_decision(raw) for o in outputs for raw in o.decisions.present()]
    fired = Counter(hit.id for decision in decisions for hit in decision.rules_fired)
    assert found.transactions == len(decisions) == N
    assert {rule.rule_id: rule.fired for rule in found.rules if rule.fired} == dict(fired)
    assert sum(found.outcomes.values()) == N
    for rule in found.rules:
        hit_by_rule = [d for d in decisions if rule.rule_id in {h.id for h in d.rules_fired}]
        wanted = [d.transaction_id for d in reversed(hit_by_rule)][:SAMPLE]
        assert [hit.transaction_id for hit in rule.latest] == wanted
    assert len(fired) > 3


def test_other_rules_are_tried_on_the_same_features() -> None:
    outputs, _ = judged(250)
    document = {
        "version": 1,
        "rules": [
            {"id": "all", "condition": "amount > 0", "risk_score": 0.5, "action": "review"},
            {"id": "busy", "condition": "user_count_1d >= 3", "risk_score": 0.9, "action": "block"},
            {"id": "off", "condition": "amount > 0", "risk_score": 0.9, "action": "block",
             "mode": "off"},
        ],
    }  # fmt: skip
    found = tried(kept(outputs), compile_document(document))
    counts = np.concatenate([o.features[:, INDEX["user_count_1d"]] for o in outputs])
    busy = int((counts >= 3).sum())
    assert {rule.rule_id: rule.fired for rule in found.rules} == {"all": N, "busy": busy, "off": 0}
    assert found.outcomes == {"none": 0, "approve": 0, "review": N - busy, "block": busy}
    assert 0 < busy < N


def test_only_the_latest_are_kept() -> None:
    outputs, rules = judged(100)
    recent = kept(outputs, most=250)
    found = tried(recent, rules)
    assert recent.size == found.transactions == 300
    last: Any = outputs[-1].judged
    assert found.until is not None
    assert found.until >= int(last.header["time"].max())


def test_nothing_was_judged_yet() -> None:
    found = tried(RecentlyJudged(), compile_document({"version": 1, "rules": []}))
    assert (found.transactions, found.since, found.until) == (0, None, None)
