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

from dafu.kernel import kernel

NULL: Final = -1
"""The length of an absent string, which is not the same as an empty one."""

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

_EMPTY: Final[U8] = np.empty(0, np.uint8)
_EMPTY.setflags(write=False)


def positions(mask: Any) -> I64:
    """Where an array of one dimension is true, or not 0: `np.flatnonzero` without its detours."""
    found: I64 = mask.nonzero()[0]
    return found


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
        array = np.frombuffer(buffer, dtype=np.uint8) if len(buffer) else _EMPTY
        self._bytes = buffer if isinstance(buffer, bytes) else None
        if self._bytes is None:
            array.setflags(write=False)
        self.buffer: U8 = array
        self.starts = starts
        self.lengths = lengths

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
        return cls(buffer, _starts(lengths), lengths)

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

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ByteColumn | list):
            return self.tolist() == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[bytes | None]:
        return iter(self.tolist())

    def __repr__(self) -> str:
        return f"<ByteColumn of {len(self)}, {self.size} bytes>"

    @property
    def size(self) -> int:
        """Bytes of all strings together."""
        return _measure(self.lengths)[0]

    @property
    def absent(self) -> NDArray[np.bool_]:
        """bool [n]: which strings are absent."""
        return self.lengths < 0

    def tolist(self) -> list[bytes | None]:
        """All of them as objects."""
        found: list[bytes | None] = [*self.present()]
        if _measure(self.lengths)[1]:
            for i in positions(self.absent).tolist():
                found[i] = None
        return found

    def strings(self) -> list[str | None]:
        """All of them as text; they must be UTF-8."""
        raw, starts, ends = self._slices()
        found: list[str | None]
        if raw.isascii():
            text = raw.decode("ascii")
            found = [text[a:b] for a, b in zip(starts, ends, strict=True)]
        else:
            found = [raw[a:b].decode() for a, b in zip(starts, ends, strict=True)]
        if _measure(self.lengths)[1]:
            for i in positions(self.absent).tolist():
                found[i] = None
        return found

    def _slices(self) -> tuple[bytes, list[int], list[int]]:
        """Bytes that hold all strings and little else, and where each starts and ends."""
        column = self if len(self.buffer) <= 2 * self.size + 64 else self.packed_copy()
        raw = column._bytes if column._bytes is not None else column.buffer.tobytes()
        return raw, column.starts.tolist(), _ends(column.starts, column.lengths).tolist()

    def packed_copy(self) -> ByteColumn:
        """The same strings in a buffer that holds nothing else."""
        return ByteColumn.joined([self])

    def present(self) -> list[bytes]:
        """As `tolist`, with an empty string for an absent one."""
        raw, starts, ends = self._slices()
        return [raw[a:b] for a, b in zip(starts, ends, strict=True)]

    def take(self, indices: Any) -> ByteColumn:
        """The strings at these positions (integers or bool [n]), without copying them."""
        at = np.asarray(indices)
        if at.dtype != np.bool_:
            at = at.astype(np.int64, copy=False)
        return self.elsewhere(self.starts[at], self.lengths[at])

    def part(self, first: int, end: int) -> ByteColumn:
        """The strings first..end-1, without copying anything."""
        return self.elsewhere(self.starts[first:end], self.lengths[first:end])

    def elsewhere(self, starts: I64, lengths: I64) -> ByteColumn:
        """Other strings in the same buffer."""
        column = ByteColumn.__new__(ByteColumn)
        column.buffer, column._bytes = self.buffer, self._bytes
        column.starts, column.lengths = starts, lengths
        return column

    @classmethod
    def joined(cls, columns: Sequence[ByteColumn]) -> ByteColumn:
        """The strings of several columns, one column after the other, in a buffer of their own."""
        sizes = [column.size for column in columns]
        n = sum(map(len, columns))
        out = np.empty(sum(sizes), np.uint8)
        starts, lengths = np.empty(n, np.int64), np.empty(n, np.int64)
        at = first = 0
        for column, size in zip(columns, sizes, strict=True):
            _append(column.buffer, column.starts, column.lengths, first, at, out, starts, lengths)
            at += size
            first += len(column)
        return cls(out, starts, lengths)


@kernel
def _starts(lengths: I64) -> I64:
    starts = np.empty(len(lengths), np.int64)
    at = 0
    for i in range(len(lengths)):
        starts[i] = at
        at += max(lengths[i], 0)
    return starts


@kernel
def _ends(starts: I64, lengths: I64) -> I64:
    ends = np.empty(len(lengths), np.int64)
    for i in range(len(lengths)):
        ends[i] = starts[i] + max(lengths[i], 0)
    return ends


