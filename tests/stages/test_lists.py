"""Entries of lists in a partition: applied once, found by whom they are about, in any order."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.features.state import LATENESS
from dafu.lists import COLUMNS, ENTRY_KINDS, FIELDS, LIST_NAMES, ListChange, ListEntry, folded
from dafu.registry import LISTS_KEY, encode_list_change
from dafu.rules import Rule, RuleSet, compile_rules
from dafu.schema import Decision, decode_decision
from dafu.stages.batch import InputBatch
from dafu.stages.decide import Thresholds
from dafu.stages.lists import ENTRIES_KEY, apply_change, entries_of
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import RULE_NAMES
from dafu.stages.switches import apply_switch
from dafu.tables.migrations import StateError
from dafu.tables.records import MemoryRecords
from tests.streams import START, alone, copy, user_stage

ENTRIES = st.builds(
    ListEntry,
    list=st.sampled_from(LIST_NAMES),
    kind=st.sampled_from(ENTRY_KINDS),
    value=st.sampled_from(["a", "b", "A", "\u00e9"]),
    until=st.sampled_from([None, START, START + 1, START + LATENESS]),
)
CHANGES = st.lists(
    st.builds(
        ListChange,
        number=st.integers(0, 12),
        now=st.sampled_from([-1, START, START + LATENESS, START + 2 * LATENESS]),
        entries=st.lists(ENTRIES, min_size=1, max_size=4).map(tuple),
        removed=st.booleans(),
    ),
    max_size=12,
)


def apply(records: MemoryRecords, *changes: ListChange) -> None:
    for change in changes:
        records.write(apply_change(records, change))


@settings(deadline=None)
@given(changes=CHANGES, crash=st.integers(0, 11), kept=st.integers(0, 20))
def test_changes_add_up_to_what_a_dictionary_says(
    changes: list[ListChange], crash: int, kept: int
) -> None:
    plain: dict[Any, ListEntry] = {}
    last = -1
    records = MemoryRecords()
    for i, change in enumerate(changes):
        if change.number > last:
            last = change.number
            for key, entry in list(plain.items()):
                if entry.until is not None and change.now >= entry.until + LATENESS:
                    del plain[key]
            for entry in change.entries:
                key = entry.list, entry.kind, folded(entry.kind, entry.value)
                if change.removed:
                    plain.pop(key, None)
                else:
                    plain[key] = entry
        if i == crash:
            # A part of it is written; then it comes again.
            whole = apply_change(records, change)
            crashed = copy(records, whole[: kept % (len(whole) + 1)])
            apply(crashed, change)
            expected = copy(records, whole)
            assert crashed.data == expected.data
        apply(records, change)
        apply(records, change)
        assert entries_of(records) == plain


RULES = [
    Rule(id="denied", condition="on_deny_list", risk_score=1.0, action="block", priority=9),
    Rule(id="allowed", condition="on_allow_list", risk_score=0.0, action="approve", priority=5),
    Rule(id="watched", condition="on_watch_list", risk_score=0.5, action="review"),
]


def stage(rules: list[Rule] = RULES) -> MerchantStage:
    return MerchantStage(compile_rules(rules, {}, RULE_NAMES, {}), None, Thresholds())


def forwarded(payments: list[dict[str, Any]]) -> InputBatch:
    """What stage two reads of payments, which are told apart by their place."""
    values = [
        json.dumps({"transaction_id": f"t{i}", "merchant_id": "m", "amount": 5, **payment}).encode()
        for i, payment in enumerate(payments)
    ]
    keys = [str(payment["user_id"]).encode() for payment in payments]
    out = user_stage().run(InputBatch.of(0, keys, values), alone(MemoryRecords()))
    assert out.rejected == []
    return InputBatch.of(0, out.forward_keys.present(), out.forward_values.present())


def decided(at: MerchantStage, batch: InputBatch, records: MemoryRecords) -> list[Decision]:
    output = at.run(batch, alone(records))
    return [decode_decision(d) for d in output.decisions.present()]


@settings(deadline=None, max_examples=60)
@given(
    entries=st.lists(ENTRIES, max_size=12),
    payments=st.lists(
        st.fixed_dictionaries(
            {
                "timestamp": st.sampled_from([START - 1, START, START + LATENESS]),
                "user_id": st.sampled_from(["a", "b", "c", "\u00e9"]),
            },
            optional={
                field: st.sampled_from(["a", "b", "A", "\u00e9", "\n", None])
                for field in ("device_fingerprint", "ip_address", "card_id", "email", "country")
            },
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_whoever_meets_an_entry_is_found(
    entries: list[ListEntry], payments: list[dict[str, Any]]
) -> None:
    records = MemoryRecords()
    apply(records, ListChange(1, -1, tuple(entries)) if entries else ListChange(1, -1, ()))
    last = {e.key: e for e in entries}
    told = decided(stage(), forwarded(payments), records)
    for payment, decision in zip(payments, told, strict=True):
        document = {"merchant_id": "m", **payment}
        met: dict[str, list[str]] = {name: [] for name in LIST_NAMES}
        for kind in ENTRY_KINDS:
            value = document.get(FIELDS[kind])
            for name in LIST_NAMES:
                entry = None if value is None else last.get((name, kind, folded(kind, value)))  # type: ignore[call-overload]
                if entry and (entry.until is None or payment["timestamp"] < entry.until):
                    met[name].append(kind)
        outcome = "block" if met["deny"] else "approve"
        if met["watch"] and not met["deny"] and not met["allow"]:
            outcome = "review"
        assert decision.decision == outcome
        reasons = {r.source: r.text for r in decision.reasons if r.source.startswith("list:")}
        for name in LIST_NAMES:
            kinds = met[name]
            words = f"{', '.join(kinds[:-1])} and {kinds[-1]}" if kinds[1:] else "".join(kinds)
            expected = f"{words} on the {name} list" if kinds else None
            assert reasons.get(f"list:{name}") == expected


def test_only_what_live_rules_read_is_said() -> None:
    records = MemoryRecords()
    both = ListEntry("deny", "user", "u"), ListEntry("watch", "merchant", "m")
    apply(records, ListChange(1, -1, both))
    batch = forwarded([{"user_id": "u", "timestamp": START}])
    shadowed = [msgspec.structs.replace(RULES[0], mode="shadow"), RULES[2]]
    (decision,) = decided(stage(shadowed), batch, records)
    assert [(f.id, f.mode) for f in decision.rules_fired] == [
        ("denied", "shadow"), ("watched", "live"),
    ]  # fmt: skip
    assert [r.source for r in decision.reasons] == ["rule:watched", "list:watch"]
    (decision,) = decided(stage([]), batch, records)
    assert decision.reasons == []


class Counting(MemoryRecords):
    """Counts the records that are asked for by the keys of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def get_many(self, keys: Any) -> list[bytes | None]:
        self.asked += sum(key.startswith(ENTRIES_KEY) for key in keys)
        return super().get_many(keys)


