"""From columns of numbers to Arrow record batches with the fields of a transaction.

Texts are built as fixed-width matrices of ASCII bytes, which Arrow takes over without copying: a
few nanoseconds a value, and the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dafu.generator.groups import Groups
from dafu.generator.plan import DAY, RING, SCENARIOS, Plan
from dafu.generator.world import CATEGORIES, COUNTRIES, CURRENCIES, Merchants, Users, mix

Bytes = NDArray[np.uint8]

BATCH_ROWS: Final = 65_536

USER_AGENTS: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/125.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Linux; Android 13; SM-S911B) AppleWebKit/537.36 Chrome/124.0 Mobile",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/125.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/17.5 Safari/605.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:126.0) Gecko/20100101 Firefox/126.0",
    "ShopApp/5.2 (iOS 17.5)",
    "ShopApp/5.1 (Android 14)",
)

SCHEMA: Final = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("user_id", pa.string()),
        ("merchant_id", pa.string()),
        ("amount", pa.float64()),
        ("currency", pa.string()),
        ("timestamp", pa.string()),
        ("category", pa.string()),
        ("channel", pa.string()),
        ("country", pa.string()),
        ("device_fingerprint", pa.string()),
        ("ip_address", pa.string()),
        ("card_id", pa.string()),
        ("user_agent", pa.string()),
        ("lat", pa.float64()),
        ("long", pa.float64()),
        ("merchant_lat", pa.float64()),
        ("merchant_long", pa.float64()),
        ("is_fraud", pa.int8()),
        ("fraud_scenario", pa.string()),
    ]
)
LABEL_COLUMNS: Final = ("is_fraud", "fraud_scenario")
"""The truth, for evaluation. Never a feature, and not part of what a producer would publish."""

GROUP_COLUMNS: Final = ("ring_id", "look_alike_id")
"""More of the truth, which is there if rings or look-alikes were asked for."""

GROUP_SCHEMA: Final = pa.schema(
    [*SCHEMA, *((name, pa.string()) for name in ("email", *GROUP_COLUMNS))]
)
"""Of a simulation with groups: where people may share an email address, it is told."""

_PROVIDERS: Final = ("mail.example", "post.example", "inbox.example")  # RFC 2606

_HEX4: Final = np.array([[ord(c) for c in f"{i:04x}"] for i in range(65_536)], dtype=np.uint8)
_DEC4: Final = np.array([[ord(c) for c in f"{i:04d}"] for i in range(10_000)], dtype=np.uint8)
_OCTETS: Final = pa.array([str(i) for i in range(256)])


def render(
    plan: Plan,
    users: Users,
    merchants: Merchants,
    start_ms: int,
    run: int,
    groups: Groups | None = None,
) -> Iterator[pa.RecordBatch]:
    """Record batches of at most `BATCH_ROWS` transactions, in the order of the plan.

    `run`, a number of 32 bits, is part of every transaction id, so that two simulations published
    to one topic do not pass for repeats of each other. With `groups` the batches have the columns
    that name them.
    """
    names = _names(len(users.city), len(merchants.city))
    tag = run_tag(run)
    for at in range(0, len(plan), BATCH_ROWS):
        part = plan.take(np.arange(at, min(at + BATCH_ROWS, len(plan))))
        batch = _batch(part, users, merchants, start_ms, at, tag, names)
        yield batch if groups is None else _with_groups(batch, part, groups)


def run_tag(run: int) -> str:
    """The part of a transaction id that tells a simulation."""
    return f"{run:08x}"


def transaction_id(tag: str, row: int) -> str:
    """The id of one transaction by its place in the plan."""
    return f"tx-{tag}-{row:012d}"


def _with_groups(batch: pa.RecordBatch, plan: Plan, groups: Groups) -> pa.RecordBatch:
    group = plan.group.astype(np.int64)
    masks = (group < 0) | (group >= groups.rings), group < groups.rings
    ids = pa.array(groups.ids, pa.string())
    columns = [ids.take(pa.array(np.where(mask, 0, group), mask=mask)) for mask in masks]
    emails = _emails(plan.inbox.astype(np.int64))
    return pa.RecordBatch.from_arrays([*batch.columns, emails, *columns], schema=GROUP_SCHEMA)


def _emails(inbox: NDArray[np.int64]) -> pa.Array:
    given = inbox >= 0
    owner = np.maximum(inbox, 0)
    names = text(literal("user.", len(owner)), decimal(owner, 8), valid=given)
    provider = (mix(owner, 42) % np.uint64(len(_PROVIDERS))).astype(np.int64)
    return pc.binary_join_element_wise(names, _pick(_PROVIDERS, provider, given), "@")


def _names(n_users: int, n_merchants: int) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Names of all users, merchants and cards; card c of user u is number 2 u + c."""
    return (
        text(literal("user-", n_users), decimal(np.arange(n_users), 8)),
        text(literal("merchant-", n_merchants), decimal(np.arange(n_merchants), 8)),
        text(literal("card-", 2 * n_users), decimal(np.arange(2 * n_users), 12)),
    )


