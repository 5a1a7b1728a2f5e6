"""`make fuzz`: damage records and state for some minutes; any finding ends it with a traceback.

Kernels are compiled with bounds checks, into a cache of their own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time


def main() -> None:
    """Take turns between the parser's fuzzer and the state's."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dafu-fuzz-") as directory:
        # Before anything is imported that compiles.
        os.environ["NUMBA_BOUNDSCHECK"] = "1"
        os.environ["NUMBA_CACHE_DIR"] = directory
        _run(options.minutes * 60.0, options.seed)


def _run(seconds: float, seed: int) -> None:
    from tests.fuzz.state import StateFuzzer
    from tests.stages.test_scan import fuzz, generated_values

    print(f"seed {seed}", flush=True)
    values = generated_values()
    state = StateFuzzer(seed)
    records = damaged = 0
    taken = 0.0
    began = time.monotonic()
    end, said = began + seconds, began
    while (now := time.monotonic()) < end:
        taken += 2000 * fuzz(values, seed + records, 2000)
        records += 2000
        for _ in range(300):
            state.step()
            damaged += 1
        if now > said + 30.0:
            said = now
            print(f"{now - began:.0f} s: {records} records, {damaged} states", flush=True)
    print(
        f"{records} records read by both parsers, {taken / records:.0%} taken by the fast one; "
        f"{damaged} damaged states: {dict(state.outcomes)}; no finding"
    )


if __name__ == "__main__":
    main()
