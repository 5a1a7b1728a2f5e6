"""The replay of a file against the stages: the same features, bit for bit, the same refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from dafu.features.catalogue import FEATURES
from dafu.generator import generate
from dafu.history import (
    TABLE_SCHEMA,
    History,
    label_arrivals,
    read_history,
    read_inputs,
    write_history,
)
from dafu.ingest import Mapping, TransactionReader, load_mapping
from dafu.offline import OutputFileError, RejectedRowError, run_batches
from dafu.rules import compile_rules
from dafu.schema import decode_decision
from dafu.stages.decide import Thresholds
from dafu.stages.merchants import MerchantStage
from dafu.stages.pipeline import Pipeline
from dafu.stages.users import UserStage
from tests.oracle import DAY_MS, Payment
from tests.streams import START, choices, payments

TEXTS = ("transaction_id", "user_id", "merchant_id", "device", "ip", "country")
NAMES = {"time": "timestamp", "device": "device_fingerprint", "ip": "ip_address"}


def pipeline() -> Pipeline:
    rules = compile_rules([], {}, {}, {})
    return Pipeline(UserStage(0), MerchantStage(rules, None, Thresholds()))


def by_the_stages(batches: list[Any], size: int = 1000) -> tuple[np.ndarray, list[str], list[str]]:
    """Features, ids and reasons of refusals, as `dafu score` gets them."""
    features, ids, refused = [np.empty((0, len(FEATURES)))], [], []
    for first, second in run_batches(batches, pipeline(), size):
        features.append(second.features)
        ids += [decode_decision(d).transaction_id for d in second.decisions.present()]
        refused += [r.reason for r in (*first.rejected, *second.rejected)]
    return np.vstack(features), ids, refused


def agree(history: History, batches: list[Any]) -> None:
    features, ids, refused = by_the_stages(batches)
    assert history.transaction_ids.to_pylist() == ids
    assert history.features.tobytes() == features.tobytes()
    assert sum(history.rejected.values()) == len(refused)
    assert history.rejected == {reason: refused.count(reason) for reason in set(refused)}
    total = sum(batch.num_rows for batch in batches)
    assert len(history) + history.duplicates + len(refused) == total


def mapped(table: pa.Table, tmp_path: Path, mapping: Mapping, rows: int = 500) -> list[Any]:
    path = tmp_path / "payments.parquet"
    parquet.write_table(table, path)
    return list(TransactionReader(path, mapping, batch_rows=rows))


def as_batches(stream: list[Payment], size: int) -> list[Any]:
    """Batches as a reader gives them out."""
    if not stream:
        return []
    columns: dict[str, Any] = {}
    for field in Payment.__struct_fields__:
        values = [getattr(p, field) for p in stream]
        kind: Any = pa.float64()
        if field in TEXTS:
            kind, values = pa.string(), [v or None for v in values]
        elif field == "time":
            kind = pa.timestamp("ms", tz="UTC")
        columns[NAMES.get(field, field)] = pa.array(values, kind)
    batches: list[Any] = pa.table(columns).to_batches(max_chunksize=size)
    return batches


def test_generated_payments_have_the_features_of_the_stream(tmp_path: Path) -> None:
    table = generate(users=40, merchants=15, days=40, seed=3, fraud_rate=0.05)
    batches = mapped(table, tmp_path, load_mapping("dafu"))
    history = read_history(batches)
    agree(history, batches)
    assert len(history) == len(table) > 1500
    assert history.labels.tolist() == table.column("is_fraud").to_pylist()
    for name, numbers, names in (
        ("user_id", history.users, history.user_ids),
        ("merchant_id", history.merchants, history.merchant_ids),
    ):
        assert names.take(pa.array(numbers)).to_pylist() == table.column(name).to_pylist()
    assert history.amounts.tolist() == table.column("amount").to_pylist()
    assert np.diff(history.times).min() >= 0


@given(st.lists(choices, max_size=60), st.integers(1, 70), st.integers(1, 70))
def test_retries_conflicts_and_late_payments(described: list[Any], batch: int, step: int) -> None:
    batches = as_batches(payments(described), batch)
    agree(read_history(batches, skip_bad=True, batch_rows=step), batches)


def test_users_and_merchants_beyond_what_is_retained() -> None:
    rng = np.random.default_rng(5)
    n = 3000
    late = np.where(rng.random(n) < 0.2, rng.integers(0, 7 * DAY_MS, n), 0)
    times = START + np.sort(rng.integers(0, 90 * DAY_MS, n)) - late
    stream = [
        Payment(
            transaction_id=f"t{i}",
            user_id=f"u{rng.integers(3)}",
            merchant_id=f"m{rng.integers(3)}",
            amount=float(np.round(rng.lognormal(3, 1), 2)),
            time=max(int(times[i]), START),
            device=f"d{rng.integers(200)}",
        )
        for i in range(n)
    ]
    history = read_history(as_batches(stream, 700))
    agree(history, as_batches(stream, 700))
    approximate = [f.name for f in FEATURES].index("user_windows_approximate")
    assert history.features[:, approximate].max() == 1.0


ODD = [
    {"user_id": "M\u00fcller"},
    {"user_id": 'quo"te'},
    {"user_id": "back\\slash"},
    {"user_id": "tab\there"},
    {"user_id": "x" * 256},
    {"user_id": "x" * 257},
    {"merchant_id": "\u6771\u4eac"},
    {"merchant_id": "\U0001f600" * 256},
    {"country": "c" * 65},
    {"user_agent": "a" * 1025},
    {"device_fingerprint": "d" * 1024},
    {"amount": -0.0},
    {"amount": -1.0},
    {"amount": 1e12},
    {"amount": 1.0000000001e12},
    {"amount": 5e-324},
    {"amount": 0.1 + 0.2},
    {"amount": 123456789012.34567},
    {"lat": 90.0, "long": -180.0},
    {"lat": 90.5, "long": 0.0},
    {"lat": -0.0, "long": -0.0},
    {"merchant_lat": 1e-7, "merchant_long": 180.0000001},
    {"timestamp": "1999-12-31T23:59:59.999Z"},
    {"timestamp": "2099-12-31T23:59:59.999Z"},
    {"timestamp": "2100-01-01T00:00:00Z"},
    {"note": "a { [ note"},
    {"note": "[" * 70},
    {"note": "n" * 70_000},
    {"note": "caf\u00e9"},
    {"note": 'says "amount": 5'},
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd)[:40])
def test_what_is_refused_is_what_the_stream_refuses(odd: dict[str, Any], tmp_path: Path) -> None:
    table = generate(users=3, merchants=2, days=4, seed=1).slice(0, 12)
    table = table.append_column("note", pa.array([None] * 12, pa.string()))
    table = table.append_column("size", pa.array(np.arange(12) / 7))
    rows = table.to_pylist()
    rows[4].update(odd)
    rows[9].update(odd, transaction_id="another")
    batches = mapped(pa.Table.from_pylist(rows, table.schema), tmp_path, load_mapping("dafu"), 5)
    agree(read_history(batches, skip_bad=True), batches)


def test_attributes_that_are_called_like_fields(tmp_path: Path) -> None:
    """Columns that a mapping does not know travel as attributes, and the stream reads them."""
    fields = {name: name for name in ("transaction_id", "user_id", "merchant_id", "amount")}
    mapping = Mapping(
        {"fields": {**fields, "timestamp": "timestamp"}, "other_columns": "attributes"}, "test"
    )
    table = generate(users=3, merchants=2, days=6, seed=1)
    batches = mapped(table, tmp_path, mapping)
    history = read_history(batches)
    agree(history, batches)
    places = [f.name for f in FEATURES].index("km_to_merchant")
    assert not np.isnan(history.features[:, places]).all()


def test_json_lines_that_are_no_transactions(tmp_path: Path) -> None:
    table = generate(users=3, merchants=2, days=3, seed=1).slice(0, 6)
    lines = [json.dumps(row) for row in table.to_pylist()]
    lines.insert(2, "{")
    lines.insert(4, json.dumps({**table.to_pylist()[0], "amount": "much"}))
    path = tmp_path / "payments.jsonl"
    path.write_text("\n".join(lines))
    batches = list(TransactionReader(path, load_mapping("dafu")))
    with pytest.raises(RejectedRowError, match=r"^row 3 is no valid transaction: not_json"):
        read_history(batches)
    history = read_history(batches, skip_bad=True)
    agree(history, batches)
    assert history.rejected == {"not_json": 1, "invalid_field": 1}
    inputs = read_inputs(batches, skip_bad=True)
    assert inputs.rows.tolist() == [1, 2, 4, 6, 7, 8]


def test_the_row_of_an_error_counts_all_batches(tmp_path: Path) -> None:
    table = generate(users=3, merchants=2, days=6, seed=1)
    rows = table.to_pylist()
    rows[20]["amount"] = -4.0
    batches = mapped(pa.Table.from_pylist(rows, table.schema), tmp_path, load_mapping("dafu"), 7)
    with pytest.raises(RejectedRowError, match=r"row 21 .*invalid_field.*--skip-bad"):
        read_history(batches)
    rows[20] = {**rows[17], "amount": 1.0}
    batches = mapped(pa.Table.from_pylist(rows, table.schema), tmp_path, load_mapping("dafu"), 7)
    with pytest.raises(RejectedRowError, match=r"row 21 .*conflicting_duplicate.*used before"):
        read_history(batches)
    rows[20] = rows[17]
    batches = mapped(pa.Table.from_pylist(rows, table.schema), tmp_path, load_mapping("dafu"), 7)
    assert read_history(batches).duplicates == 1


def test_labels_that_are_not_known(tmp_path: Path) -> None:
    table = generate(users=3, merchants=2, days=4, seed=1).slice(0, 5)
    table = table.set_column(
        table.schema.get_field_index("is_fraud"), "is_fraud", pa.array([1, None, 0, None, 1])
    )
    history = read_history(mapped(table, tmp_path, load_mapping("dafu")))
    assert history.labels.tolist() == [1, -1, 0, -1, 1]
    history = read_history(mapped(table.drop(["is_fraud"]), tmp_path, load_mapping("dafu")))
    assert history.labels.tolist() == [-1] * 5


def test_nothing_to_read() -> None:
    history = read_history([])
    assert len(history) == 0
    assert history.features.shape == (0, len(FEATURES))


@given(
    st.lists(st.integers(-50, 50), max_size=30).map(lambda steps: np.cumsum([0, *steps])),
    st.integers(0, 200),
)
def test_labels_arrive_with_the_first_late_enough_transaction(
    times: np.ndarray, delay: int
) -> None:
    n = len(times)
    expected = [
        next((k for k in range(i + 1, n) if max(times[: k + 1]) >= times[i] + delay), n)
        for i in range(n)
    ]
    assert label_arrivals(times, delay).tolist() == expected


def test_a_file_of_history_holds_the_history(tmp_path: Path) -> None:
    table = generate(users=20, merchants=9, days=10, seed=8, fraud_rate=0.1)
    rows = table.to_pylist()
    rows.insert(50, rows[40])
    rows[60]["is_fraud"] = None
    batches = mapped(pa.Table.from_pylist(rows, table.schema), tmp_path, load_mapping("dafu"))
    history = read_history(batches)
    seen: list[tuple[int, int]] = []
    done = write_history(batches, tmp_path / "f.parquet", on_batch=lambda *at: seen.append(at))
    assert done == (len(table), 1, {})
    assert seen == [(len(rows), len(rows))]
    written = parquet.read_table(tmp_path / "f.parquet")
    assert written.schema.equals(TABLE_SCHEMA)
    matrix = np.column_stack([written.column(f.name).to_numpy() for f in FEATURES])
    np.testing.assert_array_equal(matrix, history.features)
    labels = [None if x == -1 else x for x in history.labels.tolist()]
    assert written.column("is_fraud").to_pylist() == labels
    assert labels.count(None) == 1
    assert written.column("timestamp").cast(pa.int64()).to_pylist() == history.times.tolist()
    for name in ("transaction_id", "user_id", "merchant_id"):
        assert written.column(name).to_pylist() == table.column(name).to_pylist()


def test_a_file_that_can_not_be_written_or_finished(tmp_path: Path) -> None:
    table = generate(users=3, merchants=2, days=4, seed=1)
    rows = table.to_pylist()
    rows[-1]["amount"] = -1.0
    batches = mapped(pa.Table.from_pylist(rows, table.schema), tmp_path, load_mapping("dafu"))
    with pytest.raises(OutputFileError, match="No such file or directory"):
        write_history(batches, tmp_path / "no" / "f.parquet")
    (tmp_path / "f.parquet").write_text("before")
    with pytest.raises(RejectedRowError):
        write_history(batches, tmp_path / "f.parquet")
    assert (tmp_path / "f.parquet").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.parquet", "payments.parquet"]
