"""Payments from a topic of somebody else's, translated into transactions as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from aiokafka.errors import KafkaError
from numpy.typing import NDArray

from dafu.agents.recorder import Admit, Admitted, RecorderAgent
from dafu.agents.shell import now_ms
from dafu.errors import DafuError
from dafu.ingest.mapping import Mapping
from dafu.ingest.messages import Translator
from dafu.stages.batch import NO_TIMESTAMP, InputBatch
from dafu.streaming.offsets import partitions_of

__all__ = ["SourceAgent", "SourceMissingError", "admit_payment"]


class SourceMissingError(DafuError):
    """The topic that payments come from is not there, or not to be seen."""


def admit_payment(mapping: Mapping) -> Admit:
    """What makes a transaction of a payment in other words."""
    translator = Translator(mapping)

    def admit(raw: bytes | None) -> Admitted:
        user, value = translator.translate(raw)
        return Admitted(user.encode(), value)

    return admit


class SourceAgent(RecorderAgent):
    """A recorder of payments, which somebody waits for.

    The topic is others': it is never created. A transaction's record keeps the timestamp that its
    payment's has, so that what is in the future is so for both, and latencies count from there.
    """

    apart: ClassVar[float] = 0.0

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
