"""Rings: microseconds a sighting and a link, bytes a link, and the longest single step.

Knows the two stages' cores and the library they are compared with; no worker and no broker.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from typing import Final

import networkx as nx
import numpy as np
import psutil
from msgspec import Struct

from bench.results import Cell, Section, Table, figure
from dafu.rings.engine import RingEngine
from dafu.rings.identifiers import WINDOW_MS
from dafu.rings.records import Facts, Kind, Link, Sighting, encode
from dafu.stages.batch import InputBatch
from dafu.stages.identifiers import IdentifierStage
from dafu.tables.records import MemoryRecords

METHOD: Final = """\
Groups of six users who share devices and addresses, three identifiers a user. "A sighting" is
`IdentifierStage.run` on batches of 500: reading, checking, stepping, packing. "A link" is
`RingEngine.apply` on a graph that holds the links already: with the search of the component and,
where it has three members or more, its score and the alert. Half of the new links join somebody to
a group, half are between strangers. Bytes a link are those that the process grew by, with names.
"networkx" finds the connected components of the same graph anew, which is what a link would cost
without an incremental graph; building its graph is not counted."""
BIASES: Final = [
    "Groups of six: a component of some hundred users takes milliseconds.",
    "networkx is plain Python; a compiled library would recompute in a fraction of the time, and "
    "still do it for all links.",
]
START: Final = 1_700_000_000_000
GROUP: Final = 6
THINGS: Final = 3
"""Identifiers a user."""


class Plan(Struct, frozen=True):
    """How many links the graph holds, and how many are measured."""

    links: int = 1_000_000
    steps: int = 5_000
    sightings: int = 50_000


QUICK: Final = Plan(links=20_000, steps=500, sightings=5_000)


def measure(plan: Plan) -> Section:
    """Time both stages' work, and compare with recomputing components."""
    lines: list[list[Cell]] = [["a sighting", figure(_sightings(plan), 1)]]
    before = psutil.Process().memory_info().rss
    engine = _filled(plan.links)
    grown = psutil.Process().memory_info().rss - before
    took = _steps(engine, plan)
    lines.append([f"a link, median, {plan.links:,} live", figure(float(np.median(took)), 1)])
    lines.append(["a link, mean", figure(float(np.mean(took)), 1)])
    lines.append(["the longest step", figure(float(np.max(took)), 0)])
    lines.append(["networkx, all components", figure(_recomputed(engine), 0)])
    sizes: list[list[Cell]] = [
        ["all", figure(grown / plan.links)],
        ["arrays", figure(engine.graph.nbytes / plan.links)],
    ]
    tables = [
        Table("Microseconds", ["step", "time"], lines),
        Table(f"Bytes a link, {plan.links:,} links", ["part", "bytes"], sizes),
    ]
    return Section("rings", "Fraud rings", METHOD, BIASES, tables)


def _facts(at: int) -> Facts:
    return Facts(START + at, START - WINDOW_MS, 9, 300.0)


def _names(user: int) -> list[tuple[Kind, str]]:
    """The identifiers of a user: shared by the group, by half of it, by a third."""
    shared = (user // GROUP, user // (GROUP // 2), user // (GROUP // 3))
    device, ip, card = shared
    address = str(IPv4Address((10 << 24) + ip))
    return [("device", f"fp-{device:012d}"), ("ip", address), ("card", f"card-{card:012d}")]


def _sightings(plan: Plan) -> list[float]:
    stage, records, took = IdentifierStage(), MemoryRecords(), []
    stream = [
        Sighting(f"user-{at // 3:08d}", kind, value, f"tx-{at:012d}", "m-1", _facts(at))
        for at in range(0, plan.sightings, 3)
        for kind, value in _names(at // 3)
    ]
    for first in range(0, len(stream), 500):
        part = stream[first : first + 500]
        keys: list[bytes | None] = [f"{s.kind}:{s.value}".encode() for s in part]
        batch = InputBatch.of(0, keys, [encode(s) for s in part], first)
        begin = time.perf_counter()
        output = stage.run(batch, lambda _: records)
        took.append((time.perf_counter() - begin) / len(part) * 1e6)
        records.write(output.only_changes)
    return took


def _filled(links: int) -> RingEngine:
    """An engine that holds so many links, as if they had come one by one."""
    engine = RingEngine(START, START - WINDOW_MS)
    graph, facts, until = engine.graph, _facts(0), START + WINDOW_MS
    for user in range(links // THINGS):
        row = graph.put_user(f"user-{user:08d}", facts, START, until, START)
        for kind, value in _names(user):
            thing = graph.put_identifier(f"{kind}:{value}", 3, 0.5, START, until, START)
            graph.put_link(row, thing, START - user % WINDOW_MS, START, START)
    return engine


def _steps(engine: RingEngine, plan: Plan) -> np.ndarray:
    """float64 [steps]: microseconds of each new link."""
    rng = np.random.default_rng(0)
    users = plan.links // THINGS
    took = np.empty(plan.steps)
    for at in range(-20, plan.steps):  # the first ones compile
        old = int(rng.integers(0, users))
        kind, value = _names(old)[0] if at % 2 else ("device", f"new-{at // 4}")
        facts = Facts(START + at, START + at - 1000, 3, 100.0)
        link = Link(f"new-{at:08d}", kind, value, START + at, START + at, 3, 0.5, facts, START + at)
        begin = time.perf_counter()
        engine.apply(link)
        if at >= 0:
            took[at] = (time.perf_counter() - begin) * 1e6
    return took


def _recomputed(engine: RingEngine) -> float:
    graph = engine.graph
    held = graph.links[graph.links["last"] > 0]
    pairs = zip(held["user"].tolist(), (-1 - held["identifier"]).tolist(), strict=True)
    network = nx.Graph(pairs)
    begin = time.perf_counter()
    assert sum(1 for _ in nx.connected_components(network)) > 1
    return (time.perf_counter() - begin) * 1e6
