"""The views as an HTTP client meets them, on the worker's own web server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from faust.types import TP

from dafu import __version__
from dafu.agents.shell import WORKER_NAME
from dafu.columns import ByteColumn
from dafu.features.catalogue import ALIASES, CATALOGUE_HASH, FEATURES
from dafu.partitioner import partitions_for
from dafu.registry import SWITCH_KEY, Candidate, Lineup, ModelRef, Switch, encode_switch
from dafu.stages.batch import InputBatch
from dafu.stages.identifiers import IdentifierOutput
from dafu.stages.switches import apply_switch
from dafu.tables.inspect import describe_merchant, describe_user
from dafu.tables.ownership import Position
from dafu.tables.rocksdb import RocksDBStore
from dafu.tables.working_set import HEAD
from dafu.web.endpoints import ENDPOINTS
from dafu.web.forwarding import FORWARDED
from dafu.web.progress import Offsets
from tests.web.conftest import OTHER, PARTITIONS, START, Answer, Worker, payment

ODD_IDS = ("a b", "a/b", "100%", "50%25", "%2F", "a+b", "a?b#c&d", "\u00fc\U0001f600", "x" * 256)
PAGES = ("/v1/users/ann", "/v1/merchants/shop", "/v1/status", "/v1/features", "/health/live",
         "/health/ready")  # fmt: skip


def partition_of(key: str) -> int:
    return int(partitions_for(ByteColumn.of([key.encode()]), PARTITIONS)[0])


def someone(partition: int) -> str:
    """An id that Kafka's partitioner puts there."""
    return next(f"u{i}" for i in range(100) if partition_of(f"u{i}") == partition)


def assert_problem(answer: Answer, status: int, *words: str) -> Any:
    assert answer.status == status
    assert answer.content_type == "application/problem+json"
    document = answer.json
    assert document["status"] == status
    assert document["type"] == "about:blank"
    assert document["title"]
    for word in words:
        assert word in document["detail"]
    assert "Traceback" not in answer.body.decode()
    return document


async def test_a_user_and_a_merchant(worker: Worker) -> None:
    worker.apply([payment(i, f"u{i % 3}", f"m{i % 2}", 1.5 + i) for i in range(12)])
    for user in ("u0", "u1", "u2"):
        answer = await worker.user(user)
        assert (answer.status, answer.content_type) == (200, "application/json")
        records = worker.users.table.partition(partition_of(user))
        assert answer.body == msgspec.json.encode(describe_user(records, user.encode()))
        assert (answer.json["user_id"], answer.json["total_count"]) == (user, 4)
    answer = await worker.merchant("m1")
    records = worker.merchants.table.partition(partition_of("m1"))
    assert answer.body == msgspec.json.encode(describe_merchant(records, b"m1"))
    assert (answer.json["merchant_id"], answer.json["total_count"]) == ("m1", 6)
    assert len({partition_of(u) for u in ("u0", "u1", "u2")}) > 1


@pytest.mark.parametrize("entity", ODD_IDS)
async def test_ids_are_url_decoded(worker: Worker, entity: str) -> None:
    worker.apply([payment(0, entity, entity)])
    answer = await worker.user(entity)
    assert (answer.status, answer.json["user_id"]) == (200, entity)
    answer = await worker.merchant(entity)
    assert (answer.status, answer.json["merchant_id"]) == (200, entity)


async def test_strangers_are_not_found(worker: Worker) -> None:
    worker.apply([payment(0, "ann")])
    document = assert_problem(await worker.user("bob"), 404, "'bob'", "never seen")
    assert document["partition"] == partition_of("bob")
    assert_problem(await worker.merchant("ann"), 404, "'ann'")
    assert_problem(await worker.ask("/v1/users/%ff"), 404)
    assert_problem(await worker.ask("/v1/users/%ED%A0%80"), 404)


async def test_sends_on_to_the_worker_that_owns_the_partition(unassigned: Worker) -> None:
    worker = unassigned
    worker.assign({worker.base: [0, 2], OTHER: [1, 3]})
    worker.recover()
    for partition in range(PARTITIONS):
        answer = await worker.user(someone(partition))
        if partition in (0, 2):
            assert_problem(answer, 404)
        else:
            document = assert_problem(answer, 503, OTHER, "does not answer")
            assert document["worker"] == OTHER
            forwarded = {FORWARDED: "http://yet.another:6066"}
            answer = await worker.ask(f"/v1/users/{someone(partition)}", **forwarded)
            document = assert_problem(answer, 421, f"partition {partition}", OTHER)
            assert (document["partition"], document["worker"]) == (partition, OTHER)


