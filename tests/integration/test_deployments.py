"""Models change under live traffic: nothing is lost, and a replay changes them alike."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dafu.cli.control import RefusedError, read_registry, request
from dafu.models.recurrent import RecurrentModel
from dafu.registry import CONFIGURED, ControlEvent, ModelRef, Registry
from dafu.schema import Decision, decode_decision
from dafu.stages.batch import model_number
from dafu.streaming.dead_letters import read_headers
from tests.integration.payments import by_transaction, payments, stages
from tests.integration.test_rebalance import check_replay, status
from tests.integration.worker import BRISK, System, Worker, eventually
from tests.packages import flip_a_byte, forest, recurrent, ref

pytestmark = pytest.mark.broker

PARTITIONS = 2
PIECE = 40


def event(action: Any, **fields: Any) -> ControlEvent:
    return ControlEvent(event_id=str(uuid.uuid4()), action=action, by="tests", **fields)


class Traffic:
    """Publishes payments without a break."""

    def __init__(self, system: System, count: int = 20_000, pause: float = 0.1) -> None:
        self.system = system
        self.records = payments(count, seed=51)
        self.sent = 0
        self._pause = pause
        self._quiet = asyncio.Event()
        self._task = asyncio.create_task(self._publish())

    async def _publish(self) -> None:
        while not self._quiet.is_set():
            await self.publish(1)
            await asyncio.sleep(self._pause)

    async def publish(self, pieces: int) -> None:
        """The next payments, beside what comes by itself."""
        for _ in range(pieces):
            assert self.sent < len(self.records), "it took too long: generate more payments"
            await self.system.publish(self.records[self.sent : self.sent + PIECE])
            self.sent += PIECE

    async def stop(self) -> None:
        self._quiet.set()
        await self._task

    @property
    def transactions(self) -> set[str]:
        return {json.loads(value)["transaction_id"] for _, value in self.records[: self.sent]}


async def latest(system: System) -> list[Decision]:
    """The last decision of each partition."""
    parts = await system.read(system.topics.decisions)
    return [decode_decision(part[-1].value) for part in parts if part]


async def until_decided(system: System, what: str, hold: Any, *workers: Worker) -> None:
    async def all_hold() -> bool:
        found = await latest(system)
        return len(found) == PARTITIONS and all(hold(d) for d in found)

    await eventually(all_hold, what, 90.0, *workers)


def hexadecimal(model: RecurrentModel) -> str:
    return f"{model_number(model.version):016x}"


async def test_models_change_under_traffic_and_a_replay_changes_them_alike(
    bootstrap: str, tmp_path: Path
) -> None:
    second_model = forest(tmp_path / "second", seed=2)
    sequence = recurrent(tmp_path / "sequence", seed=3)
    third_model = forest(tmp_path / "third", seed=4, sequence=sequence.version)
    damaged = tmp_path / "damaged"
    forest(damaged, seed=5)
    flip_a_byte(damaged)
    first_model = stages()[1].model
    assert first_model is not None

    system = System(bootstrap, tmp_path, PARTITIONS, app=BRISK)
    await system.create(system.topics.transactions)

    async def ask(action: Any, **fields: Any) -> Registry:
        found = await request(system.settings, event(action, **fields), 60.0)
        assert found is not None
        return found

    def worker(name: str) -> Worker:
        return system.worker(DAFU_DATA_DIR=str(tmp_path / name), DAFU_BATCH_RECORDS="50")

    with worker("a") as a:
        await a.ready()
        assert await read_registry(system.settings) is None
        traffic = Traffic(system)
        with worker("b") as b:
            await b.ready()
            await until_decided(
                system, "configured", lambda d: d.versions.model == first_model.version, a, b
            )
            second = ref(second_model, tmp_path / "second")
            registry = await ask("deploy", role="shadow", model=second)
            assert [c.model for c in registry.scoring.candidates] == [second]
            await until_decided(
                system,
                "a shadow looks on",
                lambda d: (
                    [c.version for c in d.candidates] == [second.version]
                    and d.versions.model == first_model.version
                ),
                a,
                b,
            )
            assert (await ask("promote", version=second.version)).scoring.champion == second
            await until_decided(
                system, "the shadow decides", lambda d: d.versions.model == second.version, a, b
            )
            # The one that holds the partition of the control events, if it is that one: the
            # other goes on.
            await ask("deploy", level="sequence", model=ref(sequence, tmp_path / "sequence"))
            a.kill()
            await until_decided(
                system,
                "a sequence model looks on",
                lambda d: d.versions.sequence == hexadecimal(sequence),
                b,
            )
            third = ref(third_model, tmp_path / "third")
            for broken, why in (
                (ModelRef("forest", "x", str(damaged)), "SHA-256"),
                (ModelRef("forest", "x", str(tmp_path / "nowhere")), "no such directory"),
                (ModelRef("forest", "x", third.url), "holds version"),
                (ref(sequence, tmp_path / "sequence"), "does not serve at the level scoring"),
            ):
                with pytest.raises(RefusedError, match=f"unusable_model: .*{why}"):
                    await ask("deploy", model=broken)
            with pytest.raises(RefusedError, match="impossible_control_event"):
                await ask("promote", version="nobody")
            assert (await ask("deploy", role="challenger", model=third)).scoring.champion == second
            assert (await ask("rollback")).scoring.champion == CONFIGURED
            await until_decided(
                system, "the first again", lambda d: d.versions.model == first_model.version, b
            )
            told = (await status(b))["models"]
            models = [
                (m["role"], m["version"], m["loaded"])
                for m in told["scoring"]["partitions"][0]["models"]
            ]
            assert models == [
                ("champion", first_model.version, True),
                ("challenger", third.version, True),
            ]
            assert [p["partition"] for p in told["sequence"]["partitions"]] == [0, 1]
            assert told["scoring"]["alarms"] == []
            await traffic.stop()
            await system.drained(b)

    found = by_transaction(await system.decisions())
    assert found.keys() == traffic.transactions
    await check_replay(system, found)
    decisions = [decode_decision(payload) for payload in found.values()]
    deciding = Counter(d.versions.model for d in decisions)
    assert deciding.keys() == {first_model.version, second.version}
    assert {d.versions.sequence for d in decisions} == {None, hexadecimal(sequence)}
    assert not any(d.degraded for d in decisions)
    letters = await system.read_flat(system.topics.dead_letters)
    origins = [read_headers(letter.headers) for letter in letters]
    reasons = {o.offset: o.reason for o in origins if o and o.topic == system.topics.control}
    assert Counter(reasons.values()) == {"unusable_model": 4, "impossible_control_event": 1}
    assert len(origins) == len(letters)


async def test_a_package_that_is_damaged_later_leaves_the_champion_before(
    bootstrap: str, tmp_path: Path
) -> None:
    model = forest(tmp_path / "model", seed=6)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "model", kept)
    first_model = stages()[1].model
    assert first_model is not None
    records = payments(900, seed=52)
    system = System(bootstrap, tmp_path, 1, app=BRISK, DAFU_STORE="rocksdb")
    await system.create(system.topics.transactions)
    with system.worker() as worker:
        await worker.ready()
        await request(system.settings, event("deploy", model=ref(model, tmp_path / "model")), 60.0)
        await system.publish(records[:300])
        await system.drained(worker)
    flip_a_byte(tmp_path / "model")
    with system.worker() as worker:
        await worker.ready()
        await system.publish(records[300:600])
        await system.drained(worker)
        told = (await status(worker))["models"]["scoring"]
        assert len(told["alarms"]) == 1
        assert "SHA-256" in told["alarms"][0]
        assert told["partitions"][0]["models"] == [
            {
                "role": "champion",
                "name": model.name,
                "version": model.version,
                "configured": False,
                "loaded": False,
            }
        ]
        with pytest.raises(RefusedError, match="is the champion already"):
            await request(
                system.settings, event("deploy", model=ref(model, tmp_path / "model")), 60.0
            )
        await request(system.settings, event("deploy", model=ref(model, kept)), 60.0)
        await system.publish(records[600:])
        await system.drained(worker)
        assert (await status(worker))["models"]["scoring"]["alarms"] == []
    decisions = [decode_decision(payload) for payload in await system.decisions()]
    assert Counter(d.versions.model for d in decisions) == {
        model.version: 600,
        first_model.version: 300,
    }
