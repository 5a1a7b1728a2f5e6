"""The RocksDB store: a database a partition on local disk, so that a restart reads little.

Options are passed at every open, and by column family: a database that exists already gets its
table options (cache, Bloom filter) from nowhere else, and would run on those it was compiled with.
Needs the `rocksdb` extra.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dafu.errors import DafuError
from dafu.tables.changes import Change
from dafu.tables.ownership import NOWHERE, Position
from dafu.tables.store import PartitionedStore

_POSITION_KEY = b"\x00changelog-offset"
_POSITION = struct.Struct("<qq")  # offset, latest claim up to there
_MIB = 1024 * 1024


class StoreError(DafuError):
    """The local database can not be used."""


def _rocksdict() -> Any:
    try:
        import rocksdict
    except ImportError as exc:
        raise StoreError(
            "the rocksdb store needs the package rocksdict: pip install 'dafu[rocksdb]', "
            "or set DAFU_STORE=memory"
        ) from exc
    return rocksdict


def _options(rocksdict: Any) -> Any:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(32 * _MIB)
    options.set_max_write_buffer_number(3)
    options.set_target_file_size_base(64 * _MIB)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(128 * _MIB))
    table.set_bloom_filter(10.0, False)
    table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    return options


class RocksDBRecords:
    """One partition's records in a RocksDB database."""

    def __init__(self, path: Path) -> None:
        rocksdict = _rocksdict()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._batch = rocksdict.WriteBatch
        options = _options(rocksdict)
        try:
            self._db = rocksdict.Rdict(
                str(path), options=options, column_families={"default": options}
            )
        except Exception as exc:
            raise StoreError(
                f"can not open the database {path}: {exc}. If another worker uses it, give this "
                "one its own DAFU_DATA_DIR; if it is damaged, delete it: the changelog rebuilds it"
            ) from exc

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values by key, None where there is none."""
        return self._db.get(list(keys)) if keys else []

    def write(self, changes: Sequence[Change], position: Position | None = None) -> None:
        """Apply changes in order and atomically, with how far in the changelog they reach."""
        batch = self._batch(raw_mode=True)
        for key, value in changes:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        if position is not None:
            batch.put(_POSITION_KEY, _POSITION.pack(*position))
        self._db.write(batch)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records."""
        for key, value in self._db.items():
            if key != _POSITION_KEY:
                yield key, value

    @property
    def position(self) -> Position:
        """How far in the changelog this database holds everything; `NOWHERE` if it is new."""
        value = self._db.get(_POSITION_KEY)
        if value is None:
            return NOWHERE
        if len(value) != _POSITION.size:
            raise StoreError(
                f"the database {self._path} was written by another version of dafu: delete it, "
                "the changelog rebuilds it"
            )
        return Position(*_POSITION.unpack(value))

    def close(self) -> None:
        """Flush and release the database."""
        self._db.close()


class RocksDBStore(PartitionedStore):
    """Holds its records on local disk; registered with Faust as `dafu-rocksdb://`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._partitions: dict[int, RocksDBRecords] = {}

    @property
    def directory(self) -> Path:
        """Where this table's databases are."""
        return Path(self.app.conf.tabledir) / f"{self.table_name}.rocksdb"

    def partition(self, number: int) -> RocksDBRecords:
        """The records of one partition, opened if need be."""
        records = self._partitions.get(number)
        if records is None:
            records = RocksDBRecords(self.directory / str(number))
            self._partitions[number] = records
        return records

    def open_partitions(self) -> list[int]:
        """Partitions open now."""
        return sorted(self._partitions)

    def drop(self, number: int) -> None:
        """Close a partition; its files stay, in case it comes back."""
        super().drop(number)
        records = self._partitions.pop(number, None)
        if records is not None:
            records.close()

    def items(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """All records of one partition."""
        return self.partition(number).items()

    def position(self, number: int) -> Position:
        """How far in the changelog a partition's database holds everything."""
        return self.partition(number).position

    def apply(self, number: int, changes: Sequence[Change], position: Position) -> None:
        """Write changes and how far in the changelog they reach, atomically."""
        self.partition(number).write(changes, position)

    def reset_state(self) -> None:
        """Delete this table's databases; the changelog brings them back."""
        super().reset_state()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def on_stop(self) -> None:
        """Close all databases."""
        for number in self.open_partitions():
            self.drop(number)
