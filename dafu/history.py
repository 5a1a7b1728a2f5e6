"""History as a table: the features of past transactions, by the stream's own kernels.

For training, backtests and `dafu features FILE`. The rows of a file pass in file order, as one
partition would, and get the same values, bit for bit, as in the stream or from `dafu score
--features`. Columns go from the file into the kernels' arrays without becoming JSON on the way;
rows that the columns alone can not settle are written as the records that a producer would send
and read by the stream's own parser.

The whole history is in memory: about 350 bytes a transaction besides its features, and one
`WorkingSet` with room for all of it, so that nothing is packed between batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Struct
from numpy.typing import NDArray

from dafu.columns import I64, NULL, U8, ByteColumn
from dafu.features.bursts import BURST
from dafu.features.catalogue import FEATURES, MERCHANT_FEATURES, USER_FEATURES, USER_INDEX
from dafu.features.facts import FACTS
from dafu.features.labels import ENTRY
from dafu.features.merchants import MERCHANT_INPUT, step_merchants
from dafu.features.state import (
    APPLIED,
    CONFLICT,
    DUPLICATE,
    FRAUD_LABEL,
    LABELLED,
    MERCHANTS,
    PAYMENT,
    USERS,
    EntityLayout,
)
from dafu.features.users import USER_INPUT, step_users
from dafu.hashing import hash64, xxh64
from dafu.ingest import to_records
from dafu.kernel import kernel
from dafu.models.recurrent import RecurrentModel
from dafu.offline import OutputFileError, RejectedRowError
from dafu.schema import (
    MAX_AMOUNT,
    MAX_RECORD_BYTES,
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    TRANSACTION_FIELDS,
    InvalidRecordError,
    Transaction,
    parse_transaction,
)
from dafu.stages.scan import NUMBER_FIELDS, TEXT_FIELDS
from dafu.tables.records import MemoryRecords
from dafu.tables.working_set import Share, WorkingSet

__all__ = [
    "BATCH_ROWS",
    "FRAUD",
    "GENUINE",
    "TABLE_SCHEMA",
    "UNKNOWN",
    "History",
    "Inputs",
    "Step",
    "Written",
    "label_arrivals",
    "read_history",
    "read_inputs",
    "replay",
    "write_history",
]

FRAUD: Final = 1
GENUINE: Final = 0
UNKNOWN: Final = -1
"""Values of `History.labels`."""

BATCH_ROWS: Final = 20_000
"""Rows that are stepped together; for speed only."""

_GROUP_ROWS: Final = 50_000
"""Rows in a row group of a file of history."""

_IDS: Final = ("transaction_id", "user_id", "merchant_id")
_EVENT_TEXTS: Final = {
    "transaction_id": "transaction",
    "merchant_id": "merchant",
    "device_fingerprint": "device",
    "ip_address": "ip",
    "country": "country",
}
"""Text fields whose hashes an event keeps, and what it calls them."""

_MAX_ATTRIBUTES: Final = MAX_RECORD_BYTES // 4
"""Longer attributes, which might make a record oversized, are left to the parser."""

_MAX_BRACKETS: Final = 32
_FIELD_NAME: Final = '"(?:' + "|".join(TRANSACTION_FIELDS) + ')":'


class Inputs(Struct):
    """The transactions of a file as the kernels read them.

    Attributes
    ----------
    users : USER_INPUT [n]
        `offset` is the row; `user` is a position in `user_ids`.
    merchants : MERCHANT_INPUT [n]
        `merchant` is a position in `merchant_ids`.
    rows : int64 [n]
        Which of the rows read each one was, from 1.
    labels : int8 [n]
        FRAUD, GENUINE or UNKNOWN.
    transaction_ids : pyarrow.ChunkedArray of string [n]
    user_ids, merchant_ids : pyarrow.Array of string
        Distinct, in order of their first transactions.
    rejected : dict of int
        Rows that are no valid transactions and were left out, by reason.
    """

    users: np.ndarray
    merchants: np.ndarray
    rows: I64
    labels: NDArray[np.int8]
    transaction_ids: Any
    user_ids: Any
    merchant_ids: Any
    rejected: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.users)


class Step(NamedTuple):
    """What one batch of a replay gave.

    Attributes
    ----------
    rows : int64 [m]
        Positions, in the inputs, of the transactions that count.
    features : float64 [m, F]
        Theirs, in catalogue order; NaN is missing.
    duplicates : int
        Rows of the batch that repeat a transaction of their user.
    conflicts : int64 [...]
        Positions of rows that use a known transaction_id for another transaction.
    bursts : BURST [m]
        What there is to tell of bursts at the merchants (`dafu.features.bursts`).
    """

    rows: I64
    features: NDArray[np.float64]
    duplicates: int
    conflicts: I64
    bursts: np.ndarray


class History(Struct):
    """Past transactions with their features, in order of arrival.

    Rows that the stream would drop (repeats, conflicts, what is no valid transaction) are not in
    it; `duplicates` and `rejected` count them.

    Attributes
    ----------
    transaction_ids : pyarrow.ChunkedArray of string [n]
    users, merchants : int64 [n]
        Whose transaction and where, as positions in `user_ids` and `merchant_ids`.
    user_ids, merchant_ids : pyarrow.Array of string
    times : int64 [n]
        Epoch milliseconds, UTC.
    amounts : float64 [n]
    labels : int8 [n]
        1 fraud, 0 genuine, -1 unknown.
    features : float64 [n, F]
        F as in `dafu.features.catalogue.FEATURES`, NaN for missing.
    """

    transaction_ids: Any
    users: I64
    merchants: I64
    user_ids: Any
    merchant_ids: Any
    times: I64
    amounts: NDArray[np.float64]
    labels: NDArray[np.int8]
    features: NDArray[np.float64]
    duplicates: int = 0
    rejected: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.times)


def read_history(
    batches: Iterable[Any],
    *,
    label_delay: int | None = None,
    sequence: RecurrentModel | None = None,
    skip_bad: bool = False,
    batch_rows: int = BATCH_ROWS,
    on_batch: Callable[[int, int], None] | None = None,
) -> History:
    """Read a file of transactions and compute their features.

    Parameters
    ----------
    batches
        Arrow batches of a `TransactionReader`.
    label_delay, sequence
        See `replay`.
    skip_bad
        Count rows that the stream would refuse instead of stopping at the first.
    batch_rows
        Rows stepped together; the result does not depend on it.
    on_batch
        Called with the number of rows done so far and of all.

    Raises
    ------
    RejectedRowError
        On a row that the stream would refuse, unless `skip_bad`.
    """
    inputs = read_inputs(batches, skip_bad=skip_bad)
    features = np.empty((len(inputs), len(FEATURES)))
    kept = np.empty(len(inputs), dtype=np.int64)
    n = done = duplicates = 0
    for step in replay(
        inputs,
        label_delay=label_delay,
        sequence=sequence,
        skip_bad=skip_bad,
        batch_rows=batch_rows,
    ):
        end = n + len(step.rows)
        features[n:end] = step.features
        kept[n:end] = step.rows
        n = end
        duplicates += step.duplicates
        done += len(step.rows) + step.duplicates + len(step.conflicts)
        if on_batch is not None:
            on_batch(done, len(inputs))
    rows = kept[:n]
    return History(
        transaction_ids=inputs.transaction_ids.take(pa.array(rows)),
        users=inputs.users["user"][rows],
        merchants=inputs.merchants["merchant"][rows],
        user_ids=inputs.user_ids,
        merchant_ids=inputs.merchant_ids,
        times=inputs.users["time"][rows],
        amounts=inputs.users["amount"][rows],
        labels=inputs.labels[rows],
        features=features[:n],
        duplicates=duplicates,
        rejected=inputs.rejected,
    )


TABLE_SCHEMA: Final = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("user_id", pa.string()),
        ("merchant_id", pa.string()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("is_fraud", pa.int8()),
        *((f.name, pa.float64()) for f in FEATURES),
    ]
)
"""Columns of a file of history: who, where and when, the label if it is known, the features."""


class Written(NamedTuple):
    """What `write_history` did: transactions written, rows that repeat one, rows refused."""

    transactions: int
    duplicates: int
    rejected: dict[str, int]


def write_history(
    batches: Iterable[Any],
    out: Path,
    *,
    label_delay: int | None = None,
    skip_bad: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> Written:
    """Compute the features of a file's transactions and write them to a Parquet file.

    The file appears under its name only once it is complete. Features are not held in memory.

    Parameters
    ----------
    batches
        Arrow batches of a `TransactionReader`.
    out
        A Parquet file with the columns of `TABLE_SCHEMA`, a row for every transaction that counts.
    label_delay
        See `replay`.
    skip_bad
        Count rows that the stream would refuse instead of stopping at the first.
    on_batch
        Called with the number of rows done so far and of all.

    Raises
    ------
    RejectedRowError
        On a row that the stream would refuse, unless `skip_bad`.
    OutputFileError
        If the file can not be written.
    """
    unfinished = out.with_name(f".unfinished-{out.name}")
    try:
        unfinished.open("wb").close()  # Arrow's own error would not say what is wrong with it
        inputs = read_inputs(batches, skip_bad=skip_bad)
        written = done = duplicates = 0
        # Almost no two figures of a column are equal: a dictionary would only cost time.
        ids = ["user_id", "merchant_id"]
        with pq.ParquetWriter(unfinished, TABLE_SCHEMA, use_dictionary=ids) as writer:
            for step in replay(
                inputs, label_delay=label_delay, skip_bad=skip_bad, batch_rows=_GROUP_ROWS
            ):
                writer.write_table(_table(inputs, step))
                written += len(step.rows)
                duplicates += step.duplicates
                done += len(step.rows) + step.duplicates + len(step.conflicts)
                if on_batch is not None:
                    on_batch(done, len(inputs))
        unfinished.replace(out)
    except OSError as exc:
        raise OutputFileError(f"{out} can not be written: {exc.strerror or exc}") from exc
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return Written(written, duplicates, inputs.rejected)


def _table(inputs: Inputs, step: Step) -> Any:
    users, merchants = inputs.users[step.rows], inputs.merchants[step.rows]
    labels = inputs.labels[step.rows]
    columns = np.ascontiguousarray(step.features.T)
    arrays = [
        inputs.transaction_ids.take(pa.array(step.rows)),
        inputs.user_ids.take(pa.array(users["user"])),
        inputs.merchant_ids.take(pa.array(merchants["merchant"])),
        pa.array(np.ascontiguousarray(users["time"])).cast(TABLE_SCHEMA.field("timestamp").type),
        pa.array(labels, mask=labels == UNKNOWN),
        *(pa.array(column, from_pandas=True) for column in columns),
    ]
    return pa.Table.from_arrays(arrays, schema=TABLE_SCHEMA)


def replay(
    inputs: Inputs,
    *,
    label_delay: int | None = None,
    sequence: RecurrentModel | None = None,
    skip_bad: bool = False,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[Step]:
    """Step users and merchants through a history, from empty state.

    Conflicting rows are counted in `inputs.rejected`.

    Parameters
    ----------
    label_delay
        How long after a fraud it becomes known, in milliseconds; None: never. What is genuine need
        not become known: a transaction counts as genuine until a label says otherwise.
    sequence
        The model whose view is the feature `sequence_risk`.

    Raises
    ------
    RejectedRowError
        On a row that conflicts with an earlier one, unless `skip_bad`.
    """
    order, is_label = _with_labels(inputs, label_delay)
    labelled = order[is_label]
    users = _empty_state(USERS, inputs.users["user"], inputs.user_ids, labelled)
    merchants = _empty_state(MERCHANTS, inputs.merchants["merchant"], inputs.merchant_ids, labelled)
    columns = None if sequence is None else sequence.column_index(USER_INDEX)
    kept = np.zeros((len(users.heads), 0 if sequence is None else sequence.state_size), np.float32)
    for start in range(0, len(order), batch_rows):
        rows, labels = order[start : start + batch_rows], is_label[start : start + batch_rows]
        transactions = inputs.users[rows]
        transactions["offset"] = np.arange(start, start + len(rows))
        transactions["kind"][labels] = FRAUD_LABEL
        transactions["observed"][labels] = transactions["time"][labels] + (label_delay or 0)
        first = np.empty((len(rows), len(USER_FEATURES)))
        status = np.empty(len(rows), dtype=np.int8)
        entries = np.zeros(len(rows), dtype=ENTRY)
        facts = np.zeros(len(rows), dtype=FACTS)
        step_users(*_arrays(users), transactions, first, status, entries, facts)
        conflicts = rows[status == CONFLICT]
        if conflicts.size:
            _refuse_conflicts(inputs, conflicts, skip_bad)
        if sequence is not None and columns is not None:
            entity = np.where(status == APPLIED, transactions["user"], -1)
            first[:, USER_INDEX["sequence_risk"]] = sequence.step(first, columns, entity, kept).risk
        known = (status == LABELLED) & (entries["kind"] != PAYMENT)
        onward = np.flatnonzero((status == APPLIED) | known)
        forwarded = inputs.merchants[rows[onward]]
        forwarded["offset"] = start + onward
        forwarded["kind"] = forwarded["label"] = entries["kind"][onward]
        for field in ("transaction", "observed"):
            forwarded[field] = entries[field][onward]
        second = np.empty((len(onward), len(MERCHANT_FEATURES)))
        bursts = np.zeros(len(onward), BURST)
        step_merchants(
            *_arrays(merchants), forwarded, second, np.empty(len(onward), np.int8), bursts
        )
        applied, paid = np.flatnonzero(status == APPLIED), forwarded["kind"] == PAYMENT
        features = np.hstack((first[applied], second[paid]))
        duplicates = int((status == DUPLICATE).sum())
        yield Step(rows[applied], features, duplicates, conflicts, bursts[paid])


def _with_labels(inputs: Inputs, label_delay: int | None) -> tuple[I64, NDArray[np.bool_]]:
    """Transactions and labels in the order of arrival: of which row, and whether it is a label."""
    rows = np.arange(len(inputs))
    if label_delay is None:
        return rows, np.zeros(len(inputs), np.bool_)
    frauds = np.flatnonzero(inputs.labels == FRAUD)
    before = label_arrivals(inputs.users["time"], label_delay)[frauds]
    known = before < len(inputs)
    frauds, before = frauds[known], before[known]
    # A label comes ahead of the transaction that it arrives before.
    order = np.argsort(np.concatenate((2 * before, 2 * rows + 1)), kind="stable")
    return np.concatenate((frauds, rows))[order], order < len(frauds)


def label_arrivals(times: I64, label_delay: int) -> I64:
    """Before which row each row's label becomes known.

    Labels take their time: a label counts as known once the stream has come to a transaction that
    is at least `label_delay` later than the labelled one. Merging labels into the order of arrival
    is thus a stable sort by these positions.

    Parameters
    ----------
    times : int64 [n]
        Epoch milliseconds, in order of arrival.
    label_delay : int
        Milliseconds, not negative.

    Returns
    -------
    int64 [n]
        Above the row's own position; n where the label is not known by the end.

    Examples
    --------
    >>> label_arrivals(np.array([0, 10, 5, 20, 31]), 10).tolist()
    [1, 3, 3, 4, 5]
    """
    latest = np.maximum.accumulate(times)
    known = np.searchsorted(latest, times + label_delay, side="left")
    return np.maximum(known, np.arange(1, len(times) + 1))


def read_inputs(batches: Iterable[Any], *, skip_bad: bool = False) -> Inputs:
    """Check the rows of mapped Arrow batches as the stream does, and lay them out for the kernels.

    Raises
    ------
    RejectedRowError
        On the first row that is no valid transaction, unless `skip_bad`.
    """
    parts: list[_Part] = []
    rejected: dict[str, int] = {}
    row = 1
    for batch in batches:
        part, refused = _read(batch, row)
        for at, exc in refused:
            if not skip_bad:
                raise RejectedRowError(_complaint(row + at, exc.reason, exc.detail))
            rejected[exc.reason] = rejected.get(exc.reason, 0) + 1
        parts.append(part)
        row += batch.num_rows
    transaction_ids, users, merchants = (
        pa.chunked_array([part.ids[k] for part in parts], pa.string()) for k in range(len(_IDS))
    )
    user_inputs = _concatenated([part.users for part in parts], USER_INPUT)
    merchant_inputs = _concatenated([part.merchants for part in parts], MERCHANT_INPUT)
    user_inputs["user"], user_ids = _numbered(users)
    merchant_inputs["merchant"], merchant_ids = _numbered(merchants)
    user_inputs["offset"] = merchant_inputs["offset"] = np.arange(len(user_inputs))
    return Inputs(
        users=user_inputs,
        merchants=merchant_inputs,
        rows=_concatenated([part.rows for part in parts], np.dtype(np.int64)),
        labels=_concatenated([part.labels for part in parts], np.dtype(np.int8)),
        transaction_ids=transaction_ids,
        user_ids=user_ids,
        merchant_ids=merchant_ids,
        rejected=rejected,
    )


class _Part(NamedTuple):
    """What one Arrow batch holds; numbers of users and merchants come when all are known."""

    users: np.ndarray
    merchants: np.ndarray
    rows: I64
    labels: NDArray[np.int8]
    ids: list[Any]


def _concatenated(parts: list[np.ndarray], dtype: np.dtype[Any]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _numbered(ids: Any) -> tuple[I64, Any]:
    """Number names by their first appearance."""
    encoded = ids.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def _empty_state(layout: EntityLayout, numbers: I64, ids: Any, labelled: I64) -> WorkingSet:
    """Fresh states with room for everything that comes, labels of these rows included."""
    entities = [name.encode() for name in ids.to_pylist()]
    arrivals = np.bincount(numbers, minlength=len(entities))
    shares = [Share(MemoryRecords(), entities)]
    return WorkingSet(layout, shares, arrivals, np.unique(numbers[labelled]))


def _arrays(state: WorkingSet) -> tuple[Any, Any, I64, Any, I64, Any, I64]:
    return (
        state.heads,
        state.events,
        state.origins,
        state.archives,
        state.archive_of,
        state.labels,
        state.labels_of,
    )


def _refuse_conflicts(inputs: Inputs, conflicts: I64, skip_bad: bool) -> None:
    if not skip_bad:
        at = int(conflicts[0])
        detail = (
            f"transaction_id {inputs.transaction_ids[at].as_py()!r} was used before for "
            "another time, amount or merchant; the first one stands"
        )
        raise RejectedRowError(_complaint(int(inputs.rows[at]), "conflicting_duplicate", detail))
    before = inputs.rejected.get("conflicting_duplicate", 0)
    inputs.rejected["conflicting_duplicate"] = before + len(conflicts)


def _complaint(row: int, reason: str, detail: str) -> str:
    return (
        f"row {row} is no valid transaction: {reason}: {detail}. Correct it, or leave such rows "
        "out with --skip-bad"
    )


# ---------------------------------------------------------------------------------------------
# From Arrow columns to the kernels' arrays
# ---------------------------------------------------------------------------------------------


def _read(batch: Any, first_row: int) -> tuple[_Part, list[tuple[int, InvalidRecordError]]]:
    """One mapped batch; with it what is wrong with rows of it, by position."""
    n = batch.num_rows
    present = set(batch.schema.names)
    users = np.zeros(n, dtype=USER_INPUT)
    merchants = np.zeros(n, dtype=MERCHANT_INPUT)
    plain = np.ones(n, dtype=np.bool_)
    for field in TEXT_FIELDS:
        if field.name in present:
            texts = _byte_column(batch.column(field.name))
            hashes = np.zeros(n, dtype=np.uint64)
            _read_texts(
                texts.buffer, texts.starts, texts.lengths,
                field.min_length, field.max_length, field.required, hashes, plain,
            )  # fmt: skip
            if field.name in _EVENT_TEXTS:
                users[_EVENT_TEXTS[field.name]] = hashes
            if field.name == "user_id":
                merchants["user"] = hashes
        elif field.required:
            plain[:] = False
    users["time"] = _integers(batch.column("timestamp"))
    plain &= (users["time"] >= MIN_TIMESTAMP_MS) & (users["time"] < MAX_TIMESTAMP_MS)
    users["amount"] = _floats(batch.column("amount"))
    plain &= (users["amount"] <= MAX_AMOUNT) & ~np.signbit(users["amount"])
    for place in NUMBER_FIELDS:
        users[place.name] = np.nan
        if place.name in present:
            values = _floats(batch.column(place.name))
            users[place.name] = values
            inside = (values >= place.low) & (values <= place.high)
            plain &= np.isnan(values) | (inside & ~(np.signbit(values) & (values == 0.0)))
    if "attributes" in present:
        _check_attributes(batch.column("attributes"), plain)
    if "raw" in present:
        plain &= pc.is_null(batch.column("raw")).to_numpy(zero_copy_only=False)

    ids = [batch.column(name) for name in _IDS]
    good = np.ones(n, dtype=np.bool_)
    refused: list[tuple[int, InvalidRecordError]] = []
    if not plain.all():
        documents, refused = _parsed(batch, np.flatnonzero(~plain))
        for at, (transaction, time) in documents.items():
            _enter(transaction, time, users[at : at + 1], merchants[at : at + 1])
        good[[at for at, _ in refused]] = False
        ids = [_replaced(c, name, documents) for c, name in zip(ids, _IDS, strict=True)]
    merchants["time"], merchants["amount"] = users["time"], users["amount"]
    part = _Part(
        users, merchants, np.arange(first_row, first_row + n), _labels(batch, present), ids
    )
    if not good.all():
        kept = pa.array(good)
        part = _Part(
            users[good],
            merchants[good],
            part.rows[good],
            part.labels[good],
            [column.filter(kept) for column in ids],
        )
    return part, refused


def _parsed(
    batch: Any, rows: I64
) -> tuple[dict[int, tuple[Transaction, int]], list[tuple[int, InvalidRecordError]]]:
    """Rows as the stream reads their records."""
    documents: dict[int, tuple[Transaction, int]] = {}
    refused = []
    records = to_records(batch.take(pa.array(rows)))
    for at, (key, value) in zip(rows.tolist(), records, strict=True):
        try:
            transaction, time = parse_transaction(value)
            if key != transaction.user_id.encode():
                why = "the record's key is not its user_id"
                raise InvalidRecordError("wrong_key", why)  # noqa: TRY301
        except InvalidRecordError as exc:
            refused.append((at, exc))
        else:
            documents[at] = transaction, time
    return documents, refused


def _enter(transaction: Transaction, time: int, user: np.ndarray, merchant: np.ndarray) -> None:
    user["time"] = time
    user["amount"] = transaction.amount
    for name, field in _EVENT_TEXTS.items():
        text = getattr(transaction, name)
        user[field] = hash64(text.encode()) if text else 0
    for place in NUMBER_FIELDS:
        value = getattr(transaction, place.name)
        user[place.name] = np.nan if value is None else value
    merchant["user"] = hash64(transaction.user_id.encode())


def _replaced(column: Any, name: str, documents: dict[int, tuple[Transaction, int]]) -> Any:
    """A column with the parsed rows' own values in their places."""
    mask = np.zeros(len(column), dtype=np.bool_)
    order = sorted(documents)
    mask[order] = True
    values = [getattr(documents[at][0], name) for at in order]
    return pc.replace_with_mask(column, pa.array(mask), pa.array(values, column.type))


