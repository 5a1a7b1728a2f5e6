"""Models aside, what holds is a matter of the log: switches and entries among payments, any cut."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.lists import ListChange, ListEntry
from dafu.registry import (
    LISTS_KEY,
    RULES_KEY,
    RulesSwitch,
    encode_list_change,
    encode_rules_switch,
)
from dafu.rules import RuleSet
from dafu.rulesets import StoredRules
from dafu.schema import decode_decision
from dafu.stages.batch import InputBatch
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import compile_document
from dafu.stages.switches import (
    apply_switch,
    by_settings,
    cut_at_switches,
    is_switch,
    rules_document,
)
from dafu.tables.records import MemoryRecords
from tests.stages.test_merchants import Log, log_with_repeats
from tests.streams import START, STEPS, alone, choices, cuts, payments


def rules(*conditions: str) -> RuleSet:
    return compile_document(
        {
            "version": 1,
            "rules": [
                {"id": f"r{i}", "condition": c, "risk_score": 0.5, "action": "review"}
                for i, c in enumerate(conditions)
            ],
        }
    )


SETS = [
    rules("amount > 100"),
    rules("amount > 9", "on_watch_list"),
    rules("on_deny_list", "not on_allow_list", "new_device"),
]
CONFIGURED = rules("on_deny_list or on_watch_list or on_allow_list")

ENTRIES = st.builds(
    ListEntry,
    list=st.sampled_from(("deny", "watch", "allow")),
    kind=st.sampled_from(("user", "merchant", "device", "country")),
    value=st.sampled_from(("u0", "u1", "m0", "m1", "a", "b")),
    until=st.sampled_from((None, *(START + step + 1 for step in STEPS[5:]))),
)
OTHERS = st.one_of(
    st.sampled_from((None, *SETS)),
    st.tuples(st.lists(ENTRIES, min_size=1, max_size=3), st.booleans()),
)
Other = RuleSet | tuple[list[ListEntry], bool] | None


def record(number: int, other: Other) -> tuple[bytes, bytes]:
    if isinstance(other, tuple):
        change = ListChange(number, START, tuple(other[0]), other[1])
        return LISTS_KEY, encode_list_change(change)
    stored = None if other is None else StoredRules(other.version, other.document())
    return RULES_KEY, encode_rules_switch(RulesSwitch(number, stored))


Switched = tuple[int, Other]
"""The number of a switch, and what it says."""


def mixed(log: Log, others: list[tuple[float, int, Other]]) -> list[tuple[Log, Switched | None]]:
    """Switches among forwarded payments; one whose number is not higher is a repeat."""
    items: list[tuple[Log, Switched | None]] = [([pair], None) for pair in log]
    for place, number, other in others:
        items.insert(int(place * len(items)), ([record(number, other)], (number, other)))
    return items


def versions_by_payment(items: list[tuple[Log, Switched | None]]) -> list[str]:
    """Which rules decide each payment: those of the last switch that was none too late."""
    version, last = CONFIGURED.version, -1
    out: list[str] = []
    for _, switched in items:
        if switched is None:
            out.append(version)
            continue
        number, other = switched
        if not isinstance(other, tuple) and number > last:
            version, last = (CONFIGURED if other is None else other).version, number
    return out


class Machine:
    """What the agent does, without broker: stages by the rules in force."""

    def __init__(self) -> None:
        self.records = MemoryRecords()
        self.stages: dict[str | None, MerchantStage] = {}

    def run(self, log: Log, first: int) -> list[bytes]:
        keys, values = zip(*log, strict=True)
        out: list[bytes] = []
        for part in cut_at_switches(InputBatch.of(0, keys, values, first)):
            if is_switch(part, 0):
                changes = apply_switch(part, alone(self.records))
                assert changes is not None
                self.records.write(changes)
                continue
            ((held, own),) = by_settings(part, alone(self.records))
            if held.rules not in self.stages:
                self.stages[held.rules] = MerchantStage(self.rules(held.rules), None, Thresholds())
            output = self.stages[held.rules].run(own, alone(self.records))
            self.records.write(output.only_changes)
            out += output.decisions.present()
        return out

    def rules(self, version: str | None) -> RuleSet:
        if version is None:
            return CONFIGURED
        found = compile_document(msgspec.json.decode(rules_document(alone(self.records), 0)))
        assert found.version == version
        return found


@settings(max_examples=60, deadline=None)
@given(
    stream=st.lists(choices, min_size=1, max_size=25).map(payments),
    others=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), OTHERS), min_size=1, max_size=8),
    sizes=st.lists(st.integers(1, 20), max_size=8),
    crash=st.integers(0, 100),
)
def test_the_same_decisions_in_any_cut(
    stream: list[Any], others: list[tuple[float, int, Other]], sizes: list[int], crash: int
) -> None:
    items = mixed(log_with_repeats(stream, [], []), others)
    log = [pair for record_, _ in items for pair in record_]
    one_by_one = Machine()
    expected = [d for i, pair in enumerate(log) for d in one_by_one.run([pair], i)]
    versions = [decode_decision(d).versions.rules for d in expected]
    assert versions == versions_by_payment(items)
    machine = Machine()
    found: list[bytes] = []
    pieces = list(cuts(len(log), sizes))
    crash %= len(pieces)
    for i, (a, b) in enumerate(pieces):
        found += machine.run(log[a:b], a)
        if i == crash:
            # Everything is durable but the offset: read again, it changes nothing.
            data = dict(machine.records.data)
            assert machine.run(log[a:b], a) == []
            assert machine.records.data == data
    assert found == expected
    assert machine.records.data == one_by_one.records.data
