"""When decisions arrive at a consumer: what a program that blocks payments gets to see.

    python -m bench.arrivals < specification

The specification is one line of JSON, see `Watch`. It prints "ready" when it has a connection,
notes the monotonic time (which processes share) at which each fetch arrived, and writes the
arrivals to a file once all have come or the deadline, its second line of input, has passed.
Payloads are looked at afterwards, so that it stays light.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from bench.records import partitions_of, reader


class Watch(Struct, frozen=True):
    """What to wait for, and where to write it: a msgpack array of `Arrivals`."""

    bootstrap: str
    topic: str
    partitions: int
    count: int
    out: str


class Arrivals(Struct, frozen=True):
    """Decisions in the order in which they arrived, each with its time in nanoseconds."""

    transactions: list[str]
    at: list[int]


class _Id(Struct):
    transaction_id: str


async def _main() -> None:
    watch = msgspec.json.decode(sys.stdin.buffer.readline(), type=Watch)
    fetches: list[tuple[int, list[bytes]]] = []
    gc.freeze()
    gc.disable()
    async with reader(watch.bootstrap) as consumer:
        tps = partitions_of(watch.topic, watch.partitions)
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        for tp in tps:
            await consumer.position(tp)
        # Up to 100 ms between fetches while a partition's records are not read: the consumer's
        # own delay, and not what is measured.
        consumer._fetcher._prefetch_backoff = 0.0
        print("ready", flush=True)
        deadline = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.readline))
        count = 0
        last = 0
        while count < watch.count and not (last and time.monotonic_ns() > last):
            got = await consumer.getmany(timeout_ms=200)
            now = time.monotonic_ns()
            for records in got.values():
                fetches.append((now, [r.value for r in records]))
                count += len(records)
            if not last and deadline.done():
                last = int(deadline.result())
        await deadline
    decode = msgspec.json.Decoder(_Id).decode
    ids = [decode(v).transaction_id for _, values in fetches for v in values]
    at = [now for now, values in fetches for _ in values]
    Path(watch.out).write_bytes(msgspec.msgpack.encode(Arrivals(ids, at)))


if __name__ == "__main__":
    uvloop.run(_main())
