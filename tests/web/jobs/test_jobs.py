"""Jobs over HTTP with their real processes, at one worker and from another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from dafu.generator import generate
from dafu.generator.write import write
from dafu.ingest import TransactionReader, load_mapping
from dafu.loading import load_stages
from dafu.offline import score_file
from dafu.settings import Web, load_settings
from dafu.stages.pipeline import Pipeline
from dafu.web.endpoints import Endpoint, install
from dafu.web.forwarding import Forwarder
from dafu.web.jobs import jobs as jobs_module
from dafu.web.jobs.documents import AnalyzeRequest
from dafu.web.jobs.endpoints import job_endpoints
from dafu.web.jobs.jobs import Jobs
from dafu.web.principals import ROLES, Principal, Role
from dafu.web.problems import protect

WITHIN = 120.0
DEVICE, ADDRESS = "dev-4711", "198.51.100.7"
QUOTING_RULES = f"""
version: 1
rules:
  - {{id: device, condition: device_fingerprint == '{DEVICE}', risk_score: 0.9, action: block}}
  - {{id: address, condition: ip_address == '{ADDRESS}', risk_score: 0.8, action: review}}
"""


class ByHeader:
    """Callers are who they say they are."""

    async def enter(self, request: web.Request, _endpoint: Endpoint, /) -> Principal | None:
        role: Role = request.headers.get("Role", "admin")  # type: ignore[assignment]
        assert role in get_args(Role)
        return Principal(f"a {role}", "key", role, ROLES[role])


class Site:
    """A worker's jobs on a server of their own; `workers` are all that there are."""

    def __init__(self, directory: Path, settings: Web, workers: dict[str, Any]) -> None:
        self.url = ""
        app: Any = SimpleNamespace(
            conf=SimpleNamespace(canonical_url=self),
            assignor=SimpleNamespace(tables_metadata=lambda: workers),
        )
        self.jobs = Jobs(directory, lambda: self.url)
        forwarder = Forwarder(app)
        application = web.Application()
        protect(application)
        install(application, job_endpoints(self.jobs, settings, forwarder), ByHeader())
        application.on_shutdown.append(self.jobs.close)
        application.on_cleanup.append(forwarder.close)
        self.client: TestClient[Any, Any] = TestClient(TestServer(application))
        self.workers = workers

    def __str__(self) -> str:
        return self.url

    async def __aenter__(self) -> Site:
        await self.client.start_server()
        self.url = str(self.client.make_url("/"))
        self.workers[self.url] = {}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def ask(self, method: str, path: str, document: Any = None, role: str = "admin") -> Any:
        async with self.client.request(
            method, path, json=document, headers={"Role": role}
        ) as answer:
            return answer.status, json.loads(await answer.read())

    async def read(self, path: str, role: str) -> bytes:
        async with self.client.get(path, headers={"Role": role}) as answer:
            assert answer.status == 200
            return await answer.read()

    async def analyze(self, source: Path, **more: Any) -> dict[str, Any]:
        status, job = await self.ask("POST", "/v1/batch/analyze", {"source": str(source), **more})
        assert status == 202, job
        return dict(job)

    async def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(WITHIN):
            while True:
                _, job = await self.ask("GET", f"/v1/batch/jobs/{job['id']}")
                if job["state"] not in ("queued", "running"):
                    return job
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exports") / "payments.parquet"
    write(generate(users=60, merchants=20, days=20, seed=3), path)
    return path


@pytest.fixture(autouse=True)
def rules_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_STORAGE_PATH", "none")


@pytest.fixture
async def site(tmp_path: Path, file: Path) -> AsyncIterator[Site]:
    async with Site(tmp_path / "jobs", Web(analyze_dirs=(str(file.parent),)), {}) as made:
        yield made


async def test_a_file_is_scored_as_the_command_scores_it(
    site: Site, file: Path, tmp_path: Path
) -> None:
    job = await site.analyze(file, limit=500)
    assert (job["state"], job["created_by"], job["results"]) == ("queued", "a admin", None)
    job = await site.ended(job)
    assert (job["state"], job["progress"]["fraction"]) == ("done", 1.0), job
    pipeline = Pipeline(*load_stages(load_settings(), rings=False))
    reader = TransactionReader(file, load_mapping("dafu"), limit=500)
    scored = score_file(reader, pipeline, tmp_path / "expected.jsonl")
    assert job["progress"]["decided"] == scored.decided == 500
    assert job["progress"]["by_decision"] == scored.by_decision
    async with site.client.get(job["results"]) as answer:
        assert await answer.read() == (tmp_path / "expected.jsonl").read_bytes()
        assert job["id"] in answer.headers["Content-Disposition"]
    times = [job["created_at"], job["started_at"], job["ended_at"]]
    assert times == sorted(times)
    left = {path.name for path in (tmp_path / "jobs" / job["id"]).iterdir()}
    assert left == {"job.json", "decisions.jsonl"}


