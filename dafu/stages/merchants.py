"""Stage two: transactions by merchant in, decisions out.

Reads what stage one forwarded, steps the merchants' states, and lets rules and the model judge the
complete feature row. Labels stand among the transactions and are noted with the merchant. A pure
function of the merchant-keyed log: repeats that a restarted stage one left there are recognised by
their source offsets and dropped. Of transactions that are blocked or sent to review, those who find
fraud rings are told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from dafu.columns import NULL, ByteColumn, positions
from dafu.features.bursts import BURST
from dafu.features.catalogue import INDEX, MERCHANT_FEATURES, USER_INDEX
from dafu.features.merchants import MERCHANT_INPUT, step_merchants
from dafu.features.state import APPLIED, FENCED, LABELLED, MERCHANTS, PAYMENT
from dafu.hashing import hash64
from dafu.models.model import Model, Scores
from dafu.registry import Role
from dafu.rings.records import KINDS
from dafu.rules import Evaluation, RuleSet
from dafu.schema import Reason, Transaction
from dafu.stages.batch import (
    ABSENT_TEXT,
    LABEL_MAGIC,
    InputBatch,
    Judged,
    MerchantOutput,
    Partitions,
    Rejected,
    model_number,
    share_out,
)
from dafu.stages.bursts import burst_alerts
from dafu.stages.decide import APPROVE, BLOCK, REVIEW, Thresholds, Verdicts, decide
from dafu.stages.decisions import DecisionIds, DecisionWriter
from dafu.stages.forwarded import documents, ring_texts, unpack
from dafu.stages.lists import HeldEntries, Listed, Lists
from dafu.stages.network import activities, facts_of, told_facts
from dafu.stages.reasons import ring_reason
from dafu.stages.sightings import sightings
from dafu.stages.texts import PLACES, TEXTS, Texts
from dafu.tables.changes import NOTHING, Changes
from dafu.tables.working_set import SourceMarks, WorkingSet, id_key

ATTRIBUTE_PREFIX: Final = "attributes."
_N_MERCHANT: Final = len(MERCHANT_FEATURES)
_RING_SIZE: Final = USER_INDEX["ring_size"]
_NO_TEXT: Final = ByteColumn.of([])
_NO_NUMBER: Final = np.empty(0, np.int64)


class MerchantStage:
    """Stage two for any partitions.

    Parameters
    ----------
    rules : RuleSet
    model : Model or None
        Without one, rules decide alone and decisions are flagged `degraded`.
    thresholds : Thresholds
    candidates : sequence of (role, Model)
        Score the same transactions; what they say is noted and decides nothing.
    rings : bool
        Whether to tell those who find rings of what was blocked, and of bursts.
    """

    def __init__(
        self,
        rules: RuleSet,
        model: Model | None,
        thresholds: Thresholds,
        candidates: Sequence[tuple[Role, Model]] = (),
        *,
        rings: bool = True,
    ) -> None:
        self.rules = rules
        self.rings = rings
        self.model = model
        self.thresholds = thresholds
        self._fields = _FieldReader(rules.names)
        self._feature_names = [n for n in rules.names if n in INDEX]
        self.candidates = candidates
        self._champion = None if model is None else _Scorer(model)
        self._lookers = [_Scorer(m) for _, m in candidates]
        self._writer = DecisionWriter(rules, model, thresholds, candidates)
        self._lists = Lists(rules.names, rules.deciding)

    def run(self, batch: InputBatch, records: Partitions) -> MerchantOutput:
        """Apply a batch to the state in `records`, which is read and not written."""
        rows, header, rejected = unpack(batch)
        changes = dict.fromkeys((p.partition for p in batch.pieces), NOTHING)
        output = MerchantOutput(
            _NO_TEXT, _NO_TEXT, _NO_NUMBER, _NO_NUMBER, _NO_NUMBER, np.empty((0, len(INDEX))),
            np.empty(0, np.int8), changes=changes, rejected=rejected,
        )  # fmt: skip
        if not rows.size:
            return output
        fresh, marks = _new_ones(batch, rows, header, records, output)
        if fresh.all():
            self._decide(batch, rows, header, records, output)
        elif fresh.any():
            self._decide(batch, rows[fresh], header[fresh], records, output)
        for partition, moved in marks.items():
            output.changes[partition] = output.changes[partition].then(moved.changes())
        return output

    def _decide(
        self,
        batch: InputBatch,
        rows: np.ndarray,
        header: np.ndarray,
        records: Partitions,
        output: MerchantOutput,
    ) -> None:
        is_label = header["magic"] == LABEL_MAGIC
        keys = None
        if is_label.any():
            known, keys = _merchants_of(batch, rows, is_label, records, output)
            rows, header, is_label = rows[known], header[known], is_label[known]
        shares, numbers, arrivals = share_out(batch, rows, records, keys)
        inputs = np.empty(rows.size, dtype=MERCHANT_INPUT)
        inputs["merchant"] = numbers
        inputs["offset"] = batch.offsets[rows]
        inputs["kind"] = np.where(is_label, header["label"], PAYMENT)
        for name in ("time", "amount", "user", "label", "transaction", "observed"):
            inputs[name] = header[name]
        labelled = inputs["merchant"][inputs["label"] != PAYMENT]
        state = WorkingSet(MERCHANTS, shares, arrivals, labelled)
        merchant_features = np.empty((rows.size, _N_MERCHANT))
        status = np.empty(rows.size, dtype=np.int8)
        bursts = np.zeros(rows.size, dtype=BURST)
        step_merchants(
            state.heads,
            state.events,
            state.origins,
            state.archives,
            state.archive_of,
            state.labels,
            state.labels_of,
            inputs,
            merchant_features,
            status,
            bursts,
        )
        # An id goes first: a head without it would never get one.
        changes = (
            Changes.of([(id_key(hash64(e).to_bytes(8, "big")), e) for e in new]).then(packed)
            for new, packed in zip(state.new_entities(), state.changes(), strict=True)
        )
        output.changes = dict(zip(output.changes, changes, strict=True))
        features = np.hstack((header["features"], merchant_features))
        applied = status == APPLIED
        if not applied.all():
            output.fenced += int((status == FENCED).sum())
            output.labels += int((status == LABELLED).sum())
            rows, header, features = rows[applied], header[applied], features[applied]
            bursts = bursts[applied]
        if rows.size:
            entries = self._lists.entries_for(batch, rows, records)
            self._judge(batch.values.take(rows), header, features, entries, output)
        if rows.size and self.rings:
            merchants = batch.keys.take(rows)
            output.alerts = burst_alerts(merchants, output.keys, header["time"], features, bursts)

    def _judge(
        self,
        values: ByteColumn,
        header: np.ndarray,
        features: np.ndarray,
        entries: Sequence[HeldEntries],
        output: MerchantOutput,
    ) -> None:
        texts, listed, evaluation = self._evaluate(values, header, features, entries)
        output.judged = Judged(values, header, features)
        seen, scores = features, None
        if self._champion is not None:
            seen = self._champion.see(features, header)
            scores = self._champion.score(seen)
        verdicts = decide(
            None if scores is None else scores.risk,
            evaluation.risk,
            evaluation.outcome,
            self.thresholds,
        )
        output.keys = texts.utf8("user_id")
        output.ingested = header["ingested"]
        output.sources, output.offsets = header["source"], header["offset"]
        output.features = features
        output.outcomes = verdicts.decision
        output.degraded = self.model is None
        ids = DecisionIds(*(texts.json(name) for name in DecisionIds._fields))
        output.decisions = self._writer.write(
            ids,
            np.ascontiguousarray(header["time"]),
            seen,
            evaluation,
            scores,
            verdicts,
            header["sequence_model"][:, 0],
            [each.score(each.see(features, header)).risk for each in self._lookers],
            _ring_reasons(values, header, features, verdicts),
            listed.reasons,
        )
        output.fired = evaluation.counts()
        if self.rings:
            _tell_doubts(texts, header["time"], features, verdicts.decision, output)

    def _evaluate(
        self,
        values: ByteColumn,
        header: np.ndarray,
        features: np.ndarray,
        entries: Sequence[HeldEntries],
    ) -> tuple[Texts, Listed, Evaluation]:
        texts, columns = self._fields.read(values, header)
        for name in self._feature_names:
            columns[name] = features[:, INDEX[name]]
        listed = self._lists.look_up(entries, texts, header["time"])
        columns |= listed.columns
        return texts, listed, self.rules.evaluate(columns, len(values))

    def reconsider(self, judged: Judged) -> tuple[Texts, Evaluation]:
        """What the rules say of transactions that some stage has judged, lists left aside."""
        texts, _, evaluation = self._evaluate(*judged, entries=())
        return texts, evaluation


def _ring_reasons(
    values: ByteColumn, header: np.ndarray, features: np.ndarray, verdicts: Verdicts
) -> dict[int, Reason]:
    """What is to be said of the rings of users whose transactions are not beyond doubt."""
    doubted = (verdicts.level > 0) | (verdicts.decision != APPROVE)
    rows = positions((features[:, _RING_SIZE] > 0) & doubted)
    return {
        i: ring_reason(*ring_texts(values[i] or b"", header[i]), features[i]) for i in rows.tolist()
    }


def _tell_doubts(
    texts: Texts,
    times: np.ndarray,
    features: np.ndarray,
    decisions: np.ndarray,
    output: MerchantOutput,
) -> None:
    """Tell whose transactions were blocked, or sent to review: by their identifiers; of members of
    rings what was blocked, also by name.

    That a member's transactions are sent to review may be due to the ring, and proves nothing.
    """
    in_ring = features[:, _RING_SIZE] > 0
    rows = positions((decisions == BLOCK) | ((decisions == REVIEW) & ~in_ring))
    if not rows.size:
        return
    facts = facts_of(features[rows], times[rows])
    every = np.ones((len(rows), len(KINDS)), np.bool_)
    output.sightings, _ = sightings(texts, rows, every, facts, decisions[rows])
    members = positions(in_ring[rows])
    if members.size:
        known = told_facts(facts[members], blocked=True)
        paid = np.ones(members.size, np.bool_)
        output.activities = activities(texts, rows[members], known, paid)


class _Scorer:
    """A model with where its features are, and the sequence model that it was trained with."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._columns = model.column_index(INDEX)
        numbers = [model_number(version) for version in model.requires.values()]
        self._sequence = np.array(numbers, np.uint64) if numbers else None

    def see(self, features: np.ndarray, header: np.ndarray) -> np.ndarray:
        """Rows as the model is to see them: other sequence models than it knows are missing."""
        if self._sequence is None:
            return features
        theirs = np.isin(header["sequence_model"], self._sequence)
        first = theirs.argmax(axis=1)
        risk = header["sequence_risk"][np.arange(len(theirs)), first]
        seen = features.copy()
        seen[:, INDEX["sequence_risk"]] = np.where(theirs.any(axis=1), risk, np.nan)
        return seen

    def score(self, seen: np.ndarray) -> Scores:
        """Score rows that `see` gave."""
        return self._model.score(seen, self._columns)


