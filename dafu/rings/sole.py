"""Identifiers that one user alone has, which nearly all are: packed, and stepped by a kernel.

Such an identifier ties nobody, so all that `dafu.rings.identifiers.step` does to it is to note
when it was seen, where, and what is known of its user. The kernel here does the same to a packed
record of fixed layout, `SOLE`, with the user's id behind it. Whether a state is packed that way
depends on the state alone, so that equal states have equal bytes whichever way they came about.
Pure, like the rest; it knows bytes and no JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.columns import I64, U8, ByteColumn, copy_bytes, same_bytes
from dafu.kernel import kernel
from dafu.rings.encoding import pack, reader
from dafu.rings.identifiers import (
    MAX_MERCHANTS,
    WINDOW_MS,
    IdentifierState,
    UserOfIdentifier,
)
from dafu.tables.migrations import damaged

SIGHTED: Final = np.dtype(
    [
        ("kind", "i8"),  # index in KINDS; -1 where the rest has no meaning
        ("user_at", "i8"),  # the user's id, in the buffer that it was read from
        ("user_n", "i8"),
        ("value_at", "i8"),
        ("value_n", "i8"),
        ("merchant", "u8"),
        ("as_of", "i8"),
        ("since", "i8"),
        ("transactions", "i8"),
        ("amount", "f8"),
        ("frauds", "i8"),
        ("blocked_at", "i8"),
        ("reviewed_at", "i8"),
    ]
)
"""A sighting as the kernel reads it; `merchant` is what an `IdentifierState` keeps of one."""

_SOLE_2: Final = np.dtype(
    [
        ("version", "<u2"),
        ("merchant_count", "<u2"),
        ("merchants", "<u4", (MAX_MERCHANTS,)),
        ("fence", "<i8"),
        ("clock", "<i8"),
        ("first_seen", "<i8"),
        ("last_seen", "<i8"),
        ("as_of", "<i8"),
        ("since", "<i8"),
        ("transactions", "<i8"),
        ("amount", "<f8"),
        ("frauds", "<i8"),
        ("blocked_at", "<i8"),
    ]
)
"""`SOLE` before it knew of reviews."""

SOLE: Final = np.dtype([*_SOLE_2.descr, ("reviewed_at", "<i8")])
"""The state of an identifier that one user has, whose id follows, and that has tied nobody yet."""

VERSION: Final = 3
"""Stands where records of other layouts have theirs; see `dafu.rings.encoding`."""

MOST: Final = 2**53
"""No number in a `SOLE` or in a sighting that kernels write and read is larger, and none negative:
up to here doubles are exact. Other states are packed as they always are."""

LEFT: Final = 0
STEPPED: Final = 1
OUTDATED: Final = 2
FENCED: Final = 3
"""What became of a sighting: left to `step`; applied; applied though from before the window, which
changes the fence alone; known already."""

_PREFIX: Final = VERSION.to_bytes(2, "little")
_LAYOUTS: Final = {_PREFIX: SOLE, (2).to_bytes(2, "little"): _SOLE_2}
_FACTS: Final = ("as_of", "since", "transactions", "amount", "frauds", "blocked_at", "reviewed_at")
_read_shared: Final = reader("identifier", IdentifierState)


def read_identifier(key: bytes, raw: bytes) -> IdentifierState:
    """An identifier's state, in whichever way it was packed.

    Raises
    ------
    StateError
        If the bytes are damaged or a later version of dafu packed them.
    """
    layout = _LAYOUTS.get(raw[:2])
    if layout is None:
        return _read_shared(key, raw)
    if len(raw) < layout.itemsize:
        raise damaged("identifier", key)
    (sole,) = np.frombuffer(raw[: layout.itemsize], layout)
    count = int(sole["merchant_count"])
    if count > MAX_MERCHANTS:
        raise damaged("identifier", key)
    try:
        user_id = raw[layout.itemsize :].decode()
    except UnicodeDecodeError:
        raise damaged("identifier", key) from None
    told = ("first_seen", "last_seen", *_FACTS)
    user = UserOfIdentifier(
        user_id, **{name: sole[name].item() for name in told if name in (layout.names or ())}
    )
    merchants = sole["merchants"][:count].tolist()
    return IdentifierState(
        int(sole["fence"]), int(sole["clock"]), users=[user], merchants=merchants
    )


def pack_identifier(state: IdentifierState) -> bytes:
    """An identifier's state as bytes."""
    user = state.users[0] if len(state.users) == 1 else None
    blank = IdentifierState(state.fence, state.clock, users=state.users, merchants=state.merchants)
    if user is None or state != blank:
        return pack(state)
    if user.told or user.told_blocked or user.told_frauds or user.told_reviewed:
        return pack(state)
    numbers = [state.fence, state.clock, user.first_seen, user.last_seen]
    numbers += [getattr(user, name) for name in _FACTS]
    if not all(0 <= number <= MOST for number in numbers):
        return pack(state)
    merchants = [*state.merchants, *[0] * (MAX_MERCHANTS - len(state.merchants))]
    sole = np.array((VERSION, len(state.merchants), merchants, *numbers), SOLE)
    return sole.tobytes() + user.user_id.encode()


