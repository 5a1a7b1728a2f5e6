"""Produce requests against aiokafka's own encoding of them, and what becomes of their parcels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any, Final

import pytest
from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import (
    KafkaConnectionError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    ProducerClosed,
    UnknownError,
)
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v3
from aiokafka.protocol.types import Schema
from hypothesis import given
from hypothesis import strategies as st

from dafu.streaming.produce import (
    CONNECTIONS,
    Dispatcher,
    Outcome,
    Parcel,
    encode_request,
    join_requests_once,
)

partitions = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.binary(max_size=50)), max_size=4)


@given(
    transactional_id=st.none() | st.text(max_size=10),
    acks=st.sampled_from([-1, 0, 1]),
    timeout=st.integers(0, 2**31 - 1),
    topics=st.lists(st.tuples(st.text(max_size=20), partitions), max_size=4),
)
def test_the_bytes_are_aiokafkas(
    transactional_id: str | None, acks: int, timeout: int, topics: list[Any]
) -> None:
    fields = [transactional_id, acks, timeout, topics]
    assert encode_request(fields) == Schema.encode(ProduceRequest_v3.SCHEMA, fields)


def test_every_version_in_use_is_encoded_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProduceRequest_v3.SCHEMA, "encode", None, raising=False)
    join_requests_once()
    request = ProduceRequest(None, -1, 1000, [("topic", [(0, b"batch")])])
    for version in range(3, 8):
        built = request.prepare({0: (version, version)})
        assert built.SCHEMA.encode is encode_request
        assert built.encode() == encode_request([None, -1, 1000, [("topic", [(0, b"batch")])]])


# --- parcels ------------------------------------------------------------------------------------

SHORT_MS: Final = 400
LONG_MS: Final = 60_000
"""For what is over long before, however slow the machine."""
BACKOFF: Final = 0.005

Answer = Callable[[TopicPartition], int | Exception | None]
"""Error code for a partition, what the whole request fails with, or None for no answer."""


class Cluster:
    """A producer's client that keeps what it is asked to send, and answers by `self.answer`."""

    def __init__(self, timeout_ms: int = LONG_MS) -> None:
        self.leaders: dict[TopicPartition, int | None] = {}
        self.requests: list[tuple[int, list[tuple[TopicPartition, bytes]]]] = []
        self.groups: list[Hashable] = []
        self.answer: Answer = lambda _: 0
        self.updates = 0
        self._conns: dict[Any, Any] = {}
        self.cluster = SimpleNamespace(leader_for_partition=lambda tp: self.leaders.get(tp, 1))
        self.producer = SimpleNamespace(
            client=self,
            _closed=False,
            _sender=SimpleNamespace(
                _acks=-1, _request_timeout_ms=timeout_ms, _retry_backoff=BACKOFF
            ),
        )

    def force_metadata_update(self) -> None:
        self.updates += 1

    async def _maybe_wait_metadata(self) -> None:
        """It is there."""

    async def send(
        self, node: int, request: ProduceRequest, *, group: Hashable = ConnectionGroup.DEFAULT
    ) -> Any:
        built = request.prepare({0: (7, 7)})
        sent = [
            (TopicPartition(topic, partition), bytes(data))
            for topic, partitions in built.topics
            for partition, data in partitions
        ]
        self.requests.append((node, sent))
        self.groups.append(group)
        await asyncio.sleep(0)
        topics: dict[str, list[Any]] = {}
        for tp, _ in sent:
            answer = self.answer(tp)
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                offset = -1 if answer else 100 + tp.partition
                topics.setdefault(tp.topic, []).append((tp.partition, answer, offset, -1, 0))
        return SimpleNamespace(topics=list(topics.items()))


def tp(partition: int, topic: str = "t") -> TopicPartition:
    return TopicPartition(topic, partition)


async def settled(cluster: Cluster, *where: TopicPartition) -> list[Outcome]:
    """Put a parcel for each of the partitions in one turn, and wait for all outcomes."""
    dispatcher = Dispatcher(cluster.producer)
    loop = asyncio.get_running_loop()
    outcomes: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in where]
    for place, outcome in zip(where, outcomes, strict=True):
        data = memoryview(f"{place.topic}{place.partition}".encode())
        dispatcher.put(Parcel(place, data, outcome.set_result))
    async with asyncio.timeout(LONG_MS / 1000):
        return [await outcome for outcome in outcomes]


