"""Payments from a topic of somebody else's, translated into transactions as they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from aiokafka.errors import KafkaError
from numpy.typing import NDArray

from dafu.agents.recorder import Admit, Admitted, RecorderAgent
from dafu.agents.shell import SenderSource, now_ms
from dafu.errors import DafuError
from dafu.ingest.messages import Translator
from dafu.stages.batch import NO_TIMESTAMP, InputBatch
from dafu.streaming.offsets import partitions_of
from dafu.streaming.schema_registry import SchemaRegistryClient

if TYPE_CHECKING:
    from dafu.ingest.avro import AvroReader

__all__ = ["AvroSchemas", "Payments", "SourceAgent", "SourceMissingError", "admit_payment"]


class SourceMissingError(DafuError):
    """The topic that payments come from is not there, or not to be seen."""


class AvroSchemas(NamedTuple):
    """A reader of records in Avro, and the registry that knows their schemas."""

    reader: AvroReader
    registry: SchemaRegistryClient

    async def look_up(self, records: Iterable[bytes | None]) -> None:
        """Let the reader learn what these records name and it has not learned, if there is any.

        Raises
        ------
        SchemaRegistryError
        """
        wanted = self.reader.unknown(records)
        if wanted:
            for number, schema in (await self.registry.schemas(wanted)).items():
                self.reader.learn(number, schema)


class Payments(NamedTuple):
    """How payments in other words are read. `schemas` is None where they need none."""

    translator: Translator
    schemas: AvroSchemas | None = None


def admit_payment(translator: Translator) -> Admit:
    """What makes a transaction of a payment in other words."""

    def admit(raw: bytes | None) -> Admitted:
        user, value = translator.translate(raw)
        return Admitted(user.encode(), value)

    return admit


class SourceAgent(RecorderAgent):
    """A recorder of payments, which somebody waits for.

    Where records name schemas, those are fetched before anything of a batch is written. The topic
    is others': it is never created. A transaction's record keeps the timestamp that its payment's
    has, so that what is in the future is so for both, and latencies count from there.
    """

    apart: ClassVar[float] = 0.0

    def __init__(
        self, sender: SenderSource, payments: Payments, *, topic: Any, dead_letters: Any
    ) -> None:
        admit = admit_payment(payments.translator)
        super().__init__(sender, admit, topic=topic, dead_letters=dead_letters)
        self._schemas = payments.schemas

    async def look_up(self, batch: InputBatch) -> None:
        """Fetch the schemas that records of the batch were written with.

        Raises
        ------
        SchemaRegistryError
        """
        if self._schemas is not None:
            await self._schemas.look_up(batch.values)

    async def prepare(self, source: Any) -> None:
        """See that the topic is there.

        Raises
        ------
        SourceMissingError
        """
        name = source.get_topic_name()
        try:
            await partitions_of(name, source.app.settings.client_options())
        except KafkaError as exc:
            raise SourceMissingError(
                f"payments are to come from the topic {name} (DAFU_SOURCE_TOPIC), which this "
                f"worker can not see: {exc}"
            ) from exc

    def times(self, batch: InputBatch, rows: Sequence[int]) -> NDArray[np.int64]:
        """Those of the payments' records; now, where there is none."""
        times = batch.timestamps[rows]
        return np.where(times == NO_TIMESTAMP, now_ms(), times)
