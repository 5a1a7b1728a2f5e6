"""What every local store must do, whichever it is; then what only one on disk can be asked."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import numpy as np
import pytest
from faust.types import TP
from faust.types.tuples import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.columns import ByteColumn
from dafu.errors import DafuError
from dafu.streaming.pulse import FrozenError, Pulse
from dafu.streaming.records import RecordBatch, encode_headers
from dafu.streaming.sender import Written
from dafu.tables.changes import Change
from dafu.tables.ownership import (
    CLAIM_KEY,
    NO_CLAIM,
    NOWHERE,
    LostPartitionError,
    Position,
    stamp_header,
)
from dafu.tables.records import MemoryRecords
from dafu.tables.rocksdb import RocksDBRecords, RocksDBStore, StoreError
from dafu.tables.store import PartitionedStore
from dafu.tables.table import PackedTable
from dafu.tables.working_set import PartitionRecords

MIB = 1024 * 1024


class Tables:
    """Tables of one worker after the other, on one disk."""

    def __init__(self, store: str, directory: Path) -> None:
        self.store = store
        self.directory = directory
        self._opened: list[PackedTable] = []

    def open(self, *names: str) -> list[PackedTable]:
        """The tables of a new worker that owns all of their partitions."""
        app = faust.App(
            "stores",
            broker="dafu://127.0.0.1:9",
            store=f"dafu-{self.store}://",
            Table=PackedTable,
            datadir=str(self.directory),
        )
        found = []
        for name in names or ("users",):
            table = app.Table(name, key_type=bytes, value_type=bytes, partitions=4)
            app.tables.recovery.active_tps.update(changelog(table, p) for p in range(4))
            found.append(table)
        self._opened += found
        return found

    def close(self) -> None:
        """What the end of the worker does."""
        for table in self._opened:
            for number in table.records.open_partitions():
                table.records.drop(number)
        self._opened.clear()


@pytest.fixture(params=["memory", "rocksdb"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    made = Tables(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Tables]:
    made = Tables("rocksdb", tmp_path)
    yield made
    made.close()


@pytest.fixture
async def table(tables: Tables) -> PackedTable:
    return tables.open()[0]


def changelog(table: PackedTable, partition: int) -> TP:
    return TP(table.changelog_topic_name, partition)


def event(
    tp: TP, first: int, changes: Sequence[Change], headers: Sequence[tuple[str, bytes]] = ()
) -> Any:
    """A changelog chunk as Faust hands it to a table in recovery."""
    n = len(changes)
    chunk = RecordBatch(
        tp.topic,
        tp.partition,
        np.arange(first, first + n),
        np.zeros(n, np.int64),
        ByteColumn.of([key for key, _ in changes]),
        ByteColumn.of([value for _, value in changes]),
        ByteColumn.repeated(encode_headers(headers), n),
    )
    last = first + n - 1
    message = Message(tp.topic, tp.partition, last, 0.0, 0, [], None, chunk, None, tp=tp)
    return SimpleNamespace(message=message)


def content(table: PackedTable, partition: int = 0) -> dict[bytes, bytes]:
    return dict(table.records.items(partition))


def section(claim: int) -> bytes:
    """The headers of records that are logged under a claim."""
    return encode_headers([stamp_header(claim)])


class Sender:
    """Takes batches like `BatchSender`, into a list, or refuses them."""

    def __init__(self, offset: int = 0, error: Exception | None = None) -> None:
        self.offset = offset
        self.error = error
        self.sent: list[tuple[str, int, list[tuple[bytes, bytes | None]]]] = []
        self.headers: list[list[bytes | None] | None] = []

    async def send(
        self,
        topic: str,
        keys: ByteColumn,
        values: ByteColumn,
        *,
        partition: int,
        headers: ByteColumn | None = None,
    ) -> dict[int, Written]:
        if self.error is not None:
            raise self.error
        self.headers.append(None if headers is None else headers.tolist())
        self.sent.append((topic, partition, list(zip(keys.present(), values, strict=True))))
        self.offset += len(keys)
        return {partition: Written(self.offset - len(keys), self.offset - 1)}

    def post(self, *args: Any, **options: Any) -> Awaitable[dict[int, Written]]:
        return self.send(*args, **options)


async def test_the_scheme_names_the_store(table: PackedTable, tables: Tables) -> None:
    assert isinstance(table.records, PartitionedStore)
    assert type(table.records).__module__ == f"dafu.tables.{tables.store}"


async def test_reads_what_was_written(table: PackedTable) -> None:
    records = table.partition(0)
    assert records.get_many([]) == []
    assert records.get_many([b"a"]) == [None]
    records.write([(b"a", b"1"), (b"b", b""), (b"\x00\xff", bytes(range(256)))])
    assert records.get_many([b"b", b"x", b"a", b"a", b"\x00\xff"]) == [
        b"",
        None,
        b"1",
        b"1",
        bytes(range(256)),
    ]
    assert content(table) == {b"a": b"1", b"b": b"", b"\x00\xff": bytes(range(256))}


async def test_changes_apply_in_order(table: PackedTable) -> None:
    records = table.partition(0)
    records.write([(b"a", b"1"), (b"b", b"1"), (b"a", None), (b"b", b"2"), (b"c", None)])
    assert content(table) == {b"b": b"2"}
    records.write([(b"b", None), (b"b", b"3"), (b"a", b"4"), (b"a", None)])
    assert content(table) == {b"b": b"3"}
    records.write([])
    assert content(table) == {b"b": b"3"}


small = st.binary(min_size=1, max_size=2)
writes = st.lists(st.lists(st.tuples(small, st.none() | st.binary(max_size=8)), max_size=8))


@settings(deadline=None)
@given(batches=writes)
def test_a_database_behaves_like_a_dictionary(
    batches: list[list[Change]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("property") / "db"
    expected: dict[bytes, bytes] = {}
    memory, database = MemoryRecords(), RocksDBRecords(path)
    try:
        for offset, changes in enumerate(batches):
            for key, value in changes:
                expected.pop(key, None)
                if value is not None:
                    expected[key] = value
            memory.write(changes)
            database.write(changes, Position(offset, offset // 2))
            keys = [key for key, _ in changes]
            assert database.get_many(keys) == memory.get_many(keys) == [*map(expected.get, keys)]
        assert dict(database.items()) == memory.data == expected
        last = len(batches) - 1
        assert database.position == (Position(last, last // 2) if batches else NOWHERE)
    finally:
        database.close()


async def test_partitions_and_tables_are_apart(tables: Tables) -> None:
    users, merchants = tables.open("users", "merchants")
    assert users.records.open_partitions() == []
    users.partition(2).write([(b"a", b"users 2")])
    users.partition(0).write([(b"a", b"users 0")])
    merchants.partition(0).write([(b"a", b"merchants 0")])
    assert users.records.open_partitions() == [0, 2]
    assert users.partition(0).get_many([b"a"]) == [b"users 0"]
    assert users.partition(1).get_many([b"a"]) == [None]
    assert users.partition(2).get_many([b"a"]) == [b"users 2"]
    assert content(merchants) == {b"a": b"merchants 0"}


async def test_recovers_from_the_changelog(table: PackedTable) -> None:
    one, two = changelog(table, 1), changelog(table, 2)
    table.apply_changelog_batch(
        [
            event(one, 0, [(b"a", b"1"), (b"b", b"1"), (b"a", b"2")]),
            event(two, 0, [(b"a", b"two")]),
            event(one, 3, [(b"b", None), (b"c", b"3")]),
        ]
    )
    assert content(table, 1) == {b"a": b"2", b"c": b"3"}
    assert content(table, 2) == {b"a": b"two"}
    # Recovery may begin with records that are in already.
    table.apply_changelog_batch([event(one, 4, [(b"c", b"3")])])
    assert content(table, 1) == {b"a": b"2", b"c": b"3"}


async def test_ignores_changelogs_of_others(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    users, merchants = tables.open("users", "merchants")
    gone = changelog(users, 3)
    users.app.tables.recovery.active_tps.discard(gone)
    users.apply_changelog_batch(
        [event(changelog(merchants, 0), 0, [(b"a", b"1")]), event(gone, 7, [(b"a", b"1")])]
    )
    assert users.records.open_partitions() == []
    assert users.persisted_offset(gone) is None
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2


async def test_an_error_in_recovery_stops_the_worker(
    table: PackedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust's recovery would log it, and go on without these records."""

    def fail(number: int, changes: Sequence[Change], position: Position) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(table.records, "apply", fail)
    with pytest.raises(OSError, match="disk full"):
        table.apply_changelog_batch([event(changelog(table, 0), 0, [(b"a", b"1")])])
    async with asyncio.timeout(5):
        while not table.app.crashed:
            await asyncio.sleep(0)
    assert isinstance(table.app.crash_reason, OSError)


