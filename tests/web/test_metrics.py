"""What Prometheus is told, against what the agents did: real stages, and a broker in memory."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faust.types import TP
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from dafu import __version__
from dafu.agents.shell import LATENCY, LATENCY_BOUNDS, WORKER_NAME
from dafu.registry import SWITCH_KEY, Candidate, Lineup, ModelRef, Switch, encode_switch
from dafu.stages.batch import InputBatch
from dafu.stages.merchants import MerchantStage
from dafu.stages.switches import apply_switch
from dafu.streaming.dead_letters import read_headers
from dafu.tables.ownership import Position
from dafu.web.metric_names import CATALOGUE
from dafu.web.metrics import Exposer
from dafu.web.progress import Offsets
from tests.packages import forest
from tests.web.conftest import Worker, payment
from tests.web.scraping import (
    NOW,
    Memory,
    Scraped,
    counted,
    everything,
    farm,
    publish,
    scrape,
)

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


async def test_counts_are_those_of_the_agents(worker: Worker, memory: Memory) -> None:
    payments = [payment(i, f"u{i % 5}", f"m{i % 3}", 10.0 + 400 * i) for i in range(30)]
    publish(memory, payments + payments[:4] + farm(100))
    memory.put("transactions", b"u", b"{", NOW)
    memory.put("transactions", b"u", None, NOW)
    memory.put("transactions", b"u1", json.dumps(payment(99, "u2")).encode(), NOW)
    memory.put("labels", b"u1", b"[]", NOW)
    memory.put("ring-membership", b"u1", b"[]", NOW)
    await memory.settle()
    seen = await scrape(worker)

    decisions = [json.loads(record.value) for record in memory.sent["decisions"]]
    assert len(decisions) == 30 + 40 + 1
    outcomes = Counter(d["decision"] for d in decisions)
    assert outcomes["review"] > 0
    assert seen.by("dafu_decisions_total", "outcome") == {
        outcome: outcomes[outcome] for outcome in ("approve", "review", "block")
    }
    assert seen("dafu_decisions_degraded_total") == sum(d["degraded"] for d in decisions) == 71
    assert seen("dafu_degraded") == 1.0

    fired = Counter((r["id"], r["mode"]) for d in decisions for r in d["rules_fired"])
    assert fired["large", "live"] > fired["huge", "shadow"] > 0
    assert seen.by("dafu_rule_fired_total", "rule", "mode") == fired
    assert seen.by("dafu_rules", "mode") == {"live": 1, "shadow": 1, "off": 1}

    letters = [
        read_headers([(name, value or b"") for name, value in record.headers])
        for record in memory.sent["dead-letters"]
    ]
    reasons = Counter((letter.topic, letter.reason) for letter in letters if letter)
    names = {"transactions": "users", "labels": "labels", "ring-membership": "memberships"}
    assert seen.by("dafu_dead_letters_total", "agent", "reason") == {
        (names[topic], reason): count for (topic, reason), count in reasons.items()
    }
    rejected = seen.by("dafu_agent_rejected_total", "agent")
    assert {agent: n for agent, n in rejected.items() if n} == {
        "users": 2, "labels": 1, "memberships": 1
    }  # fmt: skip

    for topic, agent in memory.readers.items():
        (name,) = (n for n, a in worker.agents.by_name().items() if a is agent)
        assert seen("dafu_agent_records_total", agent=name) == len(memory.sent[topic]), name
        assert seen("dafu_agent_batches_total", agent=name) == memory.batches[topic], name
    assert seen("dafu_agent_duplicates_total", agent="users") == 4
    assert seen("dafu_agent_rerouted_total", agent="users") == 1
    assert seen("dafu_agent_outputs_total", agent="merchants") == 71
    assert 0.0 < seen("dafu_agent_busy_seconds_total", agent="users") < 600.0


async def test_what_claims_to_be_a_switch_is_a_dead_letter(worker: Worker, memory: Memory) -> None:
    memory.put("transactions-by-merchant", SWITCH_KEY, b'{"models":oops', NOW)
    await memory.settle()
    seen = await scrape(worker)
    assert len(memory.sent["dead-letters"]) == 1
    letters = seen.by("dafu_dead_letters_total", "agent", "reason")
    assert letters == {("merchants", "invalid_switch"): 1}
    assert seen("dafu_agent_rejected_total", agent="merchants") == 1


async def test_with_a_model_decisions_are_not_degraded(
    worker: Worker, memory: Memory, tmp_path: Path
) -> None:
    alone = worker.merchants.stage
    publish(memory, farm(0)[:10])
    await memory.settle()
    model = forest(tmp_path / "forest", seed=1)
    worker.merchants.stage = MerchantStage(alone.rules, model, alone.thresholds)
    publish(memory, farm(50))
    await memory.settle()
    seen = await scrape(worker)
    degraded = [json.loads(record.value)["degraded"] for record in memory.sent["decisions"]]
    assert degraded == [True] * 10 + [False] * 40
    assert seen("dafu_decisions_degraded_total") == 10
    assert seen("dafu_degraded") == 0.0


async def test_rings_and_what_leads_to_them(worker: Worker, memory: Memory) -> None:
    empty = await scrape(worker)
    assert "dafu_rings_open" in empty.families
    assert empty.by("dafu_rings_open") == {}, "before the first batch nobody knows"
    assert empty.by("dafu_rule_fired_total", "rule", "mode") == {}, "no rules hold here yet"
    publish(memory, farm(0))
    await memory.settle()
    seen = await scrape(worker)
    rings, identifiers = worker.agents.rings, worker.agents.identifiers
    assert rings is not None and identifiers is not None
    engine = rings.stage.engine(0)
    assert engine is not None and engine.book.rings
    assert seen("dafu_rings_open") == len(engine.book.rings)
    alerts = [json.loads(record.value) for record in memory.sent["fraud-rings"]]
    assert seen.by("dafu_alerts_total", "kind") == {
        "accounts": len([a for a in alerts if a["kind"] == "accounts"]),
        "merchant": len([a for a in alerts if a["kind"] == "merchant"]),
    }
    assert seen("dafu_alerts_total", kind="accounts") > 0
    told = seen("dafu_memberships_total", agent="rings")
    assert told == len(memory.sent["ring-membership"]) > 0
    assert 0 < seen("dafu_memberships_total", agent="users") <= told
    fates = seen.by("dafu_identifiers_total", "agent", "fate")
    fired = seen.by("dafu_rule_fired_total", "rule", "mode")
    assert fired.keys() == {("large", "live"), ("huge", "shadow")}
    assert fates["users", "sightings"] + seen("dafu_decisions_total", outcome="block") >= 24
    assert fates["identifiers", "sightings"] == len(memory.sent["identifiers"])
    assert seen("dafu_graph_events_total", event="links") == engine.counters.links > 0
    worker.agents.rings.table.records.drop(0)  # type: ignore[union-attr]
    assert (await scrape(worker)).by("dafu_rings_open") == {}, "another worker holds them now"


async def test_latencies_are_those_of_the_header_by_bucket(worker: Worker, memory: Memory) -> None:
    ages = [0, 1, 5, 50, 51, 999, 1000, 4321, 10**7, *range(3, 300, 7)]
    for i, age in enumerate(ages):
        value = json.dumps(payment(i, f"u{i % 5}")).encode()
        memory.put("transactions", b"u%d" % (i % 5), value, NOW - age)
    await memory.settle()
    seen = await scrape(worker)
    told = [int(dict(record.headers)[LATENCY]) for record in memory.sent["decisions"]]
    assert sorted(told) == sorted(ages)
    for stage in ("users", "merchants"):
        values = np.array(ages) / 1000
        for bound in LATENCY_BOUNDS:
            got = seen("dafu_latency_seconds_bucket", stage=stage, le=bound)
            assert got == np.count_nonzero(values <= bound), (stage, bound)
        assert seen("dafu_latency_seconds_bucket", stage=stage, le="+Inf") == len(ages)
        assert seen("dafu_latency_seconds_count", stage=stage) == len(ages)
        assert seen("dafu_latency_seconds_sum", stage=stage) == pytest.approx(values.sum())


async def test_times_of_batches(worker: Worker) -> None:
    for seconds in (0.004, 0.005, 0.2, 60.0):
        worker.merchants.batch_seconds.add(seconds)
    seen = await scrape(worker)
    buckets = seen.by("dafu_batch_seconds_bucket", "agent", "le")
    assert buckets["merchants", "0.002"] == 0
    assert buckets["merchants", "0.005"] == 2
    assert buckets["merchants", "10.0"] == 3
    assert buckets["merchants", "+Inf"] == seen("dafu_batch_seconds_count", agent="merchants") == 4
    assert seen("dafu_batch_seconds_sum", agent="merchants") == pytest.approx(60.209)
    assert {a for a, _ in buckets} == set(worker.agents.by_name())
    assert seen("dafu_batch_seconds_count", agent="labels") == 0


async def test_progress_and_health(unassigned: Worker) -> None:
    worker = unassigned
    before = await scrape(worker)
    assert (before("dafu_live"), before("dafu_ready")) == (1.0, 0.0)
    assert before.by("dafu_consumer_offsets_age_seconds") == {}
    worker.assign({worker.base: range(4)})
    worker.recover()
    monitor = worker.reporter.monitor
    monitor.progress.observe(1.0, {TP("transactions", 2): Offsets(5, 9, False)})
    monitor.progress.observe(4.5, {TP("transactions", 2): Offsets(5, 12, False)})
    monitor._checked = asyncio.get_running_loop().time()
    worker.app.rebalancing_count = 3
    after = await scrape(worker)
    assert (after("dafu_live"), after("dafu_ready")) == (1.0, 1.0)
    at = {"topic": "transactions", "partition": 2}
    assert after("dafu_consumer_lag_records", **at) == 7
    assert after("dafu_consumer_committed_age_seconds", **at) == 3.5
    assert after("dafu_rebalances_total") == 3
    worker.app._crash(RuntimeError("a test"))
    crashed = await scrape(worker)
    assert (crashed("dafu_live"), crashed("dafu_ready")) == (0.0, 0.0)


@pytest.mark.parametrize("unassigned", ["memory", "rocksdb"], indirect=True)
async def test_state_is_counted_beside_the_work(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rocksdict")
    worker.apply([payment(i, f"u{i % 7}", f"m{i % 5}") for i in range(60)])
    first = await scrape(worker)
    assert first.by("dafu_state_records", "table") == {}, "a scrape does not wait for the count"
    await counted(worker)
    second = await scrape(worker)
    entities = second.by("dafu_state_entities", "table", "partition")
    for table, count in (("users", 7), ("merchants", 5)):
        store = worker.app.tables[table].records
        held = {p: list(store.items(p)) for p in store.open_partitions()}
        assert sum(n for (name, _), n in entities.items() if name == table) == count
        for p, records in held.items():
            at = {"table": table, "partition": p}
            assert second("dafu_state_records", **at) == len(records)
            size = sum(len(key) + len(value) for key, value in records)
            assert second("dafu_state_bytes", **at) == size
        assert 0.0 <= second("dafu_state_counted_age_seconds", table=table) < 60.0

    worker.apply([payment(100, "somebody"), payment(101, "else")])
    assert (await scrape(worker)).by("dafu_state_entities", "table", "partition") == entities
    monkeypatch.setattr("dafu.web.metrics.COUNT_SECONDS", 0.0)
    await scrape(worker)
    await counted(worker)
    now = (await scrape(worker)).by("dafu_state_entities", "table", "partition")
    assert sum(n for (table, _), n in now.items() if table == "users") == 9


async def test_models_that_hold_and_those_that_can_not_be_had(worker: Worker) -> None:
    lineup = Lineup(
        ModelRef("forest", "v9", "/nowhere/v9"),
        (Candidate("shadow", ModelRef("forest", 'v"8\\', "/nowhere/v8")),),
    )
    worker.apply([payment(0, "ann")], partition=0)
    worker.apply([payment(1, "bob")], partition=1)
    switch = InputBatch.of(1, [SWITCH_KEY], [encode_switch(Switch(5, lineup))])
    changes = apply_switch(switch, worker.merchants.table.partition)
    assert changes is not None
    worker.merchants.table.records.apply(1, changes, Position(9))
    await worker.merchants.stage_with(lineup)
    seen = await scrape(worker)
    assert seen.by("dafu_model_info", "level", "role", "name", "version", "loaded") == {
        ("scoring", "champion", "", "", "false"): 1,
        ("scoring", "champion", "forest", "v9", "false"): 1,
        ("scoring", "shadow", "forest", 'v"8\\', "false"): 1,
        ("sequence", "champion", "", "", "false"): 1,
    }
    assert seen.by("dafu_model_alarms", "level") == {"sequence": 0, "scoring": 2}


async def test_catalogue_and_exposition_are_one(worker: Worker, memory: Memory) -> None:
    seen = await everything(worker, memory)
    own = {name: f for name, f in seen.families.items() if name.startswith("dafu_")}
    assert len(CATALOGUE) == len({metric.name for metric in CATALOGUE}) == len(own)
    for metric in CATALOGUE:
        # The text format knows counters by their whole name, and info as a gauge.
        family = own[metric.name.removesuffix("_total")]
        assert family.type == ("gauge" if metric.kind == "info" else metric.kind), metric.name
        assert family.documentation == metric.meaning
        assert family.samples, f"nothing makes {metric.name}"
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        for sample in family.samples:
            assert sample.name.removeprefix(metric.name) in suffixes
            assert set(sample.labels) - {"le"} == set(metric.labels)
    others = set(seen.families) - set(own)
    assert {"process_cpu_seconds", "process_resident_memory_bytes"} <= others
    assert "python_gc_collections" in others
    assert seen.by("dafu_worker_info", "worker", "version", "app_id", "store") == {
        (WORKER_NAME.decode(), __version__, "views", "memory"): 1.0
    }


async def test_openmetrics_for_who_asks_for_it(worker: Worker, memory: Memory) -> None:
    publish(memory, farm(0))
    await memory.settle()
    answer = await worker.ask("/metrics", Accept=OPENMETRICS)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    text = answer.body.decode()
    assert text.endswith("# EOF\n")
    seen = Scraped(read_openmetrics(text))  # type: ignore[no-untyped-call]
    assert seen.families["dafu_worker"].type == "info"
    assert seen.families["dafu_decisions"].type == "counter"
    plain = await scrape(worker)
    assert seen.by("dafu_decisions_total", "outcome") == plain.by("dafu_decisions_total", "outcome")
    assert seen("dafu_latency_seconds_count", stage="merchants") == 40


async def test_every_app_has_metrics_of_its_own(worker: Worker) -> None:
    one, two = (Exposer(worker.reporter, worker.agents).registry for _ in range(2))
    assert one is not two
    answer = await worker.ask("/metrics", "HEAD")
    assert (answer.status, answer.body) == (200, b"")


async def test_promtool_finds_nothing_to_say(worker: Worker, memory: Memory) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    await everything(worker, memory)
    body = (await worker.ask("/metrics")).body
    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