async def test_finds_what_another_partitioner_put_elsewhere(unassigned: Worker) -> None:
    worker = unassigned
    worker.assign({worker.base: [0, 2], OTHER: [1, 3]})
    worker.recover()
    user = someone(1)
    worker.apply([payment(0, user)], partition=2)
    answer = await worker.user(user)
    assert (answer.status, answer.json["user_id"]) == (200, user)


async def test_does_not_serve_what_it_no_longer_owns(unassigned: Worker) -> None:
    worker = unassigned
    worker.assign({worker.base: [0], OTHER: [1, 2, 3]})
    worker.recover()
    user = someone(1)
    worker.apply([payment(0, user)], partition=1)
    assert_problem(await worker.user(user), 503, OTHER)


async def test_says_nothing_about_state_that_is_incomplete(unassigned: Worker) -> None:
    worker = unassigned
    worker.apply([payment(0, "ann")])
    answer = await worker.user("ann")
    assert_problem(answer, 503, "no partitions have been assigned")
    assert answer.headers["Retry-After"] == "2"
    worker.assign({worker.base: range(PARTITIONS)})
    assert_problem(await worker.user("ann"), 503, "being recovered")
    worker.recover()
    assert (await worker.user("ann")).status == 200
    worker.app.on_rebalance_start()
    assert_problem(await worker.merchant("shop"), 503, "rebalancing")


async def test_ready_once_assigned_and_recovered(unassigned: Worker) -> None:
    worker = unassigned
    document = assert_problem(await worker.ask("/health/ready"), 503, "no partitions")
    assert document["reasons"] == ["no partitions have been assigned yet"]
    worker.assign({worker.base: range(PARTITIONS)})
    assert_problem(await worker.ask("/health/ready"), 503, "being recovered")
    worker.recover()
    answer = await worker.ask("/health/ready")
    assert (answer.status, answer.json) == (200, {"status": "ready"})
    worker.app.on_rebalance_start()
    assert_problem(await worker.ask("/health/ready"), 503, "rebalancing")
    worker.recover()
    assert (await worker.ask("/health/ready")).status == 200


async def test_not_ready_while_a_partition_stands_still(worker: Worker) -> None:
    progress = worker.reporter.monitor.progress
    tp = TP("transactions", 1)
    progress.observe(100.0, {tp: Offsets(5, 9, False)})
    progress.observe(130.0, {tp: Offsets(5, 9, False)})
    assert (await worker.ask("/health/ready")).status == 200
    progress.observe(130.1, {tp: Offsets(5, 11, False)})
    document = assert_problem(await worker.ask("/health/ready"), 503)
    assert document["reasons"] == [
        "transactions[1] has 6 records to go and its committed offset 5 has not moved for 30 s"
    ]
    assert (await worker.ask("/v1/status")).json["ready"] is False
    assert (await worker.ask("/health/live")).status == 200
    progress.observe(130.2, {tp: Offsets(6, 11, False)})
    assert (await worker.ask("/health/ready")).status == 200


async def test_not_ready_without_news_of_the_offsets(worker: Worker) -> None:
    await worker.reporter.monitor.refresh()  # there is no broker
    assert worker.reporter.monitor.error
    assert (await worker.ask("/health/ready")).status == 200
    worker.reporter.max_stall_s = 0.0
    assert_problem(await worker.ask("/health/ready"), 503, "offsets have not been read")


async def test_strangers_are_told_no_reasons(unassigned: Worker) -> None:
    answer = await unassigned.ask("/health/ready", key=None)
    assert_problem(answer, 503)
    assert answer.json["detail"] == "not ready"
    assert "reasons" not in answer.json


async def test_live_until_it_crashes(worker: Worker) -> None:
    answer = await worker.ask("/health/live")
    assert (answer.status, answer.json) == (200, {"status": "live"})
    await worker.app.crash(RuntimeError("out of luck"))
    assert_problem(await worker.ask("/health/live"), 503, "crashed", "out of luck")
    assert_problem(await worker.ask("/health/ready"), 503, "crashed")


