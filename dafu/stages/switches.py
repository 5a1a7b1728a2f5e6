"""Where the models change in a log: switches among the records, and what holds for a partition.

Pure. A switch stands alone in a batch of its own, so that a stage with one set of models runs on
what is before it, and one with another on what is behind.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import msgspec
import numpy as np

from dafu.registry import SWITCH_KEY, Lineup, Switch, read_switch
from dafu.stages.batch import InputBatch, Partitions
from dafu.tables.changes import Changes
from dafu.tables.migrations import damaged

LINEUP_KEY: Final = b"M"
"""In a table: the last switch in the partition's log."""

_decode = msgspec.json.Decoder(Switch).decode


def cut_at_switches(batch: InputBatch) -> list[InputBatch]:
    """The batch in parts, in order, each switch a part by itself."""
    likely = np.flatnonzero(batch.keys.lengths == len(SWITCH_KEY)).tolist()
    at = [i for i in likely if is_switch(batch, i)]
    if not at:
        return [batch]
    edges = [0, *(edge for i in at for edge in (i, i + 1)), len(batch)]
    return [batch.part(np.arange(start, end)) for start, end in pairwise(edges) if end > start]


def is_switch(batch: InputBatch, i: int) -> bool:
    """Whether a record stands where switches do; it may still be a damaged one."""
    return batch.keys[i] == SWITCH_KEY


def by_lineup(batch: InputBatch, records: Partitions) -> list[tuple[Lineup | None, InputBatch]]:
    """The batch by the models that hold for its partitions; None for those configured."""
    lineups = [lineup_of(records, piece.partition) for piece in batch.pieces]
    if len(set(lineups)) == 1:
        return [(lineups[0], batch)]
    return [
        (
            lineup,
            batch.part(
                np.concatenate(
                    [
                        np.arange(piece.start, piece.end)
                        for piece, own in zip(batch.pieces, lineups, strict=True)
                        if own == lineup
                    ]
                )
            ),
        )
        for lineup in dict.fromkeys(lineups)
    ]


def last_switch(records: Partitions, partition: int) -> Switch | None:
    """The last switch that was applied to a partition.

    Raises
    ------
    StateError
        If the record of it is damaged.
    """
    stored = records(partition).get_many([LINEUP_KEY])[0]
    if stored is None:
        return None
    try:
        return _decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise damaged("partition", LINEUP_KEY) from None


def lineup_of(records: Partitions, partition: int) -> Lineup | None:
    """The models that hold for a partition; None for those configured."""
    switch = last_switch(records, partition)
    return None if switch is None else switch.lineup


def apply_switch(batch: InputBatch, records: Partitions) -> Changes | None:
    """What a switch, alone in its batch, changes; nothing if it is a repeat, None if it is none."""
    switch = read_switch(batch.values[0])
    if switch is None:
        return None
    before = last_switch(records, batch.pieces[0].partition)
    if before is not None and before.number >= switch.number:
        return Changes.of([])
    return Changes.of([(LINEUP_KEY, msgspec.json.encode(switch))])
