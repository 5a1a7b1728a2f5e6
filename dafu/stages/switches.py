"""Where models, rules and lists change in a log: switches among the records, and what holds.

Pure. A switch stands alone in a batch of its own, so that a stage with one set of models and rules
runs on what is before it, and one with another on what is behind.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from dafu.columns import positions, starting_with
from dafu.registry import (
    LISTS_KEY,
    RULES_KEY,
    SWITCH_KEY,
    SWITCH_KEYS,
    Lineup,
    RulesSwitch,
    Switch,
    read_list_change,
    read_rules_switch,
    read_switch,
)
from dafu.stages.batch import InputBatch, Partitions
from dafu.stages.lists import apply_change
from dafu.tables.changes import NOTHING, Change, Changes
from dafu.tables.migrations import damaged

LINEUP_KEY: Final = b"M"
"""In a table: the last switch of models in the partition's log."""

RULES_STATE_KEY: Final = b"P"
"""In a table: number and version of the last switch of rules in the partition's log."""

_DOCUMENTS: Final = (b"D\x00", b"D\x01")
"""In a table: the rules of that switch, and perhaps those of the one before."""

_decode = msgspec.json.Decoder(Switch).decode
if any(key[0] != 0 for key in SWITCH_KEYS):  # pragma: no cover
    raise ImportError("a key of switches does not begin with a zero")


class RulesInForce(Struct, frozen=True):
    """The last switch of rules, and in which of two places they stand; without a version those
    hold that each worker is configured with."""

    number: int
    version: str | None
    slot: Literal[0, 1]


_decode_rules = msgspec.json.Decoder(RulesInForce).decode


class InForce(NamedTuple):
    """What holds for a partition: models, and the version of rules; None for those configured."""

    lineup: Lineup | None
    rules: str | None


NOTHING_SWITCHED: Final = InForce(None, None)


def cut_at_switches(batch: InputBatch) -> list[InputBatch]:
    """The batch in parts, in order, each switch a part by itself."""
    likely = positions(starting_with(batch.keys, 0))
    at = [i for i in likely.tolist() if is_switch(batch, i)]
    if not at:
        return [batch]
    edges = [0, *(edge for i in at for edge in (i, i + 1)), len(batch)]
    return [batch.part(np.arange(start, end)) for start, end in pairwise(edges) if end > start]


def is_switch(batch: InputBatch, i: int) -> bool:
    """Whether a record stands where switches do; it may still be a damaged one."""
    return batch.keys[i] in SWITCH_KEYS


def by_settings(batch: InputBatch, records: Partitions) -> list[tuple[InForce, InputBatch]]:
    """The batch by the models and rules that hold for its partitions."""
    held = [in_force(records, piece.partition) for piece in batch.pieces]
    if len(set(held)) == 1:
        return [(held[0], batch)]
    return [
        (
            each,
            batch.part(
                np.concatenate(
                    [
                        np.arange(piece.start, piece.end)
                        for piece, own in zip(batch.pieces, held, strict=True)
                        if own == each
                    ]
                )
            ),
        )
        for each in dict.fromkeys(held)
    ]


def in_force(records: Partitions, partition: int) -> InForce:
    """The models and rules that hold for a partition.

    Raises
    ------
    StateError
        If the record of one of them is damaged.
    """
    models, rules = records(partition).get_many([LINEUP_KEY, RULES_STATE_KEY])
    return InForce(
        None if models is None else _switch(models).lineup,
        None if rules is None else _rules(rules).version,
    )


def last_switch(records: Partitions, partition: int) -> Switch | None:
    """The last switch of models that was applied to a partition.

    Raises
    ------
    StateError
        If the record of it is damaged.
    """
    stored = records(partition).get_many([LINEUP_KEY])[0]
    return None if stored is None else _switch(stored)


def last_rules(records: Partitions, partition: int) -> RulesInForce | None:
    """The last switch of rules that was applied to a partition; raises as `last_switch`."""
    stored = records(partition).get_many([RULES_STATE_KEY])[0]
    return None if stored is None else _rules(stored)


def rules_document(records: Partitions, partition: int) -> bytes:
    """JSON of the rules that hold for a partition, if they are not those configured.

    Raises
    ------
    StateError
        If they are not there.
    """
    last = last_rules(records, partition)
    key = _DOCUMENTS[0 if last is None else last.slot]
    stored = records(partition).get_many([key])[0]
    if stored is None:
        raise damaged("partition", key)
    return stored


def _switch(stored: bytes) -> Switch:
    try:
        return _decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise damaged("partition", LINEUP_KEY) from None


def _rules(stored: bytes) -> RulesInForce:
    try:
        return _decode_rules(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise damaged("partition", RULES_STATE_KEY) from None


def read_rules(batch: InputBatch) -> RulesSwitch | None:
    """The switch of rules that stands alone in a batch; None if it is another one, or damaged."""
    return read_rules_switch(batch.values[0]) if batch.keys[0] == RULES_KEY else None


def apply_switch(batch: InputBatch, records: Partitions) -> Changes | None:
    """What a switch, alone in its batch, changes; nothing if it is a repeat, None if it is none."""
    partition, key, value = batch.pieces[0].partition, batch.keys[0], batch.values[0]
    if key == SWITCH_KEY:
        switch = read_switch(value)
        return None if switch is None else _to_models(switch, records, partition)
    if key == RULES_KEY:
        rules = read_rules_switch(value)
        return None if rules is None else _to_rules(rules, records, partition)
    if key == LISTS_KEY:
        change = read_list_change(value)
        return None if change is None else apply_change(records(partition), change)
    return None


def _to_models(switch: Switch, records: Partitions, partition: int) -> Changes:
    before = last_switch(records, partition)
    if before is not None and before.number >= switch.number:
        return NOTHING
    return Changes.of([(LINEUP_KEY, msgspec.json.encode(switch))])


def _to_rules(switch: RulesSwitch, records: Partitions, partition: int) -> Changes:
    """The rules go first, to the place not in use: what is in force is always there."""
    before = last_rules(records, partition)
    if before is not None and before.number >= switch.number:
        return NOTHING
    now = RulesInForce(switch.number, None, 0 if before is None else before.slot)
    changes: list[Change] = []
    if switch.rules is not None:
        now = RulesInForce(switch.number, switch.rules.version, 1 if now.slot == 0 else 0)
        changes.append((_DOCUMENTS[now.slot], msgspec.json.encode(switch.rules.document)))
    return Changes.of([*changes, (RULES_STATE_KEY, msgspec.json.encode(now))])