def _batch(
    plan: Plan,
    users: Users,
    merchants: Merchants,
    start_ms: int,
    first: int,
    tag: str,
    names: tuple[pa.Array, pa.Array, pa.Array],
) -> pa.RecordBatch:
    n = len(plan)
    user_names, merchant_names, card_names = names
    named = plan.device != 0
    agent = (mix(plan.device, 41) % np.uint64(len(USER_AGENTS))).astype(np.int64)
    fraud = plan.scenario >= 0
    columns = [
        text(literal(f"tx-{tag}-", n), decimal(np.arange(first, first + n), 12)),
        user_names.take(pa.array(plan.user)),
        merchant_names.take(pa.array(plan.merchant)),
        pa.array(plan.amount),
        _pick(CURRENCIES, users.currency[plan.user]),
        timestamps(start_ms + plan.time),
        _pick(CATEGORIES, merchants.category[plan.merchant]),
        _pick(("card_present", "online"), plan.online.astype(np.int64)),
        _pick(COUNTRIES, plan.country.astype(np.int64)),
        text(literal("dev-", n), hexadecimal(plan.device), valid=named),
        _addresses(plan.ip),
        card_names.take(pa.array(plan.holder.astype(np.int64) * 2 + plan.card)),
        _pick(USER_AGENTS, agent, named),
        pa.array(np.round(plan.lat, 5)),
        pa.array(np.round(plan.long, 5)),
        pa.array(merchants.lat[plan.merchant]),
        pa.array(merchants.long[plan.merchant]),
        pa.array(fraud.astype(np.int8)),
        _pick((*SCENARIOS, RING), plan.scenario.astype(np.int64), fraud),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _pick(
    words: tuple[str, ...], index: NDArray[Any], valid: NDArray[np.bool_] | None = None
) -> pa.Array:
    mask = None if valid is None else ~valid
    return pa.array(words).take(pa.array(np.where(index < 0, 0, index), mask=mask))


def literal(word: str, n: int) -> Bytes:
    """The same text n times."""
    return np.broadcast_to(np.frombuffer(word.encode("ascii"), dtype=np.uint8), (n, len(word)))


def decimal(value: NDArray[Any], width: int) -> Bytes:
    """Whole numbers with leading zeros; `width` is a multiple of four."""
    fours = []
    for _ in range(width // 4):
        fours.append(_DEC4[value % 10_000])
        value = value // 10_000
    return np.concatenate(fours[::-1], axis=1)


def hexadecimal(value: NDArray[np.uint64]) -> Bytes:
    """Sixteen hex digits."""
    return _HEX4[value.byteswap().view(np.uint16).byteswap().reshape(-1, 4)].reshape(-1, 16)


def text(*parts: Bytes, valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """Join matrices of ASCII bytes [n, width] to strings, null where not `valid`."""
    matrix = np.ascontiguousarray(np.concatenate(parts, axis=1))
    n, width = matrix.shape
    offsets = np.arange(n + 1, dtype=np.int32) * width
    bitmap = None
    if valid is not None:
        bitmap = pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(matrix), bitmap)


def timestamps(ms: NDArray[np.int64]) -> pa.Array:
    """Epoch milliseconds as `2025-01-01T00:00:00.000Z`."""
    day, clock = np.divmod(ms, DAY)
    low = int(day.min()) if len(day) else 0
    high = int(day.max()) if len(day) else 0
    dates = np.arange(low, high + 1).astype("datetime64[D]").astype("S10")
    date = dates.view(np.uint8).reshape(-1, 10)[day - low]
    second, milli = np.divmod(clock, 1000)
    minute, second = np.divmod(second, 60)
    hour, minute = np.divmod(minute, 60)
    n = len(ms)
    two = slice(2, 4)
    return text(
        date,
        literal("T", n),
        _DEC4[hour][:, two],
        literal(":", n),
        _DEC4[minute][:, two],
        literal(":", n),
        _DEC4[second][:, two],
        literal(".", n),
        _DEC4[milli][:, 1:],
        literal("Z", n),
    )


def _addresses(ip: NDArray[np.uint32]) -> pa.Array:
    mask = ip == 0
    octets = [
        _OCTETS.take(
            pa.array(((ip >> np.uint32(shift)) & np.uint32(255)).astype(np.int64), mask=mask)
        )
        for shift in (24, 16, 8, 0)
    ]
    return pc.binary_join_element_wise(*octets, ".")
