"""What the local stores of packed tables have in common: records by partition, recovery by batch.

A store keeps a table's records apart by partition, because that is how they come and go: a
partition is loaded from its changelog when the worker is assigned it and dropped when it is
revoked. Errors while a changelog is applied stop the worker; Faust itself would only log them.
Beside the records of each partition stands what is known of its changelog (`PartitionLog`), which
also says which of the changelog's records count.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from faust.stores.base import Store
from faust.types import TP, EventT

from dafu.errors import DafuError
from dafu.streaming.records import RecordBatch
from dafu.tables.changes import Change
from dafu.tables.ownership import NO_CLAIM, PartitionLog, Position, log_page
from dafu.tables.working_set import PartitionRecords


class PartitionedStore(Store, abc.ABC):  # type: ignore[misc]
    """Base of the stores that `PackedTable` writes to."""

    def __post_init__(self) -> None:
        self._logs: dict[int, PartitionLog] = {}

    @abc.abstractmethod
    def partition(self, number: int) -> PartitionRecords:
        """The records of one partition, opened or created if need be."""

    @abc.abstractmethod
    def open_partitions(self) -> list[int]:
        """Partitions held here now."""

    @abc.abstractmethod
    def position(self, number: int) -> Position:
        """How far in its changelog a partition is held since before this worker started."""

    @abc.abstractmethod
    def drop(self, number: int) -> None:
        """Let go of a partition that this worker no longer owns."""
        log = self._logs.pop(number, None)
        if log is not None:
            log.revoke()

    @abc.abstractmethod
    def items(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """All records of one partition."""

    def apply(
        self,
        number: int,
        changes: Sequence[Change],
        position: Position,
    ) -> None:
        """Write changes that reach this far in the partition's changelog."""
        self.partition(number).write(changes)

    def partition_log(self, number: int) -> PartitionLog:
        """What this worker knows of a partition's changelog."""
        log = self._logs.get(number)
        if log is None:
            name = f"{self.table.changelog_topic_name}[{number}]"
            log = self._logs[number] = PartitionLog(self.position(number), name)
        return log

    def claimed(self) -> list[int]:
        """Partitions to whose changelogs this worker writes."""
        return sorted(number for number, log in self._logs.items() if log.own != NO_CLAIM)

    def unrepaired(self) -> list[int]:
        """Partitions whose changelogs end with stale records of some keys."""
        return sorted(number for number, log in self._logs.items() if log.stale)

    def persisted_offset(self, tp: TP) -> int | None:
        """Changelog offset from which recovery has to read on, None for the beginning."""
        offset = self.position(tp.partition).offset
        return None if offset < 0 else offset

    def apply_changelog_batch(
        self,
        batch: Iterable[EventT],
        to_key: Callable[[Any], Any],
        to_value: Callable[[Any], Any],
    ) -> None:
        """Apply recovered changelog chunks; each event's value is a `RecordBatch`."""
        changelog = self.table.changelog_topic_name
        owned = self.app.tables.recovery.active_tps
        for event in batch:
            chunk: RecordBatch = event.message.value
            if chunk.topic != changelog or event.message.tp not in owned:
                # Faust hands a chunk of a partition that was just revoked to whichever table
                # recovered last; it belongs to another table or another worker. Applied to a
                # partition that was dropped, it would pass off its last offset as recovered.
                self.log.warning("Ignoring %r: not a changelog of %s", chunk, self.table_name)
                continue
            try:
                log = self.partition_log(chunk.partition)
                changes = log.recover(log_page(chunk))
                if log.stale:
                    self.log.warning(
                        "%r: a former owner wrote behind its successor's claim; its records do "
                        "not count, and %d keys will be logged again",
                        chunk,
                        len(log.stale),
                    )
                self.apply(chunk.partition, changes, log.position)
            except Exception as exc:
                # Raised, it would be logged and forgotten by Faust's recovery task.
                self.add_future(self.app.crash(exc))
                raise

    async def on_rebalance(
        self,
        assigned: set[TP],
        revoked: set[TP],
        newly_assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Drop the partitions of this table's changelog that went elsewhere."""
        changelog = self.table.changelog_topic_name
        recovery = self.app.tables.recovery
        for tp in revoked:
            if tp.topic == changelog and tp not in assigned:
                self.drop(tp.partition)
                # Faust forgets how far the partition was recovered unless another rebalance
                # interrupts this one. If it came back then, recovery would start in the middle.
                recovery.revoke(tp)
                recovery.active_tps.discard(tp)

    async def need_active_standby_for(self, tp: TP) -> bool:
        """Standby replicas are not used."""
        return False

    def reset_state(self) -> None:
        """Forget everything held locally; the changelog brings it back."""
        for number in self.open_partitions():
            self.drop(number)

    async def backup_partition(
        self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1
    ) -> None:
        """Refuse: there is nothing to back up that the changelog does not hold."""
        raise DafuError(
            f"table {self.table_name} has no backups: its changelog topic is the backup"
        )

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> None:
        """Refuse: recovery from the changelog restores a partition."""
        raise DafuError(
            f"table {self.table_name} has no backups: its changelog topic is the backup"
        )
