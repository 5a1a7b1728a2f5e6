"""Stage one's reading of a batch: transactions, and the labels and memberships among them.

What can not be read is rejected, with the reason. Knows JSON and columns, no state and no feature.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from dafu.columns import ByteColumn, positions
from dafu.features.state import FRAUD_LABEL, GENUINE_LABEL, NEVER, PAYMENT, RING_MEMBERSHIP
from dafu.hashing import hash64
from dafu.rings.membership import parse_membership_record
from dafu.rings.records import MEMBERSHIP_RECORD, Membership
from dafu.schema import (
    LABEL_RECORD,
    InvalidRecordError,
    Label,
    Transaction,
    parse_label_record,
    parse_transaction,
)
from dafu.stages.batch import Rejected
from dafu.stages.scan import HASHED_FIELDS, Scan, scan
from dafu.stages.texts import PLACES, Texts

Document = Transaction | Label | Membership


class _Read(NamedTuple):
    """A record that is not plain: what it is, of which kind, when it was and when that was known;
    NEVER for what it does not say."""

    document: Document
    kind: int
    time: int
    observed: int = NEVER


class Parsed(Struct):
    """What was read of a batch. `scan`, `kinds`, `observed` and `texts` have a row a record; those
    whose position is in `rows` are transactions, labels and memberships to apply. `documents` are
    those that are not plain, by position."""

    scan: Scan
    kinds: np.ndarray
    observed: np.ndarray
    rows: np.ndarray
    texts: Texts
    documents: dict[int, Document]
    rejected: list[Rejected]

    def keep(self, kept: np.ndarray) -> None:
        """Leave out the rows where `kept` (bool [rows]) is False."""
        self.rows = self.rows[kept]


def parse_batch(values: ByteColumn) -> Parsed:
    """Read a batch: plain records by the kernel, the others one by one."""
    found = scan(values)
    documents: dict[int, Document] = {}
    rejected: list[Rejected] = []
    kinds = np.full(len(values), PAYMENT)
    observed = np.full(len(values), NEVER)
    good = np.ones(len(values), dtype=np.bool_)
    for i in positions(~found.plain).tolist():
        try:
            read = _read(values[i])
        except InvalidRecordError as exc:
            rejected.append(Rejected(i, exc.reason, exc.detail))
            good[i] = False
            continue
        documents[i] = read.document
        kinds[i], observed[i] = read.kind, read.observed
        _enter(found, i, read.document, read.time)
    texts = Texts(values, found.text_start, found.text_length, documents)
    return Parsed(found, kinds, observed, positions(good), texts, documents, rejected)


def _read(value: bytes | None) -> _Read:
    """A record that is not plain: a transaction, or else what it looks like."""
    try:
        transaction, time = parse_transaction(value)
        return _Read(transaction, PAYMENT, time)
    except InvalidRecordError:
        if value is None or not value.startswith((LABEL_RECORD, MEMBERSHIP_RECORD)):
            raise
    if value.startswith(MEMBERSHIP_RECORD):
        membership = parse_membership_record(value)
        return _Read(membership, RING_MEMBERSHIP, NEVER, membership.time)
    label, times = parse_label_record(value)
    kind = FRAUD_LABEL if label.is_fraud else GENUINE_LABEL
    about = NEVER if times.transaction is None else times.transaction
    return _Read(label, kind, about, times.observed)


def _enter(found: Scan, i: int, document: Any, time: int) -> None:
    """Fill in a row that the kernel left out; others than transactions have some of its fields."""
    amount = getattr(document, "amount", None)
    found.amount[i] = np.nan if amount is None else amount
    found.time[i] = time
    found.places[i] = [
        np.nan if (place := getattr(document, name, None)) is None else place for name in PLACES
    ]
    found.hashes[i] = [
        hash64(text.encode()) if (text := getattr(document, name, None)) else 0
        for name in HASHED_FIELDS
    ]
