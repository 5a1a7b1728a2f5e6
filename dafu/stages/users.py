"""Stage one: transactions by user in, transactions with user features out, keyed by merchant.

Parses and checks each record, steps the users' states through the batch, and hands on what was
new. Labels stand among the transactions, are noted with the user and handed on to the merchant;
so do memberships in fraud rings, which are noted with the user. Identifiers that are new for the
user, and what members of rings do, are told to those who find rings.
What can not be read is returned as rejected, with the reason; it never raises for bad input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dafu.columns import ByteColumn, equal, positions, prepend
from dafu.features.catalogue import USER_FEATURES, USER_INDEX
from dafu.features.facts import FACTS
from dafu.features.labels import ENTRY
from dafu.features.rings import ring_records, step_rings
from dafu.features.sightings import announce
from dafu.features.state import (
    APPLIED,
    CONFLICT,
    DUPLICATE,
    ENROLLED,
    FENCED,
    LABELLED,
    PAYMENT,
    RING_MEMBERSHIP,
    USER_RING,
    USERS,
)
from dafu.features.users import USER_INPUT, step_users
from dafu.models.recurrent import RecurrentModel
from dafu.partitioner import key_hashes
from dafu.rings.records import KINDS
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
from dafu.stages.network import activities, facts_of, hundredths, told_facts
from dafu.stages.reading import Parsed, parse_batch
from dafu.stages.scan import HASHED_FIELDS
from dafu.stages.sightings import IDENTIFIERS, sightings
from dafu.stages.texts import PLACES
from dafu.tables.changes import NOTHING
from dafu.tables.working_set import Memory, WorkingSet

_N_FEATURES: Final = len(USER_FEATURES)
_SEQUENCE_RISK: Final = USER_INDEX["sequence_risk"]
_NO_TEXT: Final = ByteColumn.of([])


class _Stepped(NamedTuple):
    """What became of the rows of a batch: whose they are, merchants' key hashes, features, status,
    ENTRY, and the risks by sequence model."""

    users: np.ndarray
    routes: np.ndarray
    features: np.ndarray
    status: np.ndarray
    entries: np.ndarray
    risks: list[tuple[int, np.ndarray]]


class _Ringed(NamedTuple):
    """Rows of users who are, or were, in a ring, among those of a batch: their rings after the row,
    and whether the row is news of a member."""

    rows: np.ndarray
    rings: np.ndarray
    told: np.ndarray

    def members(self, status: np.ndarray) -> _Ringed:
        """The rows that are transactions of present members."""
        kept = (status[self.rows] == APPLIED) & (self.rings["size"] > 0)
        return _Ringed(self.rows[kept], self.rings[kept], self.told[kept])


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
    rings : bool
        Whether to tell those who find rings of identifiers and of members.
    """

    def __init__(
        self,
        max_future_skew_ms: int,
        sequence: RecurrentModel | None = None,
        candidates: Sequence[RecurrentModel] = (),
        *,
        rings: bool = True,
    ) -> None:
        self.max_future_skew_ms = max_future_skew_ms
        self.rings = rings
        self.sequence = sequence
        self.candidates = candidates
        if len(candidates) >= MAX_SEQUENCE_MODELS:
            raise ValueError(f"at most {MAX_SEQUENCE_MODELS - 1} other sequence models look on")
        self._models = [m for m in (sequence, *candidates) if m is not None]
        self._memories = [Memory(model_number(m.version), m.state_size) for m in self._models]
        self._columns = [m.column_index(USER_INDEX) for m in self._models]

    def run(self, batch: InputBatch, records: Partitions) -> UserOutput:
        """Apply a batch to the state in `records`, which is read and not written."""
        parsed = parse_batch(batch.values)
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
        kinds, users = inputs["kind"], inputs["user"]
        enrolled = users[kinds == RING_MEMBERSHIP]
        labelled = users[(kinds != PAYMENT) & (kinds != RING_MEMBERSHIP)]
        state = WorkingSet(USERS, shares, arrivals, labelled, self._memories, enrolled)
        features = np.empty((rows.size, _N_FEATURES))
        status = np.empty(rows.size, dtype=np.int8)
        entries = np.zeros(rows.size, dtype=ENTRY)
        facts = np.zeros(rows.size, dtype=FACTS)
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
            facts,
        )
        ringed = _step_rings(state, parsed, inputs, features, status)
        risks = self._step_sequence(state, users, features, status)
        stepped = _Stepped(users, inputs["route"], features, status, entries, risks)
        _forward(batch, parsed, stepped, ringed, output)
        if self.rings:
            _tell_sightings(state, parsed, stepped, output)
            if ringed.told.any():
                _tell_activities(parsed, stepped, ringed, facts, output)
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

    def _reject_future(self, batch: InputBatch, parsed: Parsed) -> None:
        sent = batch.timestamps[parsed.rows]
        payments = parsed.kinds[parsed.rows] == PAYMENT
        times = np.where(payments, parsed.scan.time[parsed.rows], parsed.observed[parsed.rows])
        late = (sent != NO_TIMESTAMP) & (times > sent + self.max_future_skew_ms)
        if late.any():
            for p in positions(late).tolist():
                parsed.rejected.append(
                    Rejected(
                        int(parsed.rows[p]),
                        "future_timestamp",
                        f"timestamp is {(times[p] - sent[p]) / 1000:.0f} s after the record "
                        f"was sent; at most {self.max_future_skew_ms / 1000:.0f} s are accepted",
                    )
                )
            parsed.keep(~late)


