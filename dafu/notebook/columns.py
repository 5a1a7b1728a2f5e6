"""Which column of somebody's table is what: by the names that people use, and by their types.

Tables of known make are told by the mappings that ship. In others a column must have both a name
that fits and values that fit: a label is a column of truth values, whatever the merchants are
called. Where two columns are as good as each other neither is taken: people say which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dafu.ingest import Mapping as ColumnMapping
from dafu.ingest import MappingError, load_mapping
from dafu.ingest.columns import convert
from dafu.ingest.mapping import LABELS, Cast, TimeFormat
from dafu.notebook.errors import NotebookError
from dafu.notebook.tables import Named, array_of
from dafu.schema import MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS, TRANSACTION_FIELDS

Kind = Literal["number", "time", "truth", "text", "empty"]

KNOWN: Final = ("dafu", "sparkov", "handbook")
"""Mappings that are tried first, in this order."""

PAYMENT: Final = ("user_id", "merchant_id", "timestamp", "amount")
"""What makes a table one of payments."""

FIELDS: Final = (*TRANSACTION_FIELDS, "is_fraud")
"""What a column may be."""

_SYNONYMS: Final[dict[str, str]] = {
    "user": "user_id",
    "customer": "user_id",
    "merchant": "merchant_id",
    "time": "timestamp",
    "label": "is_fraud",
    "fraud": "is_fraud",
    "id": "transaction_id",
}
"""Other keys of the argument `columns`."""

_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "is_fraud": (
        "is_fraud", "isfraud", "fraud", "tx_fraud", "fraud_label", "is_fraudulent", "fraudulent",
        "fraud_flag", "fraud_reported", "chargeback", "class", "label", "target",
    ),
    "timestamp": (
        "timestamp", "trans_date_trans_time", "tx_datetime", "datetime", "date_time",
        "transaction_datetime", "transaction_time", "transaction_date", "event_time", "created_at",
        "trans_date", "time", "date", "ts", "unix_time",
    ),
    "amount": (
        "amount", "amt", "tx_amount", "transaction_amount", "transactionamt", "trans_amount",
        "value", "price", "total",
    ),
    "user_id": (
        "user_id", "userid", "customer_id", "customerid", "client_id", "cc_num", "card_number",
        "card_id", "account_id", "account_number", "cardholder_id", "nameorig", "user",
        "customer", "client", "card", "account", "sender", "payer",
    ),
    "merchant_id": (
        "merchant_id", "merchantid", "terminal_id", "merchant", "merchant_name", "terminal",
        "shop_id", "store_id", "vendor_id", "payee_id", "namedest", "shop", "store", "vendor",
        "payee", "seller", "receiver", "beneficiary",
    ),
    "transaction_id": (
        "transaction_id", "transactionid", "trans_num", "trans_id", "tx_id", "txn_id",
        "transaction_number", "payment_id", "id", "reference",
    ),
    "category": ("category", "merchant_category", "mcc"),
    "currency": ("currency",),
    "channel": ("channel",),
    "country": ("country", "country_code"),
    "device_fingerprint": ("device_fingerprint", "device_id", "device"),
    "ip_address": ("ip_address", "ip"),
    "card_id": ("card_id", "card_number", "card_hash", "card"),
    "email": ("email", "email_address", "e_mail", "mail"),
    "lat": ("lat", "latitude"),
    "long": ("long", "lon", "lng", "longitude"),
    "merchant_lat": ("merchant_lat", "merch_lat", "merchant_latitude"),
    "merchant_long": ("merchant_long", "merch_long", "merchant_lon", "merchant_longitude"),
}  # fmt: skip
"""Names by field, best first, in the form of `_plain`."""

_WORDS: Final[dict[str, frozenset[str]]] = {
    "is_fraud": frozenset({"fraud", "fraudulent", "chargeback"}),
    "timestamp": frozenset({"time", "date", "datetime", "timestamp", "ts", "at", "when"}),
    "amount": frozenset({"amount", "amt", "value", "price", "total", "sum", "paid"}),
    "user_id": frozenset(
        {"user", "customer", "client", "card", "account", "cardholder", "payer", "sender", "member"}
    ),
    "merchant_id": frozenset(
        {"merchant", "terminal", "shop", "store", "vendor", "payee", "seller", "receiver"}
    ),
    "transaction_id": frozenset({"transaction", "tx", "txn", "trans"}),
}
"""Words of which one is in the name of such a column."""

_ID_WORDS: Final = frozenset({"id", "num", "number", "no", "ref", "reference", "key", "code"})
_DESCRIBES: Final = frozenset(
    {
        "category", "type", "age", "city", "state", "zip", "country", "lat", "latitude", "long",
        "lon", "longitude", "gender", "sex", "birth", "dob", "job", "limit", "balance", "score",
        "count", "street", "address", "population", "pop", "currency", "channel", "device", "ip",
        "email", "phone", "status",
    }
)  # fmt: skip
"""Words of columns that say something about a user or merchant, and not which."""

_KINDS: Final[dict[str, tuple[Kind, ...]]] = {
    "is_fraud": ("truth",),
    "timestamp": ("time",),
    "amount": ("number", "truth"),
    "user_id": ("number", "text", "truth", "time"),
    "merchant_id": ("number", "text", "truth", "time"),
    "transaction_id": ("number", "text", "truth", "time"),
    "lat": ("number",),
    "long": ("number",),
    "merchant_lat": ("number",),
    "merchant_long": ("number",),
}
"""Kinds of values that a field may have; text or numbers where it says nothing."""

_SAMPLE: Final = 2000
_ENOUGH: Final = 0.95
"""Share of the sampled cells that must be of a kind: a few may be damaged."""


class Column(NamedTuple):
    """What the values of a column look like; `time_format` is of times."""

    kind: Kind
    time_format: TimeFormat | None = None


class Found(NamedTuple):
    """The columns of a table.

    Attributes
    ----------
    mapping : str
        The name of the mapping that fits, or empty if names and types were guessed or given.
    columns : dict
        Column by field (`is_fraud` among them).
    time_format : TimeFormat
        How to read the times.
    profile : dict of Column
        All columns, without a leading index.
    doubts : dict of list
        By field that was not found: columns of which people must choose one.
    """

    mapping: str
    columns: dict[str, str]
    time_format: TimeFormat
    profile: dict[str, Column]
    doubts: dict[str, list[str]]

    @property
    def missing(self) -> list[str]:
        """What the table lacks to be one of payments."""
        return [field for field in PAYMENT if field not in self.columns]

    def explain_missing(self, name: str) -> str:
        """What was not found, and how to give it."""
        parts = []
        for field in self.missing:
            doubt = self.doubts.get(field)
            parts.append(f"{field} (perhaps {' or '.join(doubt)})" if doubt else field)
        example = ", ".join(f'"{field}": "..."' for field in self.missing)
        return (
            f"{name} has no column that is plainly {', '.join(parts)}. It has: "
            f"{', '.join(self.profile)}. Say which it is: columns={{{example}}}; times that are "
            'not ISO 8601 need time_format="%d/%m/%Y %H:%M" or the like'
        )

    def document(self) -> ColumnMapping:
        """The mapping for `dafu.ingest`; of no use while something is missing."""
        if self.mapping and self.time_format == "iso":
            return load_mapping(self.mapping)
        fields: dict[str, Any] = {f: c for f, c in self.columns.items() if f != "is_fraud"}
        fields["timestamp"] = {"column": self.columns["timestamp"], "format": self.time_format}
        labels = {"is_fraud": self.columns["is_fraud"]} if "is_fraud" in self.columns else {}
        return ColumnMapping({"fields": fields, "labels": labels}, "of the table's columns")


def find_columns(named: Named, columns: Mapping[str, str | None] | None = None) -> Found:
    """Find out what the columns of a table are.

    Parameters
    ----------
    named
        The table.
    columns
        Column by field for what is known better; None for a field that the table does not have.

    Raises
    ------
    NotebookError
        If `columns` names a field or a column that does not exist.
    """
    names = _without_index(named.table.column_names)
    profile = {name: describe(array_of(named.table, name)) for name in names}
    wanted = _checked(columns or {}, named, names)
    found = {field: column for field, column in wanted.items() if column is not None}
    doubts: dict[str, list[str]] = {}
    mapping = "" if columns else _known(names, named.name)
    if mapping:
        plan = load_mapping(mapping).plan(names, named.name)
        found = {c.name: c.source for c in (*plan.fields, *plan.labels) if c.source is not None}
        for name in LABELS.keys() - {"is_fraud"}:
            found.pop(name, None)
    else:
        for field in _NAMES:
            if field in wanted:
                continue
            free = {n: c for n, c in profile.items() if n not in found.values()}
            column, candidates = _find(field, free)
            if column is not None:
                found[field] = column
            elif candidates:
                doubts[field] = candidates
        _by_type(found, doubts, profile, wanted)
    time = profile.get(found.get("timestamp", ""))
    return Found(mapping, found, (time and time.time_format) or "iso", profile, doubts)


def describe(array: Any) -> Column:
    """Tell the kind of a column from its first values."""
    sample = array.drop_null().slice(0, _SAMPLE)
    if isinstance(sample.type, pa.DictionaryType):
        sample = sample.dictionary_decode()
    if len(sample) == 0:
        return Column("empty")
    if pa.types.is_nested(sample.type):
        return Column("text")
    if pa.types.is_boolean(sample.type):
        return Column("truth")
    if pa.types.is_timestamp(sample.type) or pa.types.is_date(sample.type):
        return Column("time", "iso")
    values = _tried(sample, "float")
    if values is not None:
        present = values.drop_null()
        if pc.all(pc.is_in(present, pa.array([0.0, 1.0]))).as_py():
            return Column("truth")
        middle = float(np.median(present.to_numpy(zero_copy_only=False)))
        for fmt, unit in (("epoch_ms", 1.0), ("epoch_s", 1000.0)):
            if MIN_TIMESTAMP_MS <= middle * unit < MAX_TIMESTAMP_MS:
                return Column("time", fmt)  # type: ignore[arg-type]
        return Column("number")
    truths = _tried(sample, "bool", 1.0)
    if truths is not None:
        return Column("truth")
    return Column("text") if _tried(sample, "timestamp") is None else Column("time", "iso")


def _tried(sample: Any, cast: Cast, enough: float = _ENOUGH) -> Any | None:
    """The converted sample, None if less than that share of it can be converted.

    What can not be is found cell by cell, which takes long. So as many cells are tried first as
    there may be damaged ones, and one more: if none can be converted, all is said.
    """
    spare = int((1.0 - enough) * len(sample))
    first, _ = convert(sample.slice(0, spare + 1), cast)
    if first.null_count == len(first):
        return None
    values, _ = convert(sample, cast)
    return values if values.null_count <= (1.0 - enough) * len(values) else None


def _without_index(names: list[str]) -> list[str]:
    index = {"", "unnamed: 0", "index", "__index_level_0__"}
    return [n for k, n in enumerate(names) if k > 0 or n.strip().lower() not in index]


def _known(names: list[str], name: str) -> str:
    for mapping in KNOWN:
        try:
            load_mapping(mapping).plan(names, name)
        except MappingError:
            continue
        return mapping
    return ""


def _checked(
    columns: Mapping[str, str | None], named: Named, names: list[str]
) -> dict[str, str | None]:
    """The argument by field, with columns that exist."""
    loose = {name.strip().lower(): name for name in reversed(names)}
    found: dict[str, str | None] = {}
    for key, column in columns.items():
        field = _SYNONYMS.get(key, key)
        if field not in FIELDS:
            raise NotebookError(f"columns: there is no `{key}`; there are: {', '.join(FIELDS)}")
        if column is not None:
            own = column if column in names else loose.get(column.strip().lower())
            if own is None:
                raise NotebookError(
                    f"columns: {named.name} has no column `{column}`; it has: {', '.join(names)}"
                )
            column = own  # noqa: PLW2901
        found[field] = column
    return found


def _plain(name: str) -> str:
    """Lower case with underscores, from any style of names."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", snake.lower()).strip("_")


