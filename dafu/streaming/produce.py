"""Produce requests: what is posted in one turn of the event loop goes to a broker in one of them.

aiokafka collects batches by partition, hands them to a task that sends them, and wakes whoever
waits for each: that is made for producers of single records. Here batches come finished, a dozen
small ones at a time, and nobody goes on before all of them are acknowledged. It also joins the
bytes of a request six times over, and one of some megabytes is copied as often. Connections,
metadata and the versions of the protocol remain its own.

It knows the layout of Kafka's produce request, versions 3 to 7
(https://kafka.apache.org/protocol#The_Messages_Produce), and no records.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    ProducerClosed,
    RequestTimedOutError,
    UnknownError,
    for_code,
)
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v3

__all__ = ["Dispatcher", "Parcel", "encode_request", "join_requests_once"]

CONNECTIONS: Final = 4
"""To one broker, at most. It answers the requests of a connection one after the other, so that what
waits for replicas holds up all that was sent after it, whatever partitions that is for."""

_Line = tuple[int, Hashable]
"""A connection of aiokafka's client: the broker, and which of those to it."""

_GROUPS: Final = (ConnectionGroup.DEFAULT, *(f"produce-{n}" for n in range(1, CONNECTIONS)))
_LENGTH: Final = struct.Struct(">h")
_COUNT: Final = struct.Struct(">i")
_FIXED: Final = struct.Struct(">hii")  # acks, timeout in milliseconds, number of topics
_PARTITION: Final = struct.Struct(">ii")  # number, bytes of its record batch


def encode_request(fields: Sequence[Any]) -> bytes:
    """The body of a produce request.

    Parameters
    ----------
    fields
        Transactional id or None, acks, timeout, and topics as aiokafka has them: (name,
        [(partition, record batch)]).
    """
    transactional_id, acks, timeout, topics = fields
    pieces: list[Any] = [_string(transactional_id), _FIXED.pack(acks, timeout, len(topics))]
    for topic, partitions in topics:
        pieces += [_string(topic), _COUNT.pack(len(partitions))]
        for partition, data in partitions:
            pieces += [_PARTITION.pack(partition, len(data)), data]
    return b"".join(pieces)


def _string(text: str | None) -> bytes:
    if text is None:
        return _LENGTH.pack(-1)
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def join_requests_once() -> None:
    """Make all producers of this process encode their requests with `encode_request`."""
    # One schema object serves versions 3 to 7.
    ProduceRequest_v3.SCHEMA.encode = encode_request


Outcome = int | BaseException
"""Offset of a batch's first record, or why it is not known to be delivered."""


class Parcel:
    """A finished record batch for a partition.

    Parameters
    ----------
    where : TopicPartition
    data : bytes-like
    settle : callable
        Called once, with the `Outcome`.
    """

    __slots__ = ("data", "deadline", "settle", "where")

    def __init__(
        self, where: TopicPartition, data: memoryview, settle: Callable[[Outcome], None]
    ) -> None:
        self.where = where
        self.data = data
        self.settle = settle
        self.deadline: float | None = None


