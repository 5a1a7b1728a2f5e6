"""One chaos run: traffic at a steady pace, harm at its moments, quiet at last, then the check."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Final

import msgspec
from aiokafka import AIOKafkaProducer

from tests.chaos.check import check
from tests.chaos.crew import Crew, Journal
from tests.chaos.harms import Doer, Harm
from tests.chaos.report import Report
from tests.chaos.traffic import Sent, Traffic, make_traffic
from tests.integration.worker import System
from tests.kafka import ApacheKafka, KafkaCluster

TICK: Final = 0.02
"""Seconds from one handful of records to the next."""
FIRST_START_SECONDS: Final = 300.0
"""It may have to compile the kernels."""
DRAIN_SECONDS: Final = 240.0
EXTRA: Final = {"extra-1": "decisions", "extra-2": "rings"}
"""Workers that come and go in a storm, and their roles: partitions of some topics change hands, of
others not."""


class Plan(msgspec.Struct):
    """What a run is to do; with the same plan it publishes and orders the same."""

    seed: int
    transactions: int
    harms: list[Harm]
    rate: float = 600.0
    workers: int = 2
    partitions: int = 4
    store: str = "memory"
    broken: str | None = None
    quiet: float = 5.0
    """Seconds before the workers are stopped, for what they do by the clock."""


async def run(
    plan: Plan, bootstrap: str, kafka: ApacheKafka | KafkaCluster | None, directory: Path
) -> Report:
    """Play a plan and compare what came of it with an uninterrupted run.

    Parameters
    ----------
    bootstrap : str
        The broker.
    kafka : ApacheKafka, KafkaCluster or None
        The same one, if it may be restarted; a cluster keeps a replica of everything on each node.
    directory : Path
        An empty one, for data and logs.
    """
    journal = Journal()
    traffic = make_traffic(plan.transactions, plan.seed, plan.partitions)
    system = System(
        bootstrap,
        directory,
        plan.partitions,
        DAFU_STORE=plan.store,
        DAFU_COMMIT_INTERVAL="0.2",
        DAFU_REPLICATION_FACTOR=str(1 if kafka is None else len(kafka.nodes)),
    )
    await system.create(system.topics.transactions, system.topics.labels)
    regular = [f"worker-{k}" for k in range(1, plan.workers + 1)]
    extra = EXTRA if any(h.kind == "storm" for h in plan.harms) else {}
    choose = random.Random(f"crew {plan.seed}")
    with Crew(system, [*regular, *extra], choose, journal, plan.broken, extra) as crew:
        for name in regular:
            crew.start(crew.places[name])
        assert await crew.ready(FIRST_START_SECONDS), "the workers did not start: " + "; ".join(
            [*journal.lines, *crew.unexpected]
        )
        doer = Doer(crew, regular, kafka)
        await _feed_and_harm(plan, traffic, system, doer, idempotent=kafka is not None)
        journal.note("all is published and done, waiting for the workers")
        unfinished = await _finished(system, crew)
        await asyncio.sleep(plan.quiet)
        journal.note(unfinished or "quiet")
        await asyncio.gather(*[crew.stop(place) for place in crew.places.values()])
        report = await check(system, traffic, plan.store, journal)
        report.unfinished = unfinished
        report.unexpected = crew.unexpected
        report.kind("workers that found their state damaged")
        for text in crew.unexpected:
            if "StateError" in text:
                report.add("workers that found their state damaged", text)
        report.lives = sum(place.lives for place in crew.places.values())
    return report


async def _finished(system: System, crew: Crew) -> str | None:
    """Wait until all is committed; None if it came to that, else why not."""
    drained = asyncio.create_task(system.drained(within=DRAIN_SECONDS))
    hopeless = asyncio.create_task(crew.hopeless.wait())
    await asyncio.wait((drained, hopeless), return_when=asyncio.FIRST_COMPLETED)
    hopeless.cancel()
    if drained.done():
        return None if drained.exception() is None else str(drained.exception()).strip()
    drained.cancel()
    return "given up: workers end again and again for the same reason"


async def _feed_and_harm(
    plan: Plan, traffic: Traffic, system: System, doer: Doer, *, idempotent: bool
) -> None:
    """Publish all records; each harm begins when the stream has come to its part of it."""
    choose = random.Random(f"moments {plan.seed}")
    step = len(traffic.records) / (len(plan.harms) + 1)
    # Not in the first part, so that there is state to lose, nor all at equal distances.
    moments = [round(step * (k + 0.6 + 0.3 * choose.random())) for k in range(len(plan.harms))]
    # A broker that is restarted may take a record and not live to say so: only an idempotent
    # producer can ask again without making two of it.
    producer = AIOKafkaProducer(
        bootstrap_servers=system.settings.broker,
        acks="all",
        enable_idempotence=idempotent,
        request_timeout_ms=120_000,
        max_request_size=1_048_576,
    )
    await producer.start()
    try:
        sent = 0
        for moment, harm in zip(moments, plan.harms, strict=True):
            await _publish(producer, system, traffic.records[sent:moment], plan.rate)
            # The stream goes on meanwhile, as far as the next harm.
            following = min(m for m in [*moments, len(traffic.records)] if m > moment)
            if doer.crew.hopeless.is_set():
                return
            doing = asyncio.create_task(doer.do(harm))
            await _publish(producer, system, traffic.records[moment:following], plan.rate)
            sent = following
            await doing
        await _publish(producer, system, traffic.records[sent:], plan.rate)
    finally:
        await producer.stop()


async def _publish(
    producer: AIOKafkaProducer, system: System, records: list[Sent], rate: float
) -> None:
    began = time.monotonic()
    waiting = []
    at = 0
    while at < len(records):
        until = min(int((time.monotonic() - began) * rate) + 1, len(records))
        waiting += [
            await producer.send(
                system.topics.labels if sent.label else system.topics.transactions,
                value=sent.value,
                key=sent.key,
                partition=sent.partition,
                headers=sent.headers,
            )
            for sent in records[at:until]
        ]
        at = until
        await asyncio.sleep(TICK)
    await asyncio.gather(*waiting)
