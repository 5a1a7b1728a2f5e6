"""The generator's front door: build the world, let people and fraudsters act, sort by time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.random import PCG64, Generator, SeedSequence

from dafu.errors import DafuError
from dafu.generator.fraud import Stage, commit_fraud
from dafu.generator.genuine import simulate
from dafu.generator.groups import put_together
from dafu.generator.look_alikes import gather, settle, share
from dafu.generator.plan import DAY, DEFAULT_SCENARIOS, SCENARIOS, join
from dafu.generator.render import GROUP_SCHEMA, SCHEMA, render
from dafu.generator.rings import commit_rings
from dafu.generator.truth import MIN_SIZE, tell
from dafu.generator.world import make_cities, make_merchants, make_users, mix
from dafu.rings.truth import Truth

START: Final = datetime(2025, 1, 1, tzinfo=UTC)
BLOCK_USERS: Final = 4096
"""Users who share a random stream: enough to vectorise, few enough to fit the cache."""

_MAX_DAYS: Final = 3650
_MAX_COUNT: Final = 100_000_000
_MAX_GROUPS: Final = 1_000_000


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
    rings: int = 0,
    look_alikes: int = 0,
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
    rings
        Fraud rings, in addition to all that. They open accounts, so that there are more users.
    look_alikes
        Groups of honest users who share devices, addresses or cards.

    Returns
    -------
    pyarrow.Table
        With `SCHEMA`, or `GROUP_SCHEMA` if there are rings or look-alikes, sorted by time.

    Raises
    ------
    GeneratorError
        If an argument is out of range.
    """
    traffic = generate_traffic(
        users,
        merchants,
        days,
        seed,
        start=start,
        fraud_rate=fraud_rate,
        scenarios=scenarios,
        rings=rings,
        look_alikes=look_alikes,
    )
    schema = GROUP_SCHEMA if rings or look_alikes else SCHEMA
    return pa.Table.from_batches(traffic.batches, schema=schema)


@dataclass(frozen=True, slots=True)
class Generated:
    """A simulation: its transactions, batch by batch, and what its rings and look-alikes did."""

    batches: Iterator[pa.RecordBatch]
    truth: Truth


def generate_traffic(
    users: int,
    merchants: int,
    days: int,
    seed: int,
    *,
    start: datetime = START,
    fraud_rate: float = 0.01,
    scenarios: Sequence[str] = DEFAULT_SCENARIOS,
    rings: int = 0,
    look_alikes: int = 0,
) -> Generated:
    """As `generate`, batch by batch, and with the truth about rings and look-alikes.

    All transactions are held as numbers (about 80 bytes each) before the first batch comes out,
    because they are sorted by time; texts, which take ten times as much, are made per batch.
    """
    _check(users, merchants, days, seed, fraud_rate, scenarios)
    _check_groups(rings, look_alikes)
    start = start if start.tzinfo is not None else start.replace(tzinfo=UTC)
    start_ms = round(start.timestamp() * 1000)
    world, people, crime, gangs, circles = SeedSequence(seed).spawn(5)
    streams = [Generator(PCG64(s)) for s in world.spawn(2)]
    cities = make_cities(merchants)
    shops = make_merchants(streams[0], merchants, cities)
    population = make_users(streams[1], users, cities, shops)
    weekday = start.astimezone(UTC).weekday()
    social = Generator(PCG64(circles))
    sharing, alike = gather(social, look_alikes, population)
    population = settle(population, sharing)
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
                weekday,
            )
            for first, stream in zip(blocks, people.spawn(len(blocks)), strict=True)
        ]
    )
    if look_alikes:
        genuine = share(social, sharing, population, genuine, weekday, days)
    stage = Stage(population, cities, shops, genuine, days)
    fraud = commit_fraud(
        [Generator(PCG64(s)) for s in crime.spawn(len(SCENARIOS))], stage, fraud_rate, scenarios
    )
    population, work, kinds = commit_rings(
        Generator(PCG64(gangs)), rings, population, cities, shops, days
    )
    everything, groups = put_together(genuine, fraud, work, kinds, alike)
    everything = everything.take(np.argsort(everything.time, kind="stable"))
    run = int(mix(seed, users, merchants, days, start_ms)[0]) & 0xFFFFFFFF
    grouped = rings > 0 or look_alikes > 0
    return Generated(
        render(everything, population, shops, start_ms, run, groups if grouped else None),
        tell(everything, groups, start_ms, run) if grouped else Truth(MIN_SIZE, []),
    )


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


def _check_groups(rings: int, look_alikes: int) -> None:
    for name, value in (("rings", rings), ("look_alikes", look_alikes)):
        if not 0 <= value <= _MAX_GROUPS:
            raise GeneratorError(f"{name} is {value}; it must be within 0..{_MAX_GROUPS}")


assert _MAX_DAYS * DAY < 1 << 40  # `genuine` packs user and time into one integer
