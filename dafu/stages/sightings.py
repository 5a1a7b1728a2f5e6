"""Sightings by the batch: written as msgspec would write them, and read again, by kernels.

What is written here has the bytes of `encode(Sighting(...))`. Read is what looks like that and
holds plain text and numbers of everyday size; all else is left to `decode_sighting`. Knows JSON,
and nothing of what a sighting leads to.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dafu.columns import I64, U8, ByteColumn, copy_bytes, positions, same_bytes
from dafu.hashing import xxh64
from dafu.kernel import kernel
from dafu.rings.hygiene import judge
from dafu.rings.records import KINDS, Kind
from dafu.rings.sole import MOST, SIGHTED
from dafu.stages.batch import NO_MESSAGES, Messages
from dafu.stages.decide import APPROVE, BLOCK
from dafu.stages.decision_json import put_digits
from dafu.stages.lexer import FAILED, integer, number, string_end
from dafu.stages.texts import Texts

IDENTIFIERS: Final[dict[Kind, str]] = {
    "device": "device_fingerprint",
    "ip": "ip_address",
    "card": "card_id",
    "email": "email",
}
"""The field of a transaction that holds each kind of identifier."""

MOST_HUNDREDTHS: Final = 2**50
"""Of an amount, so that the double nearest to it tells them exactly."""

_ADDRESS: Final = KINDS.index("ip")
_HUNDREDTHS: Final = 100


def _text(literal: str) -> U8:
    return np.frombuffer(literal.encode(), np.uint8)


def _table(literals: list[str]) -> tuple[U8, I64]:
    """Texts in rows of equal width, and their lengths."""
    width = max(map(len, literals))
    rows = [np.frombuffer(text.encode().ljust(width), np.uint8) for text in literals]
    return np.stack(rows), np.array([len(text) for text in literals])


_USER: Final = _text('{"type":"sighting","user_id":"')
_KINDS, _KIND_LENGTHS = _table([f'","kind":"{kind}","value":"' for kind in KINDS])
_PREFIXES, _PREFIX_LENGTHS = _table([f"{kind}:" for kind in KINDS])
_TRANSACTION: Final = _text('","transaction_id":"')
_MERCHANT: Final = _text('","merchant_id":"')
_AS_OF: Final = _text('","facts":{"as_of":')
_SINCE: Final = _text(',"since":')
_TRANSACTIONS: Final = _text(',"transactions":')
_AMOUNT: Final = _text(',"amount":')
_FRAUDS: Final = _text(',"frauds":')
_BLOCKED_AT: Final = _text(',"blocked_at":')
_REVIEWED_AT: Final = _text(',"reviewed_at":')
_END: Final = _text("}}")

_NUMBER_WIDTH: Final = 20
_CONSTANT: Final = 7 * _NUMBER_WIDTH + sum(
    map(
        len,
        (_USER, _KINDS[0], _TRANSACTION, _MERCHANT, _AS_OF, _SINCE, _TRANSACTIONS, _AMOUNT,
         _FRAUDS, _BLOCKED_AT, _REVIEWED_AT, _END),
    )
)  # fmt: skip
"""Bytes of a sighting, its texts aside, at most."""

_ZERO: Final = ord("0")


def sightings(
    texts: Texts,
    rows: I64,
    wanted: NDArray[np.bool_],
    facts: NDArray[np.void],
    decisions: NDArray[np.int8] | None = None,
) -> tuple[Messages, int]:
    """Sightings of identifiers, and how many identifiers were refused since they name nothing.

    Parameters
    ----------
    texts : Texts
    rows : int64 [m]
        Positions in `texts` of the transactions.
    wanted : bool [m, KINDS]
        Which identifiers to tell of; a transaction may lack one.
    facts : FACTS [m]
        None negative, none above MOST; amounts in whole hundredths, MOST_HUNDREDTHS at most.
    decisions : int8 [m] or None
        About these transactions (`dafu.stages.decide`), if there are any yet.
    """
    if not len(rows):
        return NO_MESSAGES, 0
    part = texts.part(rows)
    at, kinds = wanted.nonzero()
    if not len(at):
        return NO_MESSAGES, 0
    names, values, refused = _values(part, at, kinds)
    kept = positions(~names.absent)
    if not len(kept):
        return NO_MESSAGES, refused
    at, kinds, names, values = at[kept], kinds[kept], names.take(kept), values.take(kept)
    ids = [part.json(field) for field in ("user_id", "transaction_id", "merchant_id")]
    columns = [*(column.take(at) for column in ids), values]
    room = len(at) * _CONSTANT + sum(column.size for column in columns)
    out, sizes = np.empty(room, np.uint8), np.empty(len(at), np.int64)
    user, transaction, merchant, value = (
        (column.buffer, column.starts, np.maximum(column.lengths, 0)) for column in columns
    )
    if decisions is None:
        decisions = np.full(len(rows), APPROVE, np.int8)
    end = _write(
        kinds, *user, *transaction, *merchant, *value, facts[at], decisions[at], out, sizes
    )
    keys, key_sizes = (
        np.empty(names.size + len(at) * _PREFIXES.shape[1], np.uint8),
        np.empty(len(at), np.int64),
    )
    keys_end = _write_keys(kinds, names.buffer, names.starts, names.lengths, keys, key_sizes)
    return (
        Messages(
            ByteColumn.packed(keys[:keys_end], key_sizes), ByteColumn.packed(out[:end], sizes)
        ),
        refused,
    )


def _values(texts: Texts, at: I64, kinds: I64) -> tuple[ByteColumn, ByteColumn, int]:
    """Identifiers in their normal form, as UTF-8 and as JSON has them; absent where there is none.

    The third is how many there were that name nothing.
    """
    order: list[I64] = []
    names: list[ByteColumn] = []
    values: list[ByteColumn] = []
    refused = 0
    for k, kind in enumerate(KINDS):
        own = positions(kinds == k)
        if not len(own):
            continue
        column = texts.utf8(IDENTIFIERS[kind]).take(at[own])
        usual = usual_addresses(column) if k == _ADDRESS else np.zeros(len(own), np.bool_)
        if usual.any():
            order.append(own[usual])
            names.append(column.take(usual))
            values.append(names[-1])
        others = positions(~usual)
        if len(others):
            given = column.take(others).strings()
            found = [judge(kind, text).value if text else None for text in given]
            refused += sum(map(bool, given)) - sum(text is not None for text in found)
            raw = [None if text is None else text.encode() for text in found]
            order.append(own[others])
            names.append(ByteColumn.of(raw))
            values.append(ByteColumn.of([text and _as_json(text) for text in raw]))
    where = np.empty(len(at), np.int64)
    where[np.concatenate(order)] = np.arange(len(at))
    return ByteColumn.joined(names).take(where), ByteColumn.joined(values).take(where), refused


def _as_json(text: bytes) -> bytes:
    """Printable UTF-8 as JSON has it between the quotes."""
    return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def usual_addresses(column: ByteColumn) -> NDArray[np.bool_]:
    """bool [n]: which are IPv4 addresses in their normal form; not all that are need be found."""
    out = np.empty(len(column), np.bool_)
    _usual_addresses(column.buffer, column.starts, column.lengths, out)
    return out


@kernel
def _usual_addresses(buffer: U8, starts: I64, lengths: I64, out: Any) -> None:
    for i in range(len(starts)):
        out[i] = _usual_address(buffer, starts[i], lengths[i])


@kernel
def _usual_address(text: U8, at: int, length: int) -> bool:
    """As `dafu.rings.hygiene` has it: four numbers up to 255, and somebody's address."""
    if length < 7 or length > 15:
        return False
    p, end = at, at + length
    first = second = 0
    for k in range(4):
        begin = p
        value = 0
        while p < end and p < begin + 3 and 48 <= text[p] <= 57:
            value = value * 10 + (text[p] - 48)
            p += 1
        if p == begin or value > 255 or (text[begin] == 48 and p > begin + 1):
            return False
        if k == 0:
            first = value
        elif k == 1:
            second = value
        if k < 3:
            if p >= end or text[p] != 46:
                return False
            p += 1
    nobody = first in (0, 127) or first >= 224 or (first == 169 and second == 254)
    return p == end and not nobody


