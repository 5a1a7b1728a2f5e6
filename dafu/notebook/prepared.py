"""Tables loaded and made into matrices: payments by the stream's features, others by columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dafu.evaluation.description import DataDescription, describe_data
from dafu.features.catalogue import CATALOGUE_HASH, INDEX
from dafu.history import FRAUD, GENUINE, UNKNOWN, read_history
from dafu.notebook.columns import Found, find_columns
from dafu.notebook.encoding import Encoder
from dafu.notebook.errors import NotebookError
from dafu.notebook.tables import (
    Mapped,
    Named,
    TableLike,
    converted,
    map_table,
    milliseconds,
    numbers,
    parsed_times,
    read_table,
)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Kind = Literal["payments", "columns"]

ROW_ID: Final = "dafu_row"
"""Column of made-up transaction ids, for tables that have none."""


@dataclass(frozen=True)
class Loaded:
    """A table and what was found out about it.

    Attributes
    ----------
    kind : "payments" or "columns"
        Whether it goes through the stream's features or is modelled by its own columns.
    """

    named: Named
    found: Found
    kind: Kind
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A matrix with everything that training and evaluation ask for; rows in order of time.

    Attributes
    ----------
    ids : list of str [n]
    x : float64 [n, F]
        NaN for missing.
    columns : dict
        Column of `x` by feature name.
    entity : int64 [n] or None
        Whose rows they are, numbered from 0.
    users, times : int64 [n]
        For figures by user and day; times are epoch milliseconds, row numbers if there are none.
    amounts : float64 [n]
    labels : int8 [n]
        FRAUD, GENUINE or UNKNOWN.
    split : int
        Rows from here on are not trained on.
    warm_up : int
        Rows before it are not trained on either.
    encoder : Encoder or None
        Of a table that is no payments.
    """

    kind: Kind
    ids: list[str]
    x: F64
    columns: Mapping[str, int]
    entity: I64 | None
    users: I64
    times: I64
    amounts: F64
    labels: NDArray[np.int8]
    warm_up: int
    split: int
    description: DataDescription
    notes: tuple[str, ...]
    encoder: Encoder | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def catalogue_hash(self) -> str:
        """Of the feature catalogue, empty for a table's own columns."""
        return CATALOGUE_HASH if self.kind == "payments" else ""


class PaymentReader:
    """What analyses of tables of payments have in common.

    Parameters
    ----------
    columns, time_format
        Which column is what; see `FraudDetector.load_and_analyze_data`.
    """

    def __init__(
        self,
        *,
        columns: Mapping[str, str | None] | None = None,
        time_format: str | None = None,
    ) -> None:
        self._columns = columns
        self._time_format = time_format

    def _load(self, data: TableLike) -> Loaded:
        """Read a table of payments.

        Raises
        ------
        NotebookError
            If something is missing; the message says what.
        """
        return load(data, self._columns, self._time_format, "payments")


def load(
    data: TableLike,
    columns: Mapping[str, str | None] | None,
    time_format: str | None,
    kind: Kind | None,
) -> Loaded:
    """Read a table and find its columns; sorted by time if it is not.

    Raises
    ------
    NotebookError
        If it is to be of payments and something is missing; the message says what.
    """
    named = read_table(data)
    if time_format is not None:
        column = (columns or {}).get("timestamp") or (columns or {}).get("time")
        if column is None or column not in named.table.column_names:
            raise NotebookError('time_format needs columns={"timestamp": "..."} beside it')
        named = Named(named.name, parsed_times(named.table, column, time_format))
    found = find_columns(named, columns)
    notes: list[str] = []
    if kind is None:
        kind = "columns" if found.missing else "payments"
        if found.missing:
            notes.append(
                f"{found.explain_missing(named.name)}. Without them the table is modelled by its "
                "own columns, and the model can not be deployed to a worker"
            )
    elif kind == "payments" and found.missing:
        raise NotebookError(found.explain_missing(named.name))
    if "timestamp" in found.columns:
        times = milliseconds(named.table, found.columns["timestamp"], found.time_format)
        if (np.diff(times) < 0).any():
            order = pa.array(np.argsort(times, kind="stable"))
            named = Named(named.name, named.table.take(order))
            notes.append("the rows were sorted by time")
    if kind == "payments":
        named, found = with_ids(named, found, "row-", 1)
    return Loaded(named, found, kind, tuple(notes))


def with_ids(named: Named, found: Found, prefix: str, first: int) -> tuple[Named, Found]:
    """The table with a column of ids by row number if it has no transaction ids."""
    if "transaction_id" in found.columns:
        return named, found
    ids = pa.array([f"{prefix}{first + k}" for k in range(named.table.num_rows)])
    table = named.table.append_column(ROW_ID, ids)
    found = found._replace(mapping="", columns={**found.columns, "transaction_id": ROW_ID})
    return Named(named.name, table), found


def mapped(loaded: Loaded, *, skip_bad: bool) -> Mapped:
    """The payments of a table as batches."""
    return map_table(loaded.named, loaded.found.document(), skip_bad=skip_bad)


