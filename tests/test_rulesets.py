"""Rule sets in force as events add up to them, against plain lists; limits; what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.errors import RegistryError
from dafu.registry import (
    Lineup,
    ModelRef,
    Registry,
    RulesSwitch,
    Switch,
    decode_event,
    decode_registry,
    encode_event,
    encode_registry,
    encode_rules_switch,
    read_rules_switch,
    read_switch,
)
from dafu.rulesets import (
    MAX_FORMER,
    MAX_FORMER_BYTES,
    MAX_HISTORY,
    MAX_RULES_BYTES,
    RulesEvent,
    RulesState,
    StoredRules,
    asked_for,
    with_mode,
)


def document(version: str, filling: int = 0, mode: str = "live") -> dict[str, Any]:
    rule = {"id": "a", "condition": "amount > 1", "risk_score": 0.5, "action": "review"}
    rules = [rule | {"mode": mode}, rule | {"id": "b"}]
    return {"version": 1, "lists": {}, "rules": rules, "made": version, "filling": "x" * filling}


def stored(version: str, filling: int = 0) -> StoredRules:
    return StoredRules(version, document(version, filling))


def event(action: Any, **fields: Any) -> RulesEvent:
    return RulesEvent(event_id="e", action=action, **fields)


EVENTS = st.one_of(
    st.sampled_from("vwxyz").map(lambda v: event("put_rules", rules=document(v))),
    st.just(event("reset_rules")),
    st.just(event("rollback_rules")),
)


@given(st.lists(EVENTS, max_size=80))
def test_any_events_add_up_to_what_a_plain_stack_says(events: list[RulesEvent]) -> None:
    stack: list[str | None] = [None]
    history: list[str | None] = []
    registry = Registry()
    for number, asked in enumerate(events):
        if asked.action != "rollback_rules":
            wanted = None if asked.rules is None else asked.rules["made"]
            possible = wanted != stack[-1]
            if possible:
                stack.append(wanted)
        else:
            possible = len(stack) > 1
            if possible:
                stack.pop()
        del stack[: -MAX_FORMER - 1]
        try:
            found = asked_for(registry.rules, asked, document("configured"))
            rules = None if found is None else StoredRules(found["made"], dict(found))
            registry = registry.with_rules(asked, number, rules)
        except RegistryError:
            assert not possible
        else:
            assert possible
            assert registry.number == number
            history.append(stack[-1])
        state = registry.rules
        versions = [None if r is None else r.version for r in (*state.former, state.current)]
        assert versions == stack
        assert state.version == stack[-1]
        assert [c.version for c in state.history] == history[-MAX_HISTORY:]
    assert decode_registry(encode_registry(registry)) == registry
    switch = RulesSwitch(7, registry.rules.current)
    assert read_rules_switch(encode_rules_switch(switch)) == switch
    for asked in events:
        assert decode_event(encode_event(asked)) == asked


def test_one_mode_is_changed_of_the_rules_in_force_or_else_of_those_configured() -> None:
    state = RulesState()
    asked = event("set_rule_mode", rule_id="b", mode="shadow", by="ann", why="too many", at=5)
    found = asked_for(state, asked, document("configured"))
    assert found is not None
    assert [r.get("mode") for r in found["rules"]] == ["live", "shadow"]
    state = state.after(asked, 3, StoredRules("v2", dict(found)))
    assert state.former == (None,)
    (change,) = state.history
    assert (change.number, change.version, change.rule_id, change.mode) == (3, "v2", "b", "shadow")
    assert (change.by, change.why, change.at) == ("ann", "too many", 5)
    again = event("set_rule_mode", rule_id="a", mode="off")
    both = asked_for(state, again, document("configured"))
    assert both is not None
    assert [r["mode"] for r in both["rules"]] == ["off", "shadow"]
    assert found["rules"][0]["mode"] == "live", "the rules before stay what they were"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (event("put_rules"), "naming all of them"),
        (event("set_rule_mode", rule_id="a"), "names `rule_id` and `mode`"),
        (event("set_rule_mode", mode="off"), "names `rule_id` and `mode`"),
        (event("set_rule_mode", rule_id="large", mode="off"), "there are: a, b"),
        (event("set_rule_mode", rule_id="a", mode="live"), "is live already"),
        (event("set_rule_mode", rule_id="b", mode="live"), "is live already"),
        (event("rollback_rules"), "no rules before these"),
    ],
)
def test_what_can_not_be_is_refused(asked: RulesEvent, why: str) -> None:
    with pytest.raises(RegistryError, match=why):
        asked_for(RulesState(), asked, document("configured"))


def test_a_misspelt_rule_is_told_which_one_is_meant() -> None:
    rules = {"rules": [{"id": "far_from_home"}, {"id": "amount"}]}
    with pytest.raises(RegistryError, match="did you mean far_from_home"):
        with_mode(rules, "far_form_home", "off")


def test_the_same_rules_again_are_refused_and_a_way_back_is_not() -> None:
    put = event("put_rules", rules=document("v"))
    state = RulesState().after(put, 0, stored("v"))
    with pytest.raises(RegistryError, match="v are in force already"):
        state.after(put, 1, stored("v"))
    assert state.after(event("rollback_rules"), 1, None) == RulesState(
        None, (), (*state.history, *RulesState().after(event("rollback_rules"), 1, None).history)
    )


def test_what_is_kept_fits_a_record() -> None:
    state = RulesState()
    large = MAX_RULES_BYTES - 1000
    for number in range(8):
        put = event("put_rules", why="w" * 1024)
        state = state.after(put, number, stored(f"v{number}", large))
        size = sum(len(msgspec.json.encode(r)) for r in state.former if r is not None)
        assert size <= MAX_FORMER_BYTES + 200 * len(state.former)
    assert [None if r is None else r.version for r in state.former] == ["v4", "v5", "v6"]
    with pytest.raises(RegistryError, match="131,072 may be put in force"):
        state.after(event("put_rules"), 9, stored("v9", MAX_RULES_BYTES))
    for number in range(MAX_HISTORY + 10):
        state = state.after(event("put_rules", why="w" * 1024), number, stored(f"w{number}"))
    assert len(state.history) == MAX_HISTORY
    assert len(state.former) == MAX_FORMER
    assert len(encode_registry(Registry(rules=state))) < 900_000


def test_records_from_before_there_were_rules_are_read() -> None:
    lineup = b'{"champion":{"name":"m","version":"v","url":"u"},"candidates":[],"former":[]}'
    empty = b'{"champion":null,"candidates":[],"former":[]}'
    raw = b'{"scoring":' + lineup + b',"sequence":' + empty + b',"number":4}'
    champion = Lineup(ModelRef("m", "v", "u"))
    assert decode_registry(raw) == Registry(champion, Lineup(None), 4, RulesState())
    switch = b'{"models":{"number":4,"lineup":' + lineup + b"}}"
    assert read_switch(switch) == Switch(4, champion)


@given(st.binary(max_size=40), st.integers(0, 300), st.integers(0, 255))
def test_what_is_no_switch_of_rules_is_read_as_none(junk: bytes, at: int, byte: int) -> None:
    assert read_rules_switch(None) is None
    assert read_rules_switch(junk) is None
    assert read_rules_switch(b'{"rules":' + junk) is None
    whole = encode_rules_switch(RulesSwitch(3, stored("v")))
    assert read_rules_switch(whole[: at % len(whole)]) is None
    changed = bytearray(whole)
    changed[at % len(whole)] = byte
    read_rules_switch(bytes(changed))  # some other switch or none; it never raises
