"""A small chaos run, and proof that the check would notice if a promise were broken.

`make chaos` does the same on a larger scale, with frozen workers and a broker that restarts.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.faults import BREAKS
from tests.chaos.harms import Harm, plan
from tests.chaos.report import Report
from tests.chaos.run import Plan, run
from tests.chaos.traffic import make_traffic

SOUND = Plan(
    seed=11,
    transactions=3_000,
    harms=[
        Harm("kill", 1, "changelog-part-acked", overlap=True),
        Harm("kill", 2, "outputs-acked"),
    ],
    workers=2,
    store="rocksdb",
    quiet=1.0,
)


def broken(what: str, point: str) -> Plan:
    harms = [Harm("kill", 4, point)]
    return Plan(12, 1_500, harms, rate=300.0, workers=1, broken=what, quiet=0.0)


@pytest.mark.broker
async def test_killed_workers_change_nothing_and_broken_promises_are_noticed(
    bootstrap: str, tmp_path: Path
) -> None:
    """At the same time, since most of it is waiting."""
    plans = {
        "sound": SOUND,
        "no-fence": broken("no-fence", "stored"),
        "ack-before-changelog": broken("ack-before-changelog", "changelog-sending"),
    }
    assert plans.keys() - {"sound"} == set(BREAKS)
    reports: dict[str, Report] = {}

    async def play(name: str) -> None:
        (tmp_path / name).mkdir()
        reports[name] = await run(plans[name], bootstrap, None, tmp_path / name)

    async with asyncio.TaskGroup() as tasks:
        for name in plans:
            tasks.create_task(play(name))
    sound = reports["sound"]
    assert sound.clean, sound.describe()
    assert sound.lives == 4, sound.describe()
    assert sound.facts["decisions"] == 3_000
    again = sound.facts["decisions published again"] + sound.facts["forwarded again"]
    assert again > 0, "no kill came at a bad moment"
    assert sound.facts["local databases of users"] >= 4
    twice = reports["no-fence"]
    assert twice.counts["merchants changelog: entities counted twice"], twice.describe()
    short = reports["ack-before-changelog"]
    kinds = [f"{table} changelog: entities counted short" for table in ("users", "merchants")]
    assert any(short.counts[kind] for kind in kinds), short.describe()


def test_traffic_and_harm_follow_from_the_seed() -> None:
    assert make_traffic(500, 7, 4) == make_traffic(500, 7, 4)
    assert make_traffic(500, 7, 4) != make_traffic(500, 8, 4)
    assert plan(7, 20, 3, 2, 1) == plan(7, 20, 3, 2, 1)
    assert plan(7, 20, 3, 2, 1) != plan(8, 20, 3, 2, 1)


def test_traffic_says_what_must_come_of_it() -> None:
    traffic = make_traffic(5_000, 7, 4)
    assert len(traffic.good) == 5_000
    assert set(traffic.rejected) >= {"conflicting_duplicate", "wrong_key", "not_json", "empty"}
    records = [s for s in traffic.records if not s.label]
    assert len(traffic.records) - len(records) > 50
    again = len(records) - 5_000 - sum(traffic.rejected.values())
    values = [s.value for s in records if s.value]
    assert again == len(values) - len(set(values)) > 100
    assert traffic.rerouted > 20
