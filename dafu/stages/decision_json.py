"""JSON of a whole batch in one pass: the constant text of a template, each row's values between.

A template is cut from a document that msgspec encoded with slots in place of the values that
differ by row. So the schema stays the only place that knows fields and their order, and what is
written here is byte for byte what msgspec writes. Knows text, numbers and times; knows nothing of
what a decision is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from dafu.columns import ByteColumn, copy_bytes
from dafu.errors import DafuError
from dafu.kernel import kernel

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

MICRO: Final = 1_000_000
"""Numbers are whole millionths: 250,000 is written 0.25."""

YEAR_1_MS: Final = -62_135_596_800_000
YEAR_10000_MS: Final = 253_402_300_800_000
"""Bounds of the times that have a year of four digits."""

_TEXT: Final = 0
_NUMBER: Final = 1
_TIME: Final = 2
_NUL: Final = b"\0"  # JSON has to escape it, so it stands nowhere in an encoded document
_NUMBER_WIDTH: Final = len("0.123456")
_TIME_WIDTH: Final = len("2000-01-01T00:00:00.000Z")

_ZERO: Final = ord("0")
_POINT: Final = ord(".")
_DASH: Final = ord("-")
_COLON: Final = ord(":")


class UnwritableValueError(DafuError, ValueError):
    """A value that has no form in the document: a score beyond 0..1, an absent text, a far time."""


def text_slot(column: int) -> Any:
    """Where a row's text of this column goes, as the JSON that it is."""
    return _slot(_TEXT, column)


def quoted_text_slot(column: int) -> Any:
    """Where a row's text of this column goes, as the content of a JSON string."""
    return msgspec.Raw(b'"%s"' % bytes(_slot(_TEXT, column)))


def number_slot(column: int) -> Any:
    """Where a row's number of this column goes."""
    return _slot(_NUMBER, column)


def time_slot() -> Any:
    """Where a row's time goes, as a JSON string."""
    return msgspec.Raw(b'"%s"' % bytes(_slot(_TIME, 0)))


def _slot(kind: int, column: int) -> msgspec.Raw:
    return msgspec.Raw(_NUL + bytes((kind + 1, column + 1)))  # + 1: none of them is a NUL


class Template:
    """A document with slots, ready to be filled for whole batches.

    Parameters
    ----------
    document : bytes
        JSON that msgspec encoded from a value with slots (`text_slot` and so on) in it.

    Examples
    --------
    >>> document = {"id": quoted_text_slot(0), "risk": number_slot(0), "at": time_slot(), "v": 1}
    >>> rows = Template(msgspec.json.encode(document)).fill(
    ...     [ByteColumn.of([b"a", b"b"])],
    ...     np.array([[500_000], [7]]),
    ...     np.array([0, 1_700_000_000_123]),
    ... )
    >>> print(rows[0].decode())
    {"id":"a","risk":0.5,"at":"1970-01-01T00:00:00.000Z","v":1}
    >>> print(rows[1].decode())
    {"id":"b","risk":7e-6,"at":"2023-11-14T22:13:20.123Z","v":1}
    """

    def __init__(self, document: bytes) -> None:
        first, *rest = document.split(_NUL)
        pieces = ByteColumn.of([first, *(part[2:] for part in rest)])
        self._pieces = pieces
        self._kinds = np.array([part[0] - 1 for part in rest], dtype=np.int64)
        self._columns = np.array([part[1] - 1 for part in rest], dtype=np.int64)
        numbers = int((self._kinds == _NUMBER).sum())
        times = int((self._kinds == _TIME).sum())
        self._width = pieces.size + numbers * _NUMBER_WIDTH + times * _TIME_WIDTH
        self._texts = self._columns[self._kinds == _TEXT]

    def fill(self, texts: Sequence[ByteColumn], micros: I64, times: I64) -> ByteColumn:
        """The documents of n rows.

        Parameters
        ----------
        texts : sequence of ByteColumn, each of n, none absent
            By column number of the text slots.
        micros : int64 [n, columns], each 0..MICRO
            By column number of the number slots, in millionths.
        times : int64 [n], epoch milliseconds
            Written in UTC, ISO 8601.

        Raises
        ------
        UnwritableValueError
            If a text is absent, a number is beyond 0..1 or a time beyond the years 1..9999.
        """
        starts = np.array([text.starts for text in texts], dtype=np.int64)
        lengths = np.array([text.lengths for text in texts], dtype=np.int64)
        _check(lengths, micros, times)
        size = len(times) * self._width + int(lengths[self._texts].sum())
        out = np.empty(size, dtype=np.uint8)
        sizes = np.empty(len(times), dtype=np.int64)
        end = _fill(
            self._pieces.buffer,
            self._pieces.lengths,
            self._kinds,
            self._columns,
            tuple(text.buffer for text in texts),
            starts,
            lengths,
            np.ascontiguousarray(micros, dtype=np.int64),
            np.ascontiguousarray(times, dtype=np.int64),
            out,
            sizes,
        )
        return ByteColumn.packed(out[:end], sizes)