def _labels(batch: Any, present: set[str]) -> NDArray[np.int8]:
    if "is_fraud" not in present:
        return np.full(batch.num_rows, UNKNOWN, dtype=np.int8)
    known = batch.column("is_fraud").cast(pa.int8())
    return np.asarray(pc.fill_null(known, UNKNOWN).to_numpy(zero_copy_only=False), dtype=np.int8)


def _integers(column: Any) -> I64:
    values = pc.fill_null(column.cast(pa.int64()), 0)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.int64)


def _floats(column: Any) -> NDArray[np.float64]:
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)


def _byte_column(array: Any) -> ByteColumn:
    """The strings of an Arrow array, not copied."""
    array = array.cast(pa.string())
    _, offsets, data = array.buffers()
    at = np.frombuffer(offsets, np.int32, len(array) + 1, 4 * array.offset).astype(np.int64)
    lengths = np.diff(at)
    if array.null_count:
        lengths[pc.is_null(array).to_numpy(zero_copy_only=False)] = NULL
    return ByteColumn(b"" if data is None else data, at[:-1], lengths)


def _check_attributes(column: Any, plain: NDArray[np.bool_]) -> None:
    """Unmark rows whose attributes might matter to the parser."""
    texts = _byte_column(column)
    _read_attributes(texts.buffer, texts.starts, texts.lengths, plain)
    named = pc.fill_null(pc.match_substring_regex(column, _FIELD_NAME), False)
    plain &= ~named.to_numpy(zero_copy_only=False)


