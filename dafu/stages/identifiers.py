"""Identifiers: sightings of users in, links out, keyed by identifier.

Keeps, for each identifier, who was seen with it (`dafu.rings.identifiers`). An identifier's record
holds the offset of the last sighting that it accounts for, so that a batch that is read again after
a crash skips what was stored, and says of the rest what it said before.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dafu.rings.encoding import pack
from dafu.rings.hygiene import judge
from dafu.rings.identifiers import WINDOW_MS, IdentifierState, read_identifier, step
from dafu.rings.records import Link, Sighting, decode_sighting, encode
from dafu.stages.batch import (
    NO_MESSAGES,
    InputBatch,
    Messages,
    Partitions,
    Piece,
    Rejected,
    StageOutput,
)
from dafu.tables.changes import Changes

IDENTIFIER: Final = b"H"
"""What the key of an identifier's record begins with; ``kind:value`` follows."""


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
        for piece in batch.pieces:
            links += self._piece(batch, piece, records, output)
        output.links = Messages.of(
            [f"{link.kind}:{link.value}".encode() for link in links],
            [encode(link) for link in links],
        )
        output.withdrawn = sum(link.weight == 0.0 for link in links)
        return output

    def _piece(
        self, batch: InputBatch, piece: Piece, records: Partitions, output: IdentifierOutput
    ) -> list[Link]:
        rows = range(piece.start, piece.end)
        sightings = [(i, s) for i in rows if (s := _read(batch, i, output)) is not None]
        keys = list(dict.fromkeys(_key(sighting) for _, sighting in sightings))
        stored = records(piece.partition).get_many(keys)
        states = {
            key: IdentifierState() if raw is None else read_identifier(key, raw)
            for key, raw in zip(keys, stored, strict=True)
        }
        changed: dict[bytes, None] = {}
        links: list[Link] = []
        for i, sighting in sightings:
            key, offset = _key(sighting), int(batch.offsets[i])
            state = states[key]
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
        output.changes[piece.partition] = Changes.of([(key, pack(states[key])) for key in changed])
        return links


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
