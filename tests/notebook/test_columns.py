from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.notebook.columns import describe, find_columns
from dafu.notebook.encoding import Encoder
from dafu.notebook.errors import NotebookError
from dafu.notebook.prepared import load
from dafu.notebook.tables import Named, read_table


def found(path: Path) -> Any:
    return find_columns(read_table(path))


def test_known_tables_are_told_by_their_columns(sparkov: Path, handbook: Path) -> None:
    assert found(sparkov).mapping == "sparkov"
    assert found(sparkov).columns["merchant_id"] == "merchant"
    assert found(sparkov).columns["is_fraud"] == "is_fraud"
    assert found(handbook).mapping == "handbook"
    assert found(handbook).columns["user_id"] == "CUSTOMER_ID"


def test_merchants_named_fraud_are_no_label() -> None:
    table = pa.table(
        {
            "trans_date_trans_time": ["2020-06-21 12:14:25", "2020-06-21 12:14:33"],
            "cc_num": [1, 2],
            "fraud_merchant": ["fraud_Kirlin", "fraud_Sporer"],
            "amt": [2.86, 29.84],
        }
    )
    columns = find_columns(Named("t", table)).columns
    assert "is_fraud" not in columns
    assert columns["merchant_id"] == "fraud_merchant"


def test_names_of_no_standard(odd: Path) -> None:
    columns = found(odd)
    assert columns.mapping == ""
    assert columns.columns == {
        "timestamp": "paidAt",
        "user_id": "Customer Ref",
        "merchant_id": "shopKey",
        "amount": "total_eur",
        "is_fraud": "wasFraud",
    }
    assert columns.time_format == "epoch_ms"


def test_what_is_as_likely_as_another_is_left_to_people() -> None:
    table = pa.table(
        {
            "when": ["2024-01-01", "2024-01-02"],
            "sender_key": ["a", "b"],
            "client_key": ["c", "d"],
            "shop": ["e", "f"],
            "amount": [1.5, 2.5],
        }
    )
    doubtful = find_columns(Named("t", table))
    assert doubtful.missing == ["user_id"]
    words = doubtful.explain_missing("t")
    assert "sender_key or client_key" in words and 'columns={"user_id": "..."}' in words
    told = find_columns(Named("t", table), {"user": "CLIENT_KEY"})
    assert told.missing == [] and told.columns["user_id"] == "client_key"


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"usr": "a"}, "there is no `usr`"), ({"user_id": "b"}, "has no column `b`; it has: a")],
)
def test_arguments_that_name_nothing(columns: dict[str, str | None], words: str) -> None:
    with pytest.raises(NotebookError, match=words):
        find_columns(Named("t", pa.table({"a": [1]})), columns)


def test_a_column_can_be_denied(handbook: Path) -> None:
    assert "is_fraud" not in find_columns(read_table(handbook), {"is_fraud": None}).columns


@given(st.lists(st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.booleans())))
def test_any_column_has_a_kind(values: list[Any]) -> None:
    table = read_table([{"a": v} for v in values] or [{"a": None}]).table
    kind = describe(table.column("a").combine_chunks()).kind
    assert kind in ("number", "time", "truth", "text", "empty")
    assert (kind == "empty") == all(v is None for v in values)


@pytest.mark.parametrize(
    ("values", "kind", "fmt"),
    [
        (["1", "0", None], "truth", None),
        (["no", "yes"], "truth", None),
        (["1.5", "2"], "number", None),
        (["2024-01-01T00:00:00Z"], "time", "iso"),
        ([1_700_000_000], "time", "epoch_s"),
        (["1700000000000"], "time", "epoch_ms"),
        (["x", "1"], "text", None),
        ([None, None], "empty", None),
    ],
)
def test_kinds(values: list[Any], kind: str, fmt: str | None) -> None:
    assert describe(read_table([{"a": v} for v in values]).table.column(0).chunk(0)) == (kind, fmt)


def test_payments_can_be_insisted_on() -> None:
    rows = [{"V1": 0.5, "Amount": 2.0}, {"V1": 0.25, "Amount": 3.0}]
    assert load(rows, None, None, None).kind == "columns"
    with pytest.raises(NotebookError, match="no column that is plainly user_id, merchant_id"):
        load(rows, None, None, "payments")


def test_times_of_another_format_are_read() -> None:
    rows = [
        {"user": "u", "shop": "s", "amount": 1.5, "t": "02/01/2024 10:00"},
        {"user": "u", "shop": "s", "amount": 2.5, "t": "01/02/2024 10:00"},
    ]
    loaded = load(rows, {"timestamp": "t"}, "%d/%m/%Y %H:%M", None)
    times = loaded.named.table.column("t").to_pylist()
    assert [t.month for t in times] == [1, 2]
    with pytest.raises(NotebookError, match="follows time_format"):
        load(rows, {"timestamp": "t"}, "%Y", None)


def test_ids_of_csv_files_keep_their_zeros(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("user_id,amount\n007,1\n")
    assert read_table(path).table.column("user_id").to_pylist() == ["007"]


def test_encoding_of_own_columns() -> None:
    table = pa.table(
        {
            "v": ["1.5", None, "x", "2.5"],
            "kind": ["a", "b", None, "a"],
            "ok": [True, False, None, True],
            "when": ["2024-01-01T05:00:00Z"] * 3 + [None],
            "name": ["p", "q", "r", "s"],
        }
    )
    profile = {n: describe(table.column(n).chunk(0)) for n in table.column_names}
    profile["v"] = profile["v"]._replace(kind="number")
    encoder = Encoder(pa.concat_tables([table, table]), profile, set())
    assert encoder.names == ("v", "kind=a", "kind=b", "ok", "when:hour", "when:weekday")
    x = encoder.encode(table)
    np.testing.assert_array_equal(x[:, 0], [1.5, np.nan, np.nan, 2.5])
    np.testing.assert_array_equal(x[:, 1:3], [[1, 0], [0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(x[:, 3], [1, 0, np.nan, 1])
    np.testing.assert_array_equal(x[:, 4], [5, 5, 5, np.nan])
    np.testing.assert_array_equal(x[:, 5], [0, 0, 0, np.nan])  # a Monday
    new = table.set_column(1, "kind", pa.array(["zzz"] * 4))
    assert not encoder.encode(new)[:, 1:3].any()
    with pytest.raises(NotebookError, match="lacks the columns kind"):
        encoder.encode(table.drop(["kind"]))
