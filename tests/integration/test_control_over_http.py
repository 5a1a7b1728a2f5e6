"""Models, rules and lists changed over HTTP, on a real worker: what is answered has happened."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dafu.schema import decode_decision
from tests.asking import ADMIN_KEY
from tests.integration.payments import payments
from tests.integration.worker import BRISK, System

pytestmark = pytest.mark.broker

ROOT = Path(__file__).resolve().parents[2]
CHALLENGER = str(ROOT / "dafu" / "models" / "challenger")
N = 1500
LARGE = {"id": "large", "condition": "amount > 0", "risk_score": 0.8, "action": "review"}


def payment(number: int, user: str, time: int) -> tuple[bytes, bytes]:
    document = {
        "transaction_id": f"late-{number}",
        "user_id": user,
        "merchant_id": "shop",
        "amount": 12.5,
        "timestamp": time,
        "device_fingerprint": "fp-77",
    }
    return user.encode(), json.dumps(document).encode()


class Caller:
    """Asks a worker as the administrator."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._session.request(method, self._base + path, json=body) as response:
            return response.status, await response.json()


async def test_what_is_answered_holds_for_what_comes_after(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, app=BRISK)
    await system.create(system.topics.transactions)
    records = payments(N, seed=19)
    await system.publish(records)
    latest = max(json.loads(value)["timestamp"] for _, value in records)
    last = round(datetime.fromisoformat(latest).timestamp() * 1000)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with system.worker() as worker:
        await worker.ready()
        await system.drained(worker)
        async with aiohttp.ClientSession(headers=headers) as session:
            ask = Caller(session, worker.base)

            async def decided(number: int, user: str) -> Any:
                before = len(await system.decisions())
                await system.publish([payment(number, user, last + number)])
                await system.drained(worker)
                found = await system.decisions()
                assert len(found) == before + 1
                return decode_decision(found[-1])

            await check_rules(ask, decided)
            await check_lists(ask, decided)
            await check_models(ask, decided)
            status = 202
            while status == 202:  # it is worked out by a process that has to start
                status, report = await ask("GET", "/v1/models/none/performance")
            assert (status, report["totals"]) == (200, [])


async def check_rules(ask: Caller, decided: Any) -> None:
    status, first = await ask("GET", "/v1/rules")
    assert (status, first["configured"], first["history"]) == (200, True, [])
    assert sum(each["fired"]["live"] for each in first["rules"]) > 0

    status, found = await ask("POST", "/v1/rules/test", {})
    assert (status, found["trial"]["version"]) == (200, first["version"])
    tried = {each["rule_id"]: each["fired"] for each in found["trial"]["rules"]}
    assert found["trial"]["transactions"] == N
    counted = {each["rule"]["id"]: each["fired"] for each in first["rules"]}
    for rule, fired in counted.items():
        assert tried[rule] == fired["live"] + fired["shadow"], rule

    new = {"version": 1, "rules": [LARGE]}
    status, found = await ask("POST", "/v1/rules/test", {"rules": new})
    assert found["trial"]["outcomes"] == {"none": 0, "approve": 0, "review": N, "block": 0}
    transaction = json.loads(payment(0, "u", 1_700_000_000_000)[1])
    body = {"rules": new, "transaction": transaction, "features": {"user_count_5m": 3}}
    status, found = await ask("POST", "/v1/rules/test", body)
    assert [rule["fired"] for rule in found["explanation"]["rules"]] == [True]
    status, found = await ask("POST", "/v1/rules/test", {"transaction": {"amount": 1}})
    assert (status, found["field"]) == (422, "transaction")

    bad = {"version": 1, "rules": [LARGE | {"condition": "amonut > 3"}]}
    for method, path, body in (
        ("PUT", "/v1/rules", {"rules": bad}),
        ("POST", "/v1/rules/test", {"rules": bad}),
    ):
        status, found = await ask(method, path, body)
        assert status == 422
        assert "amonut" in found["detail"]
    assert (await ask("GET", "/v1/rules"))[1] == first, "nothing has changed"

    status, second = await ask("PUT", "/v1/rules", {"rules": new, "why": "a trial"})
    assert (status, second["configured"]) == (200, False)
    assert (second["history"][0]["by"], second["history"][0]["why"]) == ("admin", "a trial")
    decision = await decided(1, "rules-1")
    assert decision.versions.rules == second["version"]
    assert [fired.id for fired in decision.rules_fired] == ["large"]
    status, found = await ask("PUT", "/v1/rules", {"rules": new})
    assert status == 409
    status, third = await ask("PUT", "/v1/rules/large/mode", {"mode": "shadow", "why": "quiet"})
    assert third["rules"][0]["rule"]["mode"] == "shadow"
    decision = await decided(2, "rules-2")
    assert [fired.mode for fired in decision.rules_fired] == ["shadow"]
    status, found = await ask("PUT", "/v1/rules/none/mode", {"mode": "off"})
    assert status == 409
    for version in (second["version"], first["version"]):
        status, found = await ask("POST", "/v1/rules/rollback", {})
        assert (status, found["version"]) == (200, version)


