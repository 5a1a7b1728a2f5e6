"""The control agent: what people ask of models, rules and lists becomes switches in the logs.

One partition orders all requests. The registry is the agent's table; a request is checked against
it and, if it makes a model score, by loading its package; if it changes rules, by compiling them.
What can not be is set aside with the reason, and changes nothing. What can is noted first, under
the request's number, and then written into every partition of the log that it is for. After a
crash in between the request comes again: its number tells that it was granted, whatever became of
the package since, and only the switch is written again. That does no harm, for it has the same
number, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from dafu.agents.histogram import Histogram
from dafu.agents.rules import compiled
from dafu.agents.shelf import Shelf
from dafu.agents.shell import (
    BATCH_BOUNDS,
    Counters,
    SenderSource,
    consume,
    input_batch,
    prepare,
    send_dead_letters,
)
from dafu.columns import ByteColumn
from dafu.errors import DafuError, RegistryError
from dafu.hashing import hash64
from dafu.lists import EntryKey, ListChange, ListEntry, check_entries
from dafu.partitioner import partitions_for
from dafu.registry import (
    CONTROL_KEY,
    LISTS_KEY,
    REGISTRY_KEY,
    RULES_KEY,
    SWITCH_KEY,
    ControlEvent,
    Event,
    Level,
    Registry,
    RulesSwitch,
    Switch,
    decode_event,
    decode_registry,
    encode_list_change,
    encode_registry,
    encode_rules_switch,
    encode_switch,
)
from dafu.rules import RuleSet, RuleSetError
from dafu.rulesets import RulesEvent, StoredRules, asked_for
from dafu.stages.batch import InputBatch, Rejected
from dafu.stages.lists import apply_change, entries_of
from dafu.streaming.records import RecordBatch
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable

logger = logging.getLogger(__name__)

_OUTCOMES: Final = 100

MAX_DETAIL_CHARS: Final = 20_000
"""Of the mistakes in a rule set that are told of: they travel in a record's header."""