def _new_ones(
    batch: InputBatch,
    rows: np.ndarray,
    header: np.ndarray,
    records: Partitions,
    output: MerchantOutput,
) -> tuple[np.ndarray, dict[int, SourceMarks]]:
    """Tell rows that have not been seen before, and the marks of the partitions that have any.

    The others are counted in `output`, as fenced or as repeats.
    """
    fresh = np.zeros(rows.size, dtype=bool)
    moved: dict[int, SourceMarks] = {}
    for piece, part in zip(batch.pieces, batch.cut(rows), strict=True):
        offsets = batch.offsets[rows[part]]
        marks = SourceMarks.load(records(piece.partition))
        beyond = offsets > marks.fence
        output.fenced += int((~beyond).sum())
        if not beyond.any():
            continue
        own = header[part][beyond]
        repeated = marks.repeats(own["source"], own["offset"])
        output.repeats += int(repeated.sum())
        fresh[part][beyond] = ~repeated
        marks.fence = int(offsets[-1])
        moved[piece.partition] = marks
    return fresh, moved


def _merchants_of(
    batch: InputBatch,
    rows: np.ndarray,
    is_label: np.ndarray,
    records: Partitions,
    output: MerchantOutput,
) -> tuple[np.ndarray, list[bytes]]:
    """Ids of the merchants that rows are about, which labels name by hash.

    Returns
    -------
    bool [rows]
        Whether the merchant is known. Labels of others are rejected.
    list of bytes [known rows]
    """
    keys: list[bytes | None] = batch.keys.take(rows).tolist()
    for piece, part in zip(batch.pieces, batch.cut(rows), strict=True):
        own = part.start + positions(is_label[part])
        if not own.size:
            continue
        hashes = [keys[i] or b"" for i in own.tolist()]
        found = records(piece.partition).get_many([id_key(hashed) for hashed in hashes])
        ids = dict(zip(hashes, found, strict=True))
        for i in range(part.start, part.stop):
            key = keys[i] or b""
            if not is_label[i]:
                # What came earlier in this batch is not written yet.
                ids[hash64(key).to_bytes(8, "big")] = key
                continue
            keys[i] = ids[key]
            if keys[i] is None:
                output.rejected.append(
                    Rejected(
                        int(rows[i]),
                        "unknown_merchant",
                        f"a label of a merchant, hash {key.hex()}, that has no transactions here",
                    )
                )
    known = np.array([key is not None for key in keys], dtype=bool)
    return known, [key for key in keys if key is not None]