def prepare(loaded: Loaded, *, test_share: float, warm_up_share: float, skip_bad: bool) -> Prepared:
    """Make the matrix, and say which rows are for what.

    Raises
    ------
    NotebookError
        If shares leave no rows to learn from.
    BadRowError, RejectedRowError
        On a row that is no transaction, unless `skip_bad`.
    """
    if not (0.0 <= test_share < 1.0 and 0.0 <= warm_up_share < 1.0 - test_share):
        raise NotebookError(
            f"test_share is {test_share}, warm_up_share {warm_up_share}: neither may be negative, "
            "and both together must leave rows to learn from"
        )
    if loaded.kind == "payments":
        return _payments(loaded, test_share, warm_up_share, skip_bad)
    return _own_columns(loaded, test_share, warm_up_share)


def _payments(loaded: Loaded, test: float, warm_up: float, skip_bad: bool) -> Prepared:
    batches, skipped, examples = mapped(loaded, skip_bad=skip_bad)
    history = read_history(batches, skip_bad=skip_bad)
    n = len(history)
    left_out = skipped + sum(history.rejected.values())
    notes = []
    if left_out:
        why = "; ".join([*examples, *(f"{k}: {v} rows" for k, v in history.rejected.items())])
        notes.append(f"{left_out:,} rows are no valid transactions and were left out: {why}")
    if history.duplicates:
        notes.append(f"{history.duplicates:,} rows repeat a transaction and were left out")
    if n < 2:
        raise NotebookError(f"{n} rows are valid transactions; {' '.join(notes)}")
    return Prepared(
        kind="payments",
        ids=history.transaction_ids.to_pylist(),
        x=history.features,
        columns=INDEX,
        entity=history.users,
        users=history.users,
        times=history.times,
        amounts=history.amounts,
        labels=history.labels,
        warm_up=int(n * warm_up),
        split=n - int(n * test),
        description=describe_data(loaded.named.name, history),
        notes=tuple(notes),
    )


def _own_columns(loaded: Loaded, test: float, warm_up: float) -> Prepared:
    named, found = loaded.named, loaded.found
    table, columns = named.table, found.columns
    n = table.num_rows
    if n < 2:
        raise NotebookError(f"{named.name} has {n} rows; it takes at least 2")
    labels = labels_of(table, columns.get("is_fraud"))
    ids = [f"row-{k + 1}" for k in range(n)]
    if "transaction_id" in columns:
        texts = converted(table, columns["transaction_id"], "text").to_pylist()
        ids = [i if text is None else text for i, text in zip(ids, texts, strict=True)]
    entity = None
    users, times = np.arange(n), np.arange(n)
    if "user_id" in columns:
        names: dict[str, int] = {}
        entity = users = entities_of(table, columns["user_id"], names)
    if "timestamp" in columns:
        times = milliseconds(table, columns["timestamp"], found.time_format)
    amounts = np.ones(n)
    if "amount" in columns:
        amounts = np.nan_to_num(numbers(table, columns["amount"]))
    split, start = n - int(n * test), int(n * warm_up)
    named_things = {columns[f] for f in ("is_fraud", "transaction_id", "user_id") if f in columns}
    encoder = Encoder(table.slice(start, split - start), found.profile, named_things)
    iso: list[str | None] = [None, None]
    if "timestamp" in columns:
        known = times[times != np.iinfo(np.int64).max]
        if len(known):
            iso = [str(np.datetime64(int(t), "ms")) + "Z" for t in (known.min(), known.max())]
    description = DataDescription(
        file=named.name,
        transactions=n,
        users=len(np.unique(users)) if entity is not None else 0,
        merchants=0,
        first=iso[0],
        last=iso[1],
        fraud=int((labels == FRAUD).sum()),
        genuine=int((labels == GENUINE).sum()),
        unlabelled=int((labels == UNKNOWN).sum()),
        duplicates=0,
        rejected={},
    )
    return Prepared(
        kind="columns",
        ids=ids,
        x=encoder.encode(table),
        columns={name: k for k, name in enumerate(encoder.names)},
        entity=entity,
        users=users,
        times=times,
        amounts=amounts,
        labels=labels,
        warm_up=start,
        split=split,
        description=description,
        notes=(),
        encoder=encoder,
    )


def labels_of(table: Any, column: str | None) -> NDArray[np.int8]:
    """Labels [n] of a column, UNKNOWN where there are none."""
    if column is None:
        return np.full(table.num_rows, UNKNOWN, np.int8)
    known = converted(table, column, "bool").cast(pa.int8())
    return np.asarray(pc.fill_null(known, UNKNOWN).to_numpy(zero_copy_only=False), dtype=np.int8)


def entities_of(table: Any, column: str, names: dict[str, int]) -> I64:
    """Numbers [n] of the users in a column; `names` holds those known and gets the new ones."""
    texts = converted(table, column, "text").to_pylist()
    return np.array([names.setdefault(text or "", len(names)) for text in texts], dtype=np.int64)
