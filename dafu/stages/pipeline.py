"""Both stages in one process, without a broker: files, training, warm-up and tests use this.

The transactions pass as one partition in the order given. That is the order in which a stream of
one partition decides them, so the decisions are the same bytes; with more partitions the order at
a merchant is the one that its topic fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dafu.stages.batch import NO_TIMESTAMP, InputBatch, MerchantOutput, Piece, UserOutput
from dafu.stages.merchants import MerchantStage
from dafu.stages.users import UserStage
from dafu.tables.records import MemoryRecords


class Pipeline:
    """State of one partition of users and one of merchants, kept in memory."""

    def __init__(self, users: UserStage, merchants: MerchantStage) -> None:
        self.users = users
        self.merchants = merchants
        self.user_records = MemoryRecords()
        self.merchant_records = MemoryRecords()
        self._offset = 0
        self._forwarded = 0

    def run(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps: Sequence[int] | None = None,
    ) -> tuple[UserOutput, MerchantOutput]:
        """Decide one batch and apply its changes.

        Parameters
        ----------
        keys, values
            Records as a producer would publish them.
        timestamps
            Their record times in epoch milliseconds; none if omitted.
        """
        batch = InputBatch.of(0, keys, values, self._offset, timestamps)
        self._offset += len(batch)
        first = self.users.run(batch, lambda _: self.user_records)
        self.user_records.write(first.only_changes)
        forwarded = InputBatch(
            [Piece(0, 0, len(first.forward_keys))],
            first.forward_keys,
            first.forward_values,
            np.arange(self._forwarded, self._forwarded + len(first.forward_keys)),
            np.full(len(first.forward_keys), NO_TIMESTAMP),
        )
        self._forwarded += len(forwarded)
        second = self.merchants.run(forwarded, lambda _: self.merchant_records)
        self.merchant_records.write(second.only_changes)
        return first, second
