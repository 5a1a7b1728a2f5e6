"""The memory store: a dictionary a partition, rebuilt from the changelog at every start."""

from __future__ import annotations

from collections.abc import Iterator

from dafu.tables.ownership import NOWHERE, Position
from dafu.tables.records import MemoryRecords
from dafu.tables.store import PartitionedStore


class MemoryStore(PartitionedStore):
    """Holds its records in this process; registered with Faust as `dafu-memory://`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._partitions: dict[int, MemoryRecords] = {}

    def partition(self, number: int) -> MemoryRecords:
        """The records of one partition, created if need be."""
        records = self._partitions.get(number)
        if records is None:
            records = self._partitions[number] = MemoryRecords()
        return records

    def open_partitions(self) -> list[int]:
        """Partitions held here now."""
        return sorted(self._partitions)

    def drop(self, number: int) -> None:
        """Let go of a partition."""
        super().drop(number)
        self._partitions.pop(number, None)

    def items(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """All records of one partition."""
        return self.partition(number).items()

    def position(self, number: int) -> Position:
        """Always nowhere: nothing outlives the process, so recovery starts at the beginning."""
        return NOWHERE
