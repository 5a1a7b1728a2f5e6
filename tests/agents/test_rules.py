"""Rules change in a log under the merchants agent: compiled once, counted, or not gone on with."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dafu.agents import rules as agents_rules
from dafu.agents.merchants import MerchantsAgent
from dafu.agents.rules import RuleCounts, RulesMismatchError
from dafu.agents.shelf import Shelf
from dafu.columns import ByteColumn
from dafu.lists import ListChange, ListEntry
from dafu.registry import (
    LISTS_KEY,
    RULES_KEY,
    SWITCH_KEY,
    Lineup,
    RulesSwitch,
    Switch,
    encode_list_change,
    encode_rules_switch,
    encode_switch,
)
from dafu.rulesets import StoredRules
from dafu.schema import Decision, decode_decision
from dafu.stages.batch import InputBatch
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import compile_document
from dafu.streaming.dead_letters import read_headers
from dafu.streaming.records import RecordBatch, decode_headers
from dafu.tables.records import MemoryRecords
from tests.streams import START, alone, user_stage

PARTITIONS = 2


def document(**modes: str) -> dict[str, Any]:
    """Rules by id, whose ids say from which amount on they fire."""
    rules = [
        {"id": name, "condition": f"amount > {name[1:]}", "risk_score": 0.5, "action": "review",
         "mode": mode}
        for name, mode in modes.items()
    ]  # fmt: skip
    return {"version": 1, "rules": rules}


CONFIGURED = compile_document(document(a10="live"))


class Sender:
    """Keeps what is sent, by topic."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.letters: list[tuple[str, int]] = []

    async def send(self, topic: str, keys: ByteColumn, values: ByteColumn, **more: Any) -> None:
        if topic == "decisions":
            self.decisions += [decode_decision(v) for v in values.present()]
        else:
            headers: list[Any] = [decode_headers(h) for h in more["headers"].present()]
            origins = [read_headers(head) for head in headers]
            self.letters += [(o.reason, o.offset) for o in origins if o is not None]

    post = send


class Table:
    """The table's interface over records in memory."""

    def __init__(self) -> None:
        self.parts = {n: MemoryRecords() for n in range(PARTITIONS)}
        self.records = SimpleNamespace(open_partitions=lambda: [*self.parts])

    def partition(self, number: int) -> MemoryRecords:
        return self.parts[number]

    async def claim(self, sender: Any, partition: int) -> int:
        return 7

    async def commit_batch(self, sender: Any, partition: int, changes: Any, claim: int) -> None:
        self.parts[partition].write(changes)

    async def commit_batches(self, sender: Any, changes: Any, claims: Any) -> None:
        for partition, own in changes.items():
            await self.commit_batch(sender, partition, own, claims[partition])


def chunk(first: int, *records: tuple[bytes, bytes], at: int = 0) -> RecordBatch:
    """What was fetched of a partition."""
    fetched = [
        SimpleNamespace(offset=first + i, timestamp=0, key=key, value=value, headers=())
        for i, (key, value) in enumerate(records)
    ]
    return RecordBatch.of("by-merchant", at, fetched)


class Life:
    """One worker's life on the same table."""

    def __init__(self, table: Table) -> None:
        self.sender = Sender()
        topics = {
            name: SimpleNamespace(get_topic_name=lambda name=name: name)
            for name in ("decisions", "dead")
        }
        self.agent = MerchantsAgent(
            MerchantStage(CONFIGURED, None, Thresholds()),
            cast(Any, table),
            cast(Any, lambda: self.sender),
            Shelf({"scoring": None, "sequence": None}),
            decisions=topics["decisions"],
            rings=None,
            dead_letters=topics["dead"],
        )

    async def read(self, first: int, *records: tuple[bytes, bytes], at: int = 0) -> None:
        await self.agent.process([chunk(first, *records, at=at)])

    @property
    def rules(self) -> list[str]:
        """Versions of the rules of all decisions until now."""
        return [d.versions.rules for d in self.sender.decisions]


class Payments:
    """Forwarded payments of one user, one after the other."""

    def __init__(self) -> None:
        self._stage, self._records, self._n = user_stage(), MemoryRecords(), 0

    def next(self, amount: float = 50) -> tuple[bytes, bytes]:
        value = {"transaction_id": f"t{self._n}", "user_id": "u", "merchant_id": "m",
                 "amount": amount, "timestamp": START + self._n}  # fmt: skip
        batch = InputBatch.of(0, [b"u"], [json.dumps(value).encode()], self._n)
        output = self._stage.run(batch, alone(self._records))
        self._records.write(output.only_changes)
        self._n += 1
        return output.forward_keys.present()[0], output.forward_values.present()[0]


def switch(number: int, rules: dict[str, Any] | None, version: str = "") -> tuple[bytes, bytes]:
    stored = None
    if rules is not None:
        stored = StoredRules(version or compile_document(rules).version, rules)
    return RULES_KEY, encode_rules_switch(RulesSwitch(number, stored))


