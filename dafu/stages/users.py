"""Stage one: transactions by user in, transactions with user features out, keyed by merchant.

Parses and checks each record, steps the users' states through the batch, and hands on what was
new. Labels stand among the transactions, are noted with the user and handed on to the merchant.
What can not be read is returned as rejected, with the reason; it never raises for bad input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import Struct

from dafu.columns import ByteColumn, equal, prepend
from dafu.features.catalogue import USER_FEATURES, USER_INDEX
from dafu.features.labels import ENTRY
from dafu.features.state import (
    APPLIED,
    CONFLICT,
    DUPLICATE,
    FENCED,
    FRAUD_LABEL,
    GENUINE_LABEL,
    LABELLED,
    NEVER,
    PAYMENT,
    USERS,
)
from dafu.features.users import USER_INPUT, step_users
from dafu.hashing import hash64
from dafu.models.recurrent import RecurrentModel
from dafu.partitioner import key_hashes
from dafu.schema import (
    LABEL_RECORD,
    InvalidRecordError,
    Label,
    LabelTimes,
    Transaction,
    parse_label_record,
    parse_transaction,
)
from dafu.stages.batch import (
    ABSENT_TEXT,
    LABEL_MAGIC,
    MAX_SEQUENCE_MODELS,
    NO_TIMESTAMP,
    InputBatch,
    Partitions,
    Rejected,
    UserOutput,
    forward_header,
    model_number,
    share_out,
)
from dafu.stages.scan import HASHED_FIELDS, Scan, scan
from dafu.stages.texts import PLACES, Texts
from dafu.tables.changes import NOTHING
from dafu.tables.working_set import Memory, WorkingSet

_N_FEATURES: Final = len(USER_FEATURES)
_SEQUENCE_RISK: Final = USER_INDEX["sequence_risk"]
_NO_TEXT: Final = ByteColumn.of([])


class _Parsed(Struct):
    """What was read of a batch. `scan`, `kinds`, `observed` and `texts` have a row a record; those
    whose position is in `rows` are transactions and labels to apply."""

    scan: Scan
    kinds: np.ndarray
    observed: np.ndarray
    rows: np.ndarray
    texts: Texts
    rejected: list[Rejected]

    def keep(self, kept: np.ndarray) -> None:
        """Leave out the rows where `kept` (bool [rows]) is False."""
        self.rows = self.rows[kept]


class _Stepped(NamedTuple):
    """What became of the rows of a batch: merchants' key hashes, features, status, ENTRY, and the
    risks by sequence model."""

    routes: np.ndarray
    features: np.ndarray
    status: np.ndarray
    entries: np.ndarray
    risks: list[tuple[int, np.ndarray]]


class UserStage:
    """Stage one for any partitions.

    Parameters
    ----------
    max_future_skew_ms : int
        How far the time of a transaction, or of the observation that a label stems from, may be
        after the time of the record that carries it.
    sequence : RecurrentModel or None
        Looks at each user's transactions one after the other; what it says is the feature
        `sequence_risk`.
    candidates : sequence of RecurrentModel
        Look on likewise, and nothing depends on them. At most MAX_SEQUENCE_MODELS in all.
    """

    def __init__(
        self,
        max_future_skew_ms: int,
        sequence: RecurrentModel | None = None,
        candidates: Sequence[RecurrentModel] = (),
    ) -> None:
        self.max_future_skew_ms = max_future_skew_ms
        self.sequence = sequence
        self.candidates = candidates
        if len(candidates) >= MAX_SEQUENCE_MODELS:
            raise ValueError(f"at most {MAX_SEQUENCE_MODELS - 1} other sequence models look on")
        self._models = [m for m in (sequence, *candidates) if m is not None]
        self._memories = [Memory(model_number(m.version), m.state_size) for m in self._models]
        self._columns = [m.column_index(USER_INDEX) for m in self._models]

    def run(self, batch: InputBatch, records: Partitions) -> UserOutput:
        """Apply a batch to the state in `records`, which is read and not written."""
        parsed = _parse(batch.values)
        self._reject_future(batch, parsed)
        reroutes = _split_wrong_keys(batch, parsed)
        changes = dict.fromkeys((p.partition for p in batch.pieces), NOTHING)
        output = UserOutput(
            _NO_TEXT, _NO_TEXT, np.empty(0, np.int64), reroutes,
            changes=changes, rejected=parsed.rejected,
        )  # fmt: skip
        rows = parsed.rows
        if not rows.size:
            return output
        shares, numbers, arrivals = share_out(batch, rows, records)
        inputs = _inputs(batch, parsed, numbers)
        labelled = inputs["user"][inputs["kind"] != PAYMENT]
        state = WorkingSet(USERS, shares, arrivals, labelled, self._memories)
        features = np.empty((rows.size, _N_FEATURES))
        status = np.empty(rows.size, dtype=np.int8)
        entries = np.zeros(rows.size, dtype=ENTRY)
        step_users(
            state.heads,
            state.events,
            state.origins,
            state.archives,
            state.archive_of,
            state.labels,
            state.labels_of,
            inputs,
            features,
            status,
            entries,
        )
        risks = self._step_sequence(state, inputs["user"], features, status)
        stepped = _Stepped(inputs["route"], features, status, entries, risks)
        _forward(batch, parsed, stepped, output)
        output.changes = dict(zip(changes, state.changes(), strict=True))
        return output

    def _step_sequence(
        self, state: WorkingSet, users: np.ndarray, features: np.ndarray, status: np.ndarray
    ) -> list[tuple[int, np.ndarray]]:
        """Let the sequence models look at what was applied: whose risks, float64 [n].

        The champion's come first; model 0 is none.
        """
        entity = np.where(status == APPLIED, users, -1)
        risks = [
            (memory.model, model.step(features, columns, entity, kept).risk)
            for model, columns, memory, kept in zip(
                self._models, self._columns, self._memories, state.memories, strict=True
            )
        ]
        if self.sequence is None:
            return [(0, features[:, _SEQUENCE_RISK]), *risks]
        features[:, _SEQUENCE_RISK] = risks[0][1]
        return risks

    def _reject_future(self, batch: InputBatch, parsed: _Parsed) -> None:
        sent = batch.timestamps[parsed.rows]
        payments = parsed.kinds[parsed.rows] == PAYMENT
        times = np.where(payments, parsed.scan.time[parsed.rows], parsed.observed[parsed.rows])
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
    documents: dict[int, Transaction | Label] = {}
    rejected: list[Rejected] = []
    kinds = np.full(len(values), PAYMENT)
    observed = np.full(len(values), NEVER)
    good = np.ones(len(values), dtype=np.bool_)
    for i in np.flatnonzero(~found.plain).tolist():
        try:
            document, time = _read(values[i])
        except InvalidRecordError as exc:
            rejected.append(Rejected(i, exc.reason, exc.detail))
            good[i] = False
            continue
        documents[i] = document
        if isinstance(time, LabelTimes):
            kinds[i] = FRAUD_LABEL if getattr(document, "is_fraud", False) else GENUINE_LABEL
            observed[i] = time.observed
            _enter(found, i, document, NEVER if time.transaction is None else time.transaction)
        else:
            _enter(found, i, document, time)
    texts = Texts(values, found.text_start, found.text_length, documents)
    return _Parsed(found, kinds, observed, np.flatnonzero(good), texts, rejected)


def _read(value: bytes | None) -> tuple[Transaction, int] | tuple[Label, LabelTimes]:
    """A record that is not plain: a transaction, or else a label if it looks like one."""
    try:
        return parse_transaction(value)
    except InvalidRecordError:
        if value is None or not value.startswith(LABEL_RECORD):
            raise
    return parse_label_record(value)


def _enter(found: Scan, i: int, document: Any, time: int) -> None:
    """Fill in a row that the kernel left out; a label has but some of a transaction's fields."""
    found.amount[i] = np.nan if document.amount is None else document.amount
    found.time[i] = time
    found.places[i] = [
        np.nan if (place := getattr(document, name, None)) is None else place for name in PLACES
    ]
    found.hashes[i] = [
        hash64(text.encode()) if (text := getattr(document, name, None)) else 0
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
    inputs["kind"] = parsed.kinds[rows]
    inputs["observed"] = parsed.observed[rows]
    inputs["route"] = key_hashes(parsed.texts.utf8("merchant_id").take(rows))
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


def _forward(batch: InputBatch, parsed: _Parsed, stepped: _Stepped, output: UserOutput) -> None:
    rows, found = parsed.rows, parsed.scan
    status, entries = stepped.status, stepped.entries
    labels = np.flatnonzero((status == LABELLED) & (entries["kind"] != 0))
    if not (status == APPLIED).all():
        output.duplicates = int((status == DUPLICATE).sum())
        output.fenced = int((status == FENCED).sum())
        output.labels = int((status == LABELLED).sum())
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
    applied = np.flatnonzero(status == APPLIED)
    every, rows = rows, rows[applied]
    header = forward_header(rows.size)
    header["source"] = batch.partitions[rows]
    header["offset"] = batch.offsets[rows]
    header["ingested"] = batch.timestamps[rows]
    header["time"] = found.time[rows]
    header["amount"] = found.amount[rows]
    header["user"] = found.hashes[rows, _USER_HASH]
    header["places"] = found.places[rows]
    header["features"] = stepped.features[applied]
    for k, (model, risk) in enumerate(stepped.risks):
        header["sequence_model"][:, k] = model
        header["sequence_risk"][:, k] = risk[applied]
    header["plain"] = found.plain[rows]
    header["text_start"] = found.text_start[rows]
    lengths = found.text_length[rows]
    header["text_length"] = np.where(lengths < 0, ABSENT_TEXT, lengths)
    _write_entries(header, entries[applied])
    output.forward_keys = parsed.texts.utf8("merchant_id").take(rows)
    output.forward_values = prepend(header.view(np.uint8), header.itemsize, batch.values.take(rows))
    output.forward_hashes = stepped.routes[applied]
    if labels.size:
        _forward_labels(batch, every[labels], entries[labels], applied, labels, output)


def _write_entries(header: np.ndarray, entries: np.ndarray) -> None:
    header["label"] = entries["kind"]
    header["observed"] = entries["observed"]
    header["transaction"] = entries["transaction"]


def _forward_labels(
    batch: InputBatch,
    rows: np.ndarray,
    entries: np.ndarray,
    applied: np.ndarray,
    labels: np.ndarray,
    output: UserOutput,
) -> None:
    """Put labels among the forwarded transactions, in the order of the log.

    Their key is the hash of the merchant's id: the id itself is not remembered with the user.
    """
    header = forward_header(rows.size)
    header["magic"] = LABEL_MAGIC
    header["source"] = batch.partitions[rows]
    header["offset"] = batch.offsets[rows]
    header["ingested"] = batch.timestamps[rows]
    header["time"] = entries["time"]
    header["amount"] = entries["amount"]
    _write_entries(header, entries)
    keys = np.frombuffer(entries["merchant"].astype(">u8").tobytes(), np.uint8)
    size = np.full(rows.size, 8)
    order = np.argsort(np.concatenate((applied, labels)))
    output.forward_keys = ByteColumn.joined(
        [output.forward_keys, ByteColumn.packed(keys, size)]
    ).take(order)
    values = ByteColumn.packed(header.view(np.uint8), np.full(rows.size, header.itemsize))
    output.forward_values = ByteColumn.joined([output.forward_values, values]).take(order)
    output.forward_hashes = np.concatenate((output.forward_hashes, entries["route"]))[order]
