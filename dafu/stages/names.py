"""The names that rules may use: the feature catalogue, the fields of a transaction, and lists."""

from __future__ import annotations

from typing import Any, Final

from dafu.features.catalogue import ALIASES, FEATURES
from dafu.lists import COLUMNS
from dafu.rules import Name, RuleSet, parse_document
from dafu.stages.texts import PLACES, TEXTS

RULE_NAMES: Final[dict[str, Name]] = {
    **{f.name: Name("number", f.unit, f.group, f.definition) for f in FEATURES},
    **{f: Name("number", "degrees", "behavior", f"{f} of the transaction") for f in PLACES},
    **{f: Name("string", "", "behavior", f"{f} of the transaction") for f in TEXTS},
    "merchant_id": Name("string", "", "merchant", "merchant_id of the transaction"),
    "category": Name("string", "", "merchant", "category of the transaction"),
    **{
        column: Name("boolean", "", "behavior", f"something of the transaction is on a {name} list")
        for name, column in COLUMNS.items()
    },
}
"""Names by which a rule reads columns, with kind, unit, explanation group and meaning."""


def compile_document(document: Any) -> RuleSet:
    """Compile what a rule file holds, with all the names that rules may use.

    Raises
    ------
    RuleSetError
        With every error of the document.
    """
    return parse_document(document, RULE_NAMES, ALIASES)