async def test_results_hold_nothing_personal_for_those_who_may_not_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules.yaml").write_text(QUOTING_RULES)
    monkeypatch.setenv("DAFU_RULES", str(tmp_path / "rules.yaml"))
    rows = [
        {
            "transaction_id": f"t{n}",
            "user_id": "ada",
            "merchant_id": "shop",
            "amount": 20_000.0,
            "timestamp": 1_700_000_000_000 + n,
            "device_fingerprint": DEVICE,
            "ip_address": ADDRESS,
        }
        for n in range(3)
    ]
    source = tmp_path / "few.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no json\n")
    async with Site(tmp_path / "jobs", Web(analyze_dirs=(str(tmp_path),)), {}) as site:
        job = await site.ended(await site.analyze(source))
        assert job["progress"]["rejected"] == {"not_json": 1}, job
        for role, masked in (("analyst", False), ("model_owner", True)):
            lines = (await site.read(job["results"], role)).splitlines()
            found = [json.loads(line) for line in lines]
            assert [d["transaction_id"] for d in found] == ["t0", "t1", "t2"]
            for decision, line in zip(found, lines, strict=True):
                assert {rule["id"] for rule in decision["rules_fired"]} == {"device", "address"}
                shown = [personal.encode() in line for personal in (DEVICE, ADDRESS, "masked-")]
                assert shown == [not masked, not masked, masked]
        table = await site.ended(await site.analyze(source, format="csv"))
        assert DEVICE.encode() in await site.read(table["results"], "analyst")
        status, problem = await site.ask("GET", table["results"], role="model_owner")
        assert (status, problem["permission"]) == (403, "pii")
        status, _ = await site.ask("GET", f"/v1/batch/jobs/{job['id']}", role="viewer")
        assert status == 403


async def test_a_job_is_cancelled_where_it_stands_and_the_next_one_runs(
    site: Site, file: Path, tmp_path: Path
) -> None:
    running = await site.analyze(file)
    waiting = await site.analyze(file)
    last = await site.analyze(file, limit=5)
    status, job = await site.ask("DELETE", f"/v1/batch/jobs/{waiting['id']}")
    assert (status, job["state"]) == (200, "cancelled")
    async with asyncio.timeout(WITHIN):
        while (await site.ask("GET", f"/v1/batch/jobs/{running['id']}"))[1]["state"] == "queued":
            await asyncio.sleep(0.01)
    status, job = await site.ask("DELETE", f"/v1/batch/jobs/{running['id']}")
    assert (status, job["state"]) == (200, "cancelled")
    last = await site.ended(last)
    assert (last["state"], last["progress"]["decided"]) == ("done", 5)
    status, problem = await site.ask("GET", f"/v1/batch/jobs/{running['id']}/results")
    assert (status, problem["state"]) == (409, "cancelled")
    assert {p.name for p in (tmp_path / "jobs" / running["id"]).iterdir()} == {"job.json"}
    _, listed = await site.ask("GET", "/v1/batch/jobs")
    assert [j["id"] for j in listed["jobs"]] == [last["id"], waiting["id"], running["id"]]
    # What has ended is forgotten.
    await site.ask("DELETE", f"/v1/batch/jobs/{last['id']}")
    assert (await site.ask("GET", f"/v1/batch/jobs/{last['id']}"))[0] == 404
    assert not (tmp_path / "jobs" / last["id"]).exists()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("begun", [False, True])
async def test_whenever_a_job_is_cancelled_the_next_one_runs(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool, times: int
) -> None:
    begins, started, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    spawn = asyncio.create_subprocess_exec

    async def spawn_later(*command: str, **options: Any) -> asyncio.subprocess.Process:
        begins.set()
        await go_on.wait()
        process = await spawn(*command, **options)
        started.set()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn_later)
    jobs = Jobs(tmp_path / "jobs", lambda: "http://here")
    job = jobs.add(str(file), AnalyzeRequest(str(file)), "ada")
    last = jobs.add(str(file), AnalyzeRequest(str(file), limit=5), "ada")
    await begins.wait()
    if begun:
        go_on.set()
        await started.wait()
        await asyncio.sleep(0.1)  # for what comes right after it
    for _ in range(times):
        found = jobs.get(job.id)
        assert found is not None
        await jobs.cancel(found)
    go_on.set()
    async with asyncio.timeout(WITHIN):
        while (found := jobs.get(last.id)) is None or found.state in ("queued", "running"):
            await asyncio.sleep(0.05)
    assert (found.state, found.progress.decided) == ("done", 5)
    left = jobs.get(job.id)
    assert left is None if times == 2 else left is not None and left.state == "cancelled"
    assert (tmp_path / "jobs" / job.id).exists() == (times == 1)
    await jobs.close()