class Dispatcher:
    """Takes parcels to the leaders of their partitions, and tries again as aiokafka does.

    What fails for a reason that may pass is sent again, after the producer's `retry_backoff_ms`,
    until its `request_timeout_ms` are over. It does not keep parcels of a partition in order:
    whoever wants that posts one when the one before is settled.

    Parameters
    ----------
    producer
        A started producer, neither idempotent nor transactional.

    Notes
    -----
    For use from the producer's event loop only.
    """

    def __init__(self, producer: AIOKafkaProducer) -> None:
        join_requests_once()
        self._producer = producer
        self._client = producer.client
        sender = producer._sender
        self._acks: int = sender._acks
        self._timeout_ms: int = sender._request_timeout_ms
        self._backoff: float = sender._retry_backoff
        self._due: list[Parcel] = []
        self._under_way: Counter[_Line] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, parcel: Parcel) -> None:
        """Send a parcel, together with what else is put in this turn of the event loop."""
        loop = asyncio.get_running_loop()
        if parcel.deadline is None:
            parcel.deadline = loop.time() + self._timeout_ms / 1000
        if not self._due:
            loop.call_soon(self._leave)
        self._due.append(parcel)

    def _leave(self) -> None:
        """Send what has been put."""
        due, self._due = self._due, []
        leader_of = self._client.cluster.leader_for_partition
        by_leader: defaultdict[int | None, list[Parcel]] = defaultdict(list)
        for parcel in due:
            by_leader[leader_of(parcel.where)].append(parcel)
        for leader, parcels in by_leader.items():
            try:
                self._part(leader, parcels)
            except Exception as exc:  # nobody else would hear of it, and they would wait for good
                _settle_all(parcels, exc)

    def _part(self, leader: int | None, parcels: Sequence[Parcel]) -> None:
        """Send what is for one broker."""
        if self._producer._closed:
            _settle_all(parcels, ProducerClosed())
        elif leader is None or leader < 0:
            self._client.force_metadata_update()
            error = LeaderNotAvailableError("the partition has no leader")
            self._run(self._try_again(dict.fromkeys(parcels, error)))
        else:
            self._send(leader, parcels)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send(self, node: int, parcels: Sequence[Parcel]) -> None:
        """Write a request to a broker, over the connection on which the fewest are under way."""
        topics: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
        for parcel in parcels:
            topics[parcel.where.topic].append((parcel.where.partition, parcel.data))
        request = ProduceRequest(
            transactional_id=None,
            required_acks=self._acks,
            timeout=self._timeout_ms,
            topics=list(topics.items()),
        )
        lines: list[_Line] = [(node, group) for group in _GROUPS]
        line = min(lines, key=self._under_way.__getitem__)
        answer = self._ask(line, request)
        self._under_way[line] += 1
        self._run(self._answered(parcels, line, answer))

    def _ask(self, line: _Line, request: ProduceRequest) -> Awaitable[Any]:
        """A broker's answer to a request, which is on its way at once if there is a connection."""
        connection = self._client._conns.get(line)
        if connection is not None and connection.connected():
            # It may break at this very moment; another one is made then. uvloop says that it is
            # broken by a RuntimeError until aiokafka has noticed.
            with contextlib.suppress(KafkaError, OSError, RuntimeError):
                return _in_time(connection, connection.send(request))
        node, group = line
        answer: Awaitable[Any] = self._client.send(node, request, group=group)
        return answer

    async def _answered(
        self, parcels: Sequence[Parcel], line: _Line, answer: Awaitable[Any]
    ) -> None:
        """Settle parcels by what a broker answers for them."""
        failures: Mapping[Parcel, KafkaError]
        try:
            try:
                answers = _answers(await answer)
            finally:
                self._under_way[line] -= 1
        except KafkaError as exc:
            failures = dict.fromkeys(parcels, exc)
        except (OSError, RuntimeError) as exc:
            failures = dict.fromkeys(parcels, KafkaConnectionError(f"connection broken: {exc}"))
        except BaseException as exc:
            _settle_all(parcels, exc)
            raise
        else:
            failures = _settle(parcels, answers)
        if failures:
            await self._try_again(failures)

    async def _try_again(self, failures: Mapping[Parcel, KafkaError]) -> None:
        """Send again what may succeed, after a while; settle the rest."""
        now = asyncio.get_running_loop().time()
        again: list[Parcel] = []
        for parcel, error in failures.items():
            if error.retriable and now < (parcel.deadline or 0.0):
                again.append(parcel)
            else:
                parcel.settle(error)
        if not again:
            return
        until = max(parcel.deadline or 0.0 for parcel in again)
        try:
            if any(error.invalid_metadata for error in failures.values()):
                self._client.force_metadata_update()
            await asyncio.sleep(self._backoff)
            async with asyncio.timeout_at(until):
                await self._client._maybe_wait_metadata()
        except TimeoutError:
            for parcel in again:
                parcel.settle(failures[parcel])
            return
        except BaseException as exc:
            _settle_all(again, exc)
            raise
        for parcel in again:
            self.put(parcel)


async def _in_time(connection: Any, answer: Awaitable[Any]) -> Any:
    """An answer; a connection that gives none in time is closed, as aiokafka's client does."""
    try:
        return await answer
    except TimeoutError as exc:
        connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
        raise RequestTimedOutError from exc


def _answers(response: Any) -> dict[tuple[str, int], tuple[int, int]]:
    """Error code and offset by topic and partition; all versions begin with them."""
    return {
        (topic, partition): (code, offset)
        for topic, partitions in response.topics
        for partition, code, offset, *_ in partitions
    }


def _settle(
    parcels: Sequence[Parcel], answers: Mapping[tuple[str, int], tuple[int, int]]
) -> dict[Parcel, KafkaError]:
    """Settle what has arrived, and tell what has not and why."""
    failures: dict[Parcel, KafkaError] = {}
    for parcel in parcels:
        code, offset = answers.get(parcel.where, (UnknownError.errno, -1))
        if code == NoError.errno:
            parcel.settle(offset)
        else:
            failures[parcel] = for_code(code)(parcel.where.topic)
    return failures


def _settle_all(parcels: Iterable[Parcel], error: BaseException) -> None:
    for parcel in parcels:
        parcel.settle(error)