async def test_status(worker: Worker) -> None:
    worker.apply([payment(i, f"u{i % 7}", f"m{i % 5}") for i in range(60)])
    worker.users.counters.records = 60
    worker.users.counters.last_batch_at = START / 1000
    worker.merchants.by_outcome["review"] = 3
    assert worker.agents.identifiers is not None
    worker.agents.identifiers.count(IdentifierOutput(changes={}, rejected=[], ignored=2))
    worker.reporter.monitor.progress.observe(1.0, {TP("transactions", 0): Offsets(7, 9, False)})
    answer = await worker.ask("/v1/status")
    assert answer.status == 200
    status = answer.json
    assert status["worker"]["name"] == WORKER_NAME.decode()
    assert status["worker"]["version"] == __version__
    assert status["worker"]["url"] == worker.base
    assert status["worker"]["uptime_s"] >= 0
    assert (status["app_id"], status["ready"], status["reasons"]) == ("views", True, [])
    assert status["assignment"]["transactions"] == [0, 1, 2, 3]
    assert status["agents"]["users"]["records"] == 60
    assert status["agents"]["users"]["last_batch_at"] == "2023-11-14T22:13:20.000Z"
    assert status["agents"]["merchants"]["last_batch_at"] is None
    assert status["agents"]["merchants"]["decisions"] == {"approve": 0, "review": 3, "block": 0}
    assert status["agents"]["identifiers"]["ignored"] == 2
    assert status["agents"]["rings"]["graph"] is None
    version = worker.merchants.stage.rules.version
    held = sorted(worker.merchants.table.records.open_partitions())
    assert held
    assert status["rules"] == [
        {"version": version, "partitions": held, "live": 1, "shadow": 1, "off": 1}
    ]
    assert status["model"] == {"name": None, "version": None, "degraded": True}
    assert status["features"] == {"hash": CATALOGUE_HASH, "count": len(FEATURES)}
    users = status["tables"]["users"]
    assert users["store"] == "memory"
    assert [p["partition"] for p in users["partitions"]] == sorted(
        {partition_of(f"u{i}") for i in range(7)}
    )
    assert sum(p["entities"] for p in users["partitions"]) == 7
    assert sum(p["entities"] for p in status["tables"]["merchants"]["partitions"]) == 5
    records = [len(worker.records(worker.merchants, p)) for p in range(PARTITIONS)]
    assert sum(p["records"] for p in status["tables"]["merchants"]["partitions"]) == sum(records)
    assert sum(records) > 5  # the source marks are records and no entity
    assert status["access"]["rate_limits"] == "memory"
    assert status["consumer"]["partitions"] == [
        {"topic": "transactions", "partition": 0, "committed": 7, "end": 9, "lag": 2,
         "committed_age_s": 0.0}
    ]  # fmt: skip


@pytest.mark.parametrize("unassigned", ["rocksdb"], indirect=True)
async def test_state_on_disk(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rocksdict")
    monkeypatch.setattr("dafu.web.status._SLICE", 3)
    worker.apply([payment(i, f"u{i % 7}", f"m{i % 5}") for i in range(60)])
    answer = await worker.user("u3")
    assert (answer.status, answer.json["total_count"]) == (200, 9)
    assert_problem(await worker.user("u7"), 404)
    for agent in (worker.users, worker.merchants):
        assert isinstance(agent.table.records, RocksDBStore)
    tables = (await worker.ask("/v1/status")).json["tables"]
    assert tables["users"]["store"] == "rocksdb"
    assert sum(p["entities"] for p in tables["users"]["partitions"]) == 7
    merchants = tables["merchants"]["partitions"]
    assert sum(p["entities"] for p in merchants) == 5
    # Each of the five has its state and its id; a partition has its source marks.
    assert sum(p["records"] for p in merchants) == 2 * 5 + len(merchants)


async def test_table_sizes_are_counted_once_a_minute_and_when_partitions_change(
    worker: Worker,
) -> None:
    async def counted() -> list[dict[str, int]]:
        table = (await worker.ask("/v1/status")).json["tables"]["users"]
        partitions: list[dict[str, int]] = table["partitions"]
        return partitions

    worker.apply([payment(0, "ann")], partition=0)
    before = await counted()
    records = worker.records(worker.users, 0)
    size = sum(len(key) + len(value) for key, value in records.items())
    assert before == [{"partition": 0, "entities": 1, "records": 1, "bytes": size}]
    worker.apply([payment(1, "bob")], partition=0)
    assert await counted() == before
    worker.apply([payment(2, "cat")], partition=3)
    assert await counted() == [
        {"partition": 0, "entities": 2, "records": 2, "bytes": 2 * size},
        {"partition": 3, "entities": 1, "records": 1, "bytes": size},
    ]


async def test_features(worker: Worker) -> None:
    document = (await worker.ask("/v1/features")).json
    assert document["hash"] == CATALOGUE_HASH
    assert [f["name"] for f in document["features"]] == [f.name for f in FEATURES]
    assert document["features"][1] == {
        "name": "user_count_1m", "stage": "user", "group": "behavior", "unit": "transactions",
        "definition": "transactions of the user in the window", "window": "1m",
    }  # fmt: skip
    assert document["aliases"] == ALIASES


@pytest.mark.parametrize("path", PAGES)
async def test_head_is_get_without_a_body(worker: Worker, path: str) -> None:
    worker.apply([payment(0, "ann")])
    got, head = await worker.ask(path), await worker.ask(path, "HEAD")
    assert (got.status, head.status) == (200, 200)
    assert (bool(got.body), head.body) == (True, b"")
    assert head.content_type == got.content_type
    if path != "/v1/status":  # whose uptime may get longer
        assert head.headers["Content-Length"] == str(len(got.body))
    assert (await worker.ask("/v1/users/nobody", "HEAD")).status == 404


@pytest.mark.parametrize("path", (*PAGES, "/", "/nothing", "/v1/users/nobody", "/v1/users/"))
async def test_headers_that_protect(worker: Worker, path: str) -> None:
    headers = (await worker.ask(path)).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Server"] == "dafu"


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nothing_can_be_written(worker: Worker, path: str, method: str) -> None:
    answer = await worker.ask(path, method)
    assert_problem(answer, 405, method, path)
    assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "path",
    ["/table/", "/table/users/", "/table/users/ann/", "/router/", "/router/users/ann/",
     "/graph/", "/stats/", "/assignment/", "/performance/", "/v1/", "/v1/users"],
)  # fmt: skip
async def test_pages_of_faust_are_off(worker: Worker, path: str) -> None:
    worker.apply([payment(0, "ann")])
    assert_problem(await worker.ask(path), 404, path)


