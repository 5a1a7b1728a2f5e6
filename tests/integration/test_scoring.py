"""Transactions over HTTP: decided once, answered by whichever worker is asked."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dafu.broker import EmbeddedBroker
from dafu.schema import iso
from tests.asking import ADMIN_KEY
from tests.integration.worker import BRISK, System, Worker
from tests.redis import Redis

pytestmark = pytest.mark.broker

NOW = int(time.time() * 1000)
WAIT = "timeout_ms=20000"


def payment(number: int, user: str = "ada", **changes: Any) -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}",
        "user_id": user,
        "merchant_id": "shop",
        "amount": 10.5 + number,
        "timestamp": NOW + number,
    } | changes


class Client:
    """Asks workers as a checkout does."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def post(
        self, worker: Worker, path: str, document: Any
    ) -> tuple[int, Any, dict[str, str]]:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"}
        async with self.session.post(worker.base + path, data=data, headers=headers) as answer:
            return answer.status, json.loads(await answer.read()), dict(answer.headers)

    async def score(self, worker: Worker, document: Any, query: str = WAIT) -> tuple[int, Any]:
        return (await self.post(worker, f"/v1/score?{query}", document))[:2]

    async def get(self, worker: Worker, path: str) -> tuple[int, Any]:
        async with self.session.get(worker.base + path) as answer:
            return answer.status, json.loads(await answer.read())


@asynccontextmanager
async def checkout() -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        yield Client(session)


def system(bootstrap: str, directory: Path, partitions: int = 1, **environment: str) -> System:
    return System(
        bootstrap, directory, partitions, app=BRISK, MODEL_STORAGE_PATH="none", **environment
    )


def without_time(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "processing_time_ms"}


async def test_a_transaction_is_answered_with_its_decision_and_so_is_its_repeat(
    bootstrap: str, tmp_path: Path
) -> None:
    installation = system(bootstrap, tmp_path)
    with installation.worker() as worker:
        await worker.ready()
        async with checkout() as client:
            status, first = await client.score(worker, payment(1, amount=12_400.0))
            assert status == 200
            assert first["processing_time_ms"] > 0
            assert first["decision"] == "review", "a rule asks for that"
            (payload,) = await installation.decisions()
            assert without_time(first) == json.loads(payload)

            for _ in range(2):
                status, again = await client.score(worker, payment(1, amount=12_400.0))
                assert (status, without_time(again)) == (200, without_time(first))
            for change in ({"amount": 12_401.0}, {"merchant_id": "bar"}, {"timestamp": NOW}):
                status, refused = await client.score(worker, payment(1, amount=12_400.0) | change)
                assert (status, refused["field"]) == (409, "transaction_id"), change
            status, found = await client.get(worker, "/v1/decisions/t1?user_id=ada")
            assert (status, found) == (200, json.loads(payload))
            status, _ = await client.get(worker, "/v1/decisions/t2?user_id=ada")
            assert status == 404
        assert len(await installation.decisions()) == 1

    # Nothing of it is remembered by a new process; the log is.
    with installation.worker() as worker:
        await worker.ready()
        async with checkout() as client:
            status, again = await client.score(worker, payment(1, amount=12_400.0))
            assert (status, without_time(again)) == (200, without_time(first))
            status, refused = await client.score(worker, payment(1, amount=12_399.0))
            assert (status, refused["field"]) == (409, "transaction_id")
        assert len(await installation.decisions()) == 1


