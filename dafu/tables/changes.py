"""What a batch writes to a table: records in the order in which they must be written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from dafu.columns import ByteColumn

Change = tuple[bytes, bytes | None]
"""A key and its new value; None deletes it."""


class Changes(Sequence[Change]):
    """Keys and new values as columns; an absent value deletes its key.

    The columns are what goes to the changelog. Seen as a sequence it yields pairs.
    `dict()` has to be given its iterator: it takes what has `keys` for a mapping.
    """

    __slots__ = ("keys", "values")

    def __init__(self, keys: ByteColumn, values: ByteColumn) -> None:
        self.keys = keys
        self.values = values

    @classmethod
    def of(cls, changes: Sequence[Change]) -> Changes:
        """Copy a sequence of pairs."""
        return cls(ByteColumn.of([k for k, _ in changes]), ByteColumn.of([v for _, v in changes]))

    def then(self, later: Changes) -> Changes:
        """These changes, and after them the later ones."""
        if not len(self):
            return later
        if not len(later):
            return self
        return Changes(
            ByteColumn.joined([self.keys, later.keys]),
            ByteColumn.joined([self.values, later.values]),
        )

    def pairs(self) -> list[Change]:
        """All changes as pairs."""
        return list(zip(self.keys.present(), self.values.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> Change: ...
    @overload
    def __getitem__(self, at: slice) -> Changes: ...
    def __getitem__(self, at: int | slice) -> Change | Changes:
        if isinstance(at, slice):
            indices = np.arange(len(self))[at]
            return Changes(self.keys.take(indices), self.values.take(indices))
        return self.keys[at] or b"", self.values[at]

    def __iter__(self) -> Iterator[Change]:
        return iter(self.pairs())

    def __eq__(self, other: object) -> bool:
        return self.pairs() == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Changes {self.pairs()!r}>"


NOTHING = Changes.of([])
"""No change."""
