"""Batches of transactions into Kafka records: the same row always gives the same bytes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dafu.ingest.json_text import merged, objects
from dafu.schema import TRANSACTION_FIELDS

__all__ = ["to_records"]


def to_records(batch: Any) -> list[tuple[bytes | None, bytes]]:
    """Keys and JSON values of a batch that `TransactionReader` gave out.

    The value holds the transaction's fields in the order of `dafu.schema.Transaction`, without
    those that are missing, then the attributes. Times are ISO 8601 in UTC with milliseconds. The
    key is the user; only a line that is passed on as it is may have none.

    Parameters
    ----------
    batch
        A `pyarrow.RecordBatch`.

    Returns
    -------
    list of (key, value)
    """
    present = batch.schema.names
    fields = {name: batch.column(name) for name in TRANSACTION_FIELDS if name in present}
    values = objects(fields)
    if "attributes" in present:
        values = merged(values, batch.column("attributes"))
    values = values.cast(pa.binary())
    if "raw" in present:
        values = pc.coalesce(batch.column("raw"), values)
    keys = fields["user_id"].cast(pa.binary())
    return list(zip(keys.to_pylist(), values.to_pylist(), strict=True))
