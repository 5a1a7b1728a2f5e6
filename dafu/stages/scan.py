"""Transactions read from JSON in one pass over a batch's bytes, as columns, without objects.

Takes plain records only: flat, printable ASCII without escapes, every known field once and good,
numbers that are exact by simple means. Of those it reads exactly what
`dafu.schema.parse_transaction` reads; all others are left to that, record by record. Which fields
there are, and their limits, is the schema's alone to say. Knows no state and no stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.columns import NULL, ByteColumn
from dafu.hashing import xxh64
from dafu.kernel import kernel, long_kernel
from dafu.schema import MAX_RECORD_BYTES, MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS, Transaction
from dafu.stages.lexer import (
    FAILED,
    after_blanks,
    after_literal,
    integer,
    iso_ms,
    number,
    string_end,
)

__all__ = [
    "HASHED_FIELDS",
    "NUMBER_FIELDS",
    "TEXT_FIELDS",
    "NumberField",
    "Scan",
    "TextField",
    "scan",
]


class TextField(Struct, frozen=True):
    """A text field of a transaction; lengths in characters, inclusive."""

    name: str
    min_length: int
    max_length: int
    required: bool


class NumberField(Struct, frozen=True):
    """A number field of a transaction, with its bounds, inclusive."""

    name: str
    low: float
    high: float
    required: bool


class Scan(Struct, frozen=True):
    """The transactions of n records, column by column.

    Attributes
    ----------
    plain : bool [n]
        Whether the record was read here. Where not, it may be good or bad, and its row is empty:
        not a number, time 0, no texts, hashes 0.
    amount : float64 [n]
    time : int64 [n]
        Epoch milliseconds, UTC.
    places : float64 [n, 4]
        NUMBER_FIELDS, NaN where absent.
    text_start, text_length : int32 [n, T]
        Where in its record each of TEXT_FIELDS stands, in bytes from the record's start; the
        length is NULL where it is absent.
    hashes : uint64 [n, H]
        `dafu.hashing.hash64` of HASHED_FIELDS, 0 where absent or empty.
    """

    plain: NDArray[np.bool_]
    amount: NDArray[np.float64]
    time: NDArray[np.int64]
    places: NDArray[np.float64]
    text_start: NDArray[np.int32]
    text_length: NDArray[np.int32]
    hashes: NDArray[np.uint64]


HASHED_FIELDS: Final = (
    "transaction_id",
    "user_id",
    "merchant_id",
    "country",
    "device_fingerprint",
    "ip_address",
    "card_id",
    "email",
)


def _fields(schema: type[Struct]) -> tuple[tuple[TextField, ...], tuple[NumberField, ...]]:
    """Every field of the schema but the timestamp, in its order."""
    texts = []
    numbers = []
    described: Any = msgspec.inspect.type_info(schema)
    for field in described.fields:
        name = field.encode_name
        kinds = getattr(field.type, "types", (field.type,))
        others = [k for k in kinds if not isinstance(k, msgspec.inspect.NoneType)]
        required = others == list(kinds)
        match others:
            case [msgspec.inspect.StrType(low, int(high), None)]:
                texts.append(TextField(name, low or 0, high, required))
            case [msgspec.inspect.FloatType(None, float(low), None, float(high), None)]:
                numbers.append(NumberField(name, low, high, required))
            case _ if name != "timestamp":
                raise TypeError(f"no scanner for {name} of {schema.__name__}: {field.type}")
    return tuple(texts), tuple(numbers)


TEXT_FIELDS, _NUMBERS = _fields(Transaction)
NUMBER_FIELDS: Final = tuple(f for f in _NUMBERS if f.name != "amount")

# Within this module a field is a number: texts first, then amount, places, and the timestamp.
_VALUES: Final = (*(f for f in _NUMBERS if f.name == "amount"), *NUMBER_FIELDS)
_NAMES: Final = (*(f.name for f in TEXT_FIELDS), *(f.name for f in _VALUES), "timestamp")
_N_TEXTS: Final = len(TEXT_FIELDS)
_AMOUNT: Final = _N_TEXTS
_TIMESTAMP: Final = len(_NAMES) - 1
_UNKNOWN: Final = -1
_NEEDED: Final = [*(f.required for f in TEXT_FIELDS), *(f.required for f in _VALUES), True]
_REQUIRED: Final = sum(1 << field for field, needed in enumerate(_NEEDED) if needed)
_MIN_LENGTHS: Final = np.array([f.min_length for f in TEXT_FIELDS])
_MAX_LENGTHS: Final = np.array([f.max_length for f in TEXT_FIELDS])
_LOWS: Final = np.array([f.low for f in _VALUES])
_HIGHS: Final = np.array([f.high for f in _VALUES])
_HASHED: Final = np.array([_NAMES.index(name) for name in HASHED_FIELDS])


def _perfect_hash(names: Sequence[str]) -> tuple[int, int, int, NDArray[np.int8]]:
    """Multipliers for length, second and last byte that give each name a slot of its own."""
    for a, b, c in product(range(_SLOTS), repeat=3):
        slots = {(len(x) * a + ord(x[1]) * b + ord(x[-1]) * c) % _SLOTS: x for x in names}
        if len(slots) == len(names):
            table = np.full(_SLOTS, _UNKNOWN, np.int8)
            for slot, name in slots.items():
                table[slot] = names.index(name)
            return a, b, c, table
    raise TypeError(f"no perfect hash for these names; let it see more of them: {names}")


_SLOTS: Final = 64
_BY_LENGTH, _BY_SECOND, _BY_LAST, _SLOT_FIELD = _perfect_hash(_NAMES)
_NAME_LENGTHS: Final = np.array([len(name) for name in _NAMES])
_NAME_BYTES: Final = np.array(_NAMES, dtype=bytes).view(np.uint8).reshape(len(_NAMES), -1)


def scan(values: ByteColumn) -> Scan:
    """Read a batch of records; what is not plain is left to `parse_transaction`.

    Parameters
    ----------
    values : ByteColumn [n]
        JSON text; absent, empty and oversized ones are not plain.
    """
    n = len(values)
    result = Scan(
        plain=np.empty(n, np.bool_),
        amount=np.empty(n, np.float64),
        time=np.empty(n, np.int64),
        places=np.empty((n, len(NUMBER_FIELDS)), np.float64),
        text_start=np.empty((n, _N_TEXTS), np.int32),
        text_length=np.empty((n, _N_TEXTS), np.int32),
        hashes=np.empty((n, len(HASHED_FIELDS)), np.uint64),
    )
    _scan(values.buffer, values.starts, values.lengths, *msgspec.structs.astuple(result))
    return result


@long_kernel
def _scan(
    text: NDArray[np.uint8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    plain: NDArray[np.bool_],
    amount: NDArray[np.float64],
    time: NDArray[np.int64],
    places: NDArray[np.float64],
    text_start: NDArray[np.int32],
    text_length: NDArray[np.int32],
    hashes: NDArray[np.uint64],
) -> None:
    for i in range(len(starts)):
        start = starts[i]
        end = start + lengths[i]
        _clear(i, amount, time, places, text_start, text_length, hashes)
        plain[i] = (
            1 <= lengths[i] <= MAX_RECORD_BYTES
            and start >= 0
            and end <= len(text)
            and _record(text, start, end, i, amount, time, places, text_start, text_length)
        )
        if not plain[i]:
            _clear(i, amount, time, places, text_start, text_length, hashes)
            continue
        for k in range(len(_HASHED)):
            field = _HASHED[k]
            if text_length[i, field] > 0:
                at = start + text_start[i, field]
                hashes[i, k] = xxh64(text, at, text_length[i, field])


@kernel
def _clear(
    i: int,
    amount: NDArray[np.float64],
    time: NDArray[np.int64],
    places: NDArray[np.float64],
    text_start: NDArray[np.int32],
    text_length: NDArray[np.int32],
    hashes: NDArray[np.uint64],
) -> None:
    amount[i] = np.nan
    time[i] = 0
    places[i] = np.nan
    text_start[i] = 0
    text_length[i] = NULL
    hashes[i] = 0


@kernel
def _record(
    text: NDArray[np.uint8],
    start: int,
    end: int,
    i: int,
    amount: NDArray[np.float64],
    time: NDArray[np.int64],
    places: NDArray[np.float64],
    text_start: NDArray[np.int32],
    text_length: NDArray[np.int32],
) -> bool:
    """Read one record into row i; false if it is not plain, with the row in any state."""
    seen = 0
    p = after_blanks(text, start, end)
    if p >= end or text[p] != 123:  # {
        return False
    p += 1
    while True:
        p = after_blanks(text, p, end)
        if p >= end or text[p] != 34:  # "
            return False
        key = p + 1
        p = string_end(text, key, end)
        if p == FAILED:
            return False
        field = _field(text, key, p - key)
        p = after_blanks(text, p + 1, end)
        if p >= end or text[p] != 58:  # :
            return False
        p = after_blanks(text, p + 1, end)
        if p >= end:
            return False
        if field == _UNKNOWN:
            p = _after_unknown(text, p, end)
        else:
            # The last one of several wins in a full parser, but all of them must be good.
            if seen >> field & 1:
                return False
            seen |= 1 << field
            if text[p] == 110:  # null
                if _REQUIRED >> field & 1:
                    return False
                p = after_literal(text, p, end)
            elif field < _N_TEXTS:
                if text[p] != 34:
                    return False
                first = p + 1
                p = string_end(text, first, end)
                length = p - first
                if p == FAILED or length < _MIN_LENGTHS[field] or length > _MAX_LENGTHS[field]:
                    return False
                text_start[i, field] = first - start
                text_length[i, field] = length
                p += 1
            elif field == _TIMESTAMP:
                if text[p] == 34:
                    first = p + 1
                    p = string_end(text, first, end)
                    if p == FAILED:
                        return False
                    ms = iso_ms(text, first, p)
                    p += 1
                else:
                    p, ms = integer(text, p, end)
                if ms < MIN_TIMESTAMP_MS or ms >= MAX_TIMESTAMP_MS:
                    return False
                time[i] = ms
            else:
                p, value, exact = number(text, p, end)
                bound = field - _AMOUNT
                if not (exact and _LOWS[bound] <= value <= _HIGHS[bound]):
                    return False
                if field == _AMOUNT:
                    amount[i] = value
                else:
                    places[i, bound - 1] = value
        if p == FAILED:
            return False
        p = after_blanks(text, p, end)
        if p >= end:
            return False
        if text[p] == 125:  # }
            break
        if text[p] != 44:  # ,
            return False
        p += 1
    return after_blanks(text, p + 1, end) == end and seen & _REQUIRED == _REQUIRED


@kernel
def _field(text: NDArray[np.uint8], at: int, length: int) -> int:
    """Which field has this name, or _UNKNOWN."""
    if length < 2:
        return _UNKNOWN
    slot = length * _BY_LENGTH + text[at + 1] * _BY_SECOND + text[at + length - 1] * _BY_LAST
    field = int(np.int64(_SLOT_FIELD[slot % _SLOTS]))
    if field == _UNKNOWN or length != _NAME_LENGTHS[field]:
        return _UNKNOWN
    for k in range(length):
        if text[at + k] != _NAME_BYTES[field, k]:
            return _UNKNOWN
    return field


@kernel
def _after_unknown(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Where the value of an unknown field ends; FAILED if it is nested or no value."""
    if text[at] == 34:
        p = string_end(text, at + 1, end)
        return FAILED if p == FAILED else p + 1
    if text[at] == 45 or 48 <= text[at] <= 57:
        p, _, _ = number(text, at, end)
        return p
    return after_literal(text, at, end)
