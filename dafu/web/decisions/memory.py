"""The latest decisions, as they were published: found by transaction, listed newest first.

Pure: columns in, `Made` out. A decision is parsed when somebody asks for it and not before. It
costs one slot in a ring, where the hash of its key can be looked for among all others at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, cast

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.agents.shell import LATENCY, SOURCE, SOURCE_PLACE, WORKER
from dafu.hashing import hash64
from dafu.schema import Decision, decode_decision
from dafu.streaming.records import RecordBatch, decode_headers

__all__ = ["DecisionMemory", "Made", "begin_of", "hashes_of", "made_in"]

CAPACITY: Final = 50_000
MOST_BYTES: Final = 96 << 20

Predicate = Callable[["Made"], bool]


class Made(Struct, frozen=True, gc=False):
    """A decision as it was published.

    Attributes
    ----------
    payload : bytes
        The JSON document, as on the topic.
    partition, offset : int
        Where on the topic `decisions`.
    timestamp : int
        When it was published, in epoch milliseconds.
    headers : bytes
        The record's header section, see `dafu.streaming.records`.
    """

    payload: bytes
    partition: int
    offset: int
    timestamp: int
    headers: bytes = b"\0"

    @property
    def decision(self) -> Decision:
        """The document, parsed anew with each look."""
        return decode_decision(self.payload)

    @property
    def latency_ms(self) -> int | None:
        """From the time of the transaction's record to the decision, if the worker said so."""
        found = self._header(LATENCY)
        return int(found) if found.isdigit() else None

    @property
    def source(self) -> tuple[int, int] | None:
        """Partition and offset of the transaction's record, if the worker said so."""
        found = self._header(SOURCE)
        if len(found) != SOURCE_PLACE.size:
            return None
        partition, offset = SOURCE_PLACE.unpack(found)
        return partition, offset

    @property
    def worker(self) -> str:
        """Who decided: host and process; empty if he did not say."""
        return self._header(WORKER).decode("utf-8", "replace")

    def _header(self, name: str) -> bytes:
        return dict(decode_headers(self.headers)).get(name) or b""


def made_in(batch: RecordBatch) -> list[Made]:
    """The decisions in a chunk of the topic; a record without a value is none."""
    found = zip(
        batch.values.tolist(),
        batch.offsets.tolist(),
        batch.timestamps.tolist(),
        batch.headers.present(),
        strict=True,
    )
    number = batch.partition
    return [
        Made(value or b"", number, offset, timestamp, headers or b"\0")
        for value, offset, timestamp, headers in found
    ]


def hashes_of(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    """64-bit hashes of record keys, uint64 [n]."""
    return np.fromiter(map(hash64, keys), np.uint64, len(keys))


def begin_of(user_id: str, transaction_id: str) -> bytes:
    r"""What the payload of a transaction's decision begins with, and no other.

    Examples
    --------
    >>> begin_of("ada", "t1")
    b'{"transaction_id":"t1","user_id":"ada",'
    """
    names = {"transaction_id": transaction_id, "user_id": user_id}
    return msgspec.json.encode(names)[:-1] + b","


class DecisionMemory:
    """Keeps the latest decisions.

    Parameters
    ----------
    capacity : int
        Decisions, at most.
    most_bytes : int
        Of their payloads together, at most.
    """

    def __init__(self, capacity: int = CAPACITY, most_bytes: int = MOST_BYTES) -> None:
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._hashes = np.zeros(capacity, np.uint64)
        self._ring: list[Made | None] = [None] * capacity
        self._next = 0
        self._count = 0
        self._bytes = 0
        self.forgotten = 0
        """How many decisions it has forgotten for want of room."""

    def __len__(self) -> int:
        return self._count

    @property
    def bytes(self) -> int:
        """Of the payloads, together."""
        return self._bytes

    def add(self, made: Sequence[Made], hashes: NDArray[np.uint64]) -> None:
        """Remember decisions, oldest first, with the `hashes_of` their records' keys."""
        self.forgotten += max(0, len(made) - self._capacity)
        made, hashes = made[-self._capacity :], hashes[-self._capacity :]
        if not made:
            return
        self._drop(max(0, self._count + len(made) - self._capacity))
        first = min(len(made), self._capacity - self._next)
        for at, a, b in ((self._next, 0, first), (0, first, len(made))):
            self._hashes[at : at + b - a] = hashes[a:b]
            self._ring[at : at + b - a] = made[a:b]
        self._next = (self._next + len(made)) % self._capacity
        self._count += len(made)
        self._bytes += sum(len(m.payload) for m in made)
        while self._bytes > self._most_bytes and self._count > 1:
            self._drop(1)

    def _drop(self, n: int) -> None:
        """Forget the oldest n."""
        for _ in range(n):
            at = (self._next - self._count) % self._capacity
            self._bytes -= len(cast(Made, self._ring[at]).payload)
            self._ring[at] = None
            self._hashes[at] = 0
            self._count -= 1
            self.forgotten += 1

    def find(self, user_id: str, transaction_id: str) -> Made | None:
        """The latest decision of a transaction, None if it is not among those remembered."""
        begin = begin_of(user_id, transaction_id)
        for made in self.of_user(user_id):
            if made.payload.startswith(begin):
                return made
        return None

    def of_user(self, user_id: str) -> Iterator[Made]:
        """Decisions with a key of the same hash, newest first: the user's, and perhaps others."""
        places = np.flatnonzero(self._hashes == np.uint64(hash64(user_id.encode())))
        ages = (self._next - 1 - places) % self._capacity
        for at in places[np.argsort(ages)].tolist():
            made = self._ring[at]
            if made is not None:
                yield made

    def newest(self) -> Iterator[Made]:
        """All of them, newest first; not to be continued after others have been added."""
        for age in range(self._count):
            yield cast(Made, self._ring[(self._next - 1 - age) % self._capacity])

    def snapshot(self) -> list[Made]:
        """All of them, newest first, to be looked through at leisure."""
        begin = self._next - self._count
        if begin >= 0:
            ordered = self._ring[begin : self._next]
        else:
            ordered = self._ring[begin:] + self._ring[: self._next]
        return cast(list[Made], ordered[::-1])

    def oldest(self) -> Made | None:
        """How far it reaches back."""
        return self._ring[(self._next - self._count) % self._capacity] if self._count else None
