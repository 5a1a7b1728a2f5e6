"""Which models decide, as events: what was asked for, what follows from it, and when it holds.

Deployments are events on the topic `control`, and that topic is the registry: the state is what
the events add up to. So are changes of rules (`dafu.rulesets`) and of lists (`dafu.lists`), which
come together with them here. What holds from when is fixed elsewhere: each event that changes
something becomes a **switch**, a record in the very logs that the stages read, one in each
partition. What stands before it is decided by the old models and what stands behind it by the new
ones, also when the log is read again. This module is pure; it knows neither topics' clients nor
models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeVar, get_args

import msgspec
from msgspec import Struct

from dafu.errors import RegistryError
from dafu.lists import ListAction, ListChange, ListEvent
from dafu.rulesets import RulesAction, RulesEvent, RulesState, StoredRules
from dafu.schema import Id, LongText, ShortText

Action = Literal["deploy", "promote", "rollback", "stop"]
Role = Literal["champion", "challenger", "shadow"]
Level = Literal["scoring", "sequence"]
"""Models that score transactions in stage two; sequence models, which step in stage one."""

LEVELS: Final[tuple[Level, ...]] = get_args(Level)

MAX_CANDIDATES: Final = {"scoring": 8, "sequence": 2}
"""Challengers and shadows that may look on at the same time."""

CONTROL_KEY: Final = b"models"
"""Of all events: one partition orders them."""

REGISTRY_KEY: Final = b"registry"
"""Of the one record in the table of the control agent."""

SWITCH_KEY: Final = b"\x00models"
RULES_KEY: Final = b"\x00rules"
LISTS_KEY: Final = b"\x00lists"
"""Of switches of models, of rules, and of changes of lists: no user or merchant is called so."""

SWITCH_KEYS: Final = (SWITCH_KEY, RULES_KEY, LISTS_KEY)


class ModelRef(Struct, frozen=True):
    """A package: where it is and, by its version, what is in it.

    The empty URL stands for the package that the workers are configured with.
    """

    name: ShortText
    version: ShortText
    url: LongText

    @property
    def configured(self) -> bool:
        """Whether it is whatever the worker is configured with."""
        return not self.url


CONFIGURED: Final = ModelRef("configured", "", "")


class ControlEvent(Struct, frozen=True, omit_defaults=True):
    """A request about models, with who and why, as it stands on `control`.

    `deploy` needs `model` and `role`; `promote` and `stop` name a deployed `version`; `rollback`
    goes back to the champion before. `at` is epoch milliseconds, for people.
    """

    event_id: Id
    action: Action
    level: Level = "scoring"
    role: Role = "champion"
    model: ModelRef | None = None
    version: ShortText | None = None
    by: ShortText = ""
    why: LongText = ""
    at: int = 0


class Candidate(Struct, frozen=True):
    """A model that scores the same traffic and decides nothing."""

    role: Role
    model: ModelRef


class Lineup(Struct, frozen=True):
    """The models of one level. Without a champion, rules decide alone.

    `former` are the champions before, latest last.
    """

    champion: ModelRef | None = CONFIGURED
    candidates: tuple[Candidate, ...] = ()
    former: tuple[ModelRef | None, ...] = ()

    @property
    def models(self) -> list[ModelRef]:
        """All that score, the champion first."""
        first = [] if self.champion is None else [self.champion]
        return first + [c.model for c in self.candidates]


_MAX_FORMER: Final = 20


def apply(lineup: Lineup, event: ControlEvent) -> Lineup:
    """The lineup after an event about its level.

    Raises
    ------
    RegistryError
        If the event asks for something impossible; nothing changes then.
    """
    match event.action:
        case "deploy":
            if event.model is None:
                raise RegistryError("a deployment names a model")
            if event.model.configured:
                raise RegistryError("a deployment names where its package is")
            if event.role == "champion":
                return _crowned(lineup, event.model)
            if lineup.champion is not None and lineup.champion.version == event.model.version:
                raise RegistryError(
                    f"{event.model.name} {event.model.version} is the champion, and can not look "
                    "on as well"
                )
            others = [c for c in lineup.candidates if c.model.version != event.model.version]
            if len(others) >= MAX_CANDIDATES[event.level]:
                raise RegistryError(
                    f"{len(others)} {event.level} models look on already, which is as many as may; "
                    "stop one first"
                )
            candidates = (*others, Candidate(event.role, event.model))
            return msgspec.structs.replace(lineup, candidates=candidates)
        case "promote":
            return _crowned(lineup, _candidate(lineup, event.version).model)
        case "rollback":
            if not lineup.former:
                raise RegistryError("there is no champion before this one to go back to")
            *former, champion = lineup.former
            return Lineup(champion, _without(lineup, champion), tuple(former))
        case "stop":
            champion = lineup.champion
            if champion is not None and event.version == champion.version:
                return Lineup(None, lineup.candidates, _remembered(lineup))
            stopped = _candidate(lineup, event.version)
            rest = tuple(c for c in lineup.candidates if c != stopped)
            return msgspec.structs.replace(lineup, candidates=rest)


def _crowned(lineup: Lineup, model: ModelRef) -> Lineup:
    if lineup.champion == model:
        raise RegistryError(f"{model.name} {model.version} is the champion already")
    if lineup.champion is not None and lineup.champion.version == model.version:
        # The same package from another place, perhaps because it was damaged.
        return msgspec.structs.replace(lineup, champion=model)
    return Lineup(model, _without(lineup, model), _remembered(lineup))


def _remembered(lineup: Lineup) -> tuple[ModelRef | None, ...]:
    return (*lineup.former, lineup.champion)[-_MAX_FORMER:]


def _without(lineup: Lineup, model: ModelRef | None) -> tuple[Candidate, ...]:
    if model is None:
        return lineup.candidates
    return tuple(c for c in lineup.candidates if c.model.version != model.version)


def _candidate(lineup: Lineup, version: str | None) -> Candidate:
    for candidate in lineup.candidates:
        if candidate.model.version == version:
            return candidate
    deployed = ", ".join(f"{c.role} {c.model.name} {c.model.version}" for c in lineup.candidates)
    raise RegistryError(
        f"no model of version {version!r} looks on; there are: {deployed or 'none at all'}"
    )


MAX_GRANTED: Final = 100
"""Events that are remembered once they are granted."""


class Registry(Struct, frozen=True):
    """The lineups of both levels, the rules, and the number of the last event that was granted.

    Events are numbered by their offset in `control`. One that is not above `number` is a repeat,
    and so is one whose record is among those `granted` lately (hashes): a client sent it twice.
    Entries of lists are many, and kept beside it (`dafu.stages.lists`).
    """

    scoring: Lineup = Lineup()
    sequence: Lineup = Lineup()
    number: int = -1
    rules: RulesState = RulesState()
    granted: tuple[int, ...] = ()

    def granting(self, record: int) -> Registry:
        """The registry once the event in the record with this hash is among those granted."""
        granted = (*self.granted, record)[-MAX_GRANTED:]
        return msgspec.structs.replace(self, granted=granted)

    def of(self, level: Level) -> Lineup:
        """The lineup of a level."""
        return self.scoring if level == "scoring" else self.sequence

    def after(self, event: ControlEvent, number: int) -> Registry:
        """The registry after the event with this number; raises as `apply`."""
        lineup = apply(self.of(event.level), event)
        return msgspec.structs.replace(self, **{event.level: lineup}, number=number)

    def with_rules(self, event: RulesEvent, number: int, rules: StoredRules | None) -> Registry:
        """The registry once what an event asks for, compiled as `rules`, is in force; raises as
        `RulesState.after`."""
        state = self.rules.after(event, number, rules)
        return msgspec.structs.replace(self, rules=state, number=number)


def registry_after(events: Iterable[ControlEvent]) -> Registry:
    """What events add up to; those that asked for the impossible changed nothing."""
    registry = Registry()
    for number, event in enumerate(events):
        try:
            registry = registry.after(event, number)
        except RegistryError:
            continue
    return registry


class Switch(Struct, frozen=True):
    """From here on in this log these models hold. Switches count up; a lower one is a repeat."""

    number: int
    lineup: Lineup


class RulesSwitch(Struct, frozen=True):
    """From here on in this log these rules hold; None: those that each worker is configured with.

    Switches count up; a lower one is a repeat.
    """

    number: int
    rules: StoredRules | None


Event = ControlEvent | RulesEvent | ListEvent
"""Whatever may be asked for on `control`."""


class _Asked(Struct):
    action: str


_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_control_event = msgspec.json.Decoder(ControlEvent).decode
_decode_rules_event = msgspec.json.Decoder(RulesEvent).decode
_decode_list_event = msgspec.json.Decoder(ListEvent).decode


def decode_event(raw: bytes) -> Event:
    """What an event on `control` asks for.

    Raises
    ------
    msgspec.MsgspecError, UnicodeDecodeError
        If it is none.
    """
    action = _decode_asked(raw).action
    if action in get_args(RulesAction):
        return _decode_rules_event(raw)
    return _decode_list_event(raw) if action in get_args(ListAction) else _decode_control_event(raw)


encode_event = msgspec.json.Encoder().encode
decode_registry = msgspec.json.Decoder(Registry).decode
encode_registry = msgspec.json.Encoder().encode

_SWITCH: Final = b'{"models":'
_RULES: Final = b'{"rules":'
_LISTS: Final = b'{"lists":'
_decode_switch = msgspec.json.Decoder(Switch).decode
_decode_rules_switch = msgspec.json.Decoder(RulesSwitch).decode
_decode_list_change = msgspec.json.Decoder(ListChange).decode

_T = TypeVar("_T")


def encode_switch(switch: Switch) -> bytes:
    """A switch of models as it stands in a log, under SWITCH_KEY."""
    return _SWITCH + msgspec.json.encode(switch) + b"}"


def read_switch(value: bytes | None) -> Switch | None:
    """The switch that a record under SWITCH_KEY holds, None if it holds none."""
    return _read(_SWITCH, value, _decode_switch)


def encode_rules_switch(switch: RulesSwitch) -> bytes:
    """A switch of rules as it stands in a log, under RULES_KEY."""
    return _RULES + msgspec.json.encode(switch) + b"}"


def read_rules_switch(value: bytes | None) -> RulesSwitch | None:
    """The switch that a record under RULES_KEY holds, None if it holds none."""
    return _read(_RULES, value, _decode_rules_switch)


def encode_list_change(change: ListChange) -> bytes:
    """A change of lists as it stands in a log, under LISTS_KEY."""
    return _LISTS + msgspec.json.encode(change) + b"}"


def read_list_change(value: bytes | None) -> ListChange | None:
    """The change that a record under LISTS_KEY holds, None if it holds none."""
    return _read(_LISTS, value, _decode_list_change)


def _read(begin: bytes, value: bytes | None, decode: Callable[[bytes], _T]) -> _T | None:
    if value is None or not value.startswith(begin):
        return None
    try:
        return decode(value[len(begin) : -1])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
