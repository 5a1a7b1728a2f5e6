"""A million users' state as a worker would have written it, without a broker: seeded and offline.

Runs the real stages over made-up payments, a few of each entity, and hands out what they want
logged: one changelog record per entity, its head with the events of its open chunk. Offsets
used here are small, see `OFFSETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from bench.records import Record
from dafu.columns import ByteColumn
from dafu.loading import load_stages
from dafu.partitioner import partitions_for
from dafu.settings import load_settings
from dafu.stages.batch import InputBatch
from dafu.stages.merchants import MerchantStage
from dafu.stages.users import UserStage
from dafu.tables.records import MemoryRecords

EVENTS: Final = 4
"""Transactions of each entity."""

OFFSETS: Final = 1000
"""Every fence is below this: what a worker reads from this offset on is new to it."""

START_MS: Final = 1_735_689_600_000
"""2025-01-01."""

STEP_MS: Final = 3_600_000
_ENTITIES: Final = OFFSETS // EVENTS


def stages() -> tuple[UserStage, MerchantStage]:
    """Both stages as a worker without further settings has them."""
    return load_stages(load_settings({}))


def user_id(number: int) -> bytes:
    """Identifier of a user; it fixes the partition."""
    return b"user-%08d" % number


def merchant_id(number: int) -> bytes:
    """Identifier of a merchant."""
    return b"merchant-%08d" % number


def payment(transaction: str, user: int, merchant: int, time: int, draw: float) -> bytes:
    """One payment as JSON; `draw` in [0, 1) makes the amount."""
    place = f'"lat":{48 + user % 7}.5,"long":{8 + user % 11}.25'
    return (
        f'{{"transaction_id":"{transaction}","user_id":"{user_id(user).decode()}",'
        f'"merchant_id":"{merchant_id(merchant).decode()}","amount":{5 + 95 * draw:.2f},'
        f'"timestamp":{time},"currency":"EUR","category":"grocery","country":"DE",'
        f'"device_fingerprint":"dev-{user:x}","ip_address":"10.{user % 200}.1.7",{place}}}'
    ).encode()


def by_partition(entities: Sequence[bytes], partitions: int) -> list[list[int]]:
    """Numbers of the entities that Kafka's default partitioner puts into each partition."""
    owner = partitions_for(ByteColumn.of(entities), partitions)
    return [np.flatnonzero(owner == p).tolist() for p in range(partitions)]


def user_changes(count: int, partitions: int, seed: int = 1) -> Iterator[tuple[int, list[Record]]]:
    """Changelog records of `count` users, one each, by partition and some hundreds at a time."""
    stage, _ = stages()
    for partition, batch in _user_batches(count, partitions, seed):
        yield partition, list(stage.run(batch, lambda _: MemoryRecords()).only_changes)


def merchant_changes(
    count: int, partitions: int, seed: int = 1
) -> Iterator[tuple[int, list[Record]]]:
    """Changelog records of `count` merchants, likewise; without the marks of the partition."""
    users, merchants = stages()
    draws = np.random.default_rng(seed)
    for partition, numbers in enumerate(by_partition(_ids(merchant_id, count), partitions)):
        for at in range(0, len(numbers), _ENTITIES):
            entities = numbers[at : at + _ENTITIES] * EVENTS
            records = [
                (user_id(i), payment(f"{m}-{i}", i, m, START_MS + i * STEP_MS, draw))
                for i, (m, draw) in enumerate(
                    zip(entities, draws.random(len(entities)).tolist(), strict=True)
                )
            ]
            first = users.run(_batch(0, records), lambda _: MemoryRecords())
            forwarded = list(
                zip(first.forward_keys.present(), first.forward_values.tolist(), strict=True)
            )
            output = merchants.run(_batch(partition, forwarded), lambda _: MemoryRecords())
            yield partition, [c for c in output.only_changes if c[0] != b"S"]


def _user_batches(count: int, partitions: int, seed: int) -> Iterator[tuple[int, InputBatch]]:
    draws = np.random.default_rng(seed)
    for partition, numbers in enumerate(by_partition(_ids(user_id, count), partitions)):
        for at in range(0, len(numbers), _ENTITIES):
            entities = numbers[at : at + _ENTITIES]
            records = [
                (user_id(u), payment(f"{u}-{k}", u, u % 997, START_MS + k * STEP_MS, draw))
                for k in range(EVENTS)
                for u, draw in zip(entities, draws.random(len(entities)).tolist(), strict=True)
            ]
            yield partition, _batch(partition, records)


def _ids(name: Callable[[int], bytes], count: int) -> list[bytes]:
    return [name(n) for n in range(count)]


def _batch(partition: int, records: Sequence[Record]) -> InputBatch:
    return InputBatch.of(partition, [k for k, _ in records], [v for _, v in records])
