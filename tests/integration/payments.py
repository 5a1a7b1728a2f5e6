"""Generated payments as records, and what the stages make of a log in memory."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dafu.agents.shell import Output, Stage, input_batch
from dafu.features.state import EntityLayout
from dafu.generator import generate
from dafu.ingest import to_records
from dafu.loading import load_stages
from dafu.schema import decode_decision
from dafu.settings import load_settings
from dafu.stages.batch import FORWARD
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage
from dafu.streaming.records import RecordBatch
from dafu.tables.records import MemoryRecords
from tests import streams


@functools.lru_cache(maxsize=8)
def payments(count: int, seed: int) -> tuple[tuple[bytes, bytes], ...]:
    """The first records of a generated stream: keys and values."""
    table = generate(users=count // 4, merchants=40, days=4, seed=seed)
    records = [r for batch in table.to_batches() for r in to_records(batch)]
    assert len(records) >= count
    return tuple((key or b"", value) for key, value in records[:count])


@functools.lru_cache(maxsize=2)
def stages(model: bool = True) -> tuple[UserStage, MerchantStage]:
    """Both stages as a worker without further settings has them."""
    return load_stages(load_settings({} if model else {"MODEL_STORAGE_PATH": "none"}))


def in_memory(
    records: Sequence[tuple[bytes | None, bytes | None]], cut: int = 1000, model: bool = True
) -> tuple[list[bytes], Pipeline]:
    """Decisions for a log of one partition, and the pipeline with its final state."""
    pipeline = Pipeline(*stages(model))
    decisions: list[bytes] = []
    for at in range(0, len(records), cut):
        piece = records[at : at + cut]
        _, output = pipeline.run([key for key, _ in piece], [value for _, value in piece])
        decisions += output.decisions.present()
    return decisions, pipeline


def by_transaction(payloads: Iterable[bytes]) -> dict[str, bytes]:
    """Decisions by transaction_id; fails if two for one transaction differ."""
    found: dict[str, bytes] = {}
    for payload in payloads:
        name = decode_decision(payload).transaction_id
        assert found.setdefault(name, payload) == payload, f"two different decisions for {name}"
    return found


def replay_users(
    log: Sequence[Any], stage: UserStage, cut: int = 1000
) -> tuple[list[tuple[bytes, bytes]], MemoryRecords]:
    """Run consumed transactions of one partition through stage one: forwarded records, state."""
    records = MemoryRecords()
    out: list[tuple[bytes, bytes]] = []
    for _, output in replay(log, stage, records, cut):
        out += zip(output.forward_keys.present(), output.forward_values.present(), strict=True)
    return out, records


def replay_merchants(
    log: Sequence[Any], stage: MerchantStage, cut: int = 1000
) -> tuple[list[tuple[bytes, bytes]], MemoryRecords]:
    """Run consumed records of the merchant-keyed topic through stage two: decisions, state."""
    records = MemoryRecords()
    out: list[tuple[bytes, bytes]] = []
    for _, output in replay(log, stage, records, cut):
        out += zip(output.keys.present(), output.decisions.present(), strict=True)
    return out, records


def replay(
    log: Sequence[Any], stage: Stage[Output], records: MemoryRecords, cut: int = 1000
) -> Iterator[tuple[Sequence[Any], Output]]:
    """Run consumed records of one partition through a stage: each piece and what came of it."""
    for at in range(0, len(log), cut):
        piece = log[at : at + cut]
        batch = RecordBatch.of(piece[0].topic, piece[0].partition, piece)
        output = stage.run(input_batch([batch]), lambda _: records)
        records.write(output.only_changes)
        yield piece, output


def forwarded_from(log: Iterable[Any]) -> dict[int, list[tuple[bytes, bytes]]]:
    """Records of the merchant-keyed topic by the partition of their transaction, in its order.

    Repeats (a restarted worker forwards again) must be equal, and count once.
    """
    found: defaultdict[int, dict[int, tuple[bytes, bytes]]] = defaultdict(dict)
    for record in log:
        header = np.frombuffer(record.value, FORWARD, 1)[0]
        source, offset = int(header["source"]), int(header["offset"])
        pair = record.key, record.value
        assert found[source].setdefault(offset, pair) == pair, (source, offset)
    return {source: [pairs[o] for o in sorted(pairs)] for source, pairs in found.items()}


def states(
    layout: EntityLayout, data: Mapping[bytes, bytes], *, offsets: bool = True
) -> dict[bytes, tuple[bytes, ...]]:
    """Every entity's state; without `offsets`, also without where in its log the state stands."""
    found = streams.states(layout, data)
    if offsets:
        return found
    at = layout.head.fields["fence"][1]  # type: ignore[index]
    return {entity: (head[:at] + head[at + 8 :], *rest) for entity, (head, *rest) in found.items()}
