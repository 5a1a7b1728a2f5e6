"""A Faust table of packed records, written by batches through `commit_batches`.

Faust owns its life: changelog topic, assignment, recovery. What Faust's own item assignment does
(one record at a time, logged when the loop gets to it) is closed off. Who may write to a partition
is `dafu.tables.ownership`; this module does for it what takes a broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar, cast

import faust
from aiokafka.errors import KafkaError
from faust.types import TP
from mode import Service

from dafu.columns import ByteColumn
from dafu.streaming.records import encode_headers
from dafu.streaming.sender import BatchSender, Written
from dafu.tables.changes import Change, Changes
from dafu.tables.ownership import (
    NO_CLAIM,
    Append,
    LogPage,
    LostPartitionError,
    Read,
    Steps,
    log_page,
    stamp_header,
)
from dafu.tables.store import PartitionedStore
from dafu.tables.working_set import PartitionRecords

WATCH_SECONDS: Final = 5.0
"""Between looks at the ends of changelogs that nothing is written to. What a former owner appended
must be repaired before compaction gets to it, which `min.compaction.lag.ms` puts off for longer."""

_T = TypeVar("_T")

Sending = Awaitable[dict[int, Written] | LogPage]
"""A step under way."""


class PackedTable(faust.Table):  # type: ignore[misc]
    """Keys and values are bytes; see `dafu.tables.working_set` for what they hold."""

    def __post_init__(self) -> None:
        # One writer of a partition at a time: its batches, or the watch.
        self._writing: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def records(self) -> PartitionedStore:
        """The local store."""
        return cast(PartitionedStore, self.data)

    def partition(self, number: int) -> PartitionRecords:
        """The records of one partition that this worker owns."""
        return self.records.partition(number)

    async def claim(self, sender: BatchSender, partition: int) -> int:
        """Become the one who writes to a partition's changelog, before its state is used.

        Returns
        -------
        int
            The claim under which `commit_batches` may log what is worked out from the state now.

        Raises
        ------
        LostPartitionError
            If another worker has claimed it as well.
        FrozenError
            If this worker stood still for so long that it may have lost its partitions.
        SendError
            If the broker did not take the claim.
        """
        self.app.consumer.pulse.check()
        async with self._writing[partition]:
            log = self.records.partition_log(partition)
            if log.own == NO_CLAIM:
                token = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}".encode()
                steps = log.take(self.partition(partition), token)
                changes = await self._run(sender, partition, steps)
                self.records.apply(partition, changes, log.position)
            return log.own

    async def commit_batch(
        self, sender: BatchSender, partition: int, changes: Sequence[Change], claim: int
    ) -> None:
        """`commit_batches` for one partition."""
        await self.commit_batches(sender, {partition: changes}, {partition: claim})

    async def commit_batches(
        self,
        sender: BatchSender,
        changes: Mapping[int, Sequence[Change]],
        claims: Mapping[int, int],
    ) -> None:
        """Log changes, wait for the broker's acknowledgement, then write the local store.

        What becomes of one partition does not depend on the others; the first failure is raised
        when all have come to an end.

        Parameters
        ----------
        sender : BatchSender
        changes : mapping of int to sequence of changes
            By partition; worked out from its state since `claim` returned.
        claims : mapping of int to int
            What it returned.

        Raises
        ------
        LostPartitionError
            If another worker has claimed a partition since; its local store is untouched then.
        FrozenError
            If this worker stood still for so long that it may have lost its partitions.
        SendError
            If the broker did not take them; the local store is untouched then.
        """
        changed = [(number, own) for number, own in sorted(changes.items()) if len(own)]
        if not changed:
            return
        self.app.consumer.pulse.check()
        failures: list[Exception] = []
        async with contextlib.AsyncExitStack() as writing:
            for number, _ in changed:
                await writing.enter_async_context(self._writing[number])
            logs = {number: self.records.partition_log(number) for number, _ in changed}
            begun: list[tuple[int, Sequence[Change], Steps[None], Sending]] = []
            for number, own in changed:
                steps = logs[number].commit(self.partition(number), own, claims[number])
                try:
                    begun.append((number, own, steps, self._begin(sender, number, next(steps))))
                except LostPartitionError as exc:
                    failures.append(exc)
            ended = 0
            try:
                for number, own, steps, first in begun:
                    try:
                        await self._go_on(sender, number, steps, first)
                        self.records.apply(number, own, logs[number].position)
                    except Exception as exc:  # whatever it is, the others are seen to as well
                        logs[number].abandon()
                        failures.append(exc)
                    ended += 1
            finally:
                # Cancelled: what is on its way may arrive, and is not known here.
                for number, *_ in begun[ended:]:
                    logs[number].abandon()
        if failures:
            raise failures[0]

    async def _run(self, sender: BatchSender, partition: int, steps: Steps[_T]) -> _T:
        """Append and read as the steps demand; returns what they return."""
        try:
            first = self._begin(sender, partition, next(steps))
        except StopIteration as done:
            return cast(_T, done.value)
        return await self._go_on(sender, partition, steps, first)

    async def _go_on(
        self, sender: BatchSender, partition: int, steps: Steps[_T], begun: Sending
    ) -> _T:
        """What is left of the steps when one of them has begun."""
        while True:
            answer = await begun
            try:
                step = steps.send(answer if isinstance(answer, LogPage) else answer[partition].last)
            except StopIteration as done:
                return cast(_T, done.value)
            begun = self._begin(sender, partition, step)

    def _begin(self, sender: BatchSender, partition: int, step: Append | Read) -> Sending:
        """Begin what a step demands; awaiting it gives what was written, or what was read."""
        if isinstance(step, Append):
            return self._append(sender, partition, step)
        return self._read(partition, step)

    def _append(self, sender: BatchSender, partition: int, step: Append) -> Sending:
        changes = step.changes
        if not isinstance(changes, Changes):
            changes = Changes.of(changes)
        headers = None
        if step.stamp != NO_CLAIM:
            headers = ByteColumn.repeated(encode_headers([stamp_header(step.stamp)]), len(changes))
        return sender.post(
            self.changelog_topic_name,
            changes.keys,
            changes.values,
            partition=partition,
            headers=headers,
        )

    async def _read(self, partition: int, step: Read) -> LogPage:
        tp = TP(self.changelog_topic_name, partition)
        return log_page(await self.app.consumer.read_stretch(tp, step.first, step.end))

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch_changelog(self) -> None:
        """See to it that nobody else's records stay in changelogs that this worker owns."""
        async for _ in self.itertimer(WATCH_SECONDS, name="changelog watch"):
            if self.app.rebalancing or self.app.in_recovery or self.app.should_stop:
                continue
            try:
                await self.watch(self.app.producer.batches)
            except (OSError, TimeoutError, KafkaError) as exc:
                self.log.warning("Can not look after changelogs now, trying again: %r", exc)
            except Exception as exc:
                await self.app.crash(exc)
                return

    async def watch(self, sender: BatchSender) -> None:
        """Repair what former owners appended to the changelogs of this worker's partitions.

        Raises
        ------
        LostPartitionError
            If another worker has claimed one of them.
        SendError
            If the broker did not take a repair.
        """
        store = self.records
        for number in store.unrepaired():
            await self.claim(sender, number)
        tps = [TP(self.changelog_topic_name, number) for number in store.claimed()]
        if not tps:
            return
        ends = await self.app.consumer.reported_ends(*tps)
        for tp, end in ends.items():
            number = tp.partition
            async with self._writing[number]:
                if number not in store.claimed():
                    continue  # revoked meanwhile
                log = store.partition_log(number)
                before = log.position
                try:
                    await self._run(sender, number, log.watch(self.partition(number), end))
                except LostPartitionError:
                    if log.revoked:
                        continue
                    raise
                if log.position != before:
                    self.log.warning(
                        "%s: a former owner wrote behind this worker's claim; repaired", log.name
                    )
                    store.apply(number, (), log.position)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TypeError(f"table {self.name} is written by batches: use commit_batch")

    def __delitem__(self, key: Any) -> NoReturn:
        raise TypeError(f"table {self.name} is written by batches: use commit_batch")