def _find(field: str, profile: Mapping[str, Column]) -> tuple[str | None, list[str]]:
    """The column that is this field, or else those that it might be."""
    kinds = _KINDS.get(field, ("text", "number", "truth"))
    fitting = {_plain(n): n for n, c in reversed(list(profile.items())) if c.kind in kinds}
    tight = {plain.replace("_", ""): n for plain, n in fitting.items()}
    for name in _NAMES[field]:
        column = fitting.get(name) or tight.get(name.replace("_", ""))
        if column is not None:
            return column, []
    words = {n: set(plain.split("_")) for plain, n in fitting.items()}
    likely = [n for n in profile if n in words and words[n] & _WORDS.get(field, frozenset())]
    if field.endswith("_id"):
        likely = [n for n in likely if not words[n] & _DESCRIBES]
        named = [n for n in likely if words[n] & _ID_WORDS]
        likely = named if named or field == "transaction_id" else likely
    return (likely[0], []) if len(likely) == 1 else (None, likely)


def _by_type(
    found: dict[str, str],
    doubts: dict[str, list[str]],
    profile: Mapping[str, Column],
    wanted: Mapping[str, str | None],
) -> None:
    """Take the only column of times for the time, whatever its name."""
    if "timestamp" in found or "timestamp" in wanted:
        return
    used = set(found.values())
    times = [n for n, c in profile.items() if c.kind == "time" and n not in used]
    if len(times) == 1:
        found["timestamp"] = times[0]
        doubts.pop("timestamp", None)
