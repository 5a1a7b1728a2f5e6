"""The agents that write into the log of the transactions what became known of users elsewhere:
labels, and memberships in fraud rings.

A topic orders the records of a partition and nothing between topics. If stage one read labels
beside transactions, reading both again could mix them in another way, and a decision could come
out different. So labels are written into the log of the transactions first, where they have one
place for good, and so are memberships. Writing one twice, after a crash, does no harm: the second
says nothing new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dafu.agents.histogram import Histogram
from dafu.agents.shell import (
    BATCH_BOUNDS,
    UNHURRIED,
    Counters,
    SenderSource,
    consume,
    input_batch,
    send_dead_letters,
)
from dafu.columns import ByteColumn
from dafu.rings.membership import encode_membership, parse_membership
from dafu.schema import InvalidRecordError, encode_label, parse_label
from dafu.stages.batch import InputBatch, Rejected
from dafu.streaming.records import RecordBatch


class Admitted(NamedTuple):
    """A record as it stands among the transactions."""

    key: bytes
    value: bytes


Admit = Callable[[bytes | None], Admitted]
"""Checks what came on a topic; raises InvalidRecordError for what can not be read."""


def admit_label(raw: bytes | None) -> Admitted:
    """A label from the labels topic."""
    label, _ = parse_label(raw)
    return Admitted(label.user_id.encode(), encode_label(label))


def admit_membership(raw: bytes | None) -> Admitted:
    """A membership in a ring, from the topic of those."""
    membership = parse_membership(raw)
    return Admitted(membership.user_id.encode(), encode_membership(membership))


class RecorderAgent:
    """Checks the records of a topic and writes them to the transactions, keyed by user.

    Parameters
    ----------
    sender : callable
        The worker's sender.
    admit : callable
        `admit_label` or `admit_membership`, as the topic has it.
    topic, dead_letters : Faust topics
        The transactions, and where records go that can not be read.
    """

    apart: ClassVar[float] = UNHURRIED
    """Seconds between the starts of batches, see `consume`."""

    def __init__(
        self, sender: SenderSource, admit: Admit, *, topic: Any, dead_letters: Any
    ) -> None:
        self.sender = sender
        self.admit = admit
        self.topic: str = topic.get_topic_name()
        self.dead_letter_topic: str = dead_letters.get_topic_name()
        self.counters = Counters()
        self.batch_seconds = Histogram(BATCH_BOUNDS)
        self._outputs = (topic, dead_letters)

    async def run(self, stream: Any) -> None:
        """The agent's body."""
        await self.prepare(stream.channel)
        for topic in self._outputs:
            await topic.maybe_declare()
        most = stream.app.settings.batch_records
        await consume(stream, self.process, most, self.batch_seconds, self.apart)

    async def prepare(self, source: Any) -> None:
        """See that the topic is there which the records come from."""
        await source.maybe_declare()

    async def look_up(self, batch: InputBatch) -> None:
        """Fetch what has to be there when the records of a batch are checked."""

    def times(self, batch: InputBatch, rows: Sequence[int]) -> NDArray[np.int64] | None:  # noqa: ARG002
        """Timestamps for what these records of a batch became; None for the time of writing."""
        return None

    async def process(self, chunks: Sequence[RecordBatch]) -> None:
        """Check chunks of the topic and send on what is good."""
        batch = input_batch(chunks)
        await self.look_up(batch)
        keys: list[bytes] = []
        values: list[bytes] = []
        rows: list[int] = []
        rejected: list[Rejected] = []
        for i in range(len(batch)):
            try:
                key, value = self.admit(batch.values[i])
            except InvalidRecordError as exc:
                rejected.append(Rejected(i, exc.reason, exc.detail))
                continue
            keys.append(key)
            values.append(value)
            rows.append(i)
        sender = self.sender()
        if values:
            await sender.send(
                self.topic,
                ByteColumn.of(keys),
                ByteColumn.of(values),
                timestamps=self.times(batch, rows),
            )
        if rejected:
            await send_dead_letters(
                sender, self.dead_letter_topic, chunks[0].topic, batch, rejected
            )
        self.counters.batches += 1
        self.counters.records += len(batch)
        self.counters.outputs += len(values)
        self.counters.reject(rejected)
        self.counters.last_batch_at = time.time()
