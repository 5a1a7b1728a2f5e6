"""What became known elsewhere, written among the transactions; what can not be read, set aside."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from dafu.agents.recorder import Admit, RecorderAgent, admit_label, admit_membership
from dafu.rings.membership import parse_membership_record
from dafu.rings.records import MEMBERSHIP_RECORD, Membership, encode
from dafu.schema import LABEL_RECORD, InvalidRecordError, parse_label_record
from dafu.streaming.records import RecordBatch
from tests.agents.recording import Sender, topic

TIME = 1_700_000_000_000
MEMBERSHIP = Membership("ann", "ring-1", TIME, 4, 0.8, 2, 1, "device \u00fc", 3)
LABEL = {
    "transaction_id": "t",
    "user_id": "ann",
    "is_fraud": True,
    "source": "analyst",
    "observed_at": TIME,
}


def chunk(values: list[bytes | None]) -> RecordBatch:
    records = [
        SimpleNamespace(offset=n, timestamp=n, key=b"any", value=value, headers=())
        for n, value in enumerate(values)
    ]
    return RecordBatch.of("source", 0, records)


async def admitted(admit: Admit, values: list[bytes | None]) -> tuple[Sender, RecorderAgent]:
    sender = Sender()
    agent = RecorderAgent(
        lambda: sender,  # type: ignore[arg-type,return-value]
        admit,
        topic=topic("transactions"),
        dead_letters=topic("dead"),
    )
    await agent.process([chunk(values)])
    return sender, agent


async def test_memberships_are_keyed_by_user_and_what_is_none_is_set_aside() -> None:
    sender, agent = await admitted(admit_membership, [encode(MEMBERSHIP), b"{", None])
    ((key, value, _),) = sender.sent["transactions"]
    assert key == b"ann"
    assert value is not None and value.startswith(MEMBERSHIP_RECORD)
    assert sender.times["transactions"] is None, "that of writing"
    assert parse_membership_record(value) == MEMBERSHIP
    assert agent.counters.rejected_by_reason == {"not_json": 1, "empty": 1}
    letters = sender.sent["dead"]
    assert [value for _, value, _ in letters] == [b"{", None]
    assert [origin.reason for origin in sender.origins("dead")] == ["not_json", "empty"]
    counted = agent.counters
    assert (counted.records, counted.outputs, counted.rejected) == (3, 1, 2)


async def test_labels_likewise() -> None:
    sender, _ = await admitted(admit_label, [json.dumps(LABEL).encode()])
    ((key, value, _),) = sender.sent["transactions"]
    assert key == b"ann"
    assert value is not None and value.startswith(LABEL_RECORD)
    assert parse_label_record(value)[0].transaction_id == "t"
    assert "dead" not in sender.sent


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_id": ""}, "invalid_field"),
        ({"ring_id": None}, "invalid_field"),
        ({"risk": -0.1}, "invalid_field"),
        ({"blocked": -1}, "invalid_field"),
        ({"frauds": 2**40}, "invalid_field"),
        ({"time": 5}, "absurd_timestamp"),
    ],
)
def test_a_membership_that_can_not_be_true_is_refused(changes: dict[str, Any], reason: str) -> None:
    document = {**json.loads(encode(MEMBERSHIP)), **changes}
    with pytest.raises(InvalidRecordError) as refused:
        admit_membership(json.dumps(document).encode())
    assert refused.value.reason == reason