@kernel
def _read_texts(
    text: U8,
    starts: I64,
    lengths: I64,
    shortest: int,
    longest: int,
    required: bool,
    hashes: NDArray[np.uint64],
    plain: NDArray[np.bool_],
) -> None:
    """Hash texts that are printable ASCII of a valid length; unmark rows with others."""
    for i in range(len(starts)):
        if lengths[i] < 0:
            plain[i] &= not required
            continue
        if lengths[i] < shortest or lengths[i] > longest:
            plain[i] = False
            continue
        for p in range(starts[i], starts[i] + lengths[i]):
            if text[p] < 0x20 or text[p] > 0x7E:
                plain[i] = False
                break
        if plain[i] and lengths[i] > 0:
            hashes[i] = xxh64(text, starts[i], lengths[i])


@kernel
def _read_attributes(text: U8, starts: I64, lengths: I64, plain: NDArray[np.bool_]) -> None:
    """Unmark rows whose attributes are long, deep or not printable ASCII."""
    for i in range(len(starts)):
        if lengths[i] > _MAX_ATTRIBUTES:
            plain[i] = False
            continue
        brackets = 0
        for p in range(starts[i], starts[i] + max(lengths[i], 0)):
            c = text[p]
            if c < 0x20 or c > 0x7E:
                plain[i] = False
                break
            brackets += c in (0x5B, 0x7B)
        if brackets > _MAX_BRACKETS:
            plain[i] = False
