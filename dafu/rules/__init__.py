"""Rules: a small expression language over transactions and features, and its engine.

Pure code: rules and columns in, verdicts out. Only `load_rules` touches a file, the one it is
given. The language is described in `docs/rules.md`.
"""

from dafu.rules.compiler import Condition, Vocabulary
from dafu.rules.engine import Evaluation, RuleSet, compile_rules
from dafu.rules.errors import (
    RuleColumnError,
    RuleDefinitionError,
    RuleError,
    RuleNameError,
    RuleSetError,
    RuleSyntaxError,
    RuleTypeError,
    RuleUnitError,
)
from dafu.rules.explain import Explanation, explain
from dafu.rules.functions import FUNCTIONS
from dafu.rules.loader import load_rules, parse_document, parse_rules
from dafu.rules.model import APPROVE, BLOCK, NONE, REVIEW, FiredMode, Name, Rule, RuleHit

__all__ = [
    "APPROVE",
    "BLOCK",
    "FUNCTIONS",
    "NONE",
    "REVIEW",
    "Condition",
    "Evaluation",
    "Explanation",
    "FiredMode",
    "Name",
    "Rule",
    "RuleColumnError",
    "RuleDefinitionError",
    "RuleError",
    "RuleHit",
    "RuleNameError",
    "RuleSet",
    "RuleSetError",
    "RuleSyntaxError",
    "RuleTypeError",
    "RuleUnitError",
    "Vocabulary",
    "compile_rules",
    "explain",
    "load_rules",
    "parse_document",
    "parse_rules",
]
