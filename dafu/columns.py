"""Byte strings by the batch: one buffer, and where in it each of them is.

Keys, values and payloads travel between broker, stages and tables in this form, so that a batch
of a thousand records costs a few arrays and not some thousand objects, and compiled kernels read
it in place. Knows bytes and arrays, and nothing of what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NULL: Final = -1
"""The length of an absent string, which is not the same as an empty one."""

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


class ByteColumn:
    """n byte strings, any of which may be absent.

    Parameters
    ----------
    buffer : bytes-like or uint8 array
        Holds the strings, in any order and with anything between them. Not copied, and seen as
        read-only from here on, so that compiled kernels always meet one and the same array type.
    starts : int64 [n]
        Where each string begins.
    lengths : int64 [n]
        Its length, NULL where there is none.

    Examples
    --------
    >>> column = ByteColumn.of([b"one", None, b""])
    >>> column.tolist()
    [b'one', None, b'']
    >>> column.take([0, 0])[1]
    b'one'
    """

    __slots__ = ("_bytes", "buffer", "lengths", "starts")

    def __init__(self, buffer: Any, starts: I64, lengths: I64) -> None:
        array = np.frombuffer(buffer, dtype=np.uint8) if len(buffer) else np.empty(0, np.uint8)
        array.flags.writeable = False
        self.buffer: U8 = array
        self.starts = starts
        self.lengths = lengths
        self._bytes = buffer if isinstance(buffer, bytes) else None

    @classmethod
    def of(cls, values: Sequence[bytes | None]) -> ByteColumn:
        """Copy the strings of a sequence."""
        try:
            joined = b"".join(values)  # type: ignore[arg-type]
            lengths = np.fromiter(map(len, values), np.int64, len(values))  # type: ignore[arg-type]
        except TypeError:
            joined = b"".join([v or b"" for v in values])
            sizes = (NULL if v is None else len(v) for v in values)
            lengths = np.fromiter(sizes, np.int64, len(values))
        return cls.packed(joined, lengths)

    @classmethod
    def packed(cls, buffer: Any, lengths: I64) -> ByteColumn:
        """Strings that stand in the buffer one after the other, without gaps."""
        starts = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(np.maximum(lengths[:-1], 0), out=starts[1:])
        return cls(buffer, starts, lengths)

    @classmethod
    def repeated(cls, value: bytes, n: int) -> ByteColumn:
        """One string n times, held once."""
        return cls(value, np.zeros(n, np.int64), np.full(n, len(value), np.int64))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> bytes | None:
        length = int(self.lengths[i])
        if length < 0:
            return None
        start = int(self.starts[i])
        if self._bytes is not None:
            return self._bytes[start : start + length]
        return self.buffer[start : start + length].tobytes()

    def __iter__(self) -> Iterator[bytes | None]:
        return iter(self.tolist())

    def __repr__(self) -> str:
        return f"<ByteColumn of {len(self)}, {self.size} bytes>"

    @property
    def size(self) -> int:
        """Bytes of all strings together."""
        return int(np.maximum(self.lengths, 0).sum())

    @property
    def absent(self) -> NDArray[np.bool_]:
        """bool [n]: which strings are absent."""
        return self.lengths < 0

    def tolist(self) -> list[bytes | None]:
        """All of them as objects."""
        ends = (self.starts + self.lengths).tolist()
        if self._bytes is not None or len(self.buffer) <= 2 * self.size + 64:
            # Slices of `bytes` are the cheapest; a copy of the buffer pays unless most of it is
            # something else.
            raw: Any = self._bytes or self.buffer.tobytes()
            found = [raw[a:b] for a, b in zip(self.starts.tolist(), ends, strict=True)]
        else:
            view = memoryview(self.buffer.data)
            found = [bytes(view[a:b]) for a, b in zip(self.starts.tolist(), ends, strict=True)]
        for i in np.flatnonzero(self.absent).tolist():
            found[i] = None
        return found

    def present(self) -> list[bytes]:
        """As `tolist`, with an empty string for an absent one."""
        return [value or b"" for value in self.tolist()]

    def take(self, indices: Any) -> ByteColumn:
        """The strings at these positions (integers or bool [n]), without copying them."""
        at = np.asarray(indices)
        if at.dtype != np.bool_:
            at = at.astype(np.int64, copy=False)
        buffer = self.buffer if self._bytes is None else self._bytes
        return ByteColumn(buffer, self.starts[at], self.lengths[at])

    @classmethod
    def joined(cls, columns: Sequence[ByteColumn]) -> ByteColumn:
        """The strings of several columns, one column after the other; buffers are copied."""
        bases = np.cumsum([0, *(len(c.buffer) for c in columns)])
        return cls(
            np.concatenate([c.buffer for c in columns]),
            np.concatenate([c.starts + base for c, base in zip(columns, bases, strict=False)]),
            np.concatenate([c.lengths for c in columns]),
        )
