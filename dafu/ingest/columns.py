"""Columns as files have them into columns as transactions have them, and which cells can not be.

Everything works on whole Arrow arrays. A cell that can not be converted becomes null and is
reported by its position, so that the reader can say what is wrong with it. Null stays null.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dafu.ingest.mapping import Cast, TimeFormat

__all__ = ["TIMESTAMP", "TYPES", "convert"]

TIMESTAMP: Final = pa.timestamp("ms", tz="UTC")
TYPES: Final[dict[str, Any]] = {
    "text": pa.string(),
    "float": pa.float64(),
    "int": pa.int64(),
    "bool": pa.bool_(),
    "timestamp": TIMESTAMP,
}
"""What each cast gives."""

_EXACT: Final = 2.0**53  # integers beyond it have lost digits as floats
_ZONED: Final = r"[T ]\d\d:?\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"
_TRUE: Final = ("1", "true", "t", "yes", "y", "1.0")
_FALSE: Final = ("0", "false", "f", "no", "n", "0.0")

_Convert = Callable[[Any], Any]


def convert(array: Any, cast: Cast | None, fmt: TimeFormat = "iso") -> tuple[Any, list[int]]:
    """Convert an Arrow array.

    Parameters
    ----------
    array
        What the file has.
    cast
        What is wanted: `text` is string, `float` is float64 without NaN and infinity, `int` is
        int64, `bool` is bool, `timestamp` is milliseconds in UTC; None keeps the type.
    fmt
        How to read times that are text or numbers.

    Returns
    -------
    array, bad
        The converted array and the positions of cells that can not be converted, null in it.
    """
    if isinstance(array.type, pa.DictionaryType):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        array = array.cast(pa.string())
    if cast is None:
        return array, []
    how = _TIMES[fmt] if cast == "timestamp" else _CONVERSIONS[cast]
    converted = _lenient(array, how, TYPES[cast])
    lost = pc.and_(pc.is_valid(array), pc.is_null(converted))
    return converted, pc.indices_nonzero(lost).to_pylist()


def _lenient(array: Any, how: _Convert, kind: Any) -> Any:
    """Convert what can be: halve until the cells that can not stand alone."""
    try:
        return how(array)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(array) <= 1:
            return pa.nulls(len(array), kind)
    middle = len(array) // 2
    parts = (array.slice(0, middle), array.slice(middle))
    return pa.concat_arrays([_lenient(part, how, kind) for part in parts])


def _is_text(array: Any) -> bool:
    kind = array.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _trimmed(array: Any) -> Any:
    """Text without surrounding blanks; blank text is null."""
    text = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)


def _text(array: Any) -> Any:
    if pa.types.is_floating(array.type):
        # An id that some tool took for a number: exact as long as it is an integer below 2**53.
        exact = pc.and_(pc.less(pc.abs(array), _EXACT), pc.equal(array, pc.trunc(array)))
        array = pc.if_else(exact, array, pa.scalar(None, array.type)).cast(pa.int64())
    text = array.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _float(array: Any) -> Any:
    if pa.types.is_boolean(array.type):
        raise pa.ArrowInvalid("a truth value is no number")
    values = (_trimmed(array) if _is_text(array) else array).cast(pa.float64())
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def _int(array: Any) -> Any:
    return (_trimmed(array) if _is_text(array) else array).cast(pa.int64())


def _bool(array: Any) -> Any:
    if pa.types.is_boolean(array.type):
        return array
    text = pc.utf8_lower(pc.utf8_trim_whitespace(array.cast(pa.string())))
    true = pc.is_in(text, pa.array(_TRUE))
    known = pc.or_(true, pc.is_in(text, pa.array(_FALSE)))
    return pc.if_else(known, true, pa.scalar(None, pa.bool_()))


def _milliseconds(times: Any) -> Any:
    """Arrow timestamps of any unit and zone, cut to milliseconds (towards the past)."""
    if times.type.unit in ("us", "ns"):
        times = pc.floor_temporal(times, unit="millisecond")
    return times.cast(pa.timestamp("ms", tz=times.type.tz)).cast(TIMESTAMP)


def _iso(array: Any) -> Any:
    kind = array.type
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            array = array.cast(pa.timestamp(kind.unit, tz="UTC"))
        return _milliseconds(array)
    if pa.types.is_date(kind):
        return array.cast(pa.timestamp("ms")).cast(TIMESTAMP)
    if not _is_text(array):
        raise pa.ArrowInvalid(f"{kind} is no ISO 8601 time")
    text = _trimmed(array).cast(pa.string())
    zoned = pc.fill_null(pc.match_substring_regex(text, _ZONED), False)
    none = pa.scalar(None, pa.string())
    naive = pc.if_else(zoned, none, text).cast(pa.timestamp("ns"))
    naive = naive.cast(pa.timestamp("ns", tz="UTC"))
    if pc.any(zoned).as_py():
        aware = pc.if_else(zoned, text, none).cast(pa.timestamp("ns", tz="UTC"))
        naive = pc.coalesce(naive, aware)
    return _milliseconds(naive)


def _epoch(milliseconds: int) -> _Convert:
    def epoch(array: Any) -> Any:
        if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
            return _iso(array)
        values = pc.floor(pc.multiply(_float(array), float(milliseconds)))
        return values.cast(pa.int64()).cast(pa.timestamp("ms")).cast(TIMESTAMP)

    return epoch


_CONVERSIONS: Final[dict[str, _Convert]] = {
    "text": _text,
    "float": _float,
    "int": _int,
    "bool": _bool,
}
_TIMES: Final[dict[str, _Convert]] = {
    "iso": _iso,
    "epoch_s": _epoch(1000),
    "epoch_ms": _epoch(1),
}
