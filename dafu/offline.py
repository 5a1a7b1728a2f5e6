"""Decisions and features for a file, without a broker: the stream's own stages on its rows.

A file passes as one partition would, in file order. The payloads are the bytes that a stream of
one partition publishes for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dafu.errors import DafuError
from dafu.features.catalogue import FEATURES
from dafu.ingest import to_records
from dafu.schema import decode_decision
from dafu.stages.batch import MerchantOutput, UserOutput
from dafu.stages.pipeline import Pipeline


class RejectedRowError(DafuError):
    """A row of the file is no valid transaction."""


def run_batches(
    batches: Iterable[Any], pipeline: Pipeline, batch_records: int
) -> Iterator[tuple[UserOutput, MerchantOutput]]:
    """Decide mapped Arrow batches in pieces of at most `batch_records` rows."""
    for batch in batches:
        records = to_records(batch)
        for start in range(0, len(records), batch_records):
            piece = records[start : start + batch_records]
            yield pipeline.run([key for key, _ in piece], [value for _, value in piece])


DECISION_SCHEMA = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("user_id", pa.string()),
        ("merchant_id", pa.string()),
        ("timestamp", pa.string()),
        ("decision", pa.string()),
        ("risk_score", pa.float64()),
        ("risk_level", pa.string()),
        ("is_fraud", pa.bool_()),
        ("payload", pa.binary()),
    ]
)
"""Columns of a scored file; `payload` is the decision as the stream publishes it."""


def decision_rows(payloads: Sequence[bytes]) -> pa.RecordBatch:
    """Decisions as a table: the fields to filter by, and the exact payload."""
    decoded = [decode_decision(p) for p in payloads]
    names = DECISION_SCHEMA.names[:-1]
    columns = [[getattr(d, name) for d in decoded] for name in names]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(values, type=DECISION_SCHEMA.field(name).type)
            for name, values in zip(names, columns, strict=True)
        ]
        + [pa.array(list(payloads), type=pa.binary())],
        schema=DECISION_SCHEMA,
    )


def feature_rows(payloads: Sequence[bytes], features: np.ndarray) -> pa.RecordBatch:
    """Feature rows [n, 83] with the transaction_id in front, missing values as null."""
    ids = pa.array([decode_decision(p).transaction_id for p in payloads])
    columns = [
        pa.array(np.ascontiguousarray(features[:, j]), from_pandas=True)
        for j in range(features.shape[1])
    ]
    return pa.RecordBatch.from_arrays(
        [ids, *columns], names=["transaction_id", *(f.name for f in FEATURES)]
    )


class Scored:
    """What `score_file` did: rows decided, by decision, repeated and rejected."""

    def __init__(self) -> None:
        self.decided = 0
        self.duplicates = 0
        self.rejected: dict[str, int] = {}
        self.by_outcome = np.zeros(3, dtype=np.int64)


def score_file(
    batches: Iterable[Any],
    pipeline: Pipeline,
    out: Path,
    *,
    features_out: Path | None = None,
    batch_records: int = 1000,
    skip_bad: bool = False,
) -> Scored:
    """Decide every row and write Parquet files.

    Raises
    ------
    RejectedRowError
        On the first row that the engine refuses, unless `skip_bad`.
    """
    scored = Scored()
    decisions = pq.ParquetWriter(out, DECISION_SCHEMA)
    features: pq.ParquetWriter | None = None
    try:
        for first, second in run_batches(batches, pipeline, batch_records):
            for why in first.rejected:
                if not skip_bad:
                    raise RejectedRowError(
                        f"a row is no valid transaction: {why.reason}: {why.detail}. Correct it, "
                        "or leave such rows out with --skip-bad"
                    )
                scored.rejected[why.reason] = scored.rejected.get(why.reason, 0) + 1
            scored.duplicates += first.duplicates
            scored.decided += len(second.decisions)
            scored.by_outcome += np.bincount(second.outcomes, minlength=3)
            if not second.decisions:
                continue
            decisions.write_batch(decision_rows(second.decisions))
            if features_out is not None:
                rows = feature_rows(second.decisions, second.features)
                features = features or pq.ParquetWriter(features_out, rows.schema)
                features.write_batch(rows)
    finally:
        decisions.close()
        if features is not None:
            features.close()
    return scored
