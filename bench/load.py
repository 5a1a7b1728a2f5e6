"""An open-loop load generator in a process of its own: transactions at a constant rate.

    python -m bench.load < specification

Record i is due at ``start + i / rate``, whatever became of those before it. Every few milliseconds
all that is due is sent in one request, with a batch for each partition. While a request waits for
its acknowledgement, what falls due gathers for the next one, as in any producer that lingers.

The specification is one line of JSON, see `Load`. It prints "ready" when it has its records and a
connection, reads one more line, the start in nanoseconds of the monotonic clock (which processes
share), and prints a `Sent` at the end.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time

import msgspec
import numpy as np
import uvloop
from msgspec import Struct

from bench.records import Publisher, publisher


class Load(Struct, frozen=True):
    """What to send: where the records are, to which topic, how many a second.

    How late it is counts from `warm_up` seconds after the start.
    """

    bootstrap: str
    records: str
    topic: str
    rate: float
    tick_s: float
    warm_up: float


class Sent(Struct, frozen=True):
    """How well it kept up, in milliseconds, from the end of the warm-up on.

    `late_*` is by how much its event loop missed its ticks: the generator's own fault.
    `published_*` is the time from a record's being due (the oldest of each batch) to the broker's
    acknowledgement: what of a latency has passed before a worker can know of the record.
    """

    records: int
    late_p99_ms: float
    late_max_ms: float
    published_p99_ms: float
    published_max_ms: float


class Generator:
    """Sends records when they are due.

    Parameters
    ----------
    out : Publisher
    load : Load
    keys, values : list of bytes
        One of each per record, in the order in which they fall due.
    """

    def __init__(
        self,
        out: Publisher,
        load: Load,
        keys: list[bytes],
        values: list[bytes],
    ) -> None:
        self._out = out
        self._load = load
        self._keys = keys
        self._values = values
        self._count = len(keys)
        self._tick = int(load.tick_s * 1e9)
        self._late: list[int] = []
        self._published: list[int] = []
        self._start = self._warm = 0

    async def run(self, start: int) -> Sent:
        """Send everything, from this nanosecond of the monotonic clock on."""
        self._start = start
        self._warm = start + int(self._load.warm_up * 1e9)
        beat = asyncio.create_task(self._heartbeat())
        await self._feed()
        beat.cancel()
        return Sent(self._count, *_tail_ms(self._late), *_tail_ms(self._published))

    async def _until_tick(self) -> int:
        """Sleep until the next tick, and give the time that it was meant to be."""
        now = time.monotonic_ns()
        tick = self._start + max(0, (now - self._start) // self._tick + 1) * self._tick
        await asyncio.sleep((tick - now) / 1e9)
        return tick

    async def _heartbeat(self) -> None:
        while True:
            tick = await self._until_tick()
            if tick >= self._warm:
                self._late.append(max(0, time.monotonic_ns() - tick))

    async def _feed(self) -> None:
        topic, rate = self._load.topic, self._load.rate
        at = 0
        while at < self._count:
            await self._until_tick()
            due = int((time.monotonic_ns() - self._start) * rate / 1e9) + 1
            end = min(due, self._count)
            if end == at:
                continue
            oldest = self._start + int(at / rate * 1e9)
            await self._out.post(topic, self._keys[at:end], self._values[at:end])
            if oldest >= self._warm:
                self._published.append(time.monotonic_ns() - oldest)
            at = end


def _tail_ms(nanoseconds: list[int]) -> tuple[float, float]:
    if not nanoseconds:
        return 0.0, 0.0
    return (
        float(np.percentile(nanoseconds, 99, method="higher")) / 1e6,
        max(nanoseconds) / 1e6,
    )


async def _main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.readline(), type=Load)
    with open(load.records, "rb") as file:  # noqa: PTH123
        keys, values = msgspec.msgpack.decode(file.read(), type=tuple[list[bytes], list[bytes]])
    async with publisher(load.bootstrap) as out:
        await out.prepare(load.topic)
        generator = Generator(out, load, keys, values)
        gc.collect()
        gc.freeze()
        gc.disable()
        print("ready", flush=True)
        start = int(await asyncio.to_thread(sys.stdin.buffer.readline))
        await asyncio.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
        result = await generator.run(start)
    print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