async def turns() -> None:
    """Let the loop turn, more often than anything here takes."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_one_request_for_each_leader() -> None:
    cluster = Cluster()
    cluster.leaders = {tp(1): 2}
    assert await settled(cluster, tp(0), tp(1), tp(2), tp(0, "u")) == [100, 101, 102, 100]
    assert cluster.requests == [
        (1, [(tp(0), b"t0"), (tp(2), b"t2"), (tp(0, "u"), b"u0")]),
        (2, [(tp(1), b"t1")]),
    ]


async def test_what_may_pass_is_sent_again_and_the_rest_is_not() -> None:
    cluster = Cluster()
    codes = {
        tp(0): [NotLeaderForPartitionError.errno, NotLeaderForPartitionError.errno, 0],
        tp(1): [MessageSizeTooLargeError.errno],
        tp(2): [0],
    }
    cluster.answer = lambda place: codes[place].pop(0)
    first, second, third = await settled(cluster, tp(0), tp(1), tp(2))
    assert (first, third) == (100, 102)
    assert isinstance(second, MessageSizeTooLargeError)
    assert [[place.partition for place, _ in sent] for _, sent in cluster.requests] == [
        [0, 1, 2], [0], [0],
    ]  # fmt: skip
    assert cluster.updates == 2, "another leader is looked for each time"


async def test_a_broken_connection_is_tried_again() -> None:
    cluster = Cluster()
    answers: list[Any] = [KafkaConnectionError("gone"), 0]
    cluster.answer = lambda _: answers.pop(0)
    assert await settled(cluster, tp(0)) == [100]
    assert len(cluster.requests) == 2


class Connection:
    """A connection of the cluster's first broker, over which it answers in its own way."""

    def __init__(self, cluster: Cluster, answer: Callable[[], Any]) -> None:
        self.cluster = cluster
        self.answer = answer
        self.there = True
        self.closed: CloseReason | None = None
        cluster._conns[1, ConnectionGroup.DEFAULT] = self

    def connected(self) -> bool:
        return self.there

    def send(self, request: ProduceRequest) -> Any:
        answer = self.answer()

        async def answered() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return await self.cluster.send(1, request)

        return answered()

    def close(self, reason: CloseReason) -> None:
        self.closed, self.there = reason, False


async def test_a_connection_that_is_there_is_written_to_at_once() -> None:
    cluster = Cluster()
    written: list[None] = []
    Connection(cluster, lambda: written.append(None))
    dispatcher = Dispatcher(cluster.producer)
    outcomes: list[Outcome] = []
    for partition in range(2):
        dispatcher.put(Parcel(tp(partition), memoryview(b""), outcomes.append))
    assert not written, "there may be more"
    await asyncio.sleep(0)
    assert len(written) == 1, "by the end of this turn of the loop"
    await turns()
    assert outcomes == [100, 101]
    assert len(cluster.requests) == 1


async def test_what_waits_for_an_answer_holds_up_nothing_else() -> None:
    cluster = Cluster()
    answered = asyncio.Event()
    send = cluster.send

    async def slow(node: int, request: ProduceRequest, **options: Any) -> Any:
        answer = await send(node, request, **options)
        await answered.wait()
        return answer

    cluster.send = slow  # type: ignore[method-assign]
    dispatcher = Dispatcher(cluster.producer)
    outcomes: list[Outcome] = []
    for partition in range(CONNECTIONS + 2):
        dispatcher.put(Parcel(tp(partition), memoryview(b""), outcomes.append))
        await turns()
    assert len(set(cluster.groups[:CONNECTIONS])) == CONNECTIONS
    assert set(cluster.groups[CONNECTIONS:]) < set(cluster.groups[:CONNECTIONS]), "not ever more"
    answered.set()
    await turns()
    assert len(outcomes) == CONNECTIONS + 2
    del cluster.groups[:]
    for partition in range(3):
        dispatcher.put(Parcel(tp(partition), memoryview(b""), outcomes.append))
        await turns()
    assert cluster.groups == [ConnectionGroup.DEFAULT] * 3, "one is enough"


