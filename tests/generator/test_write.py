"""The three formats hold the same transactions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from dafu.generator import SCHEMA, GeneratorError, generate, generate_traffic, write


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return generate(200, 40, 10, seed=1, fraud_rate=0.05)


def read_csv(path: Path) -> pa.Table:
    options = pa.csv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=True)
    return pa.csv.read_csv(path, convert_options=options)


def read_json_lines(path: Path) -> pa.Table:
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("t.csv", read_csv),
        ("t.parquet", pa.parquet.read_table),
        ("t.jsonl", read_json_lines),
        ("t.ndjson", read_json_lines),
    ],
)
def test_what_is_written_is_read_back(name, read, table: pa.Table, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert table["device_fingerprint"].null_count > 0
    assert write(table, tmp_path / name) == table.num_rows
    assert read(tmp_path / name).equals(table)
    once = (tmp_path / name).read_bytes()
    assert write(generate_traffic(200, 40, 10, 1, fraud_rate=0.05).batches, tmp_path / name) > 0
    assert read(tmp_path / name).equals(table)
    write(table, tmp_path / name)
    assert (tmp_path / name).read_bytes() == once


def test_integers_with_nulls_stay_integers(tmp_path: Path) -> None:
    write(pa.table({"n": pa.array([1, None, 2**60 + 1])}), tmp_path / "t.jsonl")
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert lines == ['{"n":1}', '{"n":null}', '{"n":1152921504606846977}']


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.jsonl"])
def test_an_empty_table_is_written(name: str, tmp_path: Path) -> None:
    assert write(SCHEMA.empty_table(), tmp_path / name) == 0
    assert (tmp_path / name).exists()


def test_refusals(table: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"unknown format; use one of \.csv"):
        write(table, tmp_path / "t.xlsx")
    with pytest.raises(GeneratorError, match="cannot be written"):
        write(table, tmp_path / "nowhere" / "t.csv")
    with pytest.raises(GeneratorError, match="nothing to write"):
        write(iter([]), tmp_path / "t.csv")
