"""Stage two: transactions by merchant in, decisions out.

Reads what stage one forwarded, steps the merchants' states, and lets rules and the model judge the
complete feature row. A pure function of the merchant-keyed log: repeats that a restarted stage one
left there are recognised by their source offsets and dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from dafu.errors import DafuError
from dafu.features.catalogue import INDEX, MERCHANT_FEATURES, USER_LAYOUT_HASH
from dafu.features.merchants import MERCHANT_INPUT, step_merchants
from dafu.features.state import APPLIED, FENCED, MERCHANTS
from dafu.models.isolation import IsolationForestModel
from dafu.rules import RuleSet
from dafu.stages.batch import FORWARD, FORWARD_MAGIC, InputBatch, MerchantOutput, Rejected
from dafu.stages.decide import Thresholds, decide
from dafu.stages.decisions import DecisionWriter
from dafu.tables.working_set import PartitionRecords, SourceMarks, WorkingSet

ATTRIBUTE_PREFIX: Final = "attributes."
TEXT_FIELDS: Final = (
    "transaction_id",
    "user_id",
    "merchant_id",
    "currency",
    "category",
    "channel",
    "country",
    "device_fingerprint",
    "ip_address",
    "card_id",
    "user_agent",
)
NUMBER_FIELDS: Final = ("lat", "long", "merchant_lat", "merchant_long")
_N_MERCHANT: Final = len(MERCHANT_FEATURES)


class LayoutMismatchError(DafuError):
    """Stage one forwards other features than this version reads."""


class MerchantStage:
    """Stage two for any partition.

    Parameters
    ----------
    rules : RuleSet
    model : IsolationForestModel or None
        Without one, rules decide alone and decisions are flagged `degraded`.
    thresholds : Thresholds
    """

    def __init__(
        self, rules: RuleSet, model: IsolationForestModel | None, thresholds: Thresholds
    ) -> None:
        self.rules = rules
        self.model = model
        self.thresholds = thresholds
        self._fields = _FieldReader(rules.names)
        self._feature_names = [n for n in rules.names if n in INDEX]
        self._columns = None if model is None else model.column_index(INDEX)
        self._writer = DecisionWriter(rules, model, thresholds)

    def run(self, batch: InputBatch, records: PartitionRecords) -> MerchantOutput:
        """Apply a batch to the state in `records`, which is read and not written."""
        good, header, rejected = _unpack(batch)
        output = MerchantOutput(
            [], [], np.empty(0, np.int64), np.empty((0, len(INDEX))), np.empty(0, np.int8),
            rejected, [],
        )  # fmt: skip
        if not good:
            return output
        offsets = np.array([batch.offsets[i] for i in good], dtype=np.int64)
        marks = SourceMarks.load(records)
        beyond = offsets > marks.fence
        output.fenced = int((~beyond).sum())
        repeated = np.zeros(len(good), dtype=bool)
        repeated[beyond] = marks.repeats(header["source"][beyond], header["offset"][beyond])
        output.repeats = int(repeated.sum())
        fresh = np.flatnonzero(beyond & ~repeated)
        if not beyond.any():
            return output
        marks.fence = int(offsets[-1])
        if fresh.size:
            at = [good[p] for p in fresh.tolist()]
            self._decide(batch, at, header[fresh], offsets[fresh], records, output)
        output.changes.append(marks.change())
        return output

    def _decide(
        self,
        batch: InputBatch,
        at: list[int],
        header: np.ndarray,
        offsets: np.ndarray,
        records: PartitionRecords,
        output: MerchantOutput,
    ) -> None:
        merchants: list[bytes] = [batch.keys[i] or b"" for i in at]
        numbers: dict[bytes, int] = {}
        inputs = np.empty(len(at), dtype=MERCHANT_INPUT)
        inputs["merchant"] = [numbers.setdefault(m, len(numbers)) for m in merchants]
        inputs["offset"] = offsets
        for name in ("time", "amount", "user"):
            inputs[name] = header[name]
        state = WorkingSet(
            MERCHANTS,
            records,
            list(numbers),
            np.bincount(inputs["merchant"], minlength=len(numbers)),
        )
        merchant_features = np.empty((len(at), _N_MERCHANT))
        status = np.empty(len(at), dtype=np.int8)
        step_merchants(
            state.heads,
            state.events,
            state.origins,
            state.archives,
            state.archive_of,
            inputs,
            merchant_features,
            status,
        )
        output.changes.extend(state.changes())
        features = np.hstack((header["features"], merchant_features))
        if (status == FENCED).any():
            applied = np.flatnonzero(status == APPLIED)
            output.fenced += len(at) - applied.size
            at = [at[p] for p in applied.tolist()]
            header, features = header[applied], features[applied]
        tails = [batch.values[i][FORWARD.itemsize :] for i in at]  # type: ignore[index]
        self._judge(tails, header, features, output)

    def _judge(
        self,
        tails: list[bytes],
        header: np.ndarray,
        features: np.ndarray,
        output: MerchantOutput,
    ) -> None:
        n = len(tails)
        documents, columns = self._fields.read(tails)
        for name in self._feature_names:
            columns[name] = features[:, INDEX[name]]
        evaluation = self.rules.evaluate(columns, n)
        scores = None
        if self.model is not None and self._columns is not None:
            scores = self.model.score(features, self._columns)
        verdicts = decide(
            None if scores is None else scores.risk,
            evaluation.risk,
            evaluation.outcome,
            self.thresholds,
        )
        output.keys = [d.user_id.encode() for d in documents]
        output.ingested = header["ingested"]
        output.features = features
        output.outcomes = verdicts.decision
        output.decisions = self._writer.write(
            documents, header["time"], features, evaluation, scores, verdicts
        )


def _unpack(batch: InputBatch) -> tuple[list[int], np.ndarray, list[Rejected]]:
    """Split off the forwarded headers; records that have none are rejected.

    Raises
    ------
    LayoutMismatchError
        If the records come from a version with other user features.
    """
    size = FORWARD.itemsize
    keys, values = batch.keys, batch.values
    magic = FORWARD_MAGIC.to_bytes(4, "little")
    good = [
        i
        for i, value in enumerate(values)
        if value is not None and len(value) > size and value[:4] == magic and keys[i]
    ]
    rejected: list[Rejected] = []
    if len(good) < len(values):
        why = "not a record that the users agent forwarded"
        rejected = [
            Rejected(i, "not_forwarded", why) for i in sorted(set(range(len(values))) - set(good))
        ]
    header = np.frombuffer(b"".join([values[i][:size] for i in good]), dtype=FORWARD)  # type: ignore[index]
    other = np.flatnonzero(header["layout"] != USER_LAYOUT_HASH)
    if other.size:
        raise LayoutMismatchError(
            f"record at offset {batch.offsets[good[other[0]]]} carries user features of layout "
            f"{header['layout'][other[0]]:08x}, this version reads {USER_LAYOUT_HASH:08x}. Let the "
            "version that forwarded it drain the topic before upgrading"
        )
    return good, header, rejected


class _FieldReader:
    """Reads from each transaction's JSON just the fields that the rules refer to."""

    def __init__(self, names: frozenset[str]) -> None:
        self.texts = sorted(n for n in names if n in TEXT_FIELDS)
        self.numbers = sorted(n for n in names if n in NUMBER_FIELDS)
        self.attributes = sorted(n for n in names if n.startswith(ATTRIBUTE_PREFIX))
        always = ("transaction_id", "user_id", "merchant_id")
        checked: list[Any] = [(n, str) for n in always]
        checked += [(n, str | None, None) for n in self.texts if n not in always]
        checked += [(n, float | None, None) for n in self.numbers]
        self._decode_checked = msgspec.json.Decoder(
            msgspec.defstruct("CheckedFields", checked, gc=False)
        ).decode
        fields = list(checked)
        known = {field[0] for field in checked}
        rename: dict[str, str] = {}
        self._attribute_fields: list[str] = []
        for k, name in enumerate(self.attributes):
            field = name[len(ATTRIBUTE_PREFIX) :]
            if field not in known:  # else it is decoded already, under its own name
                fields.append((f"attribute_{k}", Any, None))
                rename[f"attribute_{k}"] = field
                field = f"attribute_{k}"
            self._attribute_fields.append(field)
        struct = msgspec.defstruct("Fields", fields, rename=rename or None, gc=False)
        self._decode = msgspec.json.Decoder(struct).decode

    def read(self, raw: Sequence[bytes]) -> tuple[list[Any], dict[str, np.ndarray]]:
        """Decoded documents, and a column for every field that a rule reads."""
        decode = self._decode
        try:
            documents = [decode(r) for r in raw]
        except ValueError:
            documents = [self._decode_tolerantly(r) for r in raw]
        columns: dict[str, np.ndarray] = {}
        for name in self.texts:
            columns[name] = _objects([getattr(d, name) for d in documents])
        for name in self.numbers:
            columns[name] = np.array([getattr(d, name) for d in documents], dtype=np.float64)
        for name, field in zip(self.attributes, self._attribute_fields, strict=True):
            columns[name] = _objects([getattr(d, field, None) for d in documents])
        return documents, columns

    def _decode_tolerantly(self, raw: bytes) -> Any:
        """Without attributes where one is unreadable: stage one checks only the fields it knows."""
        try:
            return self._decode(raw)
        except ValueError:  # text that is not UTF-8, a number out of range
            return self._decode_checked(raw)


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