def step_sole(
    sighted: NDArray[np.void],
    source: U8,
    offsets: I64,
    stored: Sequence[bytes | None],
) -> tuple[NDArray[np.int8], ByteColumn]:
    """Step identifiers, each by one sighting of its own, as far as a sole user has them.

    Parameters
    ----------
    sighted : SIGHTED [n]
    source : uint8 [...]
        The buffer that the users' ids are in.
    offsets : int64 [n]
        Of the sightings' records.
    stored : sequence of bytes or None [n]
        The identifiers' present states.

    Returns
    -------
    int8 [n]
        LEFT, STEPPED, OUTDATED or FENCED.
    ByteColumn [n]
        The new states where one was STEPPED or OUTDATED.
    """
    fates = np.empty(len(sighted), np.int8)
    before = ByteColumn.of(stored)
    room = len(sighted) * SOLE.itemsize + int(sighted["user_n"].sum())
    out, sizes = np.empty(room, np.uint8), np.empty(len(sighted), np.int64)
    heads = np.zeros(len(sighted), SOLE)
    end = _step(
        sighted,
        source,
        offsets,
        before.buffer,
        before.starts,
        before.lengths,
        heads,
        heads.view(np.uint8),
        fates,
        out,
        sizes,
    )
    return fates, ByteColumn.packed(out[:end], sizes)


_SIZE: Final = SOLE.itemsize


@kernel
def _step(
    sighted: Any,
    source: U8,
    offsets: I64,
    stored: U8,
    starts: I64,
    lengths: I64,
    heads: Any,
    raw: U8,
    fates: Any,
    out: U8,
    sizes: I64,
) -> int:
    at = 0
    for i in range(len(sighted)):
        seen = sighted[i]
        sizes[i] = 0
        fates[i] = LEFT
        if seen.kind < 0:
            continue
        head = heads[i]
        known = lengths[i] >= 0
        if known:
            n = lengths[i] - _SIZE
            if n != seen.user_n or not same_bytes(
                source, seen.user_at, stored, starts[i] + _SIZE, n
            ):
                continue
            copy_bytes(stored, starts[i], raw, i * _SIZE, _SIZE)
            if head.version != VERSION:
                continue
        fates[i] = _advance(head, seen, offsets[i], known)
        if fates[i] in (STEPPED, OUTDATED):
            copy_bytes(raw, i * _SIZE, out, at, _SIZE)
            copy_bytes(source, seen.user_at, out, at + _SIZE, seen.user_n)
            sizes[i] = _SIZE + seen.user_n
            at += sizes[i]
    return at


@kernel
def _advance(head: Any, seen: Any, offset: int, known: bool) -> int:
    """Apply a sighting of the identifier's only user."""
    time = seen.as_of
    if not known:
        head.version = VERSION
        head.first_seen = time
        head.last_seen = time
        _take_facts(head, seen)
        head.blocked_at = seen.blocked_at
        head.reviewed_at = seen.reviewed_at
    else:
        if head.merchant_count > MAX_MERCHANTS:
            return LEFT
        if offset <= head.fence:
            return FENCED
        if time <= head.clock - WINDOW_MS:
            head.fence = offset
            return OUTDATED
        if head.last_seen <= max(head.clock, time) - WINDOW_MS:
            return LEFT
        head.first_seen = min(head.first_seen, time)
        head.last_seen = max(head.last_seen, time)
        head.blocked_at = max(head.blocked_at, seen.blocked_at)
        head.reviewed_at = max(head.reviewed_at, seen.reviewed_at)
        if seen.as_of > head.as_of:
            _take_facts(head, seen)
        elif seen.as_of == head.as_of:
            head.since = min(head.since, seen.since)
            head.transactions = max(head.transactions, seen.transactions)
            head.amount = max(head.amount, seen.amount)
            head.frauds = max(head.frauds, seen.frauds)
    head.fence = offset
    head.clock = max(head.clock, time)
    for k in range(head.merchant_count):
        if head.merchants[k] == seen.merchant:
            return STEPPED
    if head.merchant_count < MAX_MERCHANTS:
        head.merchants[head.merchant_count] = seen.merchant
        head.merchant_count += 1
    return STEPPED


@kernel
def _take_facts(head: Any, seen: Any) -> None:
    head.as_of = seen.as_of
    head.since = seen.since
    head.transactions = seen.transactions
    head.amount = seen.amount
    head.frauds = seen.frauds
