"""`make bench`: what dafu can do on this machine, each part by itself or all in one run.

Parts: throughput, latency, http, alerts, cpu, recovery, memory, forest, recurrent, rules, rings.
Throughput and http are measured on every broker that is given, the others on the last of them.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bench import (
    alerts,
    cpu,
    forest,
    http,
    latency,
    machine,
    memory,
    recovery,
    recurrent,
    report,
    rings,
    rules,
    throughput,
)
from bench.brokers import EMBEDDED, KAFKA, BenchError, broker, kafka_available
from bench.results import Section

Measurement = Callable[[], Section]


def main() -> None:
    """Parse arguments, measure, print, write."""
    options = _arguments().parse_args()
    # What a broker that is still starting makes its clients say; failures raise.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    # Brokers and workers are stopped on the way out, whoever asks for it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: asked to stop"))
    file = options.json
    sections = report.load(file) if file else {}
    for part, measure in _measurements(options):
        print(part, flush=True)
        began = time.monotonic()
        section = replace(
            measure(), seconds=time.monotonic() - began, context=machine.context(options.quick)
        )
        sections[section.name] = section
        print(report.page([section]).partition("\n## ")[2].partition("\n## ")[2], flush=True)
        # After each part: a later one that fails takes nothing with it.
        if file:
            report.save(file, sections)
        if options.write:
            options.write.write_text(report.page(sections.values()))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=report.ORDER, default=report.ORDER)
    parser.add_argument("--quick", action="store_true", help="sizes that show that it works")
    parser.add_argument(
        "--broker",
        nargs="+",
        metavar="embedded|kafka|HOST:PORT",
        help="default: embedded, and kafka where Java is installed",
    )
    parser.add_argument(
        "--partitions", type=int, help="default: 2 for latency, http and alerts, else 4"
    )
    parser.add_argument("--runs", type=int, help="of throughput, cpu and recovery")
    parser.add_argument("--rates", type=int, nargs="+", help="latency, http: transactions a second")
    parser.add_argument("--workers", type=int, nargs="+", help="latency, http: how many workers")
    parser.add_argument("--seconds", type=float, help="latency, http: how long a run is measured")
    parser.add_argument("--warm-up", type=float, help="latency, http: seconds before that")
    parser.add_argument("--users", type=int, help="recovery, memory: how many")
    parser.add_argument("--json", type=Path, help="results file: parts are added or replaced")
    parser.add_argument("--write", type=Path, help="page of results, e.g. docs/benchmarks.md")
    return parser


def _measurements(options: argparse.Namespace) -> Iterator[tuple[str, Measurement]]:
    """What was asked for, broker by broker, each with its title."""
    brokers = options.broker or [EMBEDDED, *([KAFKA] if kafka_available() else [])]
    for kind in brokers:
        parts = [p for p in ("throughput", "http") if p in options.only]
        if kind == brokers[-1]:
            others = ("latency", "alerts", "cpu", "recovery", "memory")
            parts += [p for p in others if p in options.only]
        for part in parts:
            yield f"{part} on {kind}", _on_broker(part, kind, options)
    if "forest" in options.only:
        yield "forest", forest.measure
    if "recurrent" in options.only:
        yield "recurrent", recurrent.measure
    if "rules" in options.only:
        yield "rules", rules.measure
    if "rings" in options.only:
        size = rings.QUICK if options.quick else rings.Plan()
        yield "rings", lambda: rings.measure(size)


def _on_broker(part: str, kind: str, options: argparse.Namespace) -> Measurement:
    """A part on a fresh broker, with the sizes that were asked for."""

    def measure() -> Section:
        with broker(kind) as bootstrap:
            quick, runs, users = options.quick, options.runs, options.users
            common = _given(partitions=options.partitions)
            if part == "throughput":
                sizes = throughput.QUICK if quick else throughput.Sizes()
                sizes = replace(sizes, **common, **_given(runs=runs))
                return throughput.measure(kind, bootstrap, sizes, throughput.quix_python())
            if part == "latency":
                given = _given(
                    rates=options.rates and tuple(options.rates),
                    workers=options.workers and tuple(options.workers),
                    seconds=options.seconds,
                    warm_up=options.warm_up,
                )
                plan = replace(latency.QUICK if quick else latency.Plan(), **common, **given)
                return latency.measure(kind, bootstrap, plan)
            if part == "http":
                asked = _given(
                    rates=options.rates and tuple(options.rates),
                    workers=options.workers and options.workers[0],
                    seconds=options.seconds,
                    warm_up=options.warm_up,
                )
                visits = replace(http.QUICK if quick else http.Plan(), **common, **asked)
                return http.measure(kind, bootstrap, visits)
            if part == "alerts":
                payments = replace(alerts.QUICK if quick else alerts.Plan(), **common)
                return alerts.measure(kind, bootstrap, payments)
            if part == "cpu":
                cost = cpu.QUICK if quick else cpu.Plan()
                cost = replace(cost, **common, **_given(whole_runs=runs))
                return cpu.measure(kind, bootstrap, cost)
            if part == "recovery":
                restart = recovery.QUICK if quick else recovery.Plan()
                restart = replace(restart, **common, **_given(runs=runs, users=users))
                return recovery.measure(kind, bootstrap, restart)
            size = replace(
                memory.QUICK if quick else memory.Plan(), **common, **_given(users=users)
            )
            return memory.measure(kind, bootstrap, size)

    return measure


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


if __name__ == "__main__":
    try:
        main()
    except (BenchError, msgspec.DecodeError) as error:
        raise SystemExit(f"bench: {error}") from error
