"""The control agent: what people ask of models becomes switches in the logs that the stages read.

One partition orders all requests. The registry is the agent's table; a request is checked against
it and, if it makes a model score, by loading its package. What can not be is set aside with the
reason, and changes nothing. What can is noted first, under the request's number, and then written
into every partition of the log of its level. After a crash in between the request comes again: its
number tells that it was granted, whatever became of the package since, and only the switch is
written again. That does no harm, for it has the same number, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from dafu.agents.shelf import Shelf
from dafu.agents.shell import (
    Counters,
    SenderSource,
    consume,
    input_batch,
    prepare,
    send_dead_letters,
)
from dafu.columns import ByteColumn
from dafu.errors import DafuError
from dafu.partitioner import partitions_for
from dafu.registry import (
    CONTROL_KEY,
    REGISTRY_KEY,
    SWITCH_KEY,
    Level,
    Registry,
    RegistryError,
    Switch,
    decode_event,
    decode_registry,
    encode_registry,
    encode_switch,
)
from dafu.stages.batch import InputBatch, Rejected
from dafu.streaming.records import RecordBatch
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable

logger = logging.getLogger(__name__)


class ControlAgent:
    """Turns control events into switches.

    Parameters
    ----------
    table : PackedTable
        Where the registry is kept.
    sender : callable
        The worker's sender.
    shelf : Shelf
        Loads packages, to see whether they can be served.
    logs : dict
        The Faust topic that switches of each level go to.
    dead_letters : Faust topic
        Where events go that ask for what can not be.
    """

    def __init__(
        self,
        table: PackedTable,
        sender: SenderSource,
        shelf: Shelf,
        *,
        logs: dict[Level, Any],
        dead_letters: Any,
    ) -> None:
        self.table = table
        self.sender = sender
        self.shelf = shelf
        self.counters = Counters()
        self._logs: dict[Level, str] = {k: topic.get_topic_name() for k, topic in logs.items()}
        self._dead_letter_topic: str = dead_letters.get_topic_name()
        self._outputs = (*logs.values(), dead_letters)

    def registry(self, partition: int) -> Registry:
        """What holds according to a partition of the table."""
        stored = self.table.partition(partition).get_many([REGISTRY_KEY])[0]
        return Registry() if stored is None else decode_registry(stored)

    async def run(self, stream: Any) -> None:
        """The agent's body."""
        await prepare(stream.channel, self.table, self._outputs, self.sender())
        await consume(stream, self.process, self.table.app.settings.batch_records)

    async def process(self, chunks: Sequence[RecordBatch]) -> None:
        """Apply control events, one after the other."""
        sender = self.sender()
        for chunk in chunks:
            batch = input_batch([chunk])
            claim = await self.table.claim(sender, chunk.partition)
            for i in range(len(batch)):
                rejected = await self._apply(sender, chunk, batch, i, claim)
                if rejected is not None:
                    logger.error("control event refused: %s", rejected.detail)
                    self.counters.rejected += 1
                    await send_dead_letters(
                        sender, self._dead_letter_topic, chunk.topic, batch, [rejected]
                    )
            self.counters.records += len(batch)
        self.counters.batches += 1

    async def _apply(
        self, sender: BatchSender, source: RecordBatch, batch: InputBatch, i: int, claim: int
    ) -> Rejected | None:
        partition = source.partition
        count = await sender.partition_count(source.topic)
        right = int(partitions_for(ByteColumn.of([CONTROL_KEY]), count)[0])
        if batch.keys[i] != CONTROL_KEY or partition != right:
            # Another partition would be another order, and a registry of its own.
            return Rejected(
                i,
                "wrong_key",
                f"control events have the key {CONTROL_KEY.decode()!r}, which belongs into "
                f"partition {right} of {count}",
            )
        try:
            event = decode_event(batch.values[i] or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            return Rejected(i, "invalid_control_event", f"no control event: {exc}")
        number, registry = int(batch.offsets[i]), self.registry(partition)
        if number < registry.number:
            logger.info("control event %s at %d was dealt with before", event.event_id, number)
            return None
        if number > registry.number:
            try:
                after = registry.after(event, number)
                await self._check(event.level, registry, after)
            except RegistryError as exc:
                return Rejected(i, "impossible_control_event", f"{event.action}: {exc}")
            except (DafuError, OSError) as exc:
                return Rejected(i, "unusable_model", f"{event.action}: {exc}")
            registry = after
            stored = [(REGISTRY_KEY, encode_registry(registry))]
            await self.table.commit_batch(sender, partition, stored, claim)
        lineup = registry.of(event.level)
        await self._switch(sender, event.level, Switch(number, lineup))
        self.counters.outputs += 1
        logger.info(
            "%s %s by %s: champion is now %s",
            event.level,
            event.action,
            event.by or "somebody",
            lineup.champion,
        )
        return None

    async def _check(self, level: Level, before: Registry, after: Registry) -> None:
        """See that what an event lets score, or decide from now on, can be loaded now."""
        then, now = before.of(level), after.of(level)
        fresh = [ref for ref in now.models if ref not in then.models]
        if now.champion is not None and now.champion != then.champion:
            fresh.append(now.champion)
        for ref in dict.fromkeys(fresh):
            if not ref.configured:
                await self.shelf.load(level, ref)

    async def _switch(self, sender: BatchSender, level: Level, switch: Switch) -> None:
        topic = self._logs[level]
        count = await sender.partition_count(topic)
        await sender.send(
            topic,
            ByteColumn.repeated(SWITCH_KEY, count),
            ByteColumn.repeated(encode_switch(switch), count),
            partition=np.arange(count),
        )
