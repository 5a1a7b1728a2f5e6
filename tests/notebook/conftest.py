"""Tables of payments under the names that people use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv

from dafu.generator import generate


@pytest.fixture(scope="session")
def payments() -> Any:
    """Some weeks of labelled payments in dafu's own columns."""
    return generate(users=40, merchants=20, days=12, seed=11)


@pytest.fixture(scope="session")
def sparkov(payments: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The payments as Kaggle's file has them: an unnamed index, merchants named fraud_..."""
    n = payments.num_rows
    numbers = pc.index_in(payments["user_id"], pc.unique(payments["user_id"]))
    columns = {
        "": pa.array(range(n)),
        "trans_date_trans_time": _seconds(payments),
        "cc_num": pc.add(numbers.cast(pa.int64()), 4_000_000_000_000_000),
        "merchant": pc.binary_join_element_wise("fraud_", payments["merchant_id"], ""),
        "category": payments["category"],
        "amt": payments["amount"],
        "first": pa.array(["Ada"] * n),
        "lat": payments["lat"],
        "long": payments["long"],
        "city_pop": pa.array([1000] * n),
        "state": pa.array(["NC"] * n),
        "job": pa.array(["clerk"] * n),
        "trans_num": payments["transaction_id"],
        "unix_time": pa.array([1_371_816_865] * n),
        "merch_lat": payments["merchant_lat"],
        "merch_long": payments["merchant_long"],
        "is_fraud": payments["is_fraud"].cast(pa.int8()),
    }
    return _written(columns, tmp_path_factory.mktemp("sparkov") / "sparkov.csv")


@pytest.fixture(scope="session")
def handbook(payments: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    columns = {
        "TRANSACTION_ID": payments["transaction_id"],
        "TX_DATETIME": _seconds(payments),
        "CUSTOMER_ID": payments["user_id"],
        "TERMINAL_ID": payments["merchant_id"],
        "TX_AMOUNT": payments["amount"],
        "TX_TIME_SECONDS": pa.array(range(payments.num_rows)),
        "TX_FRAUD": payments["is_fraud"].cast(pa.int8()),
    }
    return _written(columns, tmp_path_factory.mktemp("handbook") / "handbook.csv")


@pytest.fixture(scope="session")
def odd(payments: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names of no standard, no transaction id, times in epoch milliseconds, newest first."""
    columns = {
        "paidAt": _seconds(payments).cast(pa.timestamp("ms")).cast(pa.int64()),
        "Customer Ref": payments["user_id"],
        "customer_age": pa.array([40] * payments.num_rows),
        "shopKey": payments["merchant_id"],
        "total_eur": payments["amount"],
        "wasFraud": pc.if_else(payments["is_fraud"].cast(pa.bool_()), "yes", "no"),
    }
    table = pa.table(columns).take(pa.array(range(payments.num_rows - 1, -1, -1)))
    return _written(table, tmp_path_factory.mktemp("odd") / "odd.csv")


def _seconds(payments: Any) -> Any:
    """Times as text, without a zone and below a second."""
    return pc.replace_substring(pc.utf8_slice_codeunits(payments["timestamp"], 0, 19), "T", " ")


def _written(columns: Any, path: Path) -> Path:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    csv.write_csv(table, path)
    return path
