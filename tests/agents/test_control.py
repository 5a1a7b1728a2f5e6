"""Control events are granted once or refused once, wherever a crash falls."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from dafu.agents.control import ControlAgent
from dafu.agents.shelf import Shelf
from dafu.columns import ByteColumn
from dafu.features.state import LATENESS
from dafu.lists import ListChange, ListEntry, ListEvent
from dafu.partitioner import partitions_for
from dafu.registry import (
    CONFIGURED,
    CONTROL_KEY,
    LISTS_KEY,
    RULES_KEY,
    SWITCH_KEY,
    ControlEvent,
    Lineup,
    RulesSwitch,
    Switch,
    encode_event,
    read_list_change,
    read_rules_switch,
    read_switch,
)
from dafu.rulesets import MAX_RULES_BYTES, RulesEvent, StoredRules
from dafu.stages.names import compile_document
from dafu.streaming.dead_letters import read_headers
from dafu.streaming.records import RecordBatch, decode_headers
from dafu.tables.records import MemoryRecords
from tests.packages import flip_a_byte, forest, ref

PARTITIONS = 3
NOW = 1_767_225_600_000
HOME = int(partitions_for(ByteColumn.of([CONTROL_KEY]), PARTITIONS)[0])


CONFIGURED_RULES = compile_document(
    {
        "version": 1,
        "rules": [
            {"id": "large", "condition": "amount > 100", "risk_score": 0.8, "action": "review"},
            {"id": "denied", "condition": "on_deny_list", "risk_score": 1.0, "action": "block"},
        ],
    }
)


class CrashError(Exception):
    """The worker ends here."""


class Sender:
    """Keeps what is sent; crashes when it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int | None, bytes | None, bytes | None, Any]] = []
        self.crash_at: str | None = None

    async def partition_count(self, topic: str) -> int:
        return PARTITIONS

    async def send(
        self,
        topic: str,
        keys: ByteColumn,
        values: ByteColumn,
        *,
        partition: Any = None,
        headers: ByteColumn | None = None,
    ) -> None:
        for i in range(len(keys)):
            if topic == self.crash_at and i == 1:
                raise CrashError
            at = None if partition is None else int(np.broadcast_to(partition, len(keys))[i])
            head = None if headers is None else decode_headers(headers[i] or b"")
            self.sent.append((topic, at, keys[i], values[i], head))

    post = send

    def switches(self, topic: str) -> list[tuple[int | None, Switch]]:
        out = []
        for name, at, key, value, _ in self.sent:
            if name == topic:
                assert key == SWITCH_KEY
                switch = read_switch(value)
                assert switch is not None
                out.append((at, switch))
        return out

    def told(self, key: bytes, read: Any) -> list[tuple[int | None, Any]]:
        """What went to stage two's log under a key, with the partition."""
        return [(at, read(v)) for t, at, k, v, _ in self.sent if (t, k) == ("scored", key)]

    def details(self) -> list[str]:
        """Why events were set aside."""
        origins = [read_headers(head) for topic, _, _, _, head in self.sent if topic == "dead"]
        return [o.detail for o in origins if o is not None]

    def refusals(self) -> list[tuple[str, int]]:
        origins = [read_headers(head) for topic, _, _, _, head in self.sent if topic == "dead"]
        return [(o.reason, o.offset) for o in origins if o is not None]