async def test_a_request_that_fails_is_under_way_no_longer() -> None:
    cluster = Cluster()
    answers: list[Any] = [KafkaConnectionError("gone"), 0]
    cluster.answer = lambda _: answers.pop(0)
    assert await settled(cluster, tp(0)) == [100]
    assert cluster.groups == [ConnectionGroup.DEFAULT] * 2


async def test_a_connection_that_gives_no_answer_is_closed() -> None:
    cluster = Cluster()
    connection = Connection(cluster, TimeoutError)
    assert await settled(cluster, tp(0)) == [100], "over another one"
    assert connection.closed == CloseReason.CONNECTION_TIMEOUT


@pytest.mark.parametrize(
    "how", [KafkaConnectionError("gone"), RuntimeError("the handler is closed"), OSError("reset")]
)
async def test_a_connection_that_breaks_is_replaced(how: Exception) -> None:
    def broken() -> None:
        raise how

    cluster = Cluster()
    Connection(cluster, broken)
    assert await settled(cluster, tp(0)) == [100]
    answers: list[Any] = [how, 0]
    cluster = Cluster()
    cluster.answer = lambda _: answers.pop(0)
    assert await settled(cluster, tp(0)) == [100], "aiokafka may not have noticed yet"
    cluster = Cluster()
    Connection(cluster, lambda: None).there = False
    assert await settled(cluster, tp(0)) == [100]


async def test_nobody_waits_for_good_when_something_unforeseen_goes_wrong() -> None:
    cluster = Cluster()

    def broken(_: TopicPartition) -> int:
        raise ValueError("odd")

    cluster.cluster.leader_for_partition = lambda tp: tp.partition
    cluster._conns[0, ConnectionGroup.DEFAULT] = SimpleNamespace(
        connected=lambda: True, send=lambda _: broken(tp(0))
    )
    odd, other = await settled(cluster, tp(0), tp(1))
    assert isinstance(odd, ValueError)
    assert other == 101


async def test_metadata_that_never_comes_is_waited_for_no_longer_than_the_rest() -> None:
    cluster = Cluster(SHORT_MS)
    cluster.answer = lambda _: KafkaConnectionError("gone")
    cluster._maybe_wait_metadata = asyncio.Event().wait  # type: ignore[method-assign, assignment]
    [outcome] = await settled(cluster, tp(0))
    assert isinstance(outcome, KafkaConnectionError)


async def test_it_gives_up_when_the_time_is_over() -> None:
    cluster = Cluster(SHORT_MS)
    cluster.answer = lambda _: KafkaConnectionError("gone")
    started = asyncio.get_running_loop().time()
    [outcome] = await settled(cluster, tp(0))
    assert isinstance(outcome, KafkaConnectionError)
    assert asyncio.get_running_loop().time() - started >= SHORT_MS / 1000
    assert len(cluster.requests) > 1


@pytest.mark.parametrize("leader", [None, -1])
async def test_a_partition_without_a_leader(leader: int | None) -> None:
    cluster = Cluster(SHORT_MS)
    cluster.leaders = {tp(0): leader}
    outcome, other = await settled(cluster, tp(0), tp(1))
    assert isinstance(outcome, LeaderNotAvailableError)
    assert other == 101
    assert cluster.updates > 1

    cluster = Cluster()
    cluster.leaders = {tp(0): leader}
    asyncio.get_running_loop().call_later(BACKOFF * 10, cluster.leaders.clear)
    assert await settled(cluster, tp(0)) == [100]


async def test_no_answer_for_a_partition_is_a_failure() -> None:
    cluster = Cluster()
    cluster.answer = lambda place: None if place.partition else 0
    first, second = await settled(cluster, tp(0), tp(1))
    assert first == 100
    assert isinstance(second, UnknownError)


async def test_nothing_is_sent_by_a_producer_that_is_closed() -> None:
    cluster = Cluster()
    cluster.producer._closed = True
    [outcome] = await settled(cluster, tp(0))
    assert isinstance(outcome, ProducerClosed)
    assert not cluster.requests


async def test_whoever_ends_the_loop_leaves_nothing_unsettled() -> None:
    cluster = Cluster()
    cluster.answer = lambda _: KafkaConnectionError("gone")
    dispatcher = Dispatcher(cluster.producer)
    outcomes: list[Outcome] = []
    for partition in range(2):
        dispatcher.put(Parcel(tp(partition), memoryview(b""), outcomes.append))
    await turns()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await turns()
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
