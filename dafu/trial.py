"""Rules tried on one transaction, without a worker: what every rule of a set makes of it.

Pure. There is no history here: features are those of a user's first transaction at a merchant's
first one, except where they are given. On transactions that were decided: `dafu.recent`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dafu.features.catalogue import ALIASES, FEATURES
from dafu.rules import Explanation, RuleSet, compile_rules, explain
from dafu.schema import InvalidRecordError, parse_transaction
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import RULE_NAMES
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage


def try_rules(
    rules: RuleSet, transaction: bytes, features: Mapping[str, Any] | None = None
) -> Explanation:
    """Evaluate every rule on one transaction, those in shadow and those that are off included.

    Parameters
    ----------
    rules : RuleSet
        `dafu.stages.names.compile_document` makes one of what a rule file holds.
    transaction : bytes
        JSON, as it would be published. Beside its fields it may hold features, and the columns of
        lists (`on_deny_list`), which then have those values.
    features : mapping of str to value, optional
        Values by name or alias, which go before those of the transaction.

    Raises
    ------
    InvalidRecordError
        If the transaction would not be decided.
    """
    return explain(rules, _row(transaction, features or {}))


def _row(raw: bytes, given: Mapping[str, Any]) -> dict[str, object]:
    """Values of fields, features and attributes, by the names that rules use."""
    transaction, _ = parse_transaction(raw)
    # Only the features count here; the record has no time of its own that a skew could refer to.
    nothing = compile_rules([], {}, {}, {})
    pipeline = Pipeline(UserStage(0), MerchantStage(nothing, None, Thresholds()))
    _, decided = pipeline.run([transaction.user_id.encode()], [raw])
    values = np.asarray(decided.features)[0]
    row: dict[str, object] = {
        feature.name: None if math.isnan(value) else float(value)
        for feature, value in zip(FEATURES, values, strict=True)
    }
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as exc:  # in fields that are nobody's but rules'
        raise InvalidRecordError("not_json", f"not JSON: {exc}") from None
    for name, value in {**document, **given}.items():
        known = ALIASES.get(name, name)
        row[known if known in RULE_NAMES else f"attributes.{name}"] = value
    return row
