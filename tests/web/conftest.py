"""A worker's app with its real web server, tables and stages, and no broker."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import aiohttp
import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from yarl import URL

from dafu.agents.assembly import add_agents
from dafu.broker import free_port
from dafu.columns import ByteColumn
from dafu.features.catalogue import ALIASES, DAY
from dafu.partitioner import partitions_for
from dafu.rules import Rule, compile_rules
from dafu.settings import Access, Settings, Web
from dafu.stages.batch import InputBatch
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import RULE_NAMES
from dafu.stages.users import UserStage
from dafu.tables.ownership import Position
from dafu.tables.records import MemoryRecords
from dafu.web.server import register_web
from tests.asking import ADMIN_KEY
from tests.redis import Redis

PARTITIONS = 4


def _partition_of(key: bytes) -> int:
    return int(partitions_for(ByteColumn.of([key]), PARTITIONS)[0])


START = 1_700_000_000_000
OTHER = "http://other.example:6066"
RULES = [
    Rule(id="large", condition="amount > 1000", risk_score=0.8, action="review"),
    Rule(id="huge", condition="amount > 9000", risk_score=0.9, action="block", mode="shadow"),
    Rule(id="old", condition="amount > 1", risk_score=0.1, action="review", mode="off"),
]


def payment(
    number: int, user: str, merchant: str = "shop", amount: float = 10.0, **more: Any
) -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}",
        "user_id": user,
        "merchant_id": merchant,
        "amount": amount,
        "timestamp": START + number * 1000,
        **more,
    }


class Answer:
    """A response that was read to its end."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.content_type = response.content_type
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Worker:
    """The app under test and what tests do to it."""

    def __init__(
        self,
        app_class: Any,
        data_dir: Path,
        store: Literal["memory", "rocksdb"],
        **web_settings: Any,
    ) -> None:
        settings = Settings(
            app_id="views",
            model_path=None,
            store=store,
            data_dir=data_dir,
            web=Web(port=free_port(), admin_key=ADMIN_KEY, **web_settings),
            auth=Access(file=data_dir / "auth.yaml"),
        )
        self.app = app_class(settings)
        rules = compile_rules(RULES, {}, RULE_NAMES, ALIASES)
        stages = UserStage(DAY), MerchantStage(rules, None, Thresholds())
        self.agents = add_agents(self.app, *stages)
        self.users, self.merchants = self.agents.users, self.agents.merchants
        self.reporter = register_web(self.app, self.agents, settings)
        self.base = f"http://127.0.0.1:{settings.web.port}"
        self._session: aiohttp.ClientSession | None = None
        self._offset = 0

    async def start(self) -> None:
        self.app.web.init_server()
        await self.app.web.start_server()
        self._session = aiohttp.ClientSession()

    async def stop(self) -> None:
        assert self._session is not None
        await self._session.close()
        for agent in self.agents.keepers:
            agent.table.records.reset_state()
        await self.app.web.stop_server()

    async def ask(
        self,
        path: str,
        method: str = "GET",
        key: str | None = ADMIN_KEY,
        document: Any = None,
        **headers: str,
    ) -> Answer:
        """`path` is sent as it is."""
        assert self._session is not None
        url = URL(self.base + path, encoded=True)
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        async with self._session.request(method, url, json=document, headers=headers) as response:
            return Answer(response, await response.read())

    async def user(self, user: str) -> Answer:
        return await self.ask(f"/v1/users/{quote(user, safe='')}")

    async def merchant(self, merchant: str) -> Answer:
        return await self.ask(f"/v1/merchants/{quote(merchant, safe='')}")

    def assign(self, distribution: Mapping[str, Sequence[int]], me: str | None = None) -> None:
        """Give partitions to workers (by URL) as the group's leader would have."""
        tables = (self.users.table, self.merchants.table)
        topics = ("transactions", *(t.changelog_topic_name for t in tables))
        by_url = {url: {t: list(p) for t in topics} for url, p in distribution.items()}
        changelogs = {
            u: {t: p for t, p in ts.items() if t != topics[0]} for u, ts in by_url.items()
        }
        mine = ClientAssignment(actives=by_url[me or self.base], standbys={})
        assignor = self.app.assignor
        metadata = ClientMetadata(
            assignment=mine,
            url=str(self.app.conf.canonical_url),
            changelog_distribution=changelogs,
            external_topic_distribution={},
            topic_groups={},
        )
        assignor.on_assignment(
            ConsumerProtocolMemberAssignment(
                assignor.version,
                sorted(mine.kafka_protocol_assignment(self.app.tables)),
                assignor._compress(metadata.dumps()),
            )
        )

    def recover(self) -> None:
        """What Faust does when the tables are as the changelogs left them."""
        self.app.tables.on_actives_ready()
        if self.app.rebalancing:
            self.app.on_rebalance_end()

    def apply(self, payments: Sequence[dict[str, Any]], partition: int | None = None) -> None:
        """Run payments through both stages into the tables, by Kafka's partitioner or not."""
        for p in payments:
            key, value = p["user_id"].encode(), json.dumps(p).encode()
            at = _partition_of(key) if partition is None else partition
            first = self.users.stage.run(self._batch(at, key, value), self.users.table.partition)
            self.users.table.records.apply(at, first.only_changes, Position(self._offset))
            (key,), (value,) = first.forward_keys.present(), first.forward_values.present()
            at = _partition_of(key) if partition is None else partition
            table = self.merchants.table
            second = self.merchants.stage.run(self._batch(at, key, value), table.partition)
            table.records.apply(at, second.only_changes, Position(self._offset))

    def records(self, agent: Any, partition: int) -> dict[bytes, bytes]:
        """The raw records of a partition of the agent's table."""
        records = agent.table.partition(partition)
        assert isinstance(records, MemoryRecords)
        return records.data

    def _batch(self, partition: int, key: bytes, value: bytes) -> InputBatch:
        self._offset += 1
        return InputBatch.of(partition, [key], [value], self._offset)


@pytest.fixture(scope="session")
def app_class() -> Any:
    """The App of `dafu.app`, imported without the model package."""
    before = sys.modules.pop("dafu.app", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_STORAGE_PATH", "none")
        from dafu.app import App
    if before is None:
        del sys.modules["dafu.app"]
    else:
        sys.modules["dafu.app"] = before
    return App


@pytest.fixture
async def unassigned(
    app_class: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Worker]:
    """A worker that has just started; with the memory store unless the test says otherwise."""
    worker = Worker(app_class, tmp_path, getattr(request, "param", "memory"))
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@pytest.fixture
async def worker(unassigned: Worker) -> Worker:
    """A worker that owns all partitions and has recovered them."""
    unassigned.assign({unassigned.base: range(PARTITIONS)})
    unassigned.recover()
    return unassigned


@pytest.fixture
def memory(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A `tests.web.scraping.Memory` between the worker's agents, whose clock stands still."""
    from tests.web.scraping import NOW, Memory

    for stage in ("users", "merchants"):
        monkeypatch.setattr(f"dafu.agents.{stage}.now_ms", lambda: NOW)
    return Memory(worker, monkeypatch)


@pytest.fixture
async def unlimited(app_class: Any, tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker that may be asked as often as one likes."""
    groups = ("reads", "scores", "changes", "sign_ins")
    limits = {f"{group}_per_minute": 0 for group in groups}
    worker = Worker(app_class, tmp_path, "memory", **limits)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis server that runs; who stops it starts it again."""
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server: install Debian's package of that name")
    server = Redis(tmp_path_factory.mktemp("redis"))
    server("start")
    yield server
    server("stop")