async def test_logs_before_it_stores(table: PackedTable) -> None:
    table.apply_changelog_batch([event(changelog(table, 2), 39, [(b"b", b"0")])])
    sender: Any = Sender(offset=40)
    changes: list[Change] = [(b"a", b"1"), (b"b", None)]
    claim = await table.claim(sender, 2)
    assert claim == 40
    await table.commit_batch(sender, 2, changes, claim)
    topic = table.changelog_topic_name
    (_, _, ((key, token),)), logged = sender.sent
    assert (key, logged) == (CLAIM_KEY, (topic, 2, changes))
    assert token
    assert sender.headers == [None, [section(40)] * 2]
    assert content(table, 2) == {b"a": b"1"}
    await table.commit_batch(sender, 2, [], claim)
    assert await table.claim(sender, 2) == claim
    assert len(sender.sent) == 2
    broken: Any = Sender(error=OSError("no broker"))
    with pytest.raises(OSError, match="no broker"):
        await table.commit_batch(broken, 2, [(b"a", b"2")], claim)
    assert content(table, 2) == {b"a": b"1"}


async def test_logs_nothing_without_a_claim_that_holds(table: PackedTable) -> None:
    sender: Any = Sender()
    with pytest.raises(LostPartitionError, match="claim is not the latest"):
        await table.commit_batch(sender, 0, [(b"a", b"1")], NO_CLAIM)
    claim = await table.claim(sender, 0)
    # Another worker's claim arrives while a changelog is read once more.
    table.apply_changelog_batch([event(changelog(table, 0), 1, [(CLAIM_KEY, b"another")])])
    with pytest.raises(LostPartitionError, match="claim is not the latest"):
        await table.commit_batch(sender, 0, [(b"a", b"1")], claim)
    assert len(sender.sent) == 1
    assert content(table) == {}


