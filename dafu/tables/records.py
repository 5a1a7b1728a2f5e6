"""One partition's records in memory: for the memory store, for files and for tests. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dafu.tables.changes import Change, Changes


class MemoryRecords:
    """One partition's records in a dictionary."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values by key, None where there is none."""
        return list(map(self.data.get, keys))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records."""
        yield from self.data.items()

    def write(self, changes: Sequence[Change]) -> None:
        """Apply changes in order."""
        data = self.data
        if isinstance(changes, Changes) and not changes.values.absent.any():
            data.update(zip(changes.keys.present(), changes.values.present(), strict=True))
            return
        for key, value in changes:
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value
