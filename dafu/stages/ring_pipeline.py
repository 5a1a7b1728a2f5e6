"""All stages in one process: transactions in, decisions and fraud rings out, without a broker.

What the stages say to each other passes as it would in a stream of one partition a topic. What is
found about rings returns to the transactions at the end of a chunk: in a stream it returns as soon
as it may, so that a few transactions more or less are decided without knowing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dafu.columns import ByteColumn
from dafu.rings.membership import encode_membership
from dafu.rings.records import (
    RingAlert,
    Sighting,
    decode_alert,
    decode_membership,
    decode_sighting,
)
from dafu.stages.batch import NO_TIMESTAMP, InputBatch, MerchantOutput, Messages, Piece, UserOutput
from dafu.stages.identifiers import IdentifierStage
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.rings import RingStage
from dafu.stages.users import UserStage
from dafu.tables.records import MemoryRecords


class Passed(NamedTuple):
    """What the stages made of a chunk, whose records follow the memberships that it began with.

    `users.rejected` speaks of positions in both together, of which `memberships` come first.
    """

    memberships: int
    users: UserOutput
    merchants: MerchantOutput
    sightings: list[Sighting]
    alerts: list[RingAlert]


class RingPipeline:
    """State of one partition of everything, kept in memory."""

    def __init__(self, users: UserStage, merchants: MerchantStage) -> None:
        self.decisions = Pipeline(users, merchants)
        self.identifiers = IdentifierStage()
        self.rings = RingStage()
        self.identifier_records = MemoryRecords()
        self.ring_records = MemoryRecords()
        self._told: list[tuple[bytes, bytes]] = []
        self._sightings = 0
        self._links = 0

    def run_chunk(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Passed:
        """Pass one chunk; the next one knows of the rings that this one made.

        Parameters
        ----------
        keys, values
            Records as a producer would publish them.
        """
        told, self._told = self._told, []
        first, second = self.decisions.run(
            [*(key for key, _ in told), *keys], [*(value for _, value in told), *values]
        )
        seen = _batch([first.sightings, second.sightings], self._sightings)
        self._sightings += len(seen)
        linked = self.identifiers.run(seen, lambda _: self.identifier_records)
        self.identifier_records.write(linked.only_changes)
        inbox = _batch([linked.links, first.activities, second.activities], self._links)
        self._links += len(inbox)
        found = self.rings.run(inbox, lambda _: self.ring_records)
        self.ring_records.write(found.only_changes)
        members = [decode_membership(value) for value in found.memberships.values.present()]
        self._told = [(m.user_id.encode(), encode_membership(m)) for m in members]
        return Passed(
            len(told),
            first,
            second,
            [decode_sighting(value) for value in seen.values.present()],
            [decode_alert(value) for value in found.alerts.values.present()],
        )


def _batch(messages: Sequence[Messages], first: int) -> InputBatch:
    """Records of one partition from an offset on."""
    keys = ByteColumn.joined([each.keys for each in messages])
    values = ByteColumn.joined([each.values for each in messages])
    n = len(keys)
    return InputBatch(
        [Piece(0, 0, n)], keys, values, np.arange(first, first + n), np.full(n, NO_TIMESTAMP)
    )