class Log:
    """Takes batches of several partitions, except of those that are refused."""

    def __init__(self) -> None:
        self.ends: Counter[int] = Counter()
        self.refused: set[int] = set()
        self.batches: list[int] = []

    async def post(
        self, _topic: str, keys: ByteColumn, _values: ByteColumn, *, partition: int, **_: Any
    ) -> dict[int, Written]:
        if partition in self.refused:
            raise OSError("no broker")
        self.batches.append(partition)
        first = self.ends[partition]
        self.ends[partition] += len(keys)
        return {partition: Written(first, first + len(keys) - 1)}


async def test_what_fails_in_one_partition_leaves_the_others_alone(table: PackedTable) -> None:
    log = Log()
    sender: Any = log
    claims = {number: await table.claim(sender, number) for number in (0, 1, 2)}
    log.batches.clear()
    changes: dict[int, list[Change]] = {
        2: [(b"c", b"1")],
        0: [(b"a", b"1")],
        1: [(b"b", b"1")],
        3: [],
    }
    with pytest.raises(LostPartitionError, match="claim is not the latest"):
        await table.commit_batches(sender, changes, claims | {1: NO_CLAIM})
    assert log.batches == [0, 2]
    assert [content(table, number) for number in range(3)] == [{b"a": b"1"}, {}, {b"c": b"1"}]

    log.refused = {0}
    later: dict[int, list[Change]] = {0: [(b"a", b"2")], 2: [(b"c", b"2")]}
    with pytest.raises(OSError, match="no broker"):
        await table.commit_batches(sender, later, claims)
    assert (content(table, 0), content(table, 2)) == ({b"a": b"1"}, {b"c": b"2"})
    assert table.records.claimed() == [2], "what the other one appended may arrive yet"