class Outcomes:
    """What became of the latest events, for whoever waits here for one of them."""

    def __init__(self) -> None:
        self._latest: OrderedDict[int, Rejected | None] = OrderedDict()
        self._news = asyncio.Event()

    def put(self, offset: int, rejected: Rejected | None) -> None:
        """Note that the event at an offset was refused for a reason, or carried out."""
        self._latest[offset] = rejected
        while len(self._latest) > _OUTCOMES:
            self._latest.popitem(last=False)
        self._news.set()
        self._news = asyncio.Event()

    async def get(self, offset: int) -> Rejected | None:
        """Wait for an event; why it was refused, None if it was carried out."""
        while offset not in self._latest:
            await self._news.wait()
        return self._latest[offset]


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
    rules : RuleSet
        Those that hold as long as none have been put.
    logs : dict
        The Faust topic that switches of each level go to. Rules and lists go to that of scoring.
    dead_letters : Faust topic
        Where events go that ask for what can not be.
    """

    def __init__(
        self,
        table: PackedTable,
        sender: SenderSource,
        shelf: Shelf,
        rules: RuleSet,
        *,
        logs: dict[Level, Any],
        dead_letters: Any,
    ) -> None:
        self.table = table
        self.sender = sender
        self.shelf = shelf
        self.rules = rules
        self.counters = Counters()
        self.outcomes = Outcomes()
        self.batch_seconds = Histogram(BATCH_BOUNDS)
        self._logs: dict[Level, str] = {k: topic.get_topic_name() for k, topic in logs.items()}
        self._dead_letter_topic: str = dead_letters.get_topic_name()
        self._outputs = (*logs.values(), dead_letters)

    def registry(self, partition: int) -> Registry:
        """What holds according to a partition of the table."""
        stored = self.table.partition(partition).get_many([REGISTRY_KEY])[0]
        return Registry() if stored is None else decode_registry(stored)

    def entries(self, partition: int) -> dict[EntryKey, ListEntry]:
        """The entries of lists according to a partition of the table."""
        return entries_of(self.table.partition(partition))

    async def run(self, stream: Any) -> None:
        """The agent's body."""
        await prepare(stream.channel, self.table, self._outputs, self.sender())
        most = self.table.app.settings.batch_records
        await consume(stream, self.process, most, self.batch_seconds)

    async def process(self, chunks: Sequence[RecordBatch]) -> None:
        """Apply control events, one after the other."""
        sender = self.sender()
        for chunk in chunks:
            batch = input_batch([chunk])
            claim = await self.table.claim(sender, chunk.partition)
            for i in range(len(batch)):
                rejected = await self._apply(sender, chunk, batch, i, claim)
                self.outcomes.put(int(batch.offsets[i]), rejected)
                if rejected is not None:
                    # Its dead letter says why; lists' values do not belong into logs.
                    logger.error(
                        "control event at %d refused: %s", batch.offsets[i], rejected.reason
                    )
                    self.counters.reject([rejected])
                    await send_dead_letters(
                        sender, self._dead_letter_topic, chunk.topic, batch, [rejected]
                    )
            self.counters.records += len(batch)
        self.counters.batches += 1
        self.counters.last_batch_at = time.time()

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
        now = int(batch.timestamps[i])
        if number > registry.number:
            record = hash64(batch.values[i] or b"")
            if record in registry.granted:
                logger.info("control event %s at %d was sent twice", event.event_id, number)
                return None
            try:
                registry = await self._granted(event, registry, number, partition, now)
            except RegistryError as exc:
                return Rejected(i, "impossible_control_event", f"{event.action}: {exc}")
            except RuleSetError as exc:
                return Rejected(i, "invalid_rules", f"{event.action}: {exc}"[:MAX_DETAIL_CHARS])
            except (DafuError, OSError) as exc:
                return Rejected(i, "unusable_model", f"{event.action}: {exc}")
            registry = registry.granting(record)
            stored = [(REGISTRY_KEY, encode_registry(registry))]
            await self.table.commit_batch(sender, partition, stored, claim)
        await self._carry_out(sender, event, registry, partition, now, claim)
        self.counters.outputs += 1
        return None

    async def _granted(
        self, event: Event, registry: Registry, number: int, partition: int, now: int
    ) -> Registry:
        """The registry after an event, once it is sure that what it asks for can be."""
        if isinstance(event, ControlEvent):
            after = registry.after(event, number)
            await self._check(event.level, registry, after)
            return after
        if isinstance(event, RulesEvent):
            return registry.with_rules(event, number, await self._rules(event, registry))
        check_entries(self.entries(partition), event, now)
        return msgspec.structs.replace(registry, number=number)

    async def _rules(self, event: RulesEvent, registry: Registry) -> StoredRules | None:
        """The rules that an event asks for, compiled; None for those configured."""
        document = asked_for(registry.rules, event, self.rules.document())
        if document is None:
            return None
        rules = await compiled(document)
        return StoredRules(rules.version, rules.document())

    async def _carry_out(
        self,
        sender: BatchSender,
        event: Event,
        registry: Registry,
        partition: int,
        now: int,
        claim: int,
    ) -> None:
        """Write what was granted last into every partition of the log that it is for."""
        who = event.by or "somebody"
        if isinstance(event, ControlEvent):
            lineup = registry.of(event.level)
            switch = encode_switch(Switch(registry.number, lineup))
            await self._tell(sender, event.level, SWITCH_KEY, switch)
            logger.info(
                "%s %s by %s: champion is now %s", event.level, event.action, who, lineup.champion
            )
            return
        if isinstance(event, RulesEvent):
            rules = RulesSwitch(registry.number, registry.rules.current)
            await self._tell(sender, "scoring", RULES_KEY, encode_rules_switch(rules))
            version = registry.rules.version or "those configured"
            logger.info("%s by %s: the rules are now %s", event.action, who, version)
            return
        removed = event.action == "remove_entries"
        kept = ListChange(registry.number, now, event.signed(), removed)
        changes = apply_change(self.table.partition(partition), kept)
        await self.table.commit_batch(sender, partition, changes, claim)
        told = ListChange(registry.number, now, event.unsigned(), removed)
        await self._tell(sender, "scoring", LISTS_KEY, encode_list_change(told))
        logger.info("%s by %s: %d entries of lists", event.action, who, len(event.entries))

    async def _check(self, level: Level, before: Registry, after: Registry) -> None:
        """See that what an event lets score, or decide from now on, can be loaded now."""
        then, now = before.of(level), after.of(level)
        fresh = [ref for ref in now.models if ref not in then.models]
        if now.champion is not None and now.champion != then.champion:
            fresh.append(now.champion)
        for ref in dict.fromkeys(fresh):
            if not ref.configured:
                await self.shelf.load(level, ref)

    async def _tell(self, sender: BatchSender, level: Level, key: bytes, value: bytes) -> None:
        """Write a record into every partition of a level's log."""
        topic = self._logs[level]
        count = await sender.partition_count(topic)
        await sender.send(
            topic,
            ByteColumn.repeated(key, count),
            ByteColumn.repeated(value, count),
            partition=np.arange(count),
        )
