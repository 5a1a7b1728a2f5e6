"""`make bench`: every benchmark in one run, with the baseline each figure is to be read against."""

from __future__ import annotations

import argparse
import platform
import statistics

from bench import forest, rules
from bench.throughput import Result, backlog, run_dafu, run_tutorial
from dafu.broker import EmbeddedBroker


def _line(result: Result) -> str:
    return (
        f"  {result.job:<18} {result.decisions:>8} decisions  {result.rate:>9,.0f}/s"
        f"  {result.cpu_microseconds:>8,.1f} us worker CPU each"
    )


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--transactions", type=int, default=300_000, help="dafu's backlog")
    parser.add_argument("--baseline", type=int, default=5_000, help="the tutorial job's backlog")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3, help="runs of dafu")
    parser.add_argument("--store", choices=("memory", "rocksdb"), default="memory")
    parser.add_argument("--broker", help="host:port of a broker to use; embedded if omitted")
    options = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}")
    records = backlog(max(options.transactions, options.baseline))
    embedded = None if options.broker else EmbeddedBroker().start()
    bootstrap = options.broker or (embedded.bootstrap if embedded else "")
    try:
        dafu = []
        for _ in range(options.repeat):
            dafu.append(
                run_dafu(
                    bootstrap, records[: options.transactions], options.partitions, options.store
                )
            )
            print(_line(dafu[-1]), flush=True)
        baselines = []
        for model in ("none", "per-row"):
            count = options.baseline if model == "none" else max(options.baseline // 5, 1)
            baselines.append(run_tutorial(bootstrap, records[:count], options.partitions, model))
            print(_line(baselines[-1]), flush=True)
    finally:
        if embedded is not None:
            embedded.stop()
    print(f"on {options.partitions} partitions, {options.broker or 'the embedded broker'}:")
    rate = statistics.median(r.rate for r in dafu)
    print(f"dafu: median {rate:,.0f} decisions/s")
    for baseline in baselines:
        print(f"  {rate / baseline.rate:,.1f} times {baseline.job}")
    for title, measure in (("the forest kernel", forest.main), ("the rule engine", rules.main)):
        print(f"\n{title}")
        measure()


if __name__ == "__main__":
    main()