async def test_whose_append_was_cancelled_claims_anew(table: PackedTable) -> None:
    class Stuck:
        def post(self, *_: Any, **__: Any) -> asyncio.Future[Any]:
            return asyncio.get_running_loop().create_future()

    log: Any = Log()
    claims = {number: await table.claim(log, number) for number in (0, 1, 2)}
    stuck: Any = Stuck()
    changes: dict[int, list[Change]] = {0: [(b"a", b"1")], 2: [(b"c", b"1")]}
    logging = asyncio.create_task(table.commit_batches(stuck, changes, claims))
    await asyncio.sleep(0.01)
    logging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await logging
    assert table.records.claimed() == [1], "the watch must not put right what this worker wrote"
    with pytest.raises(LostPartitionError, match="claim is not the latest"):
        await table.commit_batches(log, changes, claims)


async def test_a_partition_revoked_while_it_is_logged_stays_dropped(table: PackedTable) -> None:
    revoked = asyncio.Event()

    class Slow(Sender):
        async def send(self, *args: Any, **options: Any) -> dict[int, Written]:
            if self.sent:
                await revoked.wait()
            return await super().send(*args, **options)

    sender: Any = Slow()
    claim = await table.claim(sender, 0)
    logging = asyncio.create_task(table.commit_batch(sender, 0, [(b"a", b"1")], claim))
    await asyncio.sleep(0)
    await table.records.on_rebalance(set(), {changelog(table, 0)}, set())
    revoked.set()
    with pytest.raises(LostPartitionError, match="it was revoked"):
        await logging
    assert 0 not in table.records.open_partitions() or content(table) == {}


async def test_a_frozen_worker_logs_nothing(table: PackedTable) -> None:
    sender: Any = Sender()
    claim = await table.claim(sender, 0)
    clock = iter((0.0, 60.0, 120.0))
    table.app.consumer.pulse = Pulse(10.0, lambda: next(clock))
    table.app.consumer.pulse.beat()
    with pytest.raises(FrozenError, match="stood still for 60 s"):
        await table.commit_batch(sender, 0, [(b"a", b"1")], claim)
    with pytest.raises(FrozenError):
        await table.claim(sender, 1)
    assert len(sender.sent) == 1


async def test_stale_records_are_not_applied_and_are_repaired(tables: Tables) -> None:
    """Also when the worker that noticed them did not live to repair them."""
    (table,) = tables.open()
    tp = changelog(table, 0)
    old = [stamp_header(0)]
    chunks = [
        event(tp, 0, [(CLAIM_KEY, b"A")]),
        event(tp, 1, [(b"a", b"1"), (b"b", b"1")], old),
        event(tp, 3, [(CLAIM_KEY, b"B")]),
        event(tp, 4, [(b"a", b"2")], [stamp_header(3)]),
        event(tp, 5, [(b"a", b"1"), (b"c", b"1")], old),
    ]
    table.apply_changelog_batch(chunks)
    assert content(table) == {b"a": b"2", b"b": b"1"}
    assert table.records.unrepaired() == [0]
    tables.close()
    (table,) = tables.open()
    read_again = {"memory": 0, "rocksdb": 4}[tables.store]
    assert (table.persisted_offset(tp) or 0) == read_again
    table.apply_changelog_batch([c for c in chunks if c.message.offset >= read_again])
    sender: Any = Sender(offset=7)
    assert await table.claim(sender, 0) == 7
    assert [key for key, _ in sender.sent[0][2]] == [CLAIM_KEY]
    assert sorted(sender.sent[1][2]) == [(b"a", b"2"), (b"c", None)]
    assert sender.headers[1] == [section(7)] * 2
    assert content(table) == {b"a": b"2", b"b": b"1"}
    assert table.records.unrepaired() == []
    assert table.persisted_offset(tp) == {"memory": None, "rocksdb": 9}[tables.store]


