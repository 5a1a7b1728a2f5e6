"""Stage one: transactions by user in, transactions with user features out, keyed by merchant.

Parses and checks each record, steps the users' states through the batch, and hands on what was
new. What can not be read is returned as rejected, with the reason; it never raises for bad input.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct

from dafu.columns import ByteColumn, equal, prepend
from dafu.features.catalogue import USER_FEATURES
from dafu.features.state import APPLIED, CONFLICT, DUPLICATE, FENCED, USERS
from dafu.features.users import USER_INPUT, step_users
from dafu.hashing import hash64
from dafu.schema import InvalidTransactionError, Transaction, parse_transaction
from dafu.stages.batch import (
    ABSENT_TEXT,
    NO_TIMESTAMP,
    InputBatch,
    Partitions,
    Rejected,
    UserOutput,
    forward_header,
    share_out,
)
from dafu.stages.scan import HASHED_FIELDS, Scan, scan
from dafu.stages.texts import PLACES, Texts
from dafu.tables.changes import NOTHING
from dafu.tables.working_set import WorkingSet

_N_FEATURES: Final = len(USER_FEATURES)
_NO_TEXT: Final = ByteColumn.of([])


class _Parsed(Struct):
    """What was read of a batch. `scan` and `texts` have a row for every record; those whose
    position is in `rows` are transactions to apply, `documents` has the ones that are not plain."""

    scan: Scan
    rows: np.ndarray
    documents: dict[int, Transaction]
    texts: Texts
    rejected: list[Rejected]

    def keep(self, kept: np.ndarray) -> None:
        """Leave out the rows where `kept` (bool [rows]) is False."""
        self.rows = self.rows[kept]


class UserStage:
    """Stage one for any partitions.

    Parameters
    ----------
    max_future_skew_ms : int
        How far a transaction's time may be after the time of the record that carries it.
    """

    def __init__(self, max_future_skew_ms: int) -> None:
        self.max_future_skew_ms = max_future_skew_ms

    def run(self, batch: InputBatch, records: Partitions) -> UserOutput:
        """Apply a batch to the state in `records`, which is read and not written."""
        parsed = _parse(batch.values)
        self._reject_future(batch, parsed)
        reroutes = _split_wrong_keys(batch, parsed)
        changes = dict.fromkeys((p.partition for p in batch.pieces), NOTHING)
        output = UserOutput(_NO_TEXT, _NO_TEXT, reroutes, changes=changes, rejected=parsed.rejected)
        rows = parsed.rows
        if not rows.size:
            return output
        shares, numbers, arrivals = share_out(batch, rows, records)
        inputs = _inputs(batch, parsed, numbers)
        state = WorkingSet(USERS, shares, arrivals)
        features = np.empty((rows.size, _N_FEATURES))
        status = np.empty(rows.size, dtype=np.int8)
        step_users(
            state.heads,
            state.events,
            state.origins,
            state.archives,
            state.archive_of,
            inputs,
            features,
            status,
        )
        _forward(batch, parsed, features, status, output)
        output.changes = dict(zip(changes, state.changes(), strict=True))
        return output

    def _reject_future(self, batch: InputBatch, parsed: _Parsed) -> None:
        sent = batch.timestamps[parsed.rows]
        times = parsed.scan.time[parsed.rows]
        late = (sent != NO_TIMESTAMP) & (times > sent + self.max_future_skew_ms)
        if late.any():
            for p in np.flatnonzero(late).tolist():
                parsed.rejected.append(
                    Rejected(
                        int(parsed.rows[p]),
                        "future_timestamp",
                        f"timestamp is {(times[p] - sent[p]) / 1000:.0f} s after the record "
                        f"was sent; at most {self.max_future_skew_ms / 1000:.0f} s are accepted",
                    )
                )
            parsed.keep(~late)


def _parse(values: ByteColumn) -> _Parsed:
    """Read a batch: plain records by the kernel, the others one by one."""
    found = scan(values)
    documents: dict[int, Transaction] = {}
    rejected: list[Rejected] = []
    good = np.ones(len(values), dtype=np.bool_)
    for i in np.flatnonzero(~found.plain).tolist():
        try:
            transaction, time = parse_transaction(values[i])
        except InvalidTransactionError as exc:
            rejected.append(Rejected(i, exc.reason, exc.detail))
            good[i] = False
        else:
            documents[i] = transaction
            _enter(found, i, transaction, time)
    texts = Texts(values, found.text_start, found.text_length, documents)
    return _Parsed(found, np.flatnonzero(good), documents, texts, rejected)


def _enter(found: Scan, i: int, transaction: Transaction, time: int) -> None:
    """Fill in a row that the kernel left out."""
    found.amount[i] = transaction.amount
    found.time[i] = time
    found.places[i] = [
        np.nan if (place := getattr(transaction, name)) is None else place for name in PLACES
    ]
    found.hashes[i] = [
        hash64(text.encode()) if (text := getattr(transaction, name)) else 0
        for name in HASHED_FIELDS
    ]


def _split_wrong_keys(batch: InputBatch, parsed: _Parsed) -> list[tuple[int, bytes]]:
    """Take out transactions whose record key is not their user_id; they go round once."""
    users = parsed.texts.utf8("user_id").take(parsed.rows)
    right = equal(batch.keys.take(parsed.rows), users)
    if right.all():
        return []
    reroutes: list[tuple[int, bytes]] = []
    for p in np.flatnonzero(~right).tolist():
        index = int(parsed.rows[p])
        if index in batch.rerouted:
            parsed.rejected.append(
                Rejected(index, "wrong_key", "the record's key is not its user_id, even re-keyed")
            )
        else:
            reroutes.append((index, users[p] or b""))
    parsed.keep(right)
    return reroutes


def _inputs(batch: InputBatch, parsed: _Parsed, numbers: list[int]) -> np.ndarray:
    rows, found = parsed.rows, parsed.scan
    inputs = np.empty(rows.size, dtype=USER_INPUT)
    inputs["user"] = numbers
    inputs["offset"] = batch.offsets[rows]
    inputs["time"] = found.time[rows]
    inputs["amount"] = found.amount[rows]
    for name, k in _EVENT_HASHES:
        inputs[name] = found.hashes[rows, k]
    for k, name in enumerate(PLACES):
        inputs[name] = found.places[rows, k]
    return inputs


_EVENT_HASHES: Final = [
    (name, HASHED_FIELDS.index(field))
    for name, field in (
        ("transaction", "transaction_id"),
        ("merchant", "merchant_id"),
        ("device", "device_fingerprint"),
        ("ip", "ip_address"),
        ("country", "country"),
    )
]
"""The event's fields that hold hashes, and the columns of `Scan.hashes` that they come from."""

