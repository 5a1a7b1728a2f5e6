"""The registry as events add up to it, against a model that is written down plainly."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.errors import RegistryError
from dafu.registry import (
    CONFIGURED,
    MAX_CANDIDATES,
    Candidate,
    ControlEvent,
    Lineup,
    ModelRef,
    Registry,
    Switch,
    apply,
    decode_event,
    decode_registry,
    encode_event,
    encode_registry,
    encode_switch,
    read_switch,
    registry_after,
)

A, B, C = (ModelRef("forest", v, f"s3://models/{v}") for v in "abc")


def event(action: Any, **fields: Any) -> ControlEvent:
    return ControlEvent(event_id="e", action=action, **fields)


def after(*events: ControlEvent) -> Lineup:
    return registry_after(events).scoring


def deployed(model: ModelRef, role: Any = "champion") -> ControlEvent:
    return event("deploy", role=role, model=model)


def test_champions_follow_each_other_and_rollbacks_go_back_one_by_one() -> None:
    lineup = after(deployed(A), deployed(B))
    assert (lineup.champion, lineup.former) == (B, (CONFIGURED, A))
    back = after(deployed(A), deployed(B), event("rollback"))
    assert (back.champion, back.former) == (A, (CONFIGURED,))
    assert after(deployed(A), deployed(B), event("rollback"), event("rollback")) == Lineup()
    on = after(deployed(A), deployed(B), event("rollback"), deployed(C), event("rollback"))
    assert (on.champion, on.former) == (A, (CONFIGURED,))


def test_a_promoted_candidate_is_none_any_more() -> None:
    lineup = after(deployed(A, "shadow"), deployed(B, "challenger"), event("promote", version="b"))
    assert lineup == Lineup(B, (Candidate("shadow", A),), (CONFIGURED,))
    back = apply(lineup, event("rollback"))
    assert back == Lineup(CONFIGURED, (Candidate("shadow", A),))


def test_without_a_champion_rules_decide_until_a_rollback() -> None:
    lineup = after(deployed(A), event("stop", version="a"))
    assert lineup == Lineup(None, (), (CONFIGURED, A))
    assert lineup.models == []
    assert apply(lineup, event("rollback")).champion == A
    again = apply(lineup, deployed(B))
    assert again == Lineup(B, (), (CONFIGURED, A, None))
    assert apply(again, event("rollback")).champion is None
    assert after(event("stop", version="")) == Lineup(None, (), (CONFIGURED,))


def test_a_role_changes_by_another_deployment_and_a_place_as_well() -> None:
    lineup = after(deployed(A, "shadow"), deployed(B, "shadow"), deployed(A, "challenger"))
    assert lineup.candidates == (Candidate("shadow", B), Candidate("challenger", A))
    moved = ModelRef("forest", "a", "elsewhere")
    assert after(deployed(A), deployed(moved)) == Lineup(moved, (), (CONFIGURED,))
    assert after(deployed(moved, "shadow"), deployed(A)) == Lineup(A, (), (CONFIGURED,))


@pytest.mark.parametrize(
    ("lineup", "asked", "why"),
    [
        (Lineup(), event("deploy"), "names a model"),
        (Lineup(), deployed(CONFIGURED), "where its package is"),
        (Lineup(A), deployed(A), "champion already"),
        (Lineup(A), deployed(A, "shadow"), "is the champion"),
        (Lineup(A), event("rollback"), "no champion before"),
        (Lineup(A), event("promote", version="a"), "none at all"),
        (Lineup(A, (Candidate("shadow", B),)), event("promote", version="x"), "shadow forest b"),
        (Lineup(A), event("promote"), "None"),
        (Lineup(A), event("stop", version="b"), "'b'"),
        (Lineup(None), event("stop", version="a"), "'a'"),
    ],
)
def test_the_impossible_is_refused(lineup: Lineup, asked: ControlEvent, why: str) -> None:
    with pytest.raises(RegistryError, match=why):
        apply(lineup, asked)


@pytest.mark.parametrize("level", ["scoring", "sequence"])
def test_so_many_look_on_and_no_more(level: Any) -> None:
    registry = Registry()
    most = MAX_CANDIDATES[level]
    for i in range(most):
        model = ModelRef("m", f"v{i}", "u")
        registry = registry.after(event("deploy", level=level, role="shadow", model=model), i)
    another = event("deploy", level=level, role="challenger", model=ModelRef("m", "x", "u"))
    with pytest.raises(RegistryError, match="stop one first"):
        registry.after(another, most)
    known = event("deploy", level=level, role="challenger", model=ModelRef("m", "v0", "u"))
    assert len(registry.after(known, most).of(level).candidates) == most
    stopped = registry.after(event("stop", level=level, version="v1"), most)
    assert len(stopped.after(another, most + 1).of(level).candidates) == most
    other: Any = "sequence" if level == "scoring" else "scoring"
    assert registry.of(other) == Lineup()


VERSIONS = st.sampled_from([f"v{i}" for i in range(11)])
EVENTS = st.builds(
    lambda action, level, role, version, url: event(
        action,
        level=level,
        **(
            {"role": role, "model": ModelRef("m", version, url)}
            if action == "deploy"
            else {"version": version}
        ),
    ),
    st.sampled_from(["deploy", "deploy", "promote", "rollback", "stop"]),
    st.sampled_from(["scoring", "sequence"]),
    st.sampled_from(["champion", "challenger", "shadow"]),
    VERSIONS,
    st.sampled_from(["here", "here", "there"]),
)


class Plain:
    """One level as lists that events change in place."""

    def __init__(self, most: int) -> None:
        self.history: list[Any] = [("", "")]  # champions, the present one last
        self.looking: dict[str, tuple[str, str]] = {}  # version to role, URL
        self.most = most

    def take(self, asked: ControlEvent) -> bool:
        """Whether it was possible."""
        champion = self.history[-1]
        if asked.action == "deploy":
            assert asked.model is not None
            version, url = asked.model.version, asked.model.url
            if asked.role != "champion":
                if champion is not None and champion[0] == version:
                    return False
                if len(self.looking.keys() - {version}) >= self.most:
                    return False
                self.looking.pop(version, None)
                self.looking[version] = (asked.role, url)
                return True
            if champion == (version, url):
                return False
            if champion is not None and champion[0] == version:
                self.history[-1] = (version, url)
            else:
                self.looking.pop(version, None)
                self.history.append((version, url))
        elif asked.action == "promote":
            if asked.version not in self.looking:
                return False
            self.history.append((asked.version, self.looking.pop(asked.version)[1]))
        elif asked.action == "rollback":
            if len(self.history) == 1:
                return False
            self.history.pop()
            if self.history[-1] is not None:
                self.looking.pop(self.history[-1][0], None)
        elif champion is not None and champion[0] == asked.version:
            self.history.append(None)
        elif asked.version in self.looking:
            del self.looking[asked.version]
        else:
            return False
        del self.history[:-21]
        return True

    def matches(self, lineup: Lineup) -> bool:
        told = [
            None if m is None else (m.version, m.url) for m in (*lineup.former, lineup.champion)
        ]
        looking = [(c.model.version, (c.role, c.model.url)) for c in lineup.candidates]
        return told == self.history and looking == list(self.looking.items())


@given(st.lists(EVENTS, max_size=60))
def test_any_events_add_up_to_what_plain_lists_say(events: list[ControlEvent]) -> None:
    plain = {level: Plain(most) for level, most in MAX_CANDIDATES.items()}
    registry = Registry()
    for number, asked in enumerate(events):
        possible = plain[asked.level].take(asked)
        try:
            registry = registry.after(asked, number)
        except RegistryError:
            assert not possible
        else:
            assert possible
            assert registry.number == number
        for level, each in plain.items():
            lineup = registry.of(level)  # type: ignore[arg-type]
            assert each.matches(lineup)
            versions = [m.version for m in lineup.models]
            assert len(set(versions)) == len(versions), "nobody scores beside himself"
    assert registry_after(events) == registry
    assert decode_registry(encode_registry(registry)) == registry
    for asked in events:
        assert decode_event(encode_event(asked)) == asked
    for level in MAX_CANDIDATES:
        switch = Switch(7, registry.of(level))  # type: ignore[arg-type]
        assert read_switch(encode_switch(switch)) == switch


@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 255))
def test_what_is_no_switch_is_read_as_none(junk: bytes, at: int, byte: int) -> None:
    assert read_switch(None) is None
    assert read_switch(junk) is None
    assert read_switch(b'{"models":' + junk) is None
    whole = encode_switch(Switch(3, Lineup(A, (Candidate("shadow", B),))))
    assert read_switch(whole[: at % len(whole)]) is None
    changed = bytearray(whole)
    changed[at % len(whole)] = byte
    read_switch(bytes(changed))  # some other switch or none; it never raises


def test_an_event_says_no_more_than_it_must() -> None:
    raw = msgspec.json.decode(encode_event(event("rollback")))
    assert raw == {"event_id": "e", "action": "rollback"}