def test_entries_are_loaded_once_and_without_any_next_to_nothing_is_asked() -> None:
    batch = forwarded([{"user_id": "u", "timestamp": START}] * 1)
    records, one = Counting(), stage()
    decided(one, batch, records)
    assert records.asked == 1
    decided(stage([]), batch, records)
    assert records.asked == 1, "no rule reads a list"
    apply(records, ListChange(1, -1, (ListEntry("deny", "user", "u"),)))
    records.asked = 0
    assert [d.decision for d in decided(one, batch, records)] == ["block"]
    loaded = records.asked
    assert [d.decision for d in decided(one, batch, records)] == ["block"]
    assert records.asked == loaded + 1
    apply(records, ListChange(2, -1, (ListEntry("deny", "user", "u"),), removed=True))
    assert [d.decision for d in decided(one, batch, records)] == ["approve"]


def test_partitions_with_other_entries_do_not_see_each_others() -> None:
    tables = {0: MemoryRecords(), 1: MemoryRecords()}
    apply(tables[1], ListChange(1, -1, (ListEntry("deny", "user", "u"),)))
    single = forwarded([{"user_id": "u", "timestamp": START}])
    pair = InputBatch.of(0, single.keys.present() * 2, single.values.present() * 2)
    pieces = [type(pair.pieces[0])(0, 0, 1), type(pair.pieces[0])(1, 1, 2)]
    both = msgspec.structs.replace(pair, pieces=pieces)
    output = stage().run(both, tables.__getitem__)
    told = [decode_decision(d).decision for d in output.decisions.present()]
    assert told == ["approve", "block"]


@pytest.mark.parametrize("damage", ["last", "bucket", "lost"])
def test_damaged_entries_stop(damage: str) -> None:
    records = MemoryRecords()
    apply(records, ListChange(1, -1, (ListEntry("deny", "user", "u"),)))
    bucket = next(key for key in records.data if len(key) == 2)
    if damage == "lost":
        del records.data[bucket]
    else:
        records.data[bucket if damage == "bucket" else ENTRIES_KEY] = b"{"
    with pytest.raises(StateError):
        decided(stage(), forwarded([{"user_id": "u", "timestamp": START}]), records)


def test_a_change_in_a_log_is_applied_once() -> None:
    records = MemoryRecords()
    entry = ListEntry("deny", "user", "u")
    for number, size in ((4, 2), (4, 0), (3, 0), (5, 1)):
        value = encode_list_change(ListChange(number, START, (entry,)))
        changes = apply_switch(InputBatch.of(0, [LISTS_KEY], [value]), alone(records))
        assert changes is not None
        assert len(changes) == size, number
        records.write(changes)
    assert list(entries_of(records).values()) == [entry]
    damaged = InputBatch.of(0, [LISTS_KEY], [b"{}"])
    assert apply_switch(damaged, alone(records)) is None


def test_rules_know_the_columns() -> None:
    rules: RuleSet = compile_rules(RULES, {}, RULE_NAMES, {})
    assert rules.names == set(COLUMNS.values())
    assert rules.deciding == rules.names
