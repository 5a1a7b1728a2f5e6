"""The generator's front door: build the world, let people and fraudsters act, sort by time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.random import PCG64, Generator, SeedSequence

from dafu.errors import DafuError
from dafu.generator.fraud import Stage, commit_fraud
from dafu.generator.genuine import simulate
from dafu.generator.plan import DAY, DEFAULT_SCENARIOS, SCENARIOS, join
from dafu.generator.render import SCHEMA, render
from dafu.generator.world import make_cities, make_merchants, make_users, mix

START: Final = datetime(2025, 1, 1, tzinfo=UTC)
BLOCK_USERS: Final = 4096
"""Users who share a random stream: enough to vectorise, few enough to fit the cache."""

_MAX_DAYS: Final = 3650
_MAX_COUNT: Final = 100_000_000


class GeneratorError(DafuError):
    """Arguments or a path that the generator cannot work with; the message names them."""


def generate(
    users: int,
    merchants: int,
    days: int,
    seed: int,
    *,
    start: datetime = START,
    fraud_rate: float = 0.01,
    scenarios: Sequence[str] = DEFAULT_SCENARIOS,
) -> pa.Table:
    """Simulate card payments.

    Parameters
    ----------
    users, merchants
        How many there are. A user makes about 1.6 transactions a day.
    days
        Length of the simulation, 1..3650.
    seed
        Everything follows from it and the other arguments.
    start
        Time of the first day's midnight; without a time zone it is read as UTC.
    fraud_rate
        Share of fraudulent transactions, at least 0 and below 0.5.
    scenarios
        Which of `SCENARIOS` the fraud consists of, in proportion to their usual shares.

    Returns
    -------
    pyarrow.Table
        With `SCHEMA`, sorted by time.

    Raises
    ------
    GeneratorError
        If an argument is out of range.
    """
    batches = generate_batches(
        users, merchants, days, seed, start=start, fraud_rate=fraud_rate, scenarios=scenarios
    )
    return pa.Table.from_batches(batches, schema=SCHEMA)


def generate_batches(
    users: int,
    merchants: int,
    days: int,
    seed: int,
    *,
    start: datetime = START,
    fraud_rate: float = 0.01,
    scenarios: Sequence[str] = DEFAULT_SCENARIOS,
) -> Iterator[pa.RecordBatch]:
    """As `generate`, batch by batch.

    All transactions are held as numbers (about 70 bytes each) before the first batch comes out,
    because they are sorted by time; texts, which take ten times as much, are made per batch.
    """
    _check(users, merchants, days, seed, fraud_rate, scenarios)
    start = start if start.tzinfo is not None else start.replace(tzinfo=UTC)
    start_ms = round(start.timestamp() * 1000)
    world, people, crime = SeedSequence(seed).spawn(3)
    streams = [Generator(PCG64(s)) for s in world.spawn(2)]
    cities = make_cities(merchants)
    shops = make_merchants(streams[0], merchants, cities)
    population = make_users(streams[1], users, cities, shops)
    blocks = range(0, users, BLOCK_USERS)
    genuine = join(
        [
            simulate(
                Generator(PCG64(stream)),
                population,
                first,
                min(first + BLOCK_USERS, users),
                cities,
                shops,
                days,
                start.astimezone(UTC).weekday(),
            )
            for first, stream in zip(blocks, people.spawn(len(blocks)), strict=True)
        ]
    )
    stage = Stage(population, cities, shops, genuine, days)
    fraud = commit_fraud(
        [Generator(PCG64(s)) for s in crime.spawn(len(SCENARIOS))], stage, fraud_rate, scenarios
    )
    everything = join([genuine, fraud])
    everything = everything.take(np.argsort(everything.time, kind="stable"))
    run = int(mix(seed, users, merchants, days, start_ms)[0]) & 0xFFFFFFFF
    return render(everything, population, shops, start_ms, run)


def _check(
    users: int, merchants: int, days: int, seed: int, fraud_rate: float, scenarios: Sequence[str]
) -> None:
    for name, value, most in (
        ("users", users, _MAX_COUNT),
        ("merchants", merchants, _MAX_COUNT),
        ("days", days, _MAX_DAYS),
    ):
        if not 1 <= value <= most:
            raise GeneratorError(f"{name} is {value}; it must be within 1..{most}")
    unknown = [name for name in scenarios if name not in SCENARIOS]
    if unknown or not scenarios:
        raise GeneratorError(
            f"scenarios are {', '.join(unknown) or 'none'}; give one or more of "
            f"{', '.join(SCENARIOS)}"
        )
    if not 0 <= seed < 1 << 63:
        raise GeneratorError(f"seed is {seed}; it must be within 0..2^63-1")
    if not 0.0 <= fraud_rate < 0.5:
        raise GeneratorError(f"fraud_rate is {fraud_rate}; it must be at least 0 and below 0.5")


assert _MAX_DAYS * DAY < 1 << 40  # `genuine` packs user and time into one integer
