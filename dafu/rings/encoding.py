"""State of identifiers and rings as bytes: a version, then MessagePack. Knows no meaning.

Unlike the packed state of users and merchants, these records differ in length and are few enough
for MessagePack. Layouts are MessagePack arrays in the order of their fields. A field may be added
at the end with a default without a new version; anything else raises `VERSION` and adds a decoder
of the former layout.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from dafu.tables.migrations import StateError, damaged

VERSION: Final = 1
_PREFIX: Final = struct.pack("<H", VERSION)
_encode = msgspec.msgpack.Encoder().encode

T = TypeVar("T")


def pack(record: Any) -> bytes:
    """A record as bytes, in the present version."""
    return _PREFIX + _encode(record)


def reader(kind: str, layout: type[T]) -> Callable[[bytes, bytes], T]:
    """A function of (key, bytes) that gives a record of this layout.

    It raises `StateError` if the bytes are damaged or from a later version of dafu; `kind` is what
    the message calls it.
    """
    decode = msgspec.msgpack.Decoder(layout).decode

    def read(key: bytes, raw: bytes) -> T:
        if not raw.startswith(_PREFIX):
            raise _unknown(kind, key, raw)
        try:
            return decode(memoryview(raw)[len(_PREFIX) :])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise damaged(kind, key) from None

    return read


def _unknown(kind: str, key: bytes, raw: bytes) -> StateError:
    number = int.from_bytes(raw[: len(_PREFIX)], "little")
    if len(raw) < len(_PREFIX) or not number:
        return damaged(kind, key)
    return StateError(
        f"{kind} state record {key!r} has schema version {number}, this version of dafu reads "
        f"{VERSION}: a later one wrote it. Run that version again, or let this one start with "
        "tables of its own (a new DAFU_APP_ID)"
    )