async def test_endpoints_and_nothing_else_are_served(worker: Worker) -> None:
    application = worker.app.web.web_app
    resources = {r.canonical for r in application.router.resources()}
    # Faust's own is there, and is not served.
    assert resources == {"/", *(endpoint.path for endpoint in application[ENDPOINTS])}
    assert_problem(await worker.ask("/"), 404)


async def test_listens_on_loopback_only(worker: Worker) -> None:
    addresses = worker.app.web._runner.addresses
    assert [host for host, _ in addresses] == ["127.0.0.1"]


async def test_damaged_state_is_a_problem_that_says_so(worker: Worker) -> None:
    worker.apply([payment(0, "ann")])
    data = worker.records(worker.users, partition_of("ann"))
    data[HEAD + b"ann"] = data[HEAD + b"ann"][:-8]
    assert_problem(await worker.user("ann"), 500, "missing or damaged")


async def test_errors_keep_their_details_to_the_log(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    del worker.merchants.stage
    answer = await worker.ask("/v1/status")
    assert_problem(answer, 500, "its log says why")
    text = answer.body.decode()
    assert "AttributeError" not in text
    assert str(Path(__file__).parent) not in text
    assert "AttributeError" in caplog.text


async def test_status_tells_the_models_of_each_partition_and_what_can_not_be_had(
    worker: Worker,
) -> None:
    gone = ModelRef("forest", "v9", "/nowhere/v9")
    looking = ModelRef("forest", "v8", "/nowhere/v8")
    lineup = Lineup(gone, (Candidate("shadow", looking),), (None,))
    worker.apply([payment(0, someone(0)), payment(1, someone(1))])
    switch = InputBatch.of(1, [SWITCH_KEY], [encode_switch(Switch(5, lineup))])
    changes = apply_switch(switch, worker.merchants.table.partition)
    assert changes is not None
    worker.merchants.table.records.apply(1, changes, Position(9))
    await worker.merchants.stage_with(lineup)
    models = (await worker.ask("/v1/status")).json["models"]
    scoring = {p["partition"]: p for p in models["scoring"]["partitions"]}
    assert scoring[1] == {
        "partition": 1,
        "switch": 5,
        "models": [
            {"role": role, "name": "forest", "version": v, "configured": False, "loaded": False}
            for role, v in (("champion", "v9"), ("shadow", "v8"))
        ],
    }
    none = {"role": "champion", "name": None, "version": None, "configured": True, "loaded": False}
    assert [p["models"] for n, p in scoring.items() if n != 1] == [[none]] * (len(scoring) - 1)
    assert all(p["switch"] is None for p in models["sequence"]["partitions"])
    assert ["v8" in a or "v9" in a for a in models["scoring"]["alarms"]] == [True, True]
    assert models["sequence"]["alarms"] == []
    assert "control" in (await worker.ask("/v1/status")).json["agents"]