class Table:
    """The table's interface over records that outlive a crash."""

    def __init__(self) -> None:
        self.stored = MemoryRecords()
        self.records = SimpleNamespace(open_partitions=lambda: [HOME])
        self.crash_at: int | None = None
        """Which commit from now on ends the worker, half of its changes written."""

    def partition(self, number: int) -> MemoryRecords:
        return self.stored

    async def claim(self, sender: Any, partition: int) -> int:
        return 7

    async def commit_batch(self, sender: Any, partition: int, changes: Any, claim: int) -> None:
        assert claim == 7
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at == 0:
                self.stored.write(list(changes)[: len(changes) // 2])
                raise CrashError
        self.stored.write(changes)


class Life:
    """One worker's life on the same table and topics."""

    def __init__(self, table: Table, sender: Sender) -> None:
        topics = {
            name: SimpleNamespace(get_topic_name=lambda name=name: name)
            for name in ("scored", "stepped", "dead")
        }
        self.agent = ControlAgent(
            cast(Any, table),
            cast(Any, lambda: sender),
            Shelf({"scoring": None, "sequence": None}),
            CONFIGURED_RULES,
            logs={"scoring": topics["scored"], "sequence": topics["stepped"]},
            dead_letters=topics["dead"],
        )

    async def read(
        self, first: int, *values: bytes, key: Any = CONTROL_KEY, at: int = HOME
    ) -> None:
        records = [
            SimpleNamespace(offset=first + i, timestamp=NOW, key=key, value=value, headers=())
            for i, value in enumerate(values)
        ]
        await self.agent.process([RecordBatch.of("control", at, records)])

    @property
    def scoring(self) -> Lineup:
        return self.agent.registry(HOME).scoring


def event(action: Any, **fields: Any) -> bytes:
    return encode_event(ControlEvent(event_id=uuid.uuid4().hex, action=action, **fields))


@pytest.fixture
def world() -> tuple[Table, Sender]:
    return Table(), Sender()


async def test_a_crash_between_grant_and_switch_refuses_nothing_and_repeats_nothing(
    world: tuple[Table, Sender], tmp_path: Path
) -> None:
    a, b = (ref(forest(tmp_path / n, seed=i), tmp_path / n) for i, n in enumerate("ab"))
    table, sender = world
    life = Life(table, sender)
    await life.read(0, event("deploy", model=a))
    every = list(range(PARTITIONS))
    assert sender.switches("scored") == [
        (p, Switch(0, Lineup(a, (), (CONFIGURED,)))) for p in every
    ]
    sender.crash_at = "scored"
    with pytest.raises(CrashError):
        await life.read(1, event("deploy", model=b))
    shutil.rmtree(b.url)
    sender.crash_at = None
    sender.sent.clear()
    life = Life(table, sender)
    await life.read(0, event("deploy", model=a), event("deploy", model=b))
    expected = Lineup(b, (), (CONFIGURED, a))
    assert sender.refusals() == []
    assert sender.switches("scored") == [(p, Switch(1, expected)) for p in every]
    assert life.scoring == expected


async def test_a_rollback_that_is_read_twice_goes_back_once(
    world: tuple[Table, Sender], tmp_path: Path
) -> None:
    a, b = (ref(forest(tmp_path / n, seed=i), tmp_path / n) for i, n in enumerate("ab"))
    table, sender = world
    events = event("deploy", model=a), event("deploy", model=b), event("rollback")
    await Life(table, sender).read(0, *events)
    for first in (0, 1, 2):
        life = Life(table, sender)
        await life.read(first, *events[first:])
        assert life.scoring == Lineup(a, (), (CONFIGURED,))
    assert sender.refusals() == []
    assert {s.number for _, s in sender.switches("scored")[3 * PARTITIONS :]} == {2}


async def test_a_rollback_that_a_client_sent_twice_goes_back_once(
    world: tuple[Table, Sender], tmp_path: Path
) -> None:
    a, b = (ref(forest(tmp_path / n, seed=i), tmp_path / n) for i, n in enumerate("ab"))
    table, sender = world
    back = event("rollback")
    life = Life(table, sender)
    await life.read(0, event("deploy", model=a), event("deploy", model=b), back, back)
    assert life.scoring == Lineup(a, (), (CONFIGURED,))
    assert await life.agent.outcomes.get(3) is None
    await Life(table, sender).read(4, back)
    assert life.scoring == Lineup(a, (), (CONFIGURED,))
    assert sender.refusals() == []
    await life.read(5, event("rollback"))
    assert life.scoring.champion == CONFIGURED


async def test_what_can_not_be_is_set_aside_and_changes_nothing(
    world: tuple[Table, Sender], tmp_path: Path
) -> None:
    a = ref(forest(tmp_path / "a", seed=1), tmp_path / "a")
    table, sender = world
    life = Life(table, sender)
    other = (HOME + 1) % PARTITIONS
    await life.read(0, event("deploy", role="shadow", model=a), at=other)
    await life.read(0, event("deploy", role="shadow", model=a), key=b"m")
    assert life.scoring == Lineup()
    await life.read(1, event("deploy", role="shadow", model=a))
    flip_a_byte(Path(a.url))
    before = life.scoring
    await life.read(
        2,
        event("promote", version=a.version),
        event("promote", version="nobody"),
        event("rollback"),
        event("deploy", level="sequence", model=a),
        b"{",
        b"",
        event("stop", version=a.version),
    )
    assert sender.refusals() == [
        ("wrong_key", 0),
        ("wrong_key", 0),
        ("unusable_model", 2),
        ("impossible_control_event", 3),
        ("impossible_control_event", 4),
        ("unusable_model", 5),
        ("invalid_control_event", 6),
        ("invalid_control_event", 7),
    ]
    assert before.candidates[0].model == a
    assert life.scoring == Lineup(), "to stop a damaged one its package is not needed"
    assert [s.number for _, s in sender.switches("scored")] == [1] * 3 + [8] * 3
    assert sender.switches("stepped") == []
    assert life.agent.counters.rejected == 8
    assert life.agent.counters.outputs == 2


RULES: dict[str, Any] = {
    "version": 1,
    "lists": {"cash": ["gift_cards"]},
    "rules": [
        {"id": "a", "condition": "category in cash", "risk_score": 0.8, "action": "review"},
        {"id": "b", "condition": "amount>5", "risk_score": 0.4, "action": "review"},
    ],
}


def rules_event(action: Any, **fields: Any) -> bytes:
    return encode_event(RulesEvent(event_id=uuid.uuid4().hex, action=action, by="ann", **fields))


def list_event(action: Any, *entries: ListEntry) -> bytes:
    asked = ListEvent(
        event_id=uuid.uuid4().hex, action=action, entries=entries, by="ann", why="ring", at=5
    )
    return encode_event(asked)


def as_stored(document: Any) -> StoredRules:
    rules = compile_document(document)
    return StoredRules(rules.version, rules.document())


async def test_rules_are_put_changed_and_taken_back_in_every_partition(
    world: tuple[Table, Sender],
) -> None:
    table, sender = world
    life = Life(table, sender)
    await life.read(
        0,
        rules_event("put_rules", rules=RULES, why="stricter"),
        rules_event("set_rule_mode", rule_id="b", mode="off"),
        rules_event("rollback_rules"),
        rules_event("rollback_rules"),
    )
    assert sender.refusals() == []
    put = as_stored(RULES)
    off = as_stored({**RULES, "rules": [RULES["rules"][0], {**RULES["rules"][1], "mode": "off"}]})
    assert sender.told(RULES_KEY, read_rules_switch) == [
        (p, RulesSwitch(number, rules))
        for number, rules in enumerate((put, off, put, None))
        for p in range(PARTITIONS)
    ]
    state = life.agent.registry(HOME).rules
    assert (state.current, state.former) == (None, ())
    assert [(c.action, c.version, c.by, c.why) for c in state.history] == [
        ("put_rules", put.version, "ann", "stricter"),
        ("set_rule_mode", off.version, "ann", ""),
        ("rollback_rules", put.version, "ann", ""),
        ("rollback_rules", None, "ann", ""),
    ]


async def test_the_mode_of_a_configured_rule_puts_all_that_are_configured(
    world: tuple[Table, Sender],
) -> None:
    table, sender = world
    life = Life(table, sender)
    await life.read(0, rules_event("set_rule_mode", rule_id="large", mode="shadow"))
    state = life.agent.registry(HOME).rules
    assert state.current is not None
    modes = [(r["id"], r.get("mode", "live")) for r in state.current.rules]
    assert modes == [("large", "shadow"), ("denied", "live")]
    assert state.version != CONFIGURED_RULES.version
    await life.read(1, rules_event("set_rule_mode", rule_id="large", mode="live"))
    assert life.agent.registry(HOME).rules.version == CONFIGURED_RULES.version


async def test_bad_rules_are_refused_with_every_mistake_and_change_nothing(
    world: tuple[Table, Sender],
) -> None:
    table, sender = world
    life = Life(table, sender)
    bad = {
        "version": 1,
        "lists": {"cash": ["x", 1]},
        "rules": [
            {"id": "a", "condition": "amuont > 5", "risk_score": 0.8, "action": "review"},
            {"id": "a!", "condition": "amount > 5", "risk_score": 0.8, "action": "review"},
            {"id": "c", "condition": "amount > 5km", "risk_score": 8, "action": "stop"},
        ],
    }
    long = [{**RULES["rules"][1], "id": f"r{k}", "description": "x" * 1000} for k in range(150)]
    await life.read(
        0,
        rules_event("put_rules", rules=bad),
        rules_event("put_rules", rules={"version": 1, "rules": long}),
        rules_event("put_rules", rules={}),
        rules_event("set_rule_mode", rule_id="larg", mode="off"),
        rules_event("rollback_rules"),
        encode_event(RulesEvent("e", "put_rules")),
    )
    assert [reason for reason, _ in sender.refusals()] == [
        "invalid_rules",
        "impossible_control_event",
        "invalid_rules",
        *["impossible_control_event"] * 3,
    ]
    details = sender.details()
    for mistake in ("did you mean amount", "'cash'", "an id begins with", "rule 'c'"):
        assert mistake in details[0]
    assert f"{MAX_RULES_BYTES:,}" in details[1]
    assert "did you mean large" in details[3]
    assert table.stored.data == {}
    assert sender.told(RULES_KEY, read_rules_switch) == []


async def test_rules_that_were_granted_are_switched_to_after_a_crash(
    world: tuple[Table, Sender],
) -> None:
    table, sender = world
    events = rules_event("put_rules", rules=RULES), rules_event("rollback_rules")
    sender.crash_at = "scored"
    for first in (0, 1):
        with pytest.raises(CrashError):
            await Life(table, sender).read(first, events[first])
        sender.crash_at, crashing = None, sender.crash_at
        sender.sent.clear()
        await Life(table, sender).read(0, *events[: first + 1])
        rules = as_stored(RULES) if first == 0 else None
        assert sender.told(RULES_KEY, read_rules_switch) == [
            (p, RulesSwitch(first, rules)) for p in range(PARTITIONS)
        ]
        sender.crash_at = crashing
    assert sender.refusals() == []
    assert len(Life(table, sender).agent.registry(HOME).rules.history) == 2


async def test_entries_are_put_and_removed_and_the_log_says_no_names(
    world: tuple[Table, Sender],
) -> None:
    table, sender = world
    life = Life(table, sender)
    device = ListEntry("deny", "device", "fp", until=NOW + 1)
    mail = ListEntry("watch", "email", "A@x.org")
    await life.read(
        0,
        list_event("add_entries", device, mail),
        list_event("remove_entries", ListEntry("watch", "email", "a@X.org")),
        list_event("remove_entries", mail),
        list_event("add_entries", ListEntry("deny", "user", "u", until=NOW)),
    )
    assert sender.refusals() == [("impossible_control_event", 2), ("impossible_control_event", 3)]
    (entry,) = life.agent.entries(HOME).values()
    assert entry == ListEntry("deny", "device", "fp", NOW + 1, by="ann", why="ring", at=5)
    assert sender.told(LISTS_KEY, read_list_change) == [
        (p, ListChange(number, NOW, entries, removed))
        for number, entries, removed in (
            (0, (device, mail), False),
            (1, (ListEntry("watch", "email", "a@X.org"),), True),
        )
        for p in range(PARTITIONS)
    ]
    assert life.agent.registry(HOME).number == 1


@pytest.mark.parametrize("crash_at", ["scored", "table"])
async def test_entries_that_were_granted_are_told_of_after_a_crash(
    world: tuple[Table, Sender], crash_at: str
) -> None:
    table, sender = world
    gone = ListEntry("deny", "user", "u", until=NOW + 1)
    await Life(table, sender).read(0, list_event("add_entries", gone))
    sender.sent.clear()
    sender.crash_at, table.crash_at = crash_at, 2 if crash_at == "table" else None
    events = list_event("remove_entries", gone)
    with pytest.raises(CrashError):
        await Life(table, sender).read(1, events)
    sender.crash_at = table.crash_at = None
    sender.sent.clear()
    life = Life(table, sender)
    await life.read(1, events)
    assert sender.refusals() == []
    assert len(sender.told(LISTS_KEY, read_list_change)) == PARTITIONS
    assert life.agent.entries(HOME) == {}


async def test_what_ended_long_ago_is_forgotten_with_the_next_change(
    world: tuple[Table, Sender],
) -> None:
    table, sender = world
    life = Life(table, sender)
    await life.read(0, list_event("add_entries", ListEntry("deny", "user", "u", until=NOW + 1)))
    later = [
        SimpleNamespace(offset=1, timestamp=NOW + 1 + LATENESS, key=CONTROL_KEY,
                        value=list_event("add_entries", ListEntry("deny", "user", "v")),
                        headers=())
    ]  # fmt: skip
    await life.agent.process([RecordBatch.of("control", HOME, later)])
    assert [key.value for key in life.agent.entries(HOME)] == ["v"]
