"""Arrow columns into JSON text, column by column instead of row by row.

A value always gives the same text, whatever else is in its column. Null members are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["ISO_MS", "merged", "objects"]

ISO_MS: Final = "%Y-%m-%dT%H:%M:%SZ"  # Arrow writes the milliseconds of millisecond times
_TO_ESCAPE: Final = r'["\\\x00-\x1f]'
_NONE: Final = pa.scalar(None, pa.string())


def objects(columns: Mapping[str, Any]) -> Any:
    """One JSON object a row, as text, of the members that are not null; null where none is left.

    Parameters
    ----------
    columns
        Arrow arrays of equal length by member name, in the order of the members.

    Returns
    -------
    pyarrow.StringArray
    """
    members = [_member(name, array) for name, array in columns.items()]
    joined = pc.binary_join_element_wise(*members, "", null_handling="replace")
    text = pc.binary_join_element_wise("{", pc.utf8_slice_codeunits(joined, 1), "}", "")
    return pc.if_else(pc.equal(joined, ""), _NONE, text)


def merged(first: Any, second: Any) -> Any:
    """The members of two objects (as `objects` gives them) in one; null counts as no members."""
    head = pc.utf8_slice_codeunits(first, 0, -1)
    both = pc.binary_join_element_wise(head, pc.utf8_slice_codeunits(second, 1), ",")
    return pc.coalesce(both, first, second)


def _member(name: str, array: Any) -> Any:
    prefix = "," + orjson.dumps(name).decode() + ":"
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        array = array.cast(pa.string())
        if pc.any(pc.match_substring_regex(array, _TO_ESCAPE)).as_py():
            return pc.binary_join_element_wise(prefix, _one_by_one(array), "")
        return pc.binary_join_element_wise(prefix + '"', array, '"', "")
    if pa.types.is_timestamp(kind):
        tz = kind.tz or "UTC"
        times = pc.floor_temporal(array, unit="millisecond").cast(pa.timestamp("ms", kind.tz))
        times = times.cast(pa.timestamp("ms", tz)).cast(pa.timestamp("ms", "UTC"))
        return pc.binary_join_element_wise(prefix + '"', pc.strftime(times, ISO_MS), '"', "")
    if pa.types.is_floating(kind):
        array = pc.if_else(pc.is_finite(array), array, pa.scalar(None, kind))  # JSON has none
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pc.binary_join_element_wise(prefix, array.cast(pa.string()), "")
    return pc.binary_join_element_wise(prefix, _one_by_one(array), "")


def _one_by_one(array: Any) -> Any:
    values = [
        None if value is None else orjson.dumps(value, default=str).decode()
        for value in array.to_pylist()
    ]
    return pa.array(values, pa.string())
