"""The control agent: what people ask of models becomes switches in the logs that the stages read.

One partition orders all requests. The registry is the agent's table; a request is checked against
it and, if it brings a package, by loading that. What can not be is set aside with the reason, and
changes nothing. What can is written into every partition of the log of its level, then noted.
Writing a switch again after a crash does no harm: it has the same number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

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
from dafu.registry import (
    SWITCH_KEY,
    ControlEvent,
    Level,
    Registry,
    RegistryError,
    Switch,
    decode_event,
    encode_switch,
)
from dafu.stages.batch import InputBatch, Rejected
from dafu.streaming.records import RecordBatch
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable

logger = logging.getLogger(__name__)

REGISTRY_KEY: Final = b"registry"
"""Of the one record in the agent's table."""

decode_registry = msgspec.json.Decoder(Registry).decode


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
        batch = input_batch(chunks)
        for piece in batch.pieces:
            claim = await self.table.claim(sender, piece.partition)
            for i in range(piece.start, piece.end):
                rejected = await self._apply(sender, piece.partition, batch, i, claim)
                if rejected is not None:
                    logger.error("control event refused: %s", rejected.detail)
                    self.counters.rejected += 1
                    await send_dead_letters(
                        sender, self._dead_letter_topic, chunks[0].topic, batch, [rejected]
                    )
        self.counters.batches += 1
        self.counters.records += len(batch)

    async def _apply(
        self, sender: BatchSender, partition: int, batch: InputBatch, i: int, claim: int
    ) -> Rejected | None:
        try:
            event = decode_event(batch.values[i] or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            return Rejected(i, "invalid_control_event", f"no control event: {exc}")
        try:
            after = self.registry(partition).after(event)
            await self._check(event)
        except RegistryError as exc:
            return Rejected(i, "impossible_control_event", f"{event.action}: {exc}")
        except (DafuError, OSError) as exc:
            return Rejected(i, "unusable_model", f"{event.action}: {exc}")
        await self._switch(
            sender, event.level, Switch(int(batch.offsets[i]), after.of(event.level))
        )
        stored = [(REGISTRY_KEY, msgspec.json.encode(after))]
        await self.table.commit_batch(sender, partition, stored, claim)
        self.counters.outputs += 1
        logger.info(
            "%s %s by %s: champion is now %s",
            event.level,
            event.action,
            event.by or "somebody",
            after.of(event.level).champion,
        )
        return None

    async def _check(self, event: ControlEvent) -> None:
        if event.model is not None and not event.model.configured:
            await self.shelf.load(event.level, event.model)

    async def _switch(self, sender: BatchSender, level: Level, switch: Switch) -> None:
        topic = self._logs[level]
        count = await sender.partition_count(topic)
        await sender.send(
            topic,
            ByteColumn.repeated(SWITCH_KEY, count),
            ByteColumn.repeated(encode_switch(switch), count),
            partition=np.arange(count),
        )
