"""Decisions and features for a file, without a broker: the stream's own stages on its rows.

A file passes as one partition would, in file order. The payloads are the bytes that a stream of
one partition publishes for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from dafu.decision_files import open_decision_file
from dafu.errors import DafuError
from dafu.features.catalogue import FEATURES
from dafu.ingest import to_records
from dafu.schema import decode_decision
from dafu.stages.batch import MerchantOutput, UserOutput
from dafu.stages.decide import DECISIONS
from dafu.stages.pipeline import Pipeline

FEATURE_SCHEMA: Final = pa.schema(
    [("transaction_id", pa.string()), *((f.name, pa.float64()) for f in FEATURES)]
)
"""Columns of a file of features: the catalogue's, in its order; a missing value is null."""

_FLUSH_ROWS: Final = 20_000


class RejectedRowError(DafuError):
    """A row of the file is no valid transaction."""


class OutputFileError(DafuError):
    """A file of results that can not be written."""


def run_batches(
    batches: Iterable[Any], pipeline: Pipeline, batch_records: int
) -> Iterator[tuple[UserOutput, MerchantOutput]]:
    """Decide mapped Arrow batches in pieces of at most `batch_records` rows."""
    for batch in batches:
        records = to_records(batch)
        for start in range(0, len(records), batch_records):
            piece = records[start : start + batch_records]
            yield pipeline.run([key for key, _ in piece], [value for _, value in piece])


class Scored(Struct):
    """What `score_file` did: decisions by kind, repeated transactions, rejected rows by reason."""

    decided: int = 0
    by_decision: dict[str, int] = {}
    duplicates: int = 0
    rejected: dict[str, int] = {}

    def add(self, first: UserOutput, second: MerchantOutput) -> None:
        """Count one batch."""
        self.decided += len(second.decisions)
        for code, count in enumerate(np.bincount(second.outcomes, minlength=len(DECISIONS))):
            name = DECISIONS[code]
            self.by_decision[name] = self.by_decision.get(name, 0) + int(count)
        self.duplicates += first.duplicates
        for why in (*first.rejected, *second.rejected):
            self.rejected[why.reason] = self.rejected.get(why.reason, 0) + 1


class FeatureFile:
    """Writes feature rows to a Parquet file, in row groups of a useful size."""

    def __init__(self, path: Path) -> None:
        try:
            path.open("wb").close()  # Arrow's own error would not say what is wrong with the path
        except OSError as exc:
            raise OutputFileError(f"{path} can not be written: {exc.strerror or exc}") from exc
        self._writer = pq.ParquetWriter(path, FEATURE_SCHEMA)
        self._ids: list[str] = []
        self._rows: list[np.ndarray] = []

    def write(self, transaction_ids: Sequence[str], features: np.ndarray) -> None:
        """Take rows [n, F] in catalogue order."""
        self._ids.extend(transaction_ids)
        self._rows.append(features)
        if len(self._ids) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = np.ascontiguousarray(np.vstack(self._rows).T)
        arrays = [pa.array(self._ids), *(pa.array(c, from_pandas=True) for c in columns)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=FEATURE_SCHEMA))
        self._ids.clear()
        self._rows.clear()

    def close(self) -> None:
        """Write what is left and the footer."""
        if self._ids:
            self._flush()
        self._writer.close()


def score_file(
    batches: Iterable[Any],
    pipeline: Pipeline,
    out: Path,
    *,
    features_out: Path | None = None,
    batch_records: int = 1000,
    skip_bad: bool = False,
    on_batch: Callable[[Scored], None] | None = None,
) -> Scored:
    """Decide every row, write the decisions, and the features if asked to.

    Files appear under their names only once they are complete.

    Parameters
    ----------
    batches
        Arrow batches of a `TransactionReader`.
    pipeline
        The stages, usually with empty state.
    out
        A file that `dafu.decision_files` knows how to write, by its suffix.
    features_out
        A Parquet file with one row of features for each decision.
    batch_records
        Most rows that are decided together; the results do not depend on it.
    skip_bad
        Count rows that the engine refuses instead of stopping at the first.
    on_batch
        Called with the counts so far after every batch.

    Raises
    ------
    RejectedRowError
        On the first row that the engine refuses, unless `skip_bad`.
    DecisionFileError, OutputFileError
        If a file can not be written.
    """
    scored = Scored()
    paths = [path for path in (out, features_out) if path is not None]
    decisions = open_decision_file(_unfinished(out))
    features = None
    try:
        try:
            if features_out is not None:
                features = FeatureFile(_unfinished(features_out))
            for first, second in run_batches(batches, pipeline, batch_records):
                scored.add(first, second)
                if scored.rejected and not skip_bad:
                    why = [*first.rejected, *second.rejected][0]
                    raise RejectedRowError(
                        f"a row is no valid transaction: {why.reason}: {why.detail}. Correct it, "
                        "or leave such rows out with --skip-bad"
                    )
                payloads = second.decisions.present()
                decoded = [decode_decision(payload) for payload in payloads]
                decisions.write(list(zip(decoded, payloads, strict=True)))
                if features is not None:
                    features.write([d.transaction_id for d in decoded], second.features)
                if on_batch is not None:
                    on_batch(scored)
        finally:
            decisions.close()
            if features is not None:
                features.close()
        for path in paths:
            _unfinished(path).replace(path)
    finally:
        for path in paths:
            _unfinished(path).unlink(missing_ok=True)
    return scored


def _unfinished(path: Path) -> Path:
    return path.with_name(f".unfinished-{path.name}")