_USER_HASH: Final = HASHED_FIELDS.index("user_id")


def _forward(
    batch: InputBatch,
    parsed: _Parsed,
    features: np.ndarray,
    status: np.ndarray,
    output: UserOutput,
) -> None:
    rows, found = parsed.rows, parsed.scan
    if not (status == APPLIED).all():
        output.duplicates = int((status == DUPLICATE).sum())
        output.fenced = int((status == FENCED).sum())
        conflicting = rows[status == CONFLICT]
        ids = parsed.texts.utf8("transaction_id").take(conflicting).present()
        output.rejected.extend(
            Rejected(
                i,
                "conflicting_duplicate",
                f"transaction_id {name.decode()!r} was used before for "
                "another time, amount or merchant; the first one stands",
            )
            for i, name in zip(conflicting.tolist(), ids, strict=True)
        )
        rows, features = rows[status == APPLIED], features[status == APPLIED]
    header = forward_header(rows.size)
    header["source"] = batch.partitions[rows]
    header["offset"] = batch.offsets[rows]
    header["ingested"] = batch.timestamps[rows]
    header["time"] = found.time[rows]
    header["amount"] = found.amount[rows]
    header["user"] = found.hashes[rows, _USER_HASH]
    header["places"] = found.places[rows]
    header["features"] = features
    header["plain"] = found.plain[rows]
    header["text_start"] = found.text_start[rows]
    lengths = found.text_length[rows]
    header["text_length"] = np.where(lengths < 0, ABSENT_TEXT, lengths)
    output.forward_keys = parsed.texts.utf8("merchant_id").take(rows)
    output.forward_values = prepend(header.view(np.uint8), header.itemsize, batch.values.take(rows))