async def test_is_written_by_batches_only(table: PackedTable) -> None:
    with pytest.raises(TypeError, match="commit_batch"):
        table[b"a"] = b"1"
    with pytest.raises(TypeError, match="commit_batch"):
        del table[b"a"]


async def test_a_revoked_partition_goes_and_comes_back(tables: Tables, table: PackedTable) -> None:
    """Recovery starts over where the store can say, from the beginning where it can not."""
    recovery = table.app.tables.recovery
    here, gone = changelog(table, 0), changelog(table, 1)
    table.apply_changelog_batch([event(tp, 0, [(b"a", b"1")] * 5) for tp in (here, gone)])
    for tp in (here, gone):
        recovery.add_active(table, tp)
        recovery.active_offsets[tp] = 4
    # The other table's changelog, and a topic that is no changelog, are not the store's business.
    revoked = {gone, TP("transactions", 0), TP("another-changelog", 0)}
    await table.records.on_rebalance({here}, revoked, set())
    assert table.records.open_partitions() == [0]
    assert here in recovery.active_tps
    assert gone not in recovery.active_tps
    recovery.add_active(table, gone)
    known = {"memory": None, "rocksdb": 4}[tables.store]
    assert recovery.active_offsets[gone] == known
    assert content(table, 1) == ({} if known is None else {b"a": b"1"})
    table.apply_changelog_batch([event(gone, 5, [(b"b", b"2")])])
    assert table.partition(1).get_many([b"b"]) == [b"2"]
    assert content(table, 0) == {b"a": b"1"}


async def test_a_partition_that_stays_is_kept(table: PackedTable) -> None:
    tp = changelog(table, 1)
    table.partition(1).write([(b"a", b"1")])
    await table.records.on_rebalance({tp}, {tp}, set())
    assert content(table, 1) == {b"a": b"1"}


async def test_what_outlives_the_worker(tables: Tables) -> None:
    """State and offset do on disk, both or none; the offset says where recovery goes on."""
    (table,) = tables.open()
    tp = changelog(table, 0)
    assert table.persisted_offset(tp) is None
    table.apply_changelog_batch([event(tp, 98, [(b"c", None)])])
    claim = await table.claim(_sender(99), 0)
    await table.commit_batch(_sender(100), 0, [(b"a", b"1"), (b"b", b"2")], claim)
    table.apply_changelog_batch([event(tp, 102, [(b"a", b"3"), (b"b", None)])])
    assert content(table) == {b"a": b"3"}
    tables.close()
    (again,) = tables.open()
    on_disk = tables.store == "rocksdb"
    assert again.persisted_offset(tp) == (103 if on_disk else None)
    assert again.records.position(0) == (Position(103, 99) if on_disk else NOWHERE)
    assert again.persisted_offset(changelog(again, 1)) is None
    assert content(again) == ({b"a": b"3"} if on_disk else {})
    again.records.reset_state()
    assert again.records.open_partitions() == []
    assert again.persisted_offset(tp) is None
    assert content(again) == {}


def _sender(offset: int) -> Any:
    return Sender(offset)


async def test_no_standby_and_no_backup(table: PackedTable) -> None:
    tp = changelog(table, 0)
    assert not await table.need_active_standby_for(tp)
    with pytest.raises(DafuError, match="its changelog topic is the backup"):
        await table.records.backup_partition(tp)
    with pytest.raises(DafuError, match="its changelog topic is the backup"):
        table.records.restore_backup(tp)


