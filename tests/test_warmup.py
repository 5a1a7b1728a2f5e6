"""After the warm-up no kernel is compiled again, whatever a batch brings and where it came from."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

from dafu.agents.shell import input_batch
from dafu.columns import ByteColumn
from dafu.loading import load_stages
from dafu.partitioner import partitions_for
from dafu.settings import load_settings
from dafu.stages.batch import InputBatch
from dafu.stages.ring_pipeline import RingPipeline
from dafu.streaming.wire import decode, encode
from dafu.tables.changes import Changes
from dafu.tables.records import MemoryRecords
from dafu.warmup import warm_up
from tests.oracle import DAY_MS
from tests.streams import START, alone


def signatures() -> dict[str, int]:
    """How many argument types each kernel of dafu has been compiled for."""
    found: dict[str, int] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("dafu."):
            for key, value in vars(module).items():
                if isinstance(value, Dispatcher):
                    found[f"{name}.{key}"] = len(value.signatures)
    return found


def over_the_wire(keys: ByteColumn, values: ByteColumn, first: int) -> InputBatch:
    """Records as a consumer gets them."""
    (batch,) = encode(keys, values, START + 300 * DAY_MS, max_bytes=10_000_000)
    decoded = decode(bytes(batch.data))
    chunk = decoded.batch("topic", 0, 0, len(decoded))
    chunk.offsets = chunk.offsets + first
    return input_batch([chunk])


def payment(i: int, **more: Any) -> bytes:
    fields = {
        "transaction_id": f"t{i}",
        "user_id": f"u{i % 3}",
        "merchant_id": f"m{i % 2}",
        "amount": 10.0 + i,
        "timestamp": START + i * 1000,
    }
    return json.dumps({**fields, **more}).encode()


def test_nothing_is_compiled_after_the_warm_up() -> None:
    settings = load_settings()
    users, merchants = load_stages(settings)
    warm_up(merchants.model)
    before = signatures()
    assert sum(before.values()) > 20

    first, second = MemoryRecords(), MemoryRecords()
    i = forwarded = offset = 0
    for more in (
        {},
        {"user_agent": "caf\u00e9", "lat": 48.0, "long": 11.0},
        {"device_fingerprint": "d", "ip_address": "10.0.0.1", "country": "DE", "channel": "web"},
        {"amount": 99_999.0, "timestamp": "2024-05-05T01:02:03Z"},
        {"timestamp": START + 40 * DAY_MS},
    ):
        values: list[bytes | None] = [payment(i + k, **more) for k in range(450)]
        values[3], values[4], values[5] = None, b"{", values[6]
        keys = [b"other" if k == 7 else f"u{(i + k) % 3}".encode() for k in range(450)]
        keys[5] = keys[6]
        i += 450
        batch = over_the_wire(ByteColumn.of(keys), ByteColumn.of(values), offset)
        offset += len(batch)
        one = users.run(batch, alone(first))
        assert len(one.forward_keys) > 400
        first.write(one.only_changes)
        partitions_for(one.forward_keys, 4)
        inbox = over_the_wire(one.forward_keys, one.forward_values, forwarded)
        forwarded += len(inbox)
        two = merchants.run(inbox, alone(second))
        assert len(two.decisions) == len(inbox)
        second.write(two.only_changes)
        for changes in (one.only_changes, two.only_changes):
            over_the_wire(changes.keys, changes.values, 0)
            assert isinstance(changes, Changes)
        encode(two.keys, two.decisions, np.zeros(len(two.keys), np.int64), max_bytes=100_000)
        again = merchants.run(inbox, alone(second))
        assert again.fenced == len(inbox)

    pipeline = RingPipeline(users, merchants)
    for week in range(9):
        values = [
            payment(
                i,
                user_id=f"w{week}-{i}",
                timestamp=START + 7 * DAY_MS * week + i,
                device_fingerprint=f"device-{week}-{i // 5}",
                ip_address="10.0.0.9",
            )
            for i in range(20)
        ]
        passed = pipeline.run_chunk([f"w{week}-{i}".encode() for i in range(20)], values)
        assert passed.alerts

    after = signatures()
    compiled = {name: n - before.get(name, 0) for name, n in after.items()}
    assert {name: n for name, n in compiled.items() if n} == {}
