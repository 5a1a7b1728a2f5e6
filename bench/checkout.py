"""A checkout that asks over HTTP at a constant rate, whatever became of the requests before.

    python -m bench.checkout < specification

The specification is one line of JSON, see `Visit`. It prints "ready" once it has asked the worker
for something else, reads the monotonic time at which to start (which processes share), and writes
its answers to a file when all have come.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path

import aiohttp
import msgspec
import uvloop
from msgspec import Struct


class Visit(Struct, frozen=True):
    """Whom to ask, what (a msgpack array of bodies), and how many times a second."""

    urls: list[str]
    key: str
    bodies: str
    rate: float
    out: str


class Answers(Struct, frozen=True):
    """By request, in the order in which they were due.

    `sent` and `at` are monotonic times in nanoseconds, of its sending and of the end of its answer;
    `status` is 0 where there was none.
    """

    sent: list[int]
    at: list[int]
    status: list[int]


async def _main() -> None:
    visit = msgspec.json.decode(sys.stdin.buffer.readline(), type=Visit)
    bodies = msgspec.msgpack.decode(Path(visit.bodies).read_bytes(), type=list[bytes])
    answers = Answers([0] * len(bodies), [0] * len(bodies), [0] * len(bodies))
    headers = {"Authorization": f"Bearer {visit.key}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        for url in visit.urls:
            async with session.get(f"{url}/v1/status") as response:
                response.raise_for_status()

        async def ask(i: int) -> None:
            answers.sent[i] = time.monotonic_ns()
            url = f"{visit.urls[i % len(visit.urls)]}/v1/score"
            try:
                async with session.post(url, data=bodies[i]) as response:
                    await response.read()
                    answers.status[i] = response.status
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            answers.at[i] = time.monotonic_ns()

        gc.freeze()
        gc.disable()
        print("ready", flush=True)
        start = int(sys.stdin.buffer.readline())
        tasks = []
        for i in range(len(bodies)):
            wait = start / 1e9 + i / visit.rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(ask(i)))
        await asyncio.gather(*tasks)
    Path(visit.out).write_bytes(msgspec.msgpack.encode(answers))


if __name__ == "__main__":
    uvloop.run(_main())
