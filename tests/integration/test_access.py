"""Workers as processes: a first run, an address that others reach, and the audit log in Kafka."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import msgspec
import pytest

from dafu.web.audit import AuditEntry
from tests.asking import ask
from tests.integration.worker import BRISK, System, Worker, eventually

pytestmark = pytest.mark.broker

NOBODY = {"DAFU_ADMIN_KEY": ""}


async def test_a_first_run_prints_a_key_and_what_it_does_is_kept(
    bootstrap: str, tmp_path: Path
) -> None:
    system = System(bootstrap, tmp_path, app=BRISK)
    with system.worker(**NOBODY) as worker:
        key = await _printed(worker)
        status, me = await asyncio.to_thread(ask, f"{worker.base}/v1/me", key)
        assert (status, me["name"], me["role"]) == (200, "first-admin", "admin")
        assert worker.output.count(key) == 2, "shown once, in one text, and never logged"
        form = {"grant_type": "password", "username": "ann", "password": "not hers"}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{worker.base}/oauth/token", data=form) as response:
                assert response.status == 400
            for _ in range(3):
                async with session.get(f"{worker.base}/v1/me", headers={"X-API-Key": "x"}) as got:
                    assert got.status == 401

        async def written() -> bool:
            return len(await _audit(worker, key)) == 2

        await eventually(written, "two entries", 30.0, worker)
        newest, first = await _audit(worker, key)
        # Both were written behind answers, and either may have been the quicker.
        by_action = {entry["action"]: entry for entry in (newest, first)}
        assert by_action["request"]["target"] == "GET /v1/me"
        attempt = by_action["sign_in"]
        assert (attempt["who"], attempt["outcome"]) == ("ann", "refused")
        assert await _audit(worker, key, "?who=ann") == [attempt]
        assert await _audit(worker, key, "?limit=1") == [newest]
        status, page = await asyncio.to_thread(ask, f"{worker.base}/v1/audit?limit=1", key)
        older = await _audit(worker, key, f"?before={page['before']}")
        assert older == [first]
        assert "not hers" not in worker.output
    again = system.worker(**NOBODY)
    with again:
        await eventually(lambda: _live(again), "live", 90.0, again)
        assert (await asyncio.to_thread(ask, f"{again.base}/v1/me", key))[0] == 200
        assert "dafu_" not in again.output
        assert len(await _audit(again, key)) == 2


async def test_no_worker_listens_to_others_without_tls(bootstrap: str, tmp_path: Path) -> None:
    system = System(bootstrap, tmp_path, app=BRISK, DAFU_WEB_HOST="0.0.0.0")
    with system.worker() as open_to_all, system.worker(**NOBODY, DAFU_BEHIND_PROXY="1") as nobodys:
        for worker, message in (
            (open_to_all, "keys would travel in clear text"),
            (nobodys, "nobody has a key"),
        ):
            assert worker.exited(90.0) == 1, worker.output
            assert "dafu can not start: web.host is 0.0.0.0" in worker.output
            assert message in worker.output
            assert "Traceback" not in worker.output


async def _live(worker: Worker) -> bool:
    try:
        return bool((await asyncio.to_thread(ask, f"{worker.base}/health/live", None))[0] == 200)
    except OSError:
        return False


async def _printed(worker: Worker) -> str:
    await eventually(lambda: _live(worker), "live", 90.0, worker)
    found = re.findall(r"^ +(dafu_[\w-]{43})$", worker.output, re.MULTILINE)
    assert len(found) == 1, worker.output
    return str(found[0])


async def _audit(worker: Worker, key: str, query: str = "") -> list[dict[str, object]]:
    status, page = await asyncio.to_thread(ask, f"{worker.base}/v1/audit{query}", key)
    assert status == 200, page
    entries = [kept["entry"] for kept in page["entries"]]
    assert all(msgspec.convert(entry, AuditEntry) for entry in entries)
    return entries
