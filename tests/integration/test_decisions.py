"""Transactions in, decisions out: workers against the same stages in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dafu.features.state import MERCHANTS, USERS
from dafu.schema import decode_decision
from dafu.tables.rocksdb import RocksDBRecords
from tests.asking import ask
from tests.integration.payments import by_transaction, in_memory, payments, states
from tests.integration.worker import BRISK, START_SECONDS, System

pytestmark = pytest.mark.broker

N = 2500


@pytest.mark.parametrize("cut", [1, 7])
def test_cuts_do_not_matter_in_memory(cut: int) -> None:
    records = payments(N, seed=11)
    expected, pipeline = in_memory(records)
    found, other = in_memory(records, cut)
    assert found == expected
    assert states(USERS, other.user_records.data) == states(USERS, pipeline.user_records.data)


async def test_a_worker_decides_as_the_stages_in_memory(bootstrap: str, tmp_path: Path) -> None:
    """Byte for byte, in order, with the producer's repeats among them, and the same tables."""
    records = payments(N, seed=11)
    # A producer that got no answer sends a piece again, later even twice.
    sent = [*records[:1500], *records[1200:], *records[2000:2100]]
    expected, _ = in_memory(records)
    system = System(bootstrap, tmp_path, DAFU_RINGS="false")
    await system.create(system.topics.transactions)
    await system.publish(sent)
    with system.worker() as worker:
        await worker.ready()
        await system.drained(worker)
        await system.publish(sent[-100:])
        await system.drained(worker)
        counters = (await asyncio.to_thread(ask, f"{worker.base}/v1/status"))[1]["agents"]
    assert await system.decisions() == expected
    repeats = len(sent) + 100 - N
    assert counters["users"]["duplicates"] == repeats
    assert counters["users"]["outputs"] == counters["merchants"]["outputs"] == N
    assert await system.read_flat(system.topics.dead_letters) == []
    # The state, too, is that of the log without repeats, but for where in the log it stands.
    _, pipeline = in_memory(records)
    (users,), (merchants,) = await system.rebuilt("users"), await system.rebuilt("merchants")
    found = states(USERS, users.data, offsets=False)
    assert found == states(USERS, pipeline.user_records.data, offsets=False)
    assert states(MERCHANTS, merchants.data) == states(MERCHANTS, pipeline.merchant_records.data)


async def test_batches_of_one_without_a_model(bootstrap: str, tmp_path: Path) -> None:
    """Rules alone decide, every decision says so, and the size of batches changes nothing."""
    records = payments(N, seed=11)[:400]
    expected, _ = in_memory(records, cut=7, model=False)
    system = System(
        bootstrap,
        tmp_path,
        app=BRISK,
        MODEL_STORAGE_PATH="none",
        DAFU_BATCH_RECORDS="1",
        DAFU_RINGS="false",
    )
    await system.create(system.topics.transactions)
    await system.publish(records)
    with system.worker() as worker:
        await system.drained(worker)
    payloads = await system.decisions()
    assert payloads == expected
    decisions = [decode_decision(p) for p in payloads]
    assert {(d.degraded, d.model_used, d.versions.model) for d in decisions} == {
        (True, "rules", None)
    }
    with_model = by_transaction(in_memory(records)[0])
    assert not any(decode_decision(p).degraded for p in with_model.values())
    assert with_model.keys() == {d.transaction_id for d in decisions}


def damaged_model(path: Path) -> None:
    """A copy of the default package with one byte changed."""
    package = Path(__file__).resolve().parents[2] / "dafu" / "models" / "default"
    path.mkdir()
    for file in package.iterdir():
        content = bytearray(file.read_bytes())
        if file.name == "threshold.npy":
            content[-1] ^= 0x40
        (path / file.name).write_bytes(content)


def cut_model(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_text('{"format": 1')


@pytest.mark.parametrize(
    ("variable", "make", "message"),
    [
        ("MODEL_STORAGE_PATH", damaged_model, "threshold.npy"),
        ("MODEL_STORAGE_PATH", cut_model, "manifest.json"),
        ("MODEL_STORAGE_PATH", lambda path: None, "no such directory"),
        ("DAFU_RULES", lambda path: path.write_text("rules: [\n"), "not YAML"),
        (
            "DAFU_RULES",
            lambda path: path.write_text(
                "version: 1\nrules: [{id: a, condition: amuont > 1, risk_score: 1, action: block}]"
            ),
            "amuont",
        ),
        ("DAFU_STORE", None, "memory, rocksdb"),
        ("DAFU_SECURITY_PROTOCOL", None, "DAFU_SASL_USER"),
    ],
    ids=["model-damaged", "model-cut", "model-missing", "rules-no-yaml", "rules", "store", "sasl"],
)
def test_refuses_to_start(
    variable: str, make: Callable[[Path], Any] | None, message: str, tmp_path: Path
) -> None:
    """One clear message that names the file or setting, exit status 1, no traceback."""
    value = {"DAFU_STORE": "redis", "DAFU_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}.get(variable)
    if make is not None:
        value = str(tmp_path / "given")
        make(tmp_path / "given")
    assert value is not None
    with System("127.0.0.1:9", tmp_path).worker(**{variable: value}) as worker:
        assert worker.exited(within=30.0) == 1, worker.describe("started")
    assert worker.output.startswith("dafu can not start: ")
    assert message in worker.output
    assert value in worker.output
    assert "Traceback" not in worker.output
    assert len(worker.output.splitlines()) <= 10


async def test_refuses_a_database_that_another_worker_uses(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, app=BRISK, DAFU_STORE="rocksdb")
    database = RocksDBRecords(system.data / "v1" / "tables" / "users.rocksdb" / "0")
    try:
        with system.worker() as worker:
            assert await asyncio.to_thread(worker.exited, START_SECONDS) != 0
    finally:
        database.close()
    assert "give this one its own DAFU_DATA_DIR" in worker.output
