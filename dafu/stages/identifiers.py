"""Identifiers: sightings of users in, links out, keyed by identifier.

Keeps, for each identifier, who was seen with it (`dafu.rings.identifiers`). An identifier's record
holds the offset of the last sighting that it accounts for, so that a batch that is read again after
a crash skips what was stored, and says of the rest what it said before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from dafu.columns import positions, prepend
from dafu.rings.hygiene import judge
from dafu.rings.identifiers import WINDOW_MS, IdentifierState, step
from dafu.rings.records import KINDS, Link, Sighting, decode_sighting, encode
from dafu.rings.sole import (
    FENCED,
    LEFT,
    OUTDATED,
    STEPPED,
    pack_identifier,
    read_identifier,
    step_sole,
)
from dafu.stages.batch import (
    NO_MESSAGES,
    InputBatch,
    Messages,
    Partitions,
    Piece,
    Rejected,
    StageOutput,
)
from dafu.stages.sightings import read_sightings, usual_addresses
from dafu.tables.changes import Changes

IDENTIFIER: Final = b"H"
"""What the key of an identifier's record begins with; ``kind:value`` follows."""

_ADDRESS: Final = KINDS.index("ip")


class IdentifierOutput(StageOutput):
    """What the stage made of a batch of sightings.

    `links` are keyed by identifier. `sightings` counts those applied; of these,
    `late` are from before the window, and `ignored` of identifiers that everybody shares by now.
    `withdrawn` counts identifiers that came to be ignored.
    """

    links: Messages = NO_MESSAGES
    sightings: int = 0
    late: int = 0
    ignored: int = 0
    withdrawn: int = 0


class IdentifierStage:
    """The stage for any partitions."""

    def run(self, batch: InputBatch, records: Partitions) -> IdentifierOutput:
        """Apply a batch to the state in `records`, which is read and not written."""
        output = IdentifierOutput(changes={}, rejected=[])
        links: list[Link] = []
        sighted = read_sightings(batch.keys, batch.values)
        for piece in batch.pieces:
            links += self._piece(batch, sighted, piece, records, output)
        output.links = Messages.of(
            [f"{link.kind}:{link.value}".encode() for link in links],
            [encode(link) for link in links],
        )
        output.withdrawn = sum(link.weight == 0.0 for link in links)
        return output

    def _piece(
        self,
        batch: InputBatch,
        sighted: np.ndarray,
        piece: Piece,
        records: Partitions,
        output: IdentifierOutput,
    ) -> list[Link]:
        """Apply a partition's records: by the kernel where it can, then the others one by one."""
        own = slice(piece.start, piece.end)
        names = batch.keys.part(piece.start, piece.end)
        keys = prepend(np.full(len(names), ord(IDENTIFIER), np.uint8), 1, names)
        every = keys.present()
        stored = records(piece.partition).get_many(every)
        sighted = sighted[own]
        _leave(batch, sighted, every, stored)
        fates, states = step_sole(sighted, batch.values.buffer, batch.offsets[own], stored)
        done = positions((fates == STEPPED) | (fates == OUTDATED))
        output.sightings += len(done)
        output.late += int((fates == OUTDATED).sum())
        output.fenced += int((fates == FENCED).sum())
        changes = Changes(keys.take(done), states.take(done))
        rest = positions(fates == LEFT)
        before = {every[i]: stored[i] for i in rest.tolist()}
        changed, links = _one_by_one(batch, (rest + piece.start).tolist(), before, output)
        output.changes[piece.partition] = changes.then(changed)
        return links


def _leave(
    batch: InputBatch,
    sighted: np.ndarray,
    keys: Sequence[bytes],
    stored: Sequence[bytes | None],
) -> None:
    """Leave to the slow way what comes twice in a batch, and what may be no identifier."""
    if len(set(keys)) < len(keys):
        times = Counter(keys)
        sighted["kind"][[times[key] > 1 for key in keys]] = -1
    # What is stored was judged when it came first.
    new = positions(
        np.array([value is None for value in stored], np.bool_) & (sighted["kind"] >= 0)
    )
    texts = batch.values.elsewhere(sighted["value_at"][new], sighted["value_n"][new])
    doubtful = positions(~usual_addresses(texts) | (sighted["kind"][new] != _ADDRESS))
    for i, text in zip(new[doubtful].tolist(), texts.take(doubtful).strings(), strict=True):
        if judge(KINDS[sighted["kind"][i]], text).value != text:
            sighted["kind"][i] = -1


def _one_by_one(
    batch: InputBatch,
    rows: Sequence[int],
    stored: Mapping[bytes, bytes | None],
    output: IdentifierOutput,
) -> tuple[Changes, list[Link]]:
    """Apply records one after the other: the new states of their identifiers, and the links."""
    states: dict[bytes, IdentifierState] = {}
    changed: dict[bytes, None] = {}
    links: list[Link] = []
    for i in rows:
        if (sighting := _read(batch, i, output)) is None:
            continue
        key, offset = _key(sighting), int(batch.offsets[i])
        state = states.get(key)
        if state is None:
            raw = stored[key]
            state = IdentifierState() if raw is None else read_identifier(key, raw)
            states[key] = state
        if offset <= state.fence:
            output.fenced += 1
            continue
        output.late += sighting.facts.as_of <= state.clock - WINDOW_MS
        state, told = step(state, sighting)
        state.fence = offset
        states[key] = state
        changed[key] = None
        output.sightings += 1
        output.ignored += state.ignored
        links += told
    return Changes.of([(key, pack_identifier(states[key])) for key in changed]), links


def _key(sighting: Sighting) -> bytes:
    return IDENTIFIER + f"{sighting.kind}:{sighting.value}".encode()


def _read(batch: InputBatch, i: int, output: IdentifierOutput) -> Sighting | None:
    """A record's sighting; None, and noted in `output`, if it is none."""
    try:
        sighting = decode_sighting(batch.values[i] or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        output.rejected.append(Rejected(i, "invalid_sighting", f"not a sighting: {exc}"))
        return None
    value, refusal = judge(sighting.kind, sighting.value)
    if value != sighting.value:
        why = f"refused as {refusal}" if refusal else f"normally written {value!r}"
        output.rejected.append(
            Rejected(i, "invalid_identifier", f"{sighting.kind} {sighting.value!r} is {why}")
        )
        return None
    if batch.keys[i] != _key(sighting)[1:]:
        output.rejected.append(
            Rejected(i, "wrong_key", "the record's key is not its identifier, kind:value")
        )
        return None
    return sighting
