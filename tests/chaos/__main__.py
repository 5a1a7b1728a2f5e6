"""`python -m tests.chaos`: harm to real workers and a real broker, then every byte compared."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from dafu.broker import EmbeddedBroker
from tests.chaos.faults import BREAKS
from tests.chaos.harms import plan
from tests.chaos.report import Report
from tests.chaos.run import Plan, run
from tests.kafka import ApacheKafka, KafkaCluster


def main() -> int:
    """Run all seeds; 0 if nothing differs anywhere."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave no process behind
    options = _options()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    directory = Path(tempfile.mkdtemp(prefix="dafu-chaos-", dir=options.directory))
    print(f"logs and data: {directory}", flush=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers go away on purpose here
    totals: Counter[str] = Counter()
    bad: list[int] = []
    for k, seed in enumerate(seeds):
        own = directory / f"seed-{seed}"
        own.mkdir()
        began = time.monotonic()
        report = _one(options, seed, k, len(seeds), own)
        took = time.monotonic() - began
        print(f"\n=== seed {seed}, {took:.0f} s ===\n{report.describe()}", flush=True)
        totals.update(report.counts)
        if not report.clean:
            bad.append(seed)
    print(f"\n=== {len(seeds)} seeds: {sum(totals.values())} differences ===")
    print("".join(f"  {n:>9,}  {kind}\n" for kind, n in totals.items() if n), end="")
    if bad:
        share = f"--seeds {','.join(map(str, seeds))}"
        print(f"FAILED for seeds {bad}. Again: the same arguments, with {share}; kept: {directory}")
        return 1
    if not options.keep:
        shutil.rmtree(directory)
    print("all equal")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Transactions and harm are totals over all seeds, shared out evenly.",
    )
    parser.add_argument("--transactions", type=int, default=200_000)
    parser.add_argument("--seeds", default="1,2,3", help="one run each, comma-separated")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILL, mostly at a fault point")
    parser.add_argument("--zombies", type=int, default=3, help="SIGSTOP past the session timeout")
    parser.add_argument("--broker-restarts", type=int, default=None, help="2; embedded: none")
    parser.add_argument("--storms", type=int, default=1, help="workers come and go for a while")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rate", type=float, default=600.0, help="records published a second")
    parser.add_argument("--store", choices=["memory", "rocksdb"], default="memory")
    parser.add_argument("--broker", choices=["kafka", "embedded"], default="kafka")
    parser.add_argument(
        "--brokers", type=int, default=1, help="3: a Kafka cluster of which one at a time fails"
    )
    parser.add_argument("--break", dest="broken", choices=BREAKS, help="a promise, on purpose")
    parser.add_argument("--directory", type=Path, default=None, help="for logs and data")
    parser.add_argument("--keep", action="store_true", help="keep them even if all is well")
    options = parser.parse_args()
    if options.broker_restarts is None:
        options.broker_restarts = 2 if options.broker == "kafka" else 0
    if options.broker == "embedded" and options.broker_restarts:
        parser.error("the embedded broker loses its records when it stops: --broker-restarts 0")
    if options.brokers not in (1, 3) or (options.broker == "embedded" and options.brokers > 1):
        parser.error("--brokers is 1, or 3 with --broker kafka: two do not survive one's failure")
    return options


def _one(options: argparse.Namespace, seed: int, k: int, runs: int, directory: Path) -> Report:
    def share(total: int) -> int:
        return total * (k + 1) // runs - total * k // runs

    harms = plan(
        seed,
        share(options.kills),
        share(options.zombies),
        share(options.broker_restarts),
        share(options.storms),
        skip=k * max(options.kills, options.zombies) // runs,
    )
    what = Plan(
        seed,
        share(options.transactions),
        harms,
        options.rate,
        options.workers,
        options.partitions,
        options.store,
        options.broken,
    )
    if options.broker == "embedded":
        with EmbeddedBroker() as broker:
            return asyncio.run(run(what, broker.bootstrap, None, directory))
    place = directory / "kafka"
    with ApacheKafka(place) if options.brokers == 1 else KafkaCluster(place) as kafka:
        return asyncio.run(run(what, kafka.bootstrap, kafka, directory))


if __name__ == "__main__":
    sys.exit(main())