def _split_wrong_keys(batch: InputBatch, parsed: Parsed) -> list[tuple[int, bytes]]:
    """Take out transactions whose record key is not their user_id; they go round once."""
    users = parsed.texts.utf8("user_id").take(parsed.rows)
    right = equal(batch.keys.take(parsed.rows), users)
    if right.all():
        return []
    reroutes: list[tuple[int, bytes]] = []
    for p in positions(~right).tolist():
        index = int(parsed.rows[p])
        if index in batch.rerouted:
            parsed.rejected.append(
                Rejected(index, "wrong_key", "the record's key is not its user_id, even re-keyed")
            )
        else:
            reroutes.append((index, users[p] or b""))
    parsed.keep(right)
    return reroutes


def _inputs(batch: InputBatch, parsed: Parsed, numbers: list[int]) -> np.ndarray:
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
_IDENTIFIERS: Final = slice(HASHED_FIELDS.index(IDENTIFIERS[KINDS[0]]), len(HASHED_FIELDS))
if list(HASHED_FIELDS[_IDENTIFIERS]) != [IDENTIFIERS[k] for k in KINDS]:  # pragma: no cover
    raise ImportError("the hashes of identifiers are not the last ones, in their order")


def _step_rings(
    state: WorkingSet,
    parsed: Parsed,
    inputs: np.ndarray,
    features: np.ndarray,
    status: np.ndarray,
) -> _Ringed:
    """Enter memberships and write the features of members."""
    ring_of = state.ring_of[inputs["user"]]
    rows = positions(ring_of >= 0)
    ringed = _Ringed(rows, np.empty(rows.size, USER_RING), np.empty(rows.size, np.bool_))
    if not rows.size:
        return ringed
    brought = positions(inputs["kind"][rows] == RING_MEMBERSHIP)
    membership_of = np.full(rows.size, -1)
    membership_of[brought] = np.arange(brought.size)
    documents: list[Any] = [parsed.documents[i] for i in parsed.rows[rows[brought]].tolist()]
    own = features[rows]
    step_rings(
        state.rings,
        ring_of[rows],
        ring_records(documents),
        membership_of,
        inputs["time"][rows],
        status[rows],
        own,
        ringed.rings,
        ringed.told,
    )
    features[rows] = own
    return ringed


def _tell_sightings(
    state: WorkingSet, parsed: Parsed, stepped: _Stepped, output: UserOutput
) -> None:
    """Tell of the identifiers that are new for their users, or have not been told of for long."""
    rows = parsed.rows
    news = np.empty((rows.size, len(KINDS)), np.bool_)
    heads = state.heads
    output.capped = announce(
        stepped.users,
        parsed.scan.time[rows],
        parsed.scan.hashes[rows, _IDENTIFIERS],
        stepped.status,
        heads["announced"],
        heads["announced_day"],
        heads["announced_count"],
        news,
    )
    told = positions(news.any(axis=1))
    if told.size:
        facts = facts_of(stepped.features[told], parsed.scan.time[rows[told]])
        output.sightings, output.refused = sightings(parsed.texts, rows[told], news[told], facts)


def _tell_activities(
    parsed: Parsed, stepped: _Stepped, ringed: _Ringed, facts: np.ndarray, output: UserOutput
) -> None:
    """Tell what members of rings do, and what becomes known of them."""
    rows = ringed.rows[ringed.told]
    # Of a user who has made no transaction nothing is known.
    rows = rows[(stepped.status[rows] == APPLIED) | (facts["as_of"][rows] > 0)]
    paid = stepped.status[rows] == APPLIED
    at = parsed.rows[rows]
    told = facts[rows]
    told["amount"] = hundredths(told["amount"])
    told[paid] = facts_of(stepped.features[rows[paid]], parsed.scan.time[at[paid]])
    known = told_facts(told)
    output.activities = activities(parsed.texts, at, known, paid)


def _forward(
    batch: InputBatch, parsed: Parsed, stepped: _Stepped, ringed: _Ringed, output: UserOutput
) -> None:
    rows, found = parsed.rows, parsed.scan
    status, entries = stepped.status, stepped.entries
    labels = positions((status == LABELLED) & (entries["kind"] != 0))
    if not (status == APPLIED).all():
        output.duplicates = int((status == DUPLICATE).sum())
        output.fenced = int((status == FENCED).sum())
        output.labels = int((status == LABELLED).sum())
        output.memberships = int((status == ENROLLED).sum())
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
    applied = positions(status == APPLIED)
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
    values = batch.values.take(rows)
    members = ringed.members(status)
    if members.rows.size:
        values = _with_rings(header, values, np.searchsorted(applied, members.rows), members.rings)
    output.forward_values = prepend(header.view(np.uint8), header.itemsize, values)
    output.forward_hashes = stepped.routes[applied]
    if labels.size:
        _forward_labels(batch, every[labels], entries[labels], applied, labels, output)


def _with_rings(
    header: np.ndarray, values: ByteColumn, members: np.ndarray, rings: np.ndarray
) -> ByteColumn:
    """Put the texts of rings ahead of the JSON of the members' transactions (positions)."""
    texts = [[own[name].tobytes().rstrip(b"\0") for own in rings] for name in ("id", "shared")]
    for name, column in zip(("ring_id", "ring_shared"), texts, strict=True):
        header[name][members] = [len(text) for text in column]
    longer = [
        ring + shared + (values[i] or b"")
        for i, ring, shared in zip(members.tolist(), *texts, strict=True)
    ]
    order = np.arange(len(values))
    order[members] = len(values) + np.arange(len(longer))
    return ByteColumn.joined([values, ByteColumn.of(longer)]).take(order)


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