@kernel
def _write(
    kinds: I64,
    users: U8,
    user_at: I64,
    user_n: I64,
    transactions: U8,
    transaction_at: I64,
    transaction_n: I64,
    merchants: U8,
    merchant_at: I64,
    merchant_n: I64,
    values: U8,
    value_at: I64,
    value_n: I64,
    facts: Any,
    decisions: Any,
    out: U8,
    sizes: I64,
) -> int:
    """Write sightings one after the other, their sizes into `sizes`; returns where they end."""
    at = 0
    for i in range(len(kinds)):
        begin = at
        at = _put(out, at, _USER)
        copy_bytes(users, user_at[i], out, at, user_n[i])
        at += user_n[i]
        n = _KIND_LENGTHS[kinds[i]]
        for j in range(n):
            out[at + j] = _KINDS[kinds[i], j]
        at += n
        copy_bytes(values, value_at[i], out, at, value_n[i])
        at = _put(out, at + value_n[i], _TRANSACTION)
        copy_bytes(transactions, transaction_at[i], out, at, transaction_n[i])
        at = _put(out, at + transaction_n[i], _MERCHANT)
        copy_bytes(merchants, merchant_at[i], out, at, merchant_n[i])
        at = _put(out, at + merchant_n[i], _AS_OF)
        at = _put_integer(out, at, facts[i].as_of)
        at = _put(out, at, _SINCE)
        at = _put_integer(out, at, facts[i].since)
        if facts[i].transactions != 0:
            at = _put(out, at, _TRANSACTIONS)
            at = _put_integer(out, at, facts[i].transactions)
        at = _put(out, at, _AMOUNT)
        at = _put_hundredths(out, at, int(np.rint(facts[i].amount * _HUNDREDTHS)))
        if facts[i].frauds != 0:
            at = _put(out, at, _FRAUDS)
            at = _put_integer(out, at, facts[i].frauds)
        if decisions[i] != APPROVE and facts[i].as_of != 0:
            at = _put(out, at, _BLOCKED_AT if decisions[i] == BLOCK else _REVIEWED_AT)
            at = _put_integer(out, at, facts[i].as_of)
        at = _put(out, at, _END)
        sizes[i] = at - begin
    return at