async def test_stopping_closes_the_databases(disk: Tables) -> None:
    (table,) = disk.open()
    table.partition(0).write([(b"a", b"1")])
    path = _path(table, 0)
    with pytest.raises(StoreError):
        RocksDBRecords(path)
    await table.records.on_stop()
    second = RocksDBRecords(path)
    assert second.get_many([b"a"]) == [b"1"]
    second.close()


def _path(table: PackedTable, partition: int) -> Path:
    store = table.records
    assert isinstance(store, RocksDBStore)
    return store.directory / str(partition)


def test_options_hold_at_every_open(tmp_path: Path) -> None:
    for opening in range(3):
        database = RocksDBRecords(tmp_path / "db")
        try:
            database.write([(b"%d" % opening, b"x")], Position(opening))
            capacity = database._db.property_int_value("rocksdb.block-cache-capacity")
            assert capacity == 128 * MIB, f"opening {opening}"
        finally:
            database.close()
        newest = max((tmp_path / "db").glob("OPTIONS-*"))
        options = {
            name.strip(): value
            for name, _, value in (line.partition("=") for line in newest.read_text().splitlines())
        }
        assert options["filter_policy"].startswith("bloomfilter"), f"opening {opening}"
        assert options["cache_index_and_filter_blocks"] == "true"
        assert options["write_buffer_size"] == str(32 * MIB)
        assert options["max_open_files"] == "256"


WRITER = """
import sys
from pathlib import Path
from dafu.tables.ownership import Position
from dafu.tables.rocksdb import RocksDBRecords
records = RocksDBRecords(Path(sys.argv[1]))
n = 0
while True:
    n += 1
    records.write([(b"%d" % k, b"%d" % n) for k in range(500)], Position(n))
    if n == 20:
        print("going", flush=True)
"""


def test_a_killed_writer_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "db"
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
        ) as writer:
            try:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"going\n"
            finally:
                writer.kill()
        assert writer.returncode == -signal.SIGKILL
        database = RocksDBRecords(path)
        try:
            assert database.position.offset >= 20
            values = database.get_many([b"%d" % k for k in range(500)])
            assert set(values) == {b"%d" % database.position.offset}
        finally:
            database.close()


def cut_current(path: Path) -> None:
    (path / "CURRENT").write_text("nonsense\n")


def no_manifest(path: Path) -> None:
    for file in path.glob("MANIFEST-*"):
        file.unlink()


@pytest.mark.parametrize("damage", [cut_current, no_manifest])
def test_says_what_to_do_about_a_damaged_database(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "db"
    database = RocksDBRecords(path)
    database.write([(b"a", b"1")])
    database.close()
    damage(path)
    with pytest.raises(StoreError, match="if it is damaged, delete it: the changelog") as raised:
        RocksDBRecords(path)
    assert str(path) in str(raised.value)


def test_says_what_to_do_about_a_database_in_use(tmp_path: Path) -> None:
    database = RocksDBRecords(tmp_path / "db")
    try:
        with pytest.raises(StoreError, match="its own DAFU_DATA_DIR"):
            RocksDBRecords(tmp_path / "db")
    finally:
        database.close()


def test_says_which_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rocksdict", None)
    with pytest.raises(StoreError, match=r"pip install 'dafu\[rocksdb\]'.*DAFU_STORE=memory"):
        RocksDBRecords(tmp_path / "db")


def test_records_are_what_the_stages_expect(tmp_path: Path) -> None:
    database = RocksDBRecords(tmp_path / "db")
    try:
        accepted: list[PartitionRecords] = [MemoryRecords(), database]
        for records in accepted:
            records.write([(b"a", b"1")])
            assert records.get_many([b"a", b"b"]) == [b"1", None]
    finally:
        database.close()
