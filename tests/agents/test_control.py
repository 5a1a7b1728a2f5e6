"""Control events are granted once or refused once, wherever a crash falls."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from dafu.agents.control import ControlAgent
from dafu.agents.shelf import Shelf
from dafu.columns import ByteColumn
from dafu.partitioner import partitions_for
from dafu.registry import (
    CONFIGURED,
    CONTROL_KEY,
    SWITCH_KEY,
    ControlEvent,
    Lineup,
    Switch,
    encode_event,
    read_switch,
)
from dafu.streaming.dead_letters import read_headers
from dafu.streaming.records import RecordBatch, decode_headers
from dafu.tables.records import MemoryRecords
from tests.packages import flip_a_byte, forest, ref

PARTITIONS = 3
HOME = int(partitions_for(ByteColumn.of([CONTROL_KEY]), PARTITIONS)[0])


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

    def switches(self, topic: str) -> list[tuple[int | None, Switch]]:
        out = []
        for name, at, key, value, _ in self.sent:
            if name == topic:
                assert key == SWITCH_KEY
                switch = read_switch(value)
                assert switch is not None
                out.append((at, switch))
        return out

    def refusals(self) -> list[tuple[str, int]]:
        origins = [read_headers(head) for topic, _, _, _, head in self.sent if topic == "dead"]
        return [(o.reason, o.offset) for o in origins if o is not None]


class Table:
    """The table's interface over records that outlive a crash."""

    def __init__(self) -> None:
        self.stored = MemoryRecords()

    def partition(self, number: int) -> MemoryRecords:
        return self.stored

    async def claim(self, sender: Any, partition: int) -> int:
        return 7

    async def commit_batch(self, sender: Any, partition: int, changes: Any, claim: int) -> None:
        assert claim == 7
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
            logs={"scoring": topics["scored"], "sequence": topics["stepped"]},
            dead_letters=topics["dead"],
        )

    async def read(
        self, first: int, *values: bytes, key: Any = CONTROL_KEY, at: int = HOME
    ) -> None:
        records = [
            SimpleNamespace(offset=first + i, timestamp=0, key=key, value=value, headers=())
            for i, value in enumerate(values)
        ]
        await self.agent.process([RecordBatch.of("control", at, records)])

    @property
    def scoring(self) -> Lineup:
        return self.agent.registry(HOME).scoring


def event(action: Any, **fields: Any) -> bytes:
    return encode_event(ControlEvent(event_id="e", action=action, **fields))


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