async def check_lists(ask: Caller, decided: Any) -> None:
    entry = {"list": "deny", "kind": "device", "value": "fp-77"}
    status, found = await ask("POST", "/v1/lists", {"entries": [entry], "why": "stolen"})
    assert status == 200
    (listed,) = found["entries"]
    assert (listed["value"], listed["by"], listed["why"]) == ("fp-77", "admin", "stolen")
    assert (await ask("GET", "/v1/lists?kind=user"))[1] == {"entries": []}
    decision = await decided(3, "lists-1")
    assert decision.decision == "block"
    assert any(reason.source == "list:deny" for reason in decision.reasons)
    status, found = await ask("POST", "/v1/lists/remove", {"entries": [entry]})
    assert (status, found["entries"]) == (200, [])
    assert (await ask("POST", "/v1/lists/remove", {"entries": [entry]}))[0] == 409
    assert (await decided(4, "lists-2")).decision != "block"


async def check_models(ask: Caller, decided: Any) -> None:
    status, found = await ask("GET", "/v1/models")
    assert (status, found["number"] > 0, found["scoring"]["champion"]["url"]) == (200, True, "")
    status, found = await ask("POST", "/v1/models/deploy", {"url": "/nowhere", "role": "shadow"})
    assert (status, found["field"]) == (422, "url")
    body = {"url": CHALLENGER, "role": "challenger", "why": "a look"}
    status, found = await ask("POST", "/v1/models/deploy", body)
    assert status == 200
    version = found["scoring"]["candidates"][0]["model"]["version"]
    assert [c.version for c in (await decided(5, "models-1")).candidates] == [version]
    status, found = await ask("POST", "/v1/models/promote", {"version": version})
    assert (status, found["scoring"]["champion"]["version"]) == (200, version)
    assert (await decided(6, "models-2")).versions.model == version
    status, found = await ask("POST", "/v1/models/rollback", {"why": "enough"})
    assert (status, found["scoring"]["champion"]["url"]) == (200, "")
    assert (await ask("POST", "/v1/models/stop", {"version": "none"}))[0] == 409
    assert (await decided(7, "models-3")).versions.model != version


async def test_two_changes_at_once_are_both_answered(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, app=BRISK)
    await system.create(system.topics.transactions)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    entries = [{"list": "watch", "kind": "user", "value": f"u{k}"} for k in range(20)]
    with system.worker() as worker:
        await worker.ready()
        async with aiohttp.ClientSession(headers=headers) as session:
            ask = Caller(session, worker.base)
            answers = await asyncio.gather(
                *(ask("POST", "/v1/lists", {"entries": [entry]}) for entry in entries)
            )
            assert {status for status, _ in answers} == {200}
            _, found = await ask("GET", "/v1/lists")
            assert {e["value"] for e in found["entries"]} == {e["value"] for e in entries}
