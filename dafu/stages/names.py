"""The names that rules may use: the feature catalogue and the fields of a transaction."""

from __future__ import annotations

from typing import Final

from dafu.features.catalogue import FEATURES
from dafu.rules import Name
from dafu.stages.texts import PLACES, TEXTS

RULE_NAMES: Final[dict[str, Name]] = {
    **{f.name: Name("number", f.unit, f.group, f.definition) for f in FEATURES},
    **{f: Name("number", "degrees", "behavior", f"{f} of the transaction") for f in PLACES},
    **{f: Name("string", "", "behavior", f"{f} of the transaction") for f in TEXTS},
    "merchant_id": Name("string", "", "merchant", "merchant_id of the transaction"),
    "category": Name("string", "", "merchant", "category of the transaction"),
}
"""Names by which a rule reads columns, with kind, unit, explanation group and meaning."""
