"""A broker in memory for the agents of a worker without one, and its metrics as tests read them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families as read_text

from dafu.columns import ByteColumn
from dafu.streaming.records import RecordBatch, decode_headers
from dafu.tables.ownership import Position
from dafu.web.metrics import COUNTING
from dafu.web.progress import Offsets
from tests.web.conftest import Worker, payment

NOW = 1_700_000_500_000


class Memory:
    """Takes what agents send, and hands it to the agents that read it, in partition 0."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        agents, topics = worker.agents, worker.app.settings.topics
        self.sent: defaultdict[str, list[SimpleNamespace]] = defaultdict(list)
        self.batches: Counter[str] = Counter()
        self.readers: dict[str, Any] = {
            topics.transactions: agents.users,
            topics.transactions_by_merchant: agents.merchants,
            topics.labels: agents.labels,
            topics.ring_membership: agents.memberships,
            topics.identifiers: agents.identifiers,
            topics.links: agents.rings,
        }
        self._read: Counter[str] = Counter()
        for agent in agents.by_name().values():
            agent.sender = lambda: self
            table = getattr(agent, "table", None)
            if table is not None:
                monkeypatch.setattr(table, "claim", self._claim)
                monkeypatch.setattr(table, "commit_batches", _commit(table))

    async def _claim(self, *_: Any) -> int:
        return 0

    async def send(
        self,
        topic: str,
        keys: ByteColumn,
        values: ByteColumn,
        *,
        headers: ByteColumn | None = None,
        **_: Any,
    ) -> None:
        own = [None] * len(keys) if headers is None else headers.tolist()
        for key, value, header in zip(keys.tolist(), values.tolist(), own, strict=True):
            self.put(topic, key, value, NOW - 20, decode_headers(header or b"") if header else [])

    post = send

    def put(
        self, topic: str, key: bytes | None, value: bytes | None, timestamp: int, headers: Any = ()
    ) -> None:
        record = SimpleNamespace(
            offset=len(self.sent[topic]), timestamp=timestamp, key=key, value=value, headers=headers
        )
        self.sent[topic].append(record)

    async def settle(self, most: int = 7) -> None:
        """Let the agents work, `most` records at a time, until nothing is left to do."""
        waiting = deque(self.readers)
        idle = 0
        while idle < len(waiting):
            topic = waiting[0]
            waiting.rotate(-1)
            at = self._read[topic]
            records = self.sent[topic][at : at + most]
            idle = 0 if records else idle + 1
            if records:
                self._read[topic] += len(records)
                self.batches[topic] += 1
                await self.readers[topic].process([RecordBatch.of(topic, 0, records)])


def _commit(table: Any) -> Any:
    async def commit(_sender: Any, changes: Mapping[int, Any], _claims: Any) -> None:
        for partition, own in changes.items():
            table.records.apply(partition, own, Position(0))

    return commit


class Scraped:
    """An exposition, read by the library's parser."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.families = {family.name: family for family in families}
        self.series: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in self.families.values():
            for sample in family.samples:
                place = sample.name, frozenset(sample.labels.items())
                assert place not in self.series, f"{place} is there twice"
                self.series[place] = sample.value

    def __call__(self, metric: str, **labels: object) -> float:
        return self.series[metric, frozenset((k, str(v)) for k, v in labels.items())]

    def by(self, metric: str, *labels: str) -> dict[Any, float]:
        """Values of a metric by one label, or by several as a tuple."""
        found = {}
        for (name, own), value in self.series.items():
            if name == metric:
                values = tuple(dict(own)[label] for label in labels)
                found[values[0] if len(values) == 1 else values] = value
        return found


async def scrape(worker: Worker) -> Scraped:
    answer = await worker.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return Scraped(read_text(answer.body.decode()))


def publish(memory: Memory, payments: Sequence[dict[str, Any]], age_ms: int = 40) -> None:
    for i, p in enumerate(payments):
        memory.put("transactions", p["user_id"].encode(), json.dumps(p).encode(), NOW - age_ms - i)


def farm(first: int) -> list[dict[str, Any]]:
    """Payments of users who share a device and a card: a ring, once they have been blocked."""
    return [
        payment(first + i, f"farm{i % 8}", f"m{i % 3}", 2000.0)
        | {"device_fingerprint": "one-device", "card_id": "one-card", "ip_address": "203.0.113.9"}
        for i in range(40)
    ]


async def counted(worker: Worker) -> None:
    """Wait until the count of the tables that a scrape has started is done."""
    while any(task.get_name() == COUNTING for task in asyncio.all_tasks()):
        await asyncio.sleep(0.001)


async def everything(worker: Worker, memory: Memory) -> Scraped:
    """What is exposed after work that leaves no metric without a sample."""
    publish(memory, farm(0))
    memory.put("transactions", b"u", b"{", NOW)
    await memory.settle()
    await scrape(worker)
    await counted(worker)
    worker.reporter.monitor.progress.observe(1.0, {TP("t", 0): Offsets(5, 9, False)})
    worker.reporter.monitor._checked = 1.0
    return await scrape(worker)