@kernel
def _write_keys(kinds: I64, names: U8, name_at: I64, name_n: I64, out: U8, sizes: I64) -> int:
    """Write ``kind:name`` one after the other."""
    at = 0
    for i in range(len(kinds)):
        n = _PREFIX_LENGTHS[kinds[i]]
        for j in range(n):
            out[at + j] = _PREFIXES[kinds[i], j]
        copy_bytes(names, name_at[i], out, at + n, name_n[i])
        sizes[i] = n + name_n[i]
        at += sizes[i]
    return at


@kernel
def _put(out: U8, at: int, literal: U8) -> int:
    for i in range(len(literal)):
        out[at + i] = literal[i]
    return at + len(literal)


@kernel
def _put_integer(out: U8, at: int, value: int) -> int:
    digits = 1
    rest = value // 10
    while rest > 0:
        rest //= 10
        digits += 1
    put_digits(out, at, value, digits)
    return at + digits


@kernel
def _put_hundredths(out: U8, at: int, value: int) -> int:
    """So many hundredths as the shortest text of that double: 1.0, 1.5, 1.25."""
    at = _put_integer(out, at, value // _HUNDREDTHS)
    rest = value % _HUNDREDTHS
    out[at] = ord(".")
    out[at + 1] = _ZERO + rest // 10
    if rest % 10 == 0:
        return at + 2
    out[at + 2] = _ZERO + rest % 10
    return at + 3


def read_sightings(keys: ByteColumn, values: ByteColumn) -> np.ndarray:
    """Read sightings that are plain; `kind` is -1 of what is left to `decode_sighting`.

    Parameters
    ----------
    keys : ByteColumn [n]
        Those of the records; what is not ``kind:value`` of its value is not plain either.
    values : ByteColumn [n]

    Returns
    -------
    SIGHTED [n]
    """
    out = np.zeros(len(values), SIGHTED)
    _read(keys.buffer, keys.starts, keys.lengths, values.buffer, values.starts, values.lengths, out)
    return out


@kernel
def _read(
    keys: U8, key_at: I64, key_n: I64, values: U8, starts: I64, lengths: I64, out: Any
) -> None:
    for i in range(len(starts)):
        sighted = out[i]
        end = starts[i] + max(lengths[i], 0)
        plain = _read_one(values, starts[i], end, sighted)
        if not plain or not _is_key(keys, key_at[i], key_n[i], values, sighted):
            sighted.kind = -1


@kernel
def _read_one(text: U8, at: int, end: int, out: Any) -> bool:
    p = _after(text, at, end, _USER)
    if p == FAILED:
        return False
    out.user_at = p
    p = string_end(text, p, end)
    if p == FAILED:
        return False
    out.user_n = p - out.user_at
    out.kind = -1
    for k in range(len(_KIND_LENGTHS)):
        after = _after(text, p, end, _KINDS[k, : _KIND_LENGTHS[k]])
        if after != FAILED:
            out.kind = k
            out.value_at = after
    if out.kind < 0:
        return False
    p = string_end(text, out.value_at, end)
    if p == FAILED:
        return False
    out.value_n = p - out.value_at
    p = _after(text, p, end, _TRANSACTION)
    if p == FAILED:
        return False
    p = string_end(text, p, end)
    if p == FAILED:
        return False
    merchant = _after(text, p, end, _MERCHANT)
    if merchant == FAILED:
        return False
    p = string_end(text, merchant, end)
    if p == FAILED:
        return False
    out.merchant = xxh64(text, merchant, p - merchant) >> np.uint64(32)
    p, out.as_of = _integer_after(text, p, end, _AS_OF)
    if p == FAILED:
        return False
    p, out.since = _integer_after(text, p, end, _SINCE)
    if p == FAILED:
        return False
    if _after(text, p, end, _TRANSACTIONS) != FAILED:
        p, out.transactions = _integer_after(text, p, end, _TRANSACTIONS)
        if p == FAILED:
            return False
    after = _after(text, p, end, _AMOUNT)
    if after != FAILED:
        p, out.amount, certain = number(text, after, end)
        if p == FAILED or not certain or out.amount < 0.0 or out.amount > MOST:
            return False
    if _after(text, p, end, _FRAUDS) != FAILED:
        p, out.frauds = _integer_after(text, p, end, _FRAUDS)
        if p == FAILED:
            return False
    if _after(text, p, end, _BLOCKED_AT) != FAILED:
        p, out.blocked_at = _integer_after(text, p, end, _BLOCKED_AT)
        if p == FAILED:
            return False
    if _after(text, p, end, _REVIEWED_AT) != FAILED:
        p, out.reviewed_at = _integer_after(text, p, end, _REVIEWED_AT)
        if p == FAILED:
            return False
    return bool(_after(text, p, end, _END) == end)


@kernel
def _after(text: U8, at: int, end: int, literal: U8) -> int:
    """Where a literal ends that begins here, FAILED if it does not."""
    if at + len(literal) > end:
        return FAILED
    for i in range(len(literal)):
        if text[at + i] != literal[i]:
            return FAILED
    return at + len(literal)


@kernel
def _integer_after(text: U8, at: int, end: int, literal: U8) -> tuple[int, int]:
    """Where the integer behind a literal ends, and the integer; FAILED above MOST too."""
    p = _after(text, at, end, literal)
    if p == FAILED:
        return FAILED, 0
    p, value = integer(text, p, end)
    if value > MOST:
        return FAILED, 0
    return p, value


@kernel
def _is_key(keys: U8, at: int, n: int, text: U8, sighted: Any) -> bool:
    """Whether a key is ``kind:value`` of what was read."""
    prefix = _PREFIX_LENGTHS[sighted.kind]
    if n != prefix + sighted.value_n:
        return False
    for j in range(prefix):
        if keys[at + j] != _PREFIXES[sighted.kind, j]:
            return False
    return same_bytes(keys, at + prefix, text, sighted.value_at, sighted.value_n)
