"""Workers of different roles as one installation: who decides, who finds rings, who answers."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dafu.generator import generate_traffic
from dafu.ingest import to_records
from dafu.rings.records import decode_alert
from tests.asking import ask
from tests.integration.payments import by_transaction
from tests.integration.test_control_over_http import LARGE
from tests.integration.test_rebalance import check_replay
from tests.integration.test_scoring import checkout, payment
from tests.integration.worker import BRISK, System, Worker, eventually

pytestmark = pytest.mark.broker

PARTITIONS = 2


async def told(worker: Worker, path: str) -> Any:
    status, found = await asyncio.to_thread(ask, worker.base + path)
    assert status == 200, (path, status, found)
    return found


def topics_of(status: Any, system: System) -> set[str]:
    """The topics that a worker reads, changelogs included, without prefix and app id."""
    prefixes = (system.topics.prefix, f"{system.settings.app_id}-")
    return {
        next(
            topic.removeprefix(prefix) for prefix in reversed(prefixes) if topic.startswith(prefix)
        )
        for topic, partitions in status["assignment"].items()
        if partitions
    }


async def test_workers_of_all_roles_do_together_what_one_does(
    bootstrap: str, tmp_path: Path
) -> None:
    traffic = generate_traffic(users=400, merchants=60, days=14, seed=78, rings=20, look_alikes=20)
    records = [r for batch in traffic.batches for r in to_records(batch)]
    some, half = len(records) // 4, len(records) // 2
    system = System(bootstrap, tmp_path, PARTITIONS, app=BRISK)
    await system.create(system.topics.transactions)
    await system.publish(records[:some])
    all_in_one = system.worker()
    deciding = system.worker(DAFU_WORKER_ROLES="decisions")
    finding = system.worker(DAFU_WORKER_ROLES="rings")
    gateway = system.worker(DAFU_WORKER_ROLES="gateway")
    workers = (deciding, finding, gateway)
    with ExitStack() as running:
        with all_in_one:
            await system.decided(some, all_in_one)
            # They take over while it works.
            await system.publish(records[some:half])
            for worker in (gateway, finding, deciding):
                running.enter_context(worker)
            for worker in workers:
                await worker.ready()
        await system.drained(*workers)

        async def settled() -> bool:
            status = await told(finding, "/v1/status")
            return "links" in topics_of(status, system)

        # The one that has left held it until the group noticed.
        await eventually(settled, "links has gone over", 30.0, *workers)
        for worker in workers:
            await worker.ready()
        statuses = {worker: await told(worker, "/v1/status") for worker in workers}
        read = {worker: topics_of(status, system) for worker, status in statuses.items()}
        assert read[deciding] == {
            *("transactions", "transactions-by-merchant", "labels", "control", "ring-membership"),
            *("users-changelog", "merchants-changelog", "models-changelog"),
        }
        assert read[finding] == {
            *("identifiers", "links", "identifiers-changelog", "rings-changelog")
        }
        assert read[gateway] == {"gateways"}

        # Whoever is asked, the answer is that of the worker that has it.
        listed = [await told(worker, "/v1/rings") for worker in workers]
        assert listed[0]["rings"], "no ring was found"
        assert listed[0] == listed[1] == listed[2]
        ring = listed[0]["rings"][0]["ring_id"]
        rings = [await told(worker, f"/v1/rings/{ring}") for worker in workers]
        assert rings[0] == rings[1] == rings[2]
        member = rings[0]["members"][0]["user_id"]
        views = [await told(worker, f"/v1/users/{member}") for worker in workers]
        assert views[0]["user_id"] == member
        assert views[0] == views[1] == views[2]
        models = [await told(worker, "/v1/models") for worker in workers]
        assert models[0] == models[1] == models[2]

        async with checkout() as client:
            answers = [
                await client.score(worker, payment(n, user="somebody"))
                for n, worker in enumerate(workers)
            ]
            repeats = [await client.score(gateway, payment(n, user="somebody")) for n in range(3)]
            rules = {"version": 1, "rules": [LARGE]}
            trials = [
                (await client.post(w, "/v1/rules/test", {"rules": rules}))[1] for w in workers
            ]
        assert [status for status, _ in answers] == [200] * 3
        assert trials[0]["trial"]["transactions"] > 0
        assert trials[0] == trials[1] == trials[2]
        assert [r["decision"] for _, r in repeats] == [r["decision"] for _, r in answers]

        # The one that finds rings may go and come back: decisions are made without it.
        finding.kill()
        await system.publish(records[half:])
        await system.decided(len(records) + 3, deciding, gateway)
        with system.worker(DAFU_WORKER_ROLES="rings") as back:
            await back.ready()
            await system.drained(deciding, gateway, back)

    decisions = by_transaction(await system.decisions())
    assert len(decisions) == len(records) + 3
    await check_replay(system, decisions)
    alerts = [decode_alert(r.value) for r in await system.read_flat(system.topics.fraud_rings)]
    assert any(alert.kind == "accounts" for alert in alerts)
