"""A Faust table of packed records, written by batches through `commit_batch`.

Faust owns its life: changelog topic, assignment, recovery. What Faust's own item assignment does
(one record at a time, logged when the loop gets to it) is closed off.
"""

from __future__ import annotations

from typing import Any, NoReturn, cast

import faust

from dafu.streaming.sender import BatchSender
from dafu.tables.changes import Changes
from dafu.tables.store import PartitionedStore
from dafu.tables.working_set import PartitionRecords


class PackedTable(faust.Table):  # type: ignore[misc]
    """Keys and values are bytes; see `dafu.tables.working_set` for what they hold."""

    @property
    def records(self) -> PartitionedStore:
        """The local store."""
        return cast(PartitionedStore, self.data)

    def partition(self, number: int) -> PartitionRecords:
        """The records of one partition that this worker owns."""
        return self.records.partition(number)

    async def commit_batch(self, sender: BatchSender, partition: int, changes: Changes) -> None:
        """Log changes, wait for the broker's acknowledgement, then write the local store.

        Raises
        ------
        SendError
            If the broker did not take them; the local store is untouched then.
        """
        if not len(changes):
            return
        written = await sender.send(
            self.changelog_topic_name,
            changes.keys,
            changes.values,
            partition=partition,
        )
        self.records.apply(partition, changes, written[partition].last)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TypeError(f"table {self.name} is written by batches: use commit_batch")

    def __delitem__(self, key: Any) -> NoReturn:
        raise TypeError(f"table {self.name} is written by batches: use commit_batch")
