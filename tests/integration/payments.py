"""Generated payments as records, and what the stages make of a log in memory."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from dafu.agents.shelf import load_for
from dafu.agents.shell import Output, Stage, input_batch
from dafu.features.state import EntityLayout
from dafu.generator import generate
from dafu.ingest import to_records
from dafu.loading import load_stages
from dafu.registry import SWITCH_KEYS, Level, Lineup, ModelRef
from dafu.rules import RuleSet
from dafu.schema import decode_decision
from dafu.settings import load_settings
from dafu.stages.batch import FORWARD
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import compile_document
from dafu.stages.pipeline import Pipeline
from dafu.stages.switches import (
    apply_switch,
    cut_at_switches,
    in_force,
    is_switch,
    rules_document,
)
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


@functools.lru_cache(maxsize=4)
def stages(model: bool = True, rings: bool = True) -> tuple[UserStage, MerchantStage]:
    """Both stages as a worker without further settings has them, or without model or rings."""
    settings = load_settings({} if model else {"MODEL_STORAGE_PATH": "none"})
    return load_stages(settings, rings=rings)


def in_memory(
    records: Sequence[tuple[bytes | None, bytes | None]], cut: int = 1000, model: bool = True
) -> tuple[list[bytes], Pipeline]:
    """Decisions for a log of one partition, and the pipeline with its final state; no rings."""
    pipeline = Pipeline(*stages(model, rings=False))
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


def with_lineup(stage: Stage[Output], lineup: Lineup, rules: RuleSet | None = None) -> Any:
    """A stage with the models of a lineup, loaded from their packages, and perhaps other rules."""
    if isinstance(stage, MerchantStage):
        scoring = functools.partial(_loaded, "scoring", stage.model)
        looking = [(c.role, scoring(c.model)) for c in lineup.candidates]
        return MerchantStage(
            rules or stage.rules, scoring(lineup.champion), stage.thresholds, looking
        )
    assert isinstance(stage, UserStage)
    sequence = functools.partial(_loaded, "sequence", stage.sequence)
    others = [sequence(c.model) for c in lineup.candidates]
    return UserStage(stage.max_future_skew_ms, sequence(lineup.champion), others)


def _loaded(level: Level, configured: Any, ref: ModelRef | None) -> Any:
    if ref is None or ref.configured:
        return None if ref is None else configured
    return load_for(level, ref)


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
    """Run consumed records of one partition through a stage: each piece and what came of it.

    Switches among them change the stage's models, rules and lists from there on, and are in no
    piece.
    """
    running = stage
    for at in range(0, len(log), cut):
        chunk = log[at : at + cut]
        batch = input_batch([RecordBatch.of(chunk[0].topic, chunk[0].partition, chunk)])
        for part in cut_at_switches(batch):
            piece, chunk = chunk[: len(part)], chunk[len(part) :]
            if is_switch(part, 0):
                changes = apply_switch(part, lambda _: records)
                assert changes is not None, piece
                records.write(changes)
                running = switched(stage, records) if len(changes) else running
                continue
            output = running.run(part, lambda _: records)
            records.write(output.only_changes)
            yield piece, output


def switched(stage: Stage[Output], records: MemoryRecords) -> Any:
    """A stage with the models and rules that the switches in a state say."""
    held = in_force(lambda _: records, 0)
    rules = None
    if held.rules is not None:
        rules = compile_document(msgspec.json.decode(rules_document(lambda _: records, 0)))
        assert rules.version == held.rules
    return with_lineup(stage, held.lineup or Lineup(), rules)


def forwarded_from(log: Iterable[Any]) -> dict[int, list[tuple[bytes, bytes]]]:
    """Records of the merchant-keyed topic by the partition of their transaction, in its order.

    Repeats (a restarted worker forwards again) must be equal, and count once.
    """
    found: defaultdict[int, dict[int, tuple[bytes, bytes]]] = defaultdict(dict)
    for record in log:
        if record.key in SWITCH_KEYS:
            continue
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
