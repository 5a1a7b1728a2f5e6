"""Rules and lists change while workers run: nothing is lost, and a replay changes them alike."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dafu.cli.control import RefusedError, read_entries, read_registry, request
from dafu.lists import ListEntry, ListEvent
from dafu.registry import Event, Registry
from dafu.rulesets import RulesEvent
from dafu.schema import Decision, decode_decision
from dafu.streaming.dead_letters import read_headers
from tests.integration.payments import by_transaction, stages
from tests.integration.test_deployments import Traffic, latest, until_decided
from tests.integration.test_rebalance import check_replay, status
from tests.integration.worker import BRISK, System, Worker

pytestmark = pytest.mark.broker

PARTITIONS = 2

RULES = {
    "version": 1,
    "rules": [
        {"id": "any", "condition": "amount >= 0", "risk_score": 0.3, "action": "review"},
        {"id": "denied", "condition": "on_deny_list", "risk_score": 1.0, "action": "block"},
    ],
}


async def dafu(system: System, *arguments: str) -> str:
    """What a command prints; it must succeed."""
    environment = {
        "DAFU_BROKER": system.settings.broker,
        "DAFU_APP_ID": system.settings.app_id,
        "DAFU_TOPIC_PREFIX": system.topics.prefix,
        "DAFU_PARTITIONS": str(PARTITIONS),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from dafu.cli import main; main()",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return out.decode()


def rules_event(action: Any, **fields: Any) -> RulesEvent:
    return RulesEvent(event_id=str(uuid.uuid4()), action=action, by="tests", **fields)


def list_event(action: Any, *entries: ListEntry) -> ListEvent:
    return ListEvent(event_id=str(uuid.uuid4()), action=action, entries=entries, by="tests")


async def test_rules_and_lists_change_under_traffic_and_a_replay_changes_them_alike(
    bootstrap: str, tmp_path: Path
) -> None:
    configured = stages()[1].rules.version
    system = System(bootstrap, tmp_path, PARTITIONS, app=BRISK, DAFU_STORE="rocksdb")
    await system.create(system.topics.transactions)

    async def ask(event: Event) -> Registry:
        found = await request(system.settings, event, 60.0)
        assert found is not None
        return found

    def worker(name: str) -> Worker:
        return system.worker(DAFU_DATA_DIR=str(tmp_path / name), DAFU_BATCH_RECORDS="50")

    def by_rules(version: str, rule: str | None = None) -> Any:
        def hold(decision: Decision) -> bool:
            fired = [f"{f.id} {f.mode}" for f in decision.rules_fired]
            return decision.versions.rules == version and (rule is None or rule in fired)

        return hold

    with worker("a") as a:
        await a.ready()
        traffic = Traffic(system, pause=0.3)
        await until_decided(system, "as configured", by_rules(configured), a)
        own = (await ask(rules_event("put_rules", rules=RULES))).rules
        assert own.current is not None
        put = own.current.version
        await until_decided(system, "by the rules put", by_rules(put, "any live"), a)
        bad = {"version": 1, "rules": [{"id": "x", "condition": "amont > 1"}, {"id": "y"}]}
        with pytest.raises(RefusedError) as refused:
            await ask(rules_event("put_rules", rules=bad))
        assert "rule 'x'" in str(refused.value)
        assert "rule 'y'" in str(refused.value)
        told = await dafu(system, "rules", "mode", "any", "shadow", "--why", "a try")
        assert "set_rule_mode: done. From now on:" in told
        state = json.loads(await dafu(system, "rules", "list", "--json"))
        shadowed = state["current"]["version"]
        assert f"version    {shadowed}\n  shadow     any (review)\n" in told
        assert shadowed not in (put, configured)
        await until_decided(system, "one rule looks on", by_rules(shadowed, "any shadow"), a)
        merchants = {json.loads(value)["merchant_id"] for _, value in traffic.records}
        denied = [ListEntry("deny", "merchant", name) for name in sorted(merchants)]
        names = tmp_path / "names.txt"
        names.write_text("\n".join(entry.value for entry in denied))
        told = await dafu(system, "lists", "add", "deny", "merchant", "--file", str(names))
        assert told == f"add_entries: done, {len(denied)} entries of the deny list\n"
        await until_decided(system, "all are denied", by_rules(shadowed, "denied live"), a)
        a.kill()
    # Another one goes on from the state that is in the changelogs.
    with worker("b") as b:
        await b.ready()
        await traffic.stop()
        await system.drained(b)
        assert all(map(by_rules(shadowed, "denied live"), await latest(system)))
        kept = await read_entries(system.settings)
        assert [entry.value for entry in kept] == [entry.value for entry in denied]
        told = await dafu(system, "lists", "show")
        assert told.splitlines()[-1] == f"{len(denied)} entries"
        assert told.startswith(f"deny   merchant  {denied[0].value}, by ")
        await ask(list_event("remove_entries", *denied))
        with pytest.raises(RefusedError, match="not on the deny list"):
            await ask(list_event("remove_entries", denied[0]))
        await traffic.publish(5)
        await system.drained(b)
        assert all(map(by_rules(shadowed, "any shadow"), await latest(system)))
        assert {d.decision for d in await latest(system)} == {"approve"}
        assert (await ask(rules_event("rollback_rules"))).rules.version == put
        assert (await ask(rules_event("rollback_rules"))).rules.version is None
        await traffic.publish(5)
        await system.drained(b)
        counts = (await status(b))["agents"]["merchants"]
        assert counts["rules"] == {"0": configured, "1": configured}
        assert counts["fired"]["denied"]["live"] > 0
        assert counts["fired"]["any"]["shadow"] > 0

    found = by_transaction(await system.decisions())
    assert found.keys() == traffic.transactions
    await check_replay(system, found)
    decisions = [decode_decision(payload) for payload in found.values()]
    assert {d.versions.rules for d in decisions} == {configured, put, shadowed}
    on_lists = [d for d in decisions if any(r.source == "list:deny" for r in d.reasons)]
    assert {d.decision for d in on_lists} == {"block"}
    assert {r.text for d in on_lists for r in d.reasons if r.source == "list:deny"} == {
        "merchant on the deny list"
    }
    registry_now = await read_registry(system.settings)
    assert registry_now is not None
    assert [c.version for c in registry_now.rules.history] == [put, shadowed, put, None]
    letters = await system.read_flat(system.topics.dead_letters)
    origins = [read_headers(letter.headers) for letter in letters]
    assert Counter(o.reason for o in origins if o) == {
        "invalid_rules": 1, "impossible_control_event": 1,
    }  # fmt: skip
    assert len(origins) == len(letters)
