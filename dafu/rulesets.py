"""Which rules hold, as events: a rule set put in force, one rule's mode changed, one step back.

As with models (`dafu.registry`), the events on `control` add up to a state, and a switch in every
partition of the log that stage two reads says from where on it holds. There is no store of rule
sets: state and switch carry the rules themselves, as the document that a rule file holds. This
module is pure, and does not compile rules; whoever grants an event does that first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from dafu.errors import RegistryError
from dafu.rules.compiler import suggestion
from dafu.rules.model import Mode
from dafu.schema import Id, LongText, ShortText

RulesAction = Literal["put_rules", "set_rule_mode", "rollback_rules", "reset_rules"]

MAX_RULES_BYTES: Final = 131_072
"""JSON of a rule set in force: it travels in one record, and the registry holds several."""

MAX_FORMER_BYTES: Final = 3 * MAX_RULES_BYTES
MAX_FORMER: Final = 20
"""Rule sets that one can go back to: as many as both limits allow."""

MAX_HISTORY: Final = 50
"""Changes of rules that are told of."""

Document = Mapping[str, Any]
"""What a rule file holds, in either of its shapes (`dafu.rules.loader`)."""


class RulesEvent(Struct, frozen=True, omit_defaults=True):
    """A request about rules, with who and why, as it stands on `control`.

    `put_rules` needs `rules`, a whole rule set; `set_rule_mode` names a rule and its new `mode`;
    `rollback_rules` goes back to the rules before, `reset_rules` to each worker's own rule file.
    `at` is epoch milliseconds, for people.
    """

    event_id: Id
    action: RulesAction
    rules: dict[str, Any] | None = None
    rule_id: ShortText | None = None
    mode: Mode | None = None
    by: ShortText = ""
    why: LongText = ""
    at: int = 0


class StoredRules(Struct, frozen=True):
    """A rule set: its version, and the document that gives it again."""

    version: str
    document: dict[str, Any]

    @property
    def rules(self) -> list[dict[str, Any]]:
        """The rules of the document, each as in a rule file."""
        return list(self.document["rules"])


class RulesChange(Struct, frozen=True, omit_defaults=True):
    """A change of rules: the number of its event, and the version that holds since.

    Without a version each worker's own rule file holds. `rule_id` and `mode` are those of
    `set_rule_mode`; `at` is epoch milliseconds by the clock of whoever asked.
    """

    number: int
    version: str | None
    action: RulesAction
    rule_id: str | None = None
    mode: Mode | None = None
    by: str = ""
    why: str = ""
    at: int = 0


class RulesState(Struct, frozen=True, omit_defaults=True):
    """The rules in force; None for the rule file that each worker is configured with.

    `former` are those before, latest last; `history` likewise says how it came to that.
    """

    current: StoredRules | None = None
    former: tuple[StoredRules | None, ...] = ()
    history: tuple[RulesChange, ...] = ()

    @property
    def version(self) -> str | None:
        """The version in force, None for what is configured."""
        return None if self.current is None else self.current.version

    def in_force(self, configured: Document) -> Document:
        """The rules that hold, given those that hold as long as none have been put."""
        return configured if self.current is None else self.current.document

    def after(self, event: RulesEvent, number: int, rules: StoredRules | None) -> RulesState:
        """The state once what an event asks for, compiled as `rules`, is in force.

        Raises
        ------
        RegistryError
            If those rules hold already, or are too many.
        """
        if event.action == "rollback_rules":
            former = self.former[:-1]
        else:
            if (None if rules is None else rules.version) == self.version:
                raise RegistryError(
                    f"the rules {self.version or 'configured'} are in force already"
                )
            former = _kept((*self.former, self.current))
        if rules is not None and (size := _size(rules)) > MAX_RULES_BYTES:
            raise RegistryError(
                f"the rules take {size:,} bytes as JSON, and {MAX_RULES_BYTES:,} may be put in "
                "force while workers run; long lists of values belong into `dafu lists`"
            )
        version = None if rules is None else rules.version
        change = RulesChange(
            number, version, event.action, event.rule_id, event.mode, event.by, event.why, event.at
        )
        return RulesState(rules, former, (*self.history, change)[-MAX_HISTORY:])


def asked_for(state: RulesState, event: RulesEvent, configured: Document) -> Document | None:
    """The rule set that an event asks for, not checked yet; None for what is configured.

    Parameters
    ----------
    state : RulesState
    event : RulesEvent
    configured : Document
        The rules that hold as long as none have been put: where one rule's mode is changed first,
        all of them are put in force as they are here.

    Raises
    ------
    RegistryError
        If the event asks for something impossible.
    """
    match event.action:
        case "put_rules":
            if event.rules is None:
                raise RegistryError("rules are put in force by naming all of them, in `rules`")
            return event.rules
        case "set_rule_mode":
            if event.rule_id is None or event.mode is None:
                raise RegistryError("a change of mode names `rule_id` and `mode`")
            return with_mode(state.in_force(configured), event.rule_id, event.mode)
        case "rollback_rules":
            if not state.former:
                raise RegistryError("there are no rules before these to go back to")
            before = state.former[-1]
            return None if before is None else before.document
        case "reset_rules":
            return None


def with_mode(document: Document, rule_id: str, mode: Mode) -> Document:
    """A rule set with the mode of one rule changed.

    Raises
    ------
    RegistryError
        If there is no such rule, or it is in that mode.
    """
    rules = list(document["rules"])
    ids = [rule["id"] for rule in rules]
    if rule_id not in ids:
        hint = suggestion(rule_id, ids) or f"there are: {', '.join(ids) or 'none at all'}"
        raise RegistryError(f"no rule is called {rule_id!r}; {hint}")
    at = ids.index(rule_id)
    if rules[at].get("mode", "live") == mode:
        raise RegistryError(f"the rule {rule_id} is {mode} already")
    rules[at] = {**rules[at], "mode": mode}
    return {**document, "rules": rules}


def _kept(former: tuple[StoredRules | None, ...]) -> tuple[StoredRules | None, ...]:
    """The latest of them, as many as the limits allow."""
    size, first = 0, len(former)
    while first > max(0, len(former) - MAX_FORMER):
        rules = former[first - 1]
        size += 0 if rules is None else _size(rules)
        if size > MAX_FORMER_BYTES:
            break
        first -= 1
    return former[first:]


def _size(rules: StoredRules) -> int:
    return len(msgspec.json.encode(rules.document))
