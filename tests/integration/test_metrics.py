"""A real Prometheus that scrapes a worker at work: every query of the dashboard finds something."""

from __future__ import annotations

import asyncio
import math
import shutil
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dafu.generator import generate_traffic
from dafu.ingest import to_records
from dafu.web.metrics import COUNT_SECONDS
from tests.asking import ADMIN_KEY
from tests.integration.worker import BRISK, System, Worker, eventually
from tests.prometheus import Prometheus
from tests.web.test_deploy import alert_rules, dashboard_queries

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="Prometheus is not installed: no scraping"
    ),
]

ROUNDS = 6
VARIABLES = {"$job": "dafu", "$instance": ".+", "$__rate_interval": "5m"}


def filled_in(query: str) -> str:
    """A query as Grafana sends it."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def scraped(worker: Worker) -> dict[str, float]:
    """The worker's own word: sums of its metrics by name."""
    request = urllib.request.Request(
        f"{worker.base}/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        text = response.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


async def test_every_query_of_the_dashboard_returns_data(bootstrap: str, tmp_path: Path) -> None:
    assert COUNT_SECONDS >= 60.0, "what follows reads the first count"
    traffic = generate_traffic(users=300, merchants=40, days=10, seed=77, rings=20)
    records = [r for batch in traffic.batches for r in to_records(batch)]
    system = System(bootstrap, tmp_path, partitions=2, app=BRISK)
    topics = system.topics
    await system.create(topics.transactions)
    with system.worker() as worker:
        await worker.ready()
        with Prometheus(
            tmp_path / "prometheus", f"127.0.0.1:{worker.port}", key=ADMIN_KEY
        ) as prometheus:

            async def scraped_some() -> bool:
                found = await asyncio.to_thread(prometheus.query, "sum(dafu_decisions_total)")
                return bool(found) and found[0][1] > 0

            size = -(-len(records) // ROUNDS)
            for begin in range(0, len(records), size):
                await system.publish([*records[begin : begin + size], (b"u", b"no JSON")])
                # A rate, and with it a quantile, is of what comes between two scrapes.
                await eventually(scraped_some, "a scrape of some decisions", 30.0, worker)
                await asyncio.sleep(1.0)
            await system.drained(worker)
            said = scraped(worker)
            assert said["dafu_decisions_total"] == len(records)
            assert said["dafu_dead_letters_total"] == ROUNDS
            assert said["dafu_rings_open"] > 0

            async def up_to_date() -> bool:
                found = await asyncio.to_thread(prometheus.query, "sum(dafu_decisions_total)")
                return found == [({}, float(len(records)))]

            await eventually(up_to_date, "a scrape of all decisions", 30.0, worker)
            by_outcome = {
                labels["outcome"]: value
                for labels, value in prometheus.query("sum by (outcome) (dafu_decisions_total)")
            }
            assert sum(by_outcome.values()) == len(records)
            assert by_outcome["block"] > 0
            await check_queries(prometheus)
            await check_rules(prometheus, worker)


async def check_queries(prometheus: Prometheus) -> None:
    for query in dashboard_queries():
        if query.startswith("label_values("):
            selector = filled_in(query).removeprefix("label_values(").rsplit(",", 1)[0]
            found = prometheus.ask("series", **{"match[]": selector})
            assert len(found) == 1, query
            continue
        values = [value for _, value in prometheus.query(filled_in(query))]
        assert values, f"no data for {query}"
        assert any(map(math.isfinite, values)), f"nothing but NaN for {query}"


async def check_rules(prometheus: Prometheus, worker: Worker) -> None:
    """The rules are loaded and evaluated; the one about dead letters has something to say."""

    async def evaluated() -> bool:
        groups = (await asyncio.to_thread(prometheus.ask, "rules"))["groups"]
        return all(rule["health"] == "ok" for group in groups for rule in group["rules"])

    await eventually(evaluated, "an evaluation of all rules", 10.0, worker)
    (group,) = prometheus.ask("rules")["groups"]
    assert [rule["name"] for rule in group["rules"]] == [rule["alert"] for rule in alert_rules()]
    states = {rule["name"]: rule["state"] for rule in group["rules"]}
    assert states["DafuDeadLetters"] == "firing"
    assert states["DafuWorkerDown"] == states["DafuWorkerNotReady"] == "inactive"