def _check(lengths: I64, micros: I64, times: I64) -> None:
    """Refuse what the kernel, which trusts its input, would write as rubbish."""
    for what, values, low, high in (
        ("text's length", lengths, 0, np.iinfo(np.int64).max),
        ("number in millionths", micros, 0, MICRO),
        ("time in epoch milliseconds", times, YEAR_1_MS, YEAR_10000_MS - 1),
    ):
        if values.size and not (values.min() >= low and values.max() <= high):
            wrong = values[(values < low) | (values > high)][0]
            raise UnwritableValueError(
                f"a {what} is {wrong}, which is not within {low}..{high}: "
                "what computed it is at fault"
            )


@kernel
def _fill(
    pieces: U8,
    piece_lengths: I64,
    kinds: I64,
    columns: I64,
    buffers: tuple[U8, ...],
    starts: I64,
    lengths: I64,
    micros: I64,
    times: I64,
    out: U8,
    sizes: I64,
) -> int:
    """Write the rows one after the other, their sizes into `sizes`; returns where they end."""
    at = 0
    for i in range(times.shape[0]):
        begin = at
        at = _put(out, at, pieces, 0, piece_lengths[0])
        piece = piece_lengths[0]
        for s in range(kinds.shape[0]):
            c = columns[s]
            if kinds[s] == _TEXT:
                at = _put(out, at, buffers[c], starts[c, i], lengths[c, i])
            elif kinds[s] == _NUMBER:
                at = _put_number(out, at, micros[i, c])
            else:
                at = _put_time(out, at, times[i])
            at = _put(out, at, pieces, piece, piece_lengths[s + 1])
            piece += piece_lengths[s + 1]
        sizes[i] = at - begin
    return at


@kernel
def _put(out: U8, at: int, source: U8, start: int, n: int) -> int:
    copy_bytes(source, start, out, at, n)
    return at + n


@kernel
def _put_number(out: U8, at: int, micro: int) -> int:
    """The shortest text that reads back as the double nearest to so many millionths."""
    if 0 < micro < 10:
        # From here down the shortest text has an exponent; 0.00001 has none.
        out[at] = _ZERO + micro
        out[at + 1] = ord("e")
        out[at + 2] = _DASH
        out[at + 3] = _ZERO + 6
        return at + 4
    out[at] = _ZERO + micro // MICRO
    out[at + 1] = _POINT
    rest = micro % MICRO
    digits = 6
    while digits > 1 and rest % 10 == 0:
        rest //= 10
        digits -= 1
    put_digits(out, at + 2, rest, digits)
    return at + 2 + digits


@kernel
def put_digits(out: U8, at: int, value: int, n: int) -> None:
    """Write the last n decimal digits of a number that is not negative."""
    for i in range(at + n - 1, at - 1, -1):
        out[i] = _ZERO + value % 10
        value //= 10


@kernel
def _put_time(out: U8, at: int, time: int) -> int:
    """Year, month and day from the day number.

    Hinnant, "chrono-Compatible Low-Level Date Algorithms" (2013), `civil_from_days`: years start
    in March, so that the leap day comes last, and eras of 400 years repeat exactly.
    """
    days = time // 86_400_000
    ms = time - days * 86_400_000
    z = days + 719_468
    era = z // 146_097
    day_of_era = z - era * 146_097
    year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * march_month + 2) // 5 + 1
    month = march_month + 3 if march_month < 10 else march_month - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    put_digits(out, at, year, 4)
    out[at + 4] = _DASH
    put_digits(out, at + 5, month, 2)
    out[at + 7] = _DASH
    put_digits(out, at + 8, day, 2)
    out[at + 10] = ord("T")
    put_digits(out, at + 11, ms // 3_600_000, 2)
    out[at + 13] = _COLON
    put_digits(out, at + 14, ms // 60_000 % 60, 2)
    out[at + 16] = _COLON
    put_digits(out, at + 17, ms // 1000 % 60, 2)
    out[at + 19] = _POINT
    put_digits(out, at + 20, ms % 1000, 3)
    out[at + 23] = ord("Z")
    return at + _TIME_WIDTH
