"""A fetched chunk of records, which is what one Faust event carries here.

It knows aiokafka's record type by shape only, and nothing of topics' contents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Record(Protocol):
    """What is read of a consumed record (an `aiokafka.ConsumerRecord`)."""

    key: bytes | None
    value: bytes | None
    offset: int
    timestamp: int
    headers: Sequence[tuple[str, bytes]]


class RecordBatch:
    """Consecutive records of one partition, as the fetcher handed them over.

    Offsets increase, but not always by one: a compacted topic has gaps.
    """

    __slots__ = ("partition", "records", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        if not self.records:
            return f"<RecordBatch {self.topic}[{self.partition}] empty>"
        first, last = self.records[0].offset, self.records[-1].offset
        return f"<RecordBatch {self.topic}[{self.partition}] {first}..{last}>"