async def test_rules_hold_from_their_switch_on_and_survive_the_worker() -> None:
    table, pay = Table(), Payments()
    life = Life(table)
    second = document(a10="shadow", a40="live")
    version = compile_document(second).version
    await life.read(0, pay.next(), switch(4, second), pay.next(), pay.next(), switch(4, None))
    assert life.rules == [CONFIGURED.version, version, version]
    assert life.agent.fired == {"a10": RuleCounts(1, 2), "a40": RuleCounts(2, 0)}
    assert life.agent.rules_in_force() == {0: version, 1: CONFIGURED.version}
    modes = {
        each: {rule.id: rule.mode for rule in rules}
        for each, rules in life.agent.rules_by_version().items()
    }
    configured = {rule.id: rule.mode for rule in CONFIGURED.rules}
    assert modes == {version: {"a10": "shadow", "a40": "live"}, CONFIGURED.version: configured}
    assert configured != modes[version]
    again = Life(table)
    await again.read(5, pay.next(30), switch(9, None), pay.next(5))
    assert again.rules == [version, CONFIGURED.version]
    assert again.agent.fired == {"a10": RuleCounts(0, 1)}
    assert again.agent.details()["rules"] == {0: CONFIGURED.version, 1: CONFIGURED.version}
    assert msgspec.json.decode(msgspec.json.encode(again.agent.details()))["fired"] == {
        "a10": {"live": 0, "shadow": 1}
    }
    assert life.sender.letters == again.sender.letters == []


async def test_rules_and_models_switch_beside_each_other() -> None:
    table, pay = Table(), Payments()
    life = Life(table)
    second = document(a40="live")
    models = SWITCH_KEY, encode_switch(Switch(2, Lineup(None)))
    await life.read(0, switch(4, second), models, pay.next())
    await life.read(0, models, at=1)
    assert life.rules == [compile_document(second).version]
    await life.read(3, switch(5, None), pay.next())
    assert life.rules[1:] == [CONFIGURED.version]


async def test_partitions_on_either_side_of_a_switch_share_a_batch() -> None:
    table, pay = Table(), Payments()
    life = Life(table)
    second = document(a40="live")
    listed = LISTS_KEY, encode_list_change(ListChange(5, 0, (ListEntry("deny", "user", "u"),)))
    reading = document(a10="live")
    reading["rules"][0]["condition"] = "on_deny_list"
    await life.agent.process(
        [
            chunk(0, switch(4, second), pay.next(), at=0),
            chunk(0, pay.next(), pay.next(), switch(4, reading), listed, pay.next(), at=1),
        ]
    )
    by_version = [(d.versions.rules, d.decision) for d in life.sender.decisions]
    denied = compile_document(reading).version
    assert sorted(by_version) == sorted(
        [
            (compile_document(second).version, "review"),
            *[(CONFIGURED.version, "review")] * 2,
            (denied, "review"),
        ]
    )
    await life.agent.process([chunk(2, pay.next(), at=0), chunk(5, pay.next(), at=1)])
    assert sorted(life.rules[4:]) == sorted([compile_document(second).version, denied])


async def test_a_rule_set_is_compiled_once_for_all_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[Any] = []

    def counting(found: Any) -> Any:
        compiled.append(found)
        return compile_document(found)

    monkeypatch.setattr(agents_rules, "compile_document", counting)
    life, pay = Life(Table()), Payments()
    for partition in range(PARTITIONS):
        await life.read(0, switch(1, document(a40="live")), at=partition)
    for k in range(3):
        await life.read(1 + k, pay.next())
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("rules", "version", "why"),
    [
        (document(a40="live"), "0123456789ab", "its rule language is another one"),
        ({"version": 2, "rules": []}, "0123456789ab", "can not compile them"),
        ({"version": 1, "rules": [{"id": "a", "condition": "novel(amount)", "risk_score": 0.5,
                                   "action": "review"}]}, "0123456789ab", "novel"),
    ],
)  # fmt: skip
async def test_who_can_not_decide_by_the_rules_in_force_does_not_go_on(
    rules: dict[str, Any], version: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    table, pay = Table(), Payments()
    life = Life(table)
    log = pay.next(), switch(4, rules, version), pay.next()
    with pytest.raises(RulesMismatchError, match=why):
        await life.read(0, *log)
    assert life.rules == [CONFIGURED.version], "what is before the switch is decided"
    assert life.agent.rules_in_force()[0] == CONFIGURED.version, "the switch is not noted"
    assert "this worker stops" in caplog.text
    with pytest.raises(RulesMismatchError):
        await Life(table).read(0, *log)


async def test_who_comes_to_a_state_with_other_rules_does_not_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, pay = Table(), Payments()
    await Life(table).read(0, switch(4, document(a40="live")))

    def older(found: Any) -> Any:
        return compile_document({**found, "version": 0})

    monkeypatch.setattr(agents_rules, "compile_document", older)
    life = Life(table)
    with pytest.raises(RulesMismatchError):
        await life.read(1, pay.next())
    assert life.rules == []


async def test_what_stands_where_switches_do_and_is_none_is_set_aside() -> None:
    life, pay = Life(Table()), Payments()
    await life.read(0, (RULES_KEY, b"{}"), (LISTS_KEY, b'{"lists":{}}'), pay.next())
    assert life.sender.letters == [("invalid_switch", 0), ("invalid_switch", 1)]
    assert life.rules == [CONFIGURED.version]