@kernel
def _measure(lengths: I64) -> tuple[int, int]:
    """Bytes of all strings, and how many are absent."""
    size = absent = 0
    for i in range(len(lengths)):
        if lengths[i] < 0:
            absent += 1
        else:
            size += lengths[i]
    return size, absent


@kernel
def copy_bytes(source: U8, at: int, target: U8, to: int, n: int) -> None:
    """Copy n bytes, none if n is negative; for kernels, which have checked that they are there.

    The indices are unsigned so that numba need not look for negative ones: only then the loop
    becomes a block copy, which is some twenty times as fast.
    """
    p, q = np.uint64(at), np.uint64(to)
    for i in range(np.uint64(max(n, 0))):
        target[q + i] = source[p + i]


@kernel
def same_bytes(a: U8, a_at: int, b: U8, b_at: int, n: int) -> bool:
    """Whether n bytes are the same; for kernels, which have checked that they are there."""
    p, q = np.uint64(a_at), np.uint64(b_at)
    for i in range(np.uint64(max(n, 0))):  # noqa: SIM110 (a kernel has no generators)
        if a[p + i] != b[q + i]:
            return False
    return True


@kernel
def _append(
    buffer: U8,
    starts: I64,
    lengths: I64,
    first: int,
    at: int,
    out: U8,
    out_starts: I64,
    out_lengths: I64,
) -> None:
    """Copy strings to `out` from `at` on, and note where they are from number `first` on."""
    for i in range(len(starts)):
        n = max(lengths[i], 0)
        copy_bytes(buffer, starts[i], out, at, n)
        out_starts[first + i] = at
        out_lengths[first + i] = lengths[i]
        at += n


@kernel
def _starting(buffer: U8, starts: I64, lengths: I64, byte: int, out: Any) -> None:
    for i in range(len(starts)):
        out[i] = lengths[i] > 0 and buffer[starts[i]] == byte


def starting_with(column: ByteColumn, byte: int) -> NDArray[np.bool_]:
    """bool [n]: which strings begin with a byte."""
    out = np.empty(len(column), np.bool_)
    _starting(column.buffer, column.starts, column.lengths, byte, out)
    return out


@kernel
def _prefixes(buffer: U8, starts: I64, size: int, out: U8) -> None:
    for i in range(len(starts)):
        copy_bytes(buffer, starts[i], out, i * size, size)


def prefixes(column: ByteColumn, size: int) -> U8:
    """The first `size` bytes of every string, one after the other.

    Raises
    ------
    ValueError
        If a string is shorter.
    """
    if len(column) and column.lengths.min() < size:
        raise ValueError(f"a string is shorter than {size} bytes")
    out = np.empty(len(column) * size, np.uint8)
    _prefixes(column.buffer, column.starts, size, out)
    return out


@kernel
def _equal(
    a: U8, a_starts: I64, a_lengths: I64, b: U8, b_starts: I64, b_lengths: I64, out: Any
) -> None:
    for i in range(len(a_starts)):
        n = a_lengths[i]
        out[i] = n == b_lengths[i] and same_bytes(a, a_starts[i], b, b_starts[i], n)


def equal(a: ByteColumn, b: ByteColumn) -> NDArray[np.bool_]:
    """bool [n]: where two columns of n strings hold the same; absent equals absent only."""
    if len(a) != len(b):
        raise ValueError(f"columns of {len(a)} and {len(b)} strings")
    out = np.empty(len(a), np.bool_)
    _equal(a.buffer, a.starts, a.lengths, b.buffer, b.starts, b.lengths, out)
    return out


@kernel
def _interleave(a: U8, size: int, b: U8, b_starts: I64, b_lengths: I64, out: U8) -> None:
    at = 0
    for i in range(len(b_starts)):
        copy_bytes(a, i * size, out, at, size)
        copy_bytes(b, b_starts[i], out, at + size, b_lengths[i])
        at += size + max(b_lengths[i], 0)


def prepend(heads: U8, size: int, column: ByteColumn) -> ByteColumn:
    """Every string with `size` bytes of its own ahead of it.

    Parameters
    ----------
    heads : uint8 [n * size]
    column : ByteColumn [n]
        An absent one counts as empty.
    """
    lengths = np.maximum(column.lengths, 0) + size
    out = np.empty(int(lengths.sum()), np.uint8)
    _interleave(heads, size, column.buffer, column.starts, column.lengths, out)
    return ByteColumn.packed(out, lengths)