class _FieldReader:
    """Reads from each forwarded transaction just the fields that the rules refer to."""

    def __init__(self, names: frozenset[str]) -> None:
        self.texts = sorted(names.intersection(TEXTS))
        self.numbers = [(n, k) for k, n in enumerate(PLACES) if n in names]
        self.attributes = sorted(n for n in names if n.startswith(ATTRIBUTE_PREFIX))
        self._decode = msgspec.json.Decoder(Transaction).decode
        fields = {f"attribute_{k}": n for k, n in enumerate(self.attributes)}
        rename = {field: name.removeprefix(ATTRIBUTE_PREFIX) for field, name in fields.items()}
        struct: Any = msgspec.defstruct(
            "Attributes", [(field, Any, None) for field in fields], rename=rename or None
        )
        self._decode_attributes = msgspec.json.Decoder(struct).decode
        self._none = struct()

    def read(self, values: ByteColumn, header: np.ndarray) -> tuple[Texts, dict[str, np.ndarray]]:
        """The text fields, and a column for every field that a rule reads.

        Parameters
        ----------
        values : ByteColumn [n]
            Forwarded records, header included.
        header : FORWARD [n]
        """
        records = documents(values, header)
        decoded = {
            i: self._decode(records[i] or b"") for i in positions(header["plain"] == 0).tolist()
        }
        lengths = header["text_length"].astype(np.int64)
        lengths[lengths == ABSENT_TEXT] = NULL
        texts = Texts(records, header["text_start"].astype(np.int64), lengths, decoded)
        columns = dict(zip(self.texts, map(_objects, texts.strings(self.texts)), strict=True))
        for name, k in self.numbers:
            columns[name] = np.ascontiguousarray(header["places"][:, k])
        if self.attributes:
            found = [self._attributes(record) for record in records.present()]
            for k, name in enumerate(self.attributes):
                columns[name] = _objects([getattr(each, f"attribute_{k}") for each in found])
        return texts, columns

    def _attributes(self, record: bytes) -> Any:
        """None where they are unreadable: stage one checks only the fields it knows."""
        try:
            return self._decode_attributes(record)
        except ValueError:  # text that is not UTF-8, a number out of range
            return self._none


def _objects(values: Sequence[Any]) -> np.ndarray:
    return np.fromiter(values, dtype=object, count=len(values))


def rule_columns(
    document: Mapping[str, Any], features: Mapping[str, float], names: frozenset[str]
) -> dict[str, Any]:
    """One row for the rules, from a transaction's JSON object and its features by name."""
    row: dict[str, Any] = {}
    for name in names:
        if name in features:
            row[name] = features[name]
        elif name.startswith(ATTRIBUTE_PREFIX):
            row[name] = document.get(name[len(ATTRIBUTE_PREFIX) :])
        else:
            row[name] = document.get(name)
    return row
