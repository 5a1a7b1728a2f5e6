"""What the two stages' agents send, and to which topics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dafu.agents.merchants import MerchantsAgent
from dafu.agents.shell import RingTopics
from dafu.agents.users import UsersAgent
from dafu.columns import ByteColumn
from dafu.rings.records import decode_alert
from dafu.rules import Rule, compile_rules
from dafu.stages.batch import InputBatch, UserOutput
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import RULE_NAMES
from dafu.tables.records import MemoryRecords
from tests.bursts import DAY, HOUR
from tests.oracle import Enrolment, Payment
from tests.streams import START, Event, alone, batches, run_users, user_stage

BLOCK = Rule(id="large", condition="amount > 50", risk_score=0.95, action="block")


class Sender:
    """Notes what is sent where."""

    def __init__(self) -> None:
        self.sent: dict[str, tuple[list[bytes | None], list[bytes | None]]] = {}

    async def send(self, topic: str, keys: ByteColumn, values: ByteColumn, **_: Any) -> None:
        assert topic not in self.sent
        self.sent[topic] = keys.tolist(), values.tolist()

    post = send


def topic(name: str) -> Any:
    return SimpleNamespace(get_topic_name=lambda: f"t.{name}")


RINGS = RingTopics(topic("identifiers"), topic("links"), topic("alerts"))
NOTHING: Any = None


def users_agent(rings: RingTopics | None = RINGS) -> UsersAgent:
    return UsersAgent(
        user_stage(),
        NOTHING,
        NOTHING,
        NOTHING,
        forwarded=topic("topic"),
        rings=rings,
        dead_letters=topic("dead"),
    )


def merchants_agent(stage: MerchantStage, rings: RingTopics | None = RINGS) -> MerchantsAgent:
    return MerchantsAgent(
        stage,
        NOTHING,
        NOTHING,
        NOTHING,
        decisions=topic("topic"),
        rings=rings,
        dead_letters=topic("dead"),
    )


def applied(stream: list[Event]) -> tuple[InputBatch, UserOutput]:
    (batch,) = batches(stream, [])
    return batch, user_stage().run(batch, alone(MemoryRecords()))


def payment(name: str, amount: float, device: str | None) -> Payment:
    return Payment(
        transaction_id=name, user_id="u", merchant_id="m", amount=amount, time=START, device=device
    )


RING = Enrolment(user_id="u", ring_id="r", time=START, size=3)


async def test_stage_one_forwards_and_tells_of_identifiers_and_members() -> None:
    agent = users_agent()
    sender: Any = Sender()
    batch, output = applied([payment("a", 1.0, "fp-1"), RING, payment("b", 60.0, "unknown")])
    for sending in agent.publish(sender, "source", batch, output):
        await sending
    assert set(sender.sent) == {"t.topic", "t.identifiers", "t.links"}
    assert sender.sent["t.identifiers"][0] == [b"device:fp-1"]
    assert sender.sent["t.identifiers"][1] == output.sightings.values.tolist()
    assert sender.sent["t.links"] == ([b"u"] * 2, output.activities.values.tolist())
    agent.count(output)
    assert agent.memberships == 1
    assert agent.by_identifier == {"sightings": 1, "refused": 1, "capped": 0}


async def test_stage_two_decides_and_tells_of_what_it_blocked() -> None:
    stage = MerchantStage(compile_rules([BLOCK], {}, RULE_NAMES, {}), None, Thresholds())
    agent = merchants_agent(stage)
    for amount, told in ((60.0, {"t.topic", "t.identifiers", "t.links"}), (1.0, {"t.topic"})):
        sender: Any = Sender()
        _, first = applied([RING, payment("a", amount, "fp-1")])
        batch = InputBatch.of(0, first.forward_keys.tolist(), first.forward_values.tolist())
        output = stage.run(batch, alone(MemoryRecords()))
        for sending in agent.publish(sender, "source", batch, output):
            await sending
        assert set(sender.sent) == told
        assert sender.sent["t.topic"][0] == [b"u"]
    assert stage.run(InputBatch.of(0, [], []), alone(MemoryRecords())).sightings.keys.tolist() == []


async def test_bursts_at_merchants_are_told_by_ring() -> None:
    stage = MerchantStage(compile_rules([], {}, RULE_NAMES, {}), None, Thresholds())
    agent = merchants_agent(stage)
    regulars = [(k * 5 * HOUR, f"c{k % 9}", 20.0 + k % 5) for k in range(30)]
    tried = [(7 * DAY + k * 10_000, f"x{k}", 1.0) for k in range(20)]
    stream = [
        Payment(transaction_id=f"t{i}", user_id=u, merchant_id="m", amount=a, time=START + at)
        for i, (at, u, a) in enumerate(regulars + tried)
    ]
    (first,) = run_users(batches(stream, []), MemoryRecords())
    batch = InputBatch.of(0, first.forward_keys.tolist(), first.forward_values.tolist())
    output = stage.run(batch, alone(MemoryRecords()))
    sender: Any = Sender()
    for sending in agent.publish(sender, "source", batch, output):
        await sending
    assert set(sender.sent) == {"t.topic", "t.alerts"}
    keys, values = sender.sent["t.alerts"]
    alerts = [decode_alert(value or b"") for value in values]
    assert [a.event for a in alerts] == ["opened", "grown"]
    assert keys == [a.ring_id.encode() for a in alerts]
    agent.count(output)
    assert agent.alerts == 2


async def test_without_a_search_for_rings_nothing_is_told_of_them() -> None:
    batch, output = applied([payment("a", 60.0, "fp-1"), RING, payment("b", 60.0, "fp-1")])
    assert len(output.sightings.keys)
    assert len(output.activities.keys)
    sender: Any = Sender()
    for sending in users_agent(None).publish(sender, "source", batch, output):
        await sending
    stage = MerchantStage(compile_rules([BLOCK], {}, RULE_NAMES, {}), None, Thresholds())
    inbox = InputBatch.of(0, output.forward_keys.tolist(), output.forward_values.tolist())
    decided = stage.run(inbox, alone(MemoryRecords()))
    assert len(decided.sightings.keys)
    assert set(sender.sent) == {"t.topic"}
    sender = Sender()
    for sending in merchants_agent(stage, None).publish(sender, "source", inbox, decided):
        await sending
    assert set(sender.sent) == {"t.topic"}


async def test_a_batch_that_tells_nothing_sends_nothing() -> None:
    agent = users_agent()
    sender: Any = Sender()
    batch, output = applied([RING])
    assert agent.publish(sender, "source", batch, output) == []