async def test_what_can_not_be_done_says_why(
    site: Site, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for body, status, field in (
        ({"source": "/etc/shadow.csv"}, 422, "source"),
        ({"source": str(file), "mapping": "../../etc/x"}, 400, "mapping"),
        ({"source": str(file), "limit": 0}, 400, "limit"),
        ({"source": str(file), "since": "yesterday"}, 400, "since"),
        ({}, 400, "source"),
    ):
        found, problem = await site.ask("POST", "/v1/batch/analyze", body)
        assert (found, problem["field"]) == (status, field), problem
    job = await site.ended(await site.analyze(file, mapping="none-such"))
    assert job["state"] == "failed"
    assert "there is no mapping `none-such`" in job["progress"]["error"]
    (file.parent / "broken.parquet").write_bytes(b"PAR1")
    job = await site.ended(await site.analyze(file.parent / "broken.parquet"))
    assert (job["state"], job["results"]) == ("failed", None)
    assert "broken.parquet" in job["progress"]["error"]
    monkeypatch.setattr(jobs_module, "MOST_QUEUED", 1)
    for _ in range(2):  # one runs, one waits
        await site.analyze(file)
        await asyncio.sleep(0.1)
    status, _ = await site.ask("POST", "/v1/batch/analyze", {"source": str(file)})
    assert status == 503


async def test_a_job_is_asked_for_at_any_worker(file: Path, tmp_path: Path) -> None:
    settings = Web(analyze_dirs=(str(file.parent),))
    workers: dict[str, Any] = {"http://127.0.0.1:9": {}}
    async with (
        Site(tmp_path / "a", settings, workers) as one,
        Site(tmp_path / "b", settings, workers) as other,
    ):
        job = await one.ended(await one.analyze(file, limit=20))
        assert (await other.ask("GET", f"/v1/batch/jobs/{job['id']}"))[1] == job
        async with (
            one.client.get(job["results"]) as here,
            other.client.get(job["results"]) as there,
        ):
            assert await here.read() == await there.read() != b""
        _, listed = await other.ask("GET", "/v1/batch/jobs")
        assert [j["id"] for j in listed["jobs"]] == [job["id"]]
        assert listed["silent"] == ["http://127.0.0.1:9"]
        await other.ask("DELETE", f"/v1/batch/jobs/{job['id']}")
        assert one.jobs.all() == []
        assert (await other.ask("GET", "/v1/batch/jobs/00000000-00"))[0] == 404


async def test_jobs_outlive_their_worker_and_not_for_ever(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "jobs"

    def started() -> Jobs:
        return Jobs(directory, lambda: "http://here")

    first = started()
    request = AnalyzeRequest(str(file), limit=5)
    done = first.add(str(file), request, "ada")
    async with asyncio.timeout(WITHIN):
        while (found := first.get(done.id)) is None or found.state != "done":
            await asyncio.sleep(0.05)
    cut = first.add(str(file), AnalyzeRequest(str(file)), "ada")
    await asyncio.sleep(0.2)
    second = started()  # as if the first had been killed
    assert second.get(done.id) == found
    assert second.results(found).stat().st_size > 0
    left = second.get(cut.id)
    assert left is not None
    assert (left.state, left.progress.error) == ("failed", "the worker ended before the job did")
    assert Jobs(directory, lambda: "http://there").all() == []
    monkeypatch.setattr(jobs_module, "KEPT_SECONDS", -1.0)
    assert second.all() == []
    assert list(directory.iterdir()) == []
    await first.close()


async def test_a_url_is_fetched_below_the_configured_ones(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    store = web.Application()
    store.router.add_static("/exports", file.parent)
    async with TestServer(store) as server:
        base = str(server.make_url("/exports/"))
        settings = Web(analyze_urls=(base,))
        async with Site(tmp_path / "jobs", settings, {}) as site:
            status, job = await site.ask(
                "POST", "/v1/batch/analyze", {"source": f"{base}{file.name}", "limit": 7}
            )
            assert status == 202
            job = await site.ended(job)
            assert (job["state"], job["progress"]["decided"]) == ("done", 7), job
            _, job = await site.ask("POST", "/v1/batch/analyze", {"source": f"{base}none.csv"})
            job = await site.ended(job)
            assert job["state"] == "failed"
            assert "can not be read" in job["progress"]["error"]
            left = {path.name for path in (tmp_path / "jobs" / job["id"]).iterdir()}
            assert left == {"job.json"}
