"""Stage one: transactions by user in, transactions with user features out, keyed by merchant.

Parses and checks each record, steps the users' states through the batch, and hands on what was
new. What can not be read is returned as rejected, with the reason; it never raises for bad input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from xxhash import xxh3_64_intdigest

from dafu.features.catalogue import USER_FEATURES
from dafu.features.state import APPLIED, CONFLICT, DUPLICATE, FENCED, USERS
from dafu.features.users import USER_INPUT, step_users
from dafu.schema import (
    MAX_RECORD_BYTES,
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    InvalidTransactionError,
    Transaction,
    parse_transaction,
    timestamp_ms,
    too_deep,
)
from dafu.stages.batch import NO_TIMESTAMP, InputBatch, Rejected, UserOutput, forward_header
from dafu.tables.working_set import PartitionRecords, WorkingSet

_decode = msgspec.json.Decoder(Transaction).decode
_hash: Callable[[bytes], int] = xxh3_64_intdigest
_N_FEATURES: Final = len(USER_FEATURES)


class _Parsed(msgspec.Struct):
    """The readable transactions of a batch, column by column."""

    index: list[int]  # position in the batch
    transactions: list[Transaction]
    times: np.ndarray
    rejected: list[Rejected]


class UserStage:
    """Stage one for any partition.

    Parameters
    ----------
    max_future_skew_ms : int
        How far a transaction's time may be after the time of the record that carries it.
    """

    def __init__(self, max_future_skew_ms: int) -> None:
        self.max_future_skew_ms = max_future_skew_ms

    def run(self, batch: InputBatch, records: PartitionRecords) -> UserOutput:
        """Apply a batch to the state in `records`, which is read and not written."""
        parsed = _parse(batch)
        self._reject_future(batch, parsed)
        users = [t.user_id.encode() for t in parsed.transactions]
        reroutes = _split_wrong_keys(batch, parsed, users)
        output = UserOutput([], [], parsed.rejected, reroutes, [])
        if not parsed.index:
            return output
        numbers: dict[bytes, int] = {}
        number = [numbers.setdefault(u, len(numbers)) for u in users]
        inputs = _inputs(batch, parsed, number)
        state = WorkingSet(
            USERS, records, list(numbers), np.bincount(inputs["user"], minlength=len(numbers))
        )
        features = np.empty((len(users), _N_FEATURES))
        status = np.empty(len(users), dtype=np.int8)
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
        self._forward(batch, parsed, inputs, features, status, output)
        output.changes = state.changes()
        return output

    def _reject_future(self, batch: InputBatch, parsed: _Parsed) -> None:
        sent = np.array([batch.timestamps[i] for i in parsed.index], dtype=np.int64)
        late = (sent != NO_TIMESTAMP) & (parsed.times > sent + self.max_future_skew_ms)
        if late.any():
            for p in np.flatnonzero(late):
                parsed.rejected.append(
                    Rejected(
                        parsed.index[p],
                        "future_timestamp",
                        f"timestamp is {(parsed.times[p] - sent[p]) / 1000:.0f} s after the record "
                        f"was sent; at most {self.max_future_skew_ms / 1000:.0f} s are accepted",
                    )
                )
            _keep(parsed, ~late)

    @staticmethod
    def _forward(
        batch: InputBatch,
        parsed: _Parsed,
        inputs: np.ndarray,
        features: np.ndarray,
        status: np.ndarray,
        output: UserOutput,
    ) -> None:
        applied = np.flatnonzero(status == APPLIED)
        if applied.size < len(status):
            output.duplicates = int((status == DUPLICATE).sum())
            output.fenced = int((status == FENCED).sum())
            output.rejected.extend(
                Rejected(
                    parsed.index[p],
                    "conflicting_duplicate",
                    f"transaction_id {parsed.transactions[p].transaction_id!r} was used before for "
                    "another time, amount or merchant; the first one stands",
                )
                for p in np.flatnonzero(status == CONFLICT)
            )
            inputs = inputs[applied]
            features = features[applied]
        header = forward_header(applied.size)
        header["source"] = batch.partition
        header["offset"] = inputs["offset"]
        header["time"] = inputs["time"]
        header["amount"] = inputs["amount"]
        header["features"] = features
        places = applied.tolist()
        transactions = parsed.transactions
        header["user"] = np.array(
            [_hash(transactions[p].user_id.encode()) for p in places], dtype=np.uint64
        )
        at = [parsed.index[p] for p in places]
        header["ingested"] = [batch.timestamps[i] for i in at]
        packed = header.tobytes()
        size = header.itemsize
        values = batch.values
        output.forward_keys = [transactions[p].merchant_id.encode() for p in places]
        output.forward_values = [
            packed[k * size : (k + 1) * size] + values[i]  # type: ignore[operator]
            for k, i in enumerate(at)
        ]


def _parse(batch: InputBatch) -> _Parsed:
    """Decode a batch; at full speed if all of it is good, record by record if not."""
    values = batch.values
    try:
        if max(map(len, values)) <= MAX_RECORD_BYTES:  # type: ignore[arg-type]
            transactions = [_decode(v) for v in values]  # type: ignore[arg-type]
            if not any(map(too_deep, values)):  # type: ignore[arg-type]
                return _Parsed(list(range(len(values))), transactions, _times(transactions), [])
    except (TypeError, ValueError, OverflowError, RecursionError, InvalidTransactionError):
        pass  # something in the batch is bad: find out what, one by one
    parsed = _Parsed([], [], np.empty(0, np.int64), [])
    times: list[int] = []
    for i, raw in enumerate(values):
        try:
            transaction, time = parse_transaction(raw)
        except InvalidTransactionError as exc:
            parsed.rejected.append(Rejected(i, exc.reason, exc.detail))
            continue
        parsed.index.append(i)
        parsed.transactions.append(transaction)
        times.append(time)
    parsed.times = np.array(times, dtype=np.int64)
    return parsed


def _times(transactions: Sequence[Transaction]) -> np.ndarray:
    stamps = [t.timestamp for t in transactions]
    if any(isinstance(s, datetime | float) for s in stamps):
        return np.array([timestamp_ms(s) for s in stamps], dtype=np.int64)
    times = np.array(stamps, dtype=np.int64)
    if times.min() < MIN_TIMESTAMP_MS or times.max() >= MAX_TIMESTAMP_MS:
        for s in stamps:
            timestamp_ms(s)
    return times


def _keep(parsed: _Parsed, keep: np.ndarray) -> None:
    where = np.flatnonzero(keep).tolist()
    parsed.index = [parsed.index[p] for p in where]
    parsed.transactions = [parsed.transactions[p] for p in where]
    parsed.times = parsed.times[where]


def _split_wrong_keys(
    batch: InputBatch, parsed: _Parsed, users: list[bytes]
) -> list[tuple[int, bytes]]:
    """Take out transactions whose record key is not their user_id; they go round once."""
    keys = [batch.keys[i] for i in parsed.index]
    if keys == users:
        return []
    reroutes: list[tuple[int, bytes]] = []
    keep = np.ones(len(users), dtype=bool)
    for p, (key, user) in enumerate(zip(keys, users, strict=True)):
        if key == user:
            continue
        keep[p] = False
        index = parsed.index[p]
        if index in batch.rerouted:
            parsed.rejected.append(
                Rejected(index, "wrong_key", "the record's key is not its user_id, even re-keyed")
            )
        else:
            reroutes.append((index, user))
    _keep(parsed, keep)
    users[:] = [u for u, kept in zip(users, keep.tolist(), strict=True) if kept]
    return reroutes


def _inputs(batch: InputBatch, parsed: _Parsed, number: list[int]) -> np.ndarray:
    ts = parsed.transactions
    offsets = batch.offsets
    inputs = np.empty(len(ts), dtype=USER_INPUT)
    inputs["user"] = number
    inputs["offset"] = [offsets[i] for i in parsed.index]
    inputs["time"] = parsed.times
    inputs["amount"] = [t.amount for t in ts]
    inputs["transaction"] = np.array(
        [_hash(t.transaction_id.encode()) for t in ts], dtype=np.uint64
    )
    inputs["merchant"] = np.array([_hash(t.merchant_id.encode()) for t in ts], dtype=np.uint64)
    inputs["device"] = _hashes([t.device_fingerprint for t in ts])
    inputs["ip"] = _hashes([t.ip_address for t in ts])
    inputs["country"] = _hashes([t.country for t in ts])
    inputs["lat"] = np.array([t.lat for t in ts], dtype=np.float64)
    inputs["long"] = np.array([t.long for t in ts], dtype=np.float64)
    inputs["merchant_lat"] = np.array([t.merchant_lat for t in ts], dtype=np.float64)
    inputs["merchant_long"] = np.array([t.merchant_long for t in ts], dtype=np.float64)
    return inputs


def _hashes(texts: list[str | None]) -> np.ndarray:
    return np.array([_hash(t.encode()) if t else 0 for t in texts], dtype=np.uint64)