async def test_what_is_no_transaction_is_refused_and_the_field_named(
    bootstrap: str, tmp_path: Path
) -> None:
    installation = system(bootstrap, tmp_path)
    with installation.worker() as worker:
        await worker.ready()
        async with checkout() as client:
            for document, status, field in (
                (b"{", 400, None),
                ([payment(1)], 400, None),
                (b"", 400, None),
                ({k: v for k, v in payment(1).items() if k != "amount"}, 422, "amount"),
                (payment(1, amount=-1), 422, "amount"),
                (payment(1, lat=100), 422, "lat"),
                (payment(1, timestamp=NOW // 1000), 422, "timestamp"),
                (payment(1, user_id=""), 422, "user_id"),
                (payment(1, note="x" * 70_000), 413, None),
            ):
                found, problem = await client.score(worker, document)
                assert (found, problem.get("field")) == (status, field), problem
            # Only the engine can say this, and it is not waited for in vain.
            begin = time.monotonic()
            found, problem = await client.score(worker, payment(1, timestamp=NOW + 10 * 86_400_000))
            assert (found, problem["reason"]) == (422, "future_timestamp"), problem
            assert time.monotonic() - begin < 10
            found, problem = await client.score(worker, payment(1), "timeout_ms=0")
            assert (found, problem["field"]) == (400, "timeout_ms")
            assert (await client.post(worker, "/v1/score?timeout=1", payment(1)))[0] == 400
        assert await installation.decisions() == []


async def test_a_batch_is_answered_item_by_item_in_order(bootstrap: str, tmp_path: Path) -> None:
    installation = system(bootstrap, tmp_path, 3)
    with installation.worker() as worker:
        await worker.ready()
        async with checkout() as client:
            good: list[Any] = [payment(n, f"u{n % 40}") for n in range(300)]
            items = [*good[:150], {"transaction_id": "x"}, "nothing", *good[150:], good[0]]
            items.append(good[1] | {"amount": 1.0})
            status, answer, _ = await client.post(
                worker, f"/v1/score/batch?{WAIT}", {"transactions": items}
            )
            assert status == 200
            results = answer["results"]
            assert [r["status"] for r in results] == [200] * 150 + [422, 400] + [200] * 151 + [409]
            decided = [r["decision"] for r in results if r["status"] == 200]
            assert [d["transaction_id"] for d in decided] == [
                item["transaction_id"] for item in (*good, good[0])
            ]
            assert results[150]["problem"]["field"] == "user_id"

            for wrong in ([], [payment(1)] * 1001):
                status, _, _ = await client.post(worker, "/v1/score/batch", {"transactions": wrong})
                assert status == 400
        assert len(await installation.decisions()) == 300


async def test_without_a_decision_in_time_there_is_a_place_to_look_or_the_configured_answer(
    bootstrap: str, tmp_path: Path
) -> None:
    installation = system(bootstrap, tmp_path)
    late = "tests.integration.thoughtful"
    with (
        installation.worker(late) as worker,
        installation.worker(late, DAFU_SCORE_FALLBACK="block") as careful,
    ):
        await worker.ready()
        await careful.ready()
        await worker.ready()
        async with checkout() as client:
            assert (await client.score(worker, payment(0)))[0] == 200
            status, pending, headers = await client.post(
                worker, "/v1/score?timeout_ms=1500", payment(1, "u/1", transaction_id="t 1/")
            )
            assert (status, pending["status"]) == (202, "pending")
            assert pending["location"] == headers["Location"]
            deadline = time.monotonic() + 20
            while (await client.get(worker, headers["Location"]))[0] == 404:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            status, found = await client.get(worker, headers["Location"])
            assert (status, found["transaction_id"], found["user_id"]) == (200, "t 1/", "u/1")

            assert (await client.score(careful, payment(2)))[0] == 200
            status, answer = await client.score(careful, payment(3), "timeout_ms=1500")
            assert (status, answer["decision"], answer["fallback"]) == (200, "block", True)
            assert (answer["model_used"], answer["risk_score"], answer["scores"]) == (
                "none",
                None,
                {},
            )
            status, answer = await client.score(careful, payment(3))
            assert (status, answer["decision"], "fallback" in answer) == (200, "approve", False)


async def test_any_worker_answers_for_any_key_and_one_that_is_killed_loses_nothing(
    bootstrap: str, tmp_path: Path
) -> None:
    installation = system(bootstrap, tmp_path, 4)
    with installation.worker() as one:
        await one.ready()
        with installation.worker() as other:
            await other.ready()
            await one.ready()
            async with checkout() as client:
                for n in range(24):
                    first = await client.score((one, other)[n % 2], payment(n, f"u{n}"))
                    again = await client.score((other, one)[n % 2], payment(n, f"u{n}"))
                    assert first[0] == again[0] == 200
                    assert without_time(first[1]) == without_time(again[1])

                answers = await _killed_during(client, one, other)
    assert Counter(answers.values()).keys() == {200}
    decided = Counter(
        (d["user_id"], d["transaction_id"])
        for d in {
            json.loads(p)["transaction_id"]: json.loads(p) for p in await installation.decisions()
        }.values()
    )
    assert len(decided) == 24 + len(answers)


async def test_a_payment_that_can_not_be_published_ends_the_worker_that_took_it(
    tmp_path: Path,
) -> None:
    with EmbeddedBroker() as broker:
        installation = system(broker.bootstrap, tmp_path, DAFU_STOP_DEADLINE="4")
        with installation.worker(DAFU_WATCHDOG="0") as worker:
            await worker.ready()
            async with checkout() as client:
                assert (await client.score(worker, payment(1)))[0] == 200
                broker.stop()
                status, problem = await client.score(worker, payment(2))
            exited = await asyncio.to_thread(worker.exited, 30.0)
    assert status == 503
    assert "could not be published" in problem["detail"]
    assert exited == 1, worker.describe(f"ended with {exited}")
    assert f"cannot send to {installation.topics.transactions}[0]" in worker.output


async def _killed_during(client: Client, one: Worker, other: Worker) -> dict[str, int]:
    """Score while a worker is killed, and try again what it did not answer; the last statuses."""
    documents = [payment(1000 + n, f"u{n % 50}") for n in range(400)]
    seen: set[int | str] = set()

    async def score(n: int) -> int:
        await asyncio.sleep(n * 0.005)
        worker = (one, other)[n % 2]
        try:
            status, _ = await client.score(worker, documents[n], "timeout_ms=2000")
        except (aiohttp.ClientError, OSError):
            status = -1
        seen.add(status)
        deadline = time.monotonic() + 60
        while status != 200:
            assert status in (-1, 202, 503), status
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
            try:
                status, _ = await client.score(one, documents[n], "timeout_ms=2000")
            except (aiohttp.ClientError, OSError):
                status = -1
        return status

    async def kill() -> None:
        await asyncio.sleep(1.0)
        other.kill()

    tasks = [asyncio.create_task(score(n)) for n in range(len(documents))]
    await kill()
    statuses = await asyncio.gather(*tasks)
    assert seen & {-1, 202, 503}, "the kill was felt"
    return {d["transaction_id"]: s for d, s in zip(documents, statuses, strict=True)}


async def test_decisions_are_listed_and_streamed_and_labels_counted(
    bootstrap: str, tmp_path: Path
) -> None:
    installation = system(bootstrap, tmp_path, 2)
    with installation.worker() as worker:
        await worker.ready()
        async with checkout() as client:
            for n in range(10):
                assert (await client.score(worker, payment(n, f"u{n % 2}")))[0] == 200
            async with client.session.get(
                f"{worker.base}/v1/decisions/stream?min_score=0.5"
            ) as stream:
                assert stream.content_type == "text/event-stream"
                await stream.content.readuntil(b"\n\n")  # it has begun
                large = payment(10, "u0", amount=12_400.0, merchant_id="bank")
                assert (await client.score(worker, payment(11, "u1")))[0] == 200
                status, made = await client.score(worker, large)
                assert (status, made["decision"]) == (200, "review")
                async with asyncio.timeout(20):
                    event = await stream.content.readuntil(b"\n\n")
                name, data = event.split(b"\n")[1:3]
                assert name == b"event: decision"
                told = json.loads(data.removeprefix(b"data: "))
                assert told["decision"] == without_time(made)
                assert told["latency_ms"] >= 0

            for query, expected in (
                ("", {f"t{n}" for n in range(12)}),
                ("user_id=u1", {"t1", "t3", "t5", "t7", "t9", "t11"}),
                ("merchant_id=bank", {"t10"}),
                ("decision=review", {"t10"}),
                ("min_score=0.5", {"t10"}),
                (f"rule={made['rules_fired'][0]['id']}", {"t10"}),
                ("rule=none", set()),
                (f"since={iso(NOW + 9)}&until={iso(NOW + 11)}", {"t9", "t10"}),
                ("user_id=u1&merchant_id=bank", set()),
            ):
                status, found = await client.get(worker, f"/v1/decisions?{query}")
                ids = [one["decision"]["transaction_id"] for one in found["decisions"]]
                assert (status, set(ids), len(ids)) == (200, expected, len(expected)), query
                assert found["remembered"] == 12
            _, found = await client.get(worker, "/v1/decisions?limit=1")
            assert found["decisions"][0]["decision"] == without_time(made), "the newest"

            label = {
                "transaction_id": "t10",
                "user_id": "u0",
                "is_fraud": True,
                "source": "analyst",
                "observed_at": NOW + 1000,
            }
            status, accepted, _ = await client.post(worker, "/v1/labels", label)
            assert (status, accepted) == (
                202,
                {"accepted": [{"transaction_id": "t10", "user_id": "u0"}]},
            )
            status, refused, _ = await client.post(
                worker, "/v1/labels", [label, label | {"observed_at": 5}]
            )
            assert (status, refused["field"]) == (422, "[1].observed_at")
            status, refused, _ = await client.post(worker, "/v1/labels", [label | {"source": "me"}])
            assert (status, refused["field"]) == (400, "[0].source")
            many = [label | {"transaction_id": f"t{n}", "user_id": f"u{n % 2}"} for n in range(9)]
            assert (await client.post(worker, "/v1/labels", many))[0] == 202
            _, audit = await client.get(worker, "/v1/audit?action=label")
            entries = [kept["entry"]["details"] for kept in audit["entries"]]
            assert [(e["labels"], e["fraud"]) for e in entries] == [(9, 9), (1, 1)]
            # Who looks on does not hold up a worker that stops.
            async with client.session.get(f"{worker.base}/v1/decisions/stream") as stream:
                await stream.content.readuntil(b"\n\n")
                await asyncio.to_thread(worker.stop)
                assert await stream.content.read() == b""
        labels = await installation.read_flat(installation.topics.labels)
        assert {(r.key, json.loads(r.value)["transaction_id"]) for r in labels} == {
            (b"u0", "t10"),
            *((f"u{n % 2}".encode(), f"t{n}") for n in range(9)),
        }


async def test_workers_share_decisions_through_redis_and_do_without(
    bootstrap: str, tmp_path: Path
) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server: install Debian's package of that name")
    (tmp_path / "redis").mkdir()
    redis = Redis(tmp_path / "redis")
    redis("start")
    try:
        installation = system(bootstrap, tmp_path, REDIS_URL=redis.url)
        # Of long ago, so that only somebody who remembers finds it at once.
        old = payment(1, timestamp=NOW - 40 * 86_400_000)
        with installation.worker() as worker:
            await worker.ready()
            async with checkout() as client:
                status, first = await client.score(worker, old)
                assert status == 200
                redis("stop")
                assert (await client.score(worker, payment(2)))[0] == 200
                redis("start")
                await asyncio.sleep(6)
                assert (await client.score(worker, old))[0] == 200
                assert (await client.score(worker, payment(3)))[0] == 200
        with installation.worker() as worker:
            await worker.ready()
            async with checkout() as client:
                status, again = await client.score(worker, payment(3))
                assert (status, again["transaction_id"]) == (200, "t3")
                status, again = await client.score(worker, old)
                assert (status, without_time(again)) == (200, without_time(first))
                status, refused = await client.score(worker, old | {"amount": 1.0})
                assert (status, refused["field"]) == (409, "transaction_id")
        assert worker.output.count("Redis does not answer") == 0
        assert len(await installation.decisions()) == 3
    finally:
        redis("stop")
