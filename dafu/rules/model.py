"""The vocabulary of the rules package: names that rules may read, rules, and what a hit says.

Plain data; nothing here parses or evaluates.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

Kind = Literal["number", "string", "boolean"]
Mode = Literal["live", "shadow", "off"]
FiredMode = Literal["live", "shadow"]
Action = Literal[
    "approve",
    "flag_for_review",
    "additional_verification",
    "location_verification",
    "block",
    "review",
    "decline",
]

NONE: Final = 0
APPROVE: Final = 1
REVIEW: Final = 2
BLOCK: Final = 3
"""Outcome classes; on equal priority the larger number wins."""

ACTION_SYNONYMS: Final[dict[str, Action]] = {"review": "flag_for_review", "decline": "block"}

OUTCOMES: Final[dict[str, int]] = {
    "approve": APPROVE,
    "flag_for_review": REVIEW,
    "additional_verification": REVIEW,
    "location_verification": REVIEW,
    "block": BLOCK,
}
"""Outcome class of each action; verifications wait for a person, so they are reviews."""

GROUPS: Final = ("amount", "behavior", "merchant", "network")
"""Groups of names for which a risk of their own is reported."""


class Name(Struct, frozen=True):
    """A field or feature that conditions may read.

    Attributes
    ----------
    kind : {"number", "string", "boolean"}
    unit : str
        Unit of a number: `km`, `m`, `mi`, `s`, `min`, `h`, `d`, `km/h`, `%`, `currency`, `deg`,
        `0/1` for a flag; anything else, such as `transactions` or `ratio`, counts as a plain
        number.
    group : str
        `amount`, `behavior`, `merchant`, `network`, or anything else for none of them.
    doc : str
        What it means, for people.
    """

    kind: Kind
    unit: str = ""
    group: str = ""
    doc: str = ""


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule as it is written in a rule file.

    Attributes
    ----------
    id : str
        Unique in its file; appears in decisions and metrics.
    condition : str
        When the rule fires; see `docs/rules.md` for the language.
    risk_score : float
        0..1, the risk of a transaction on which it fires.
    action : str
        What it asks for.
    reason : str
        Text for the decision; `{name}` is replaced by the value of that field or feature.
    mode : {"live", "shadow", "off"}
        `shadow` rules are evaluated and reported and change nothing.
    priority : int
        Among fired live rules the highest priority decides the outcome.
    description, tags
        For people; no effect.
    """

    id: Annotated[str, Meta(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]*$")]
    condition: str
    risk_score: Annotated[float, Meta(ge=0.0, le=1.0)]
    action: Action
    reason: Annotated[str, Meta(max_length=1000)] = ""
    mode: Mode = "live"
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    description: str = ""
    tags: tuple[str, ...] = ()

    @property
    def canonical_action(self) -> str:
        """The action with synonyms resolved."""
        return ACTION_SYNONYMS.get(self.action, self.action)

    @property
    def outcome(self) -> int:
        """Outcome class: `APPROVE`, `REVIEW` or `BLOCK`."""
        return OUTCOMES[self.canonical_action]


class RuleHit(Struct, frozen=True, gc=False):
    """A rule that fired on a transaction, and why: `text` holds the values that made it true."""

    rule_id: str
    action: str
    risk_score: float
    mode: FiredMode
    text: str
