"""Files into records: bytes that do not depend on how a file was cut, and bad rows by number."""

from __future__ import annotations

import gzip
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from dafu.ingest import BadRowError, Mapping, ReadError, TransactionReader, parse_time, to_records
from dafu.ingest.json_text import merged, objects
from dafu.ingest.mapping import MappingError, load_mapping
from dafu.schema import InvalidRecordError, parse_transaction

ROOT = Path(__file__).resolve().parents[2]
CONF = {"DAFU_CONF": str(ROOT / "conf")}
DAFU = load_mapping("dafu", CONF)
SPARKOV = load_mapping("sparkov", CONF)
HANDBOOK = load_mapping("handbook", CONF)

HEADER = "transaction_id,user_id,merchant_id,amount,timestamp,category,is_fraud,note\n"
ROWS = (
    "t1,4613314721966123456,m1,2.5,2020-06-21 12:14:25,food,0,plain\n"
    't2,0042,"m, ""2""",1e3,2020-06-21T14:14:25.5+02:00,,1,"two\nlines"\n'
    "t3,u3,m3,7,2020-06-22,,0,\n"
)

Records = list[tuple[bytes | None, bytes]]


def read(path: Path, mapping: Mapping, **options: Any) -> Records:
    return [r for batch in TransactionReader(path, mapping, **options) for r in to_records(batch)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv(tmp_path: Path) -> None:
    records = read(write(tmp_path / "a.csv", HEADER + ROWS), DAFU)
    assert records[0] == (
        b"4613314721966123456",
        b'{"transaction_id":"t1","user_id":"4613314721966123456","merchant_id":"m1",'
        b'"amount":2.5,"timestamp":"2020-06-21T12:14:25.000Z","category":"food","note":"plain"}',
    )
    assert json.loads(records[1][1]) == {
        "transaction_id": "t2",
        "user_id": "0042",
        "merchant_id": 'm, "2"',
        "amount": 1000,
        "timestamp": "2020-06-21T12:14:25.500Z",
        "note": "two\nlines",
    }
    assert records[2][1].endswith(b'"amount":7,"timestamp":"2020-06-22T00:00:00.000Z"}')
    for _, value in records:
        parse_transaction(value)


@pytest.mark.parametrize("rows", [1, 2, 3, 50])
def test_bytes_do_not_depend_on_the_cut(tmp_path: Path, rows: int) -> None:
    path = write(tmp_path / "a.csv", HEADER + ROWS)
    assert read(path, DAFU, batch_rows=rows) == read(path, DAFU)


def test_compressed_and_tabs(tmp_path: Path) -> None:
    plain = read(write(tmp_path / "a.csv", HEADER + ROWS), DAFU)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((HEADER + ROWS).encode()))
    assert read(tmp_path / "a.csv.gz", DAFU) == plain
    tabs = HEADER.replace(",", "\t") + "t1\tu\tm\t1\t2020-01-01\t\t\t\n"
    assert read(write(tmp_path / "a.tsv", tabs), DAFU)[0][0] == b"u"


SPARKOV_HEADER = (
    "trans_date_trans_time,cc_num,merchant,category,amt,first,last,gender,street,city,state,zip,"
    "lat,long,city_pop,job,dob,trans_num,unix_time,merch_lat,merch_long,is_fraud"
)
SPARKOV_ROW = (
    "2020-01-02 03:04:05,4613314721966999,fraud_Acme,misc,9.99,Ann,Example,F,1 Some Way,Town,"
    "NY,00501,40.5,-73.5,12,Baker,1980-01-01,abc123,1325473445,40.25,-73.25,1"
)


@pytest.mark.parametrize("index", [False, True])
def test_sparkov(tmp_path: Path, index: bool) -> None:
    text = f"{',' * index}{SPARKOV_HEADER}\n{'0,' * index}{SPARKOV_ROW}\n"
    path = write(tmp_path / "s.csv", text)
    assert read(path, SPARKOV) == [
        (
            b"4613314721966999",
            b'{"transaction_id":"abc123","user_id":"4613314721966999","merchant_id":"fraud_Acme",'
            b'"amount":9.99,"timestamp":"2020-01-02T03:04:05.000Z","category":"misc","lat":40.5,'
            b'"long":-73.5,"merchant_lat":40.25,"merchant_long":-73.25,"city_pop":12,'
            b'"state":"NY","job":"Baker"}',
        )
    ]
    (batch,) = TransactionReader(path, SPARKOV)
    assert batch.column("is_fraud").to_pylist() == [True]


def test_handbook_parquet(tmp_path: Path) -> None:
    when = datetime(2018, 4, 1, 0, 0, 31)
    table = pa.table(
        {
            "TRANSACTION_ID": pa.array([0, 1], pa.int64()),
            "TX_DATETIME": pa.array([when, when], pa.timestamp("ns")),
            "CUSTOMER_ID": pa.array([596, 7], pa.int64()),
            "TERMINAL_ID": pa.array([3156, 8], pa.int64()),
            "TX_AMOUNT": [57.16, 146.0],
            "TX_TIME_SECONDS": [31, 31],
            "TX_TIME_DAYS": [0, 0],
            "TX_FRAUD": [0, 1],
            "TX_FRAUD_SCENARIO": [0, 2],
        }
    )
    parquet.write_table(table, tmp_path / "h.parquet")
    records = read(tmp_path / "h.parquet", HANDBOOK)
    assert records[0] == (
        b"596",
        b'{"transaction_id":"0","user_id":"596","merchant_id":"3156","amount":57.16,'
        b'"timestamp":"2018-04-01T00:00:31.000Z"}',
    )
    assert read(tmp_path / "h.parquet", HANDBOOK, batch_rows=1) == records
    reader = TransactionReader(tmp_path / "h.parquet", HANDBOOK)
    (batch,) = reader
    assert batch.column("is_fraud").to_pylist() == [False, True]
    assert reader.fraction == 1.0


def test_ids_that_became_floats(tmp_path: Path) -> None:
    columns = {name: ["x", "x"] for name in ("transaction_id", "merchant_id")}
    times = ["2020-01-01"] * 2
    table = pa.table(columns | {"user_id": [4613314721966.0, 1e17], "amount": [1, 2]})
    table = table.append_column("timestamp", pa.array(times))
    parquet.write_table(table, tmp_path / "f.parquet")
    with pytest.raises(BadRowError, match=r"f\.parquet, row 2: column `user_id`.*1e\+17"):
        read(tmp_path / "f.parquet", DAFU)
    assert [k for k, _ in read(tmp_path / "f.parquet", DAFU, skip_bad=True)] == [b"4613314721966"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("t9,u,m,abc,2020-01-01,,,", r"row 3: column `amount` \(amount\): 'abc' is not a number"),
        ("t9,u,m,nan,2020-01-01,,,", "row 3: column `amount`.*is not a number"),
        ("t9,u,m,,2020-01-01,,,", r"row 3: column `amount` \(amount\) is empty"),
        ("t9,,m,1,2020-01-01,,,", "row 3: column `user_id`.*is empty"),
        ("t9,u,m,1,2020-13-01,,,", "row 3: column `timestamp`.*'2020-13-01' is not a time"),
        ("t9,u,m,1,1577836800000,,,", "row 3: column `timestamp`.*epoch_ms"),
        ("t9,u,m,1,2020-01-01,,maybe,", "row 3: column `is_fraud`.*'maybe' is not a truth value"),
        ("t9,u,m,1", "row 3: has 4 columns, the header 8"),
    ],
)
@pytest.mark.parametrize("batch_rows", [1, 100])
def test_bad_rows(tmp_path: Path, row: str, message: str, batch_rows: int) -> None:
    first, second, third = ROWS.replace("two\nlines", "two lines").splitlines(keepends=True)
    path = write(tmp_path / "bad.csv", HEADER + first + second + row + "\n" + third)
    with pytest.raises(BadRowError, match=rf"bad\.csv, {message}.*skip-bad") as caught:
        read(path, DAFU, batch_rows=batch_rows)
    assert caught.value.row == 3
    reader = TransactionReader(path, DAFU, skip_bad=True, batch_rows=batch_rows)
    ids = [i for batch in reader for i in batch.column("transaction_id").to_pylist()]
    assert ids == ["t1", "t2", "t3"]
    assert (reader.rows, reader.skipped, len(reader.examples)) == (3, 1, 1)


def test_row_numbers_behind_rows_that_are_left_out(tmp_path: Path) -> None:
    good = "t,u,m,1,2020-01-01,,,\n"
    text = HEADER + "short\n" + good + "short\n" + good + "t,u,m,x,2020-01-01,,,\n" + good
    reader = TransactionReader(write(tmp_path / "a.csv", text), DAFU, skip_bad=True)
    assert sum(batch.num_rows for batch in reader) == 3
    assert [e.split(":")[0] for e in sorted(reader.examples)] == ["row 1", "row 3", "row 5"]
    assert reader.skipped == 3


def test_since_until_limit(tmp_path: Path) -> None:
    rows = "".join(f"t{day},u,m,1,2020-01-{day:02}T12:00:00,,,\n" for day in (5, 1, 3, 2, 4))
    path = write(tmp_path / "a.csv", HEADER + rows)

    def days(**options: Any) -> list[str]:
        batches = TransactionReader(path, DAFU, batch_rows=2, **options)
        return [i for batch in batches for i in batch.column("transaction_id").to_pylist()]

    since, until = parse_time("2020-01-02"), parse_time("2020-01-04T12:00:00Z")
    assert days(since=since, until=until) == ["t3", "t2"]
    assert days(since=until) == ["t5", "t4"]
    assert days(limit=3) == ["t5", "t1", "t3"]
    assert days(since=since, limit=1) == ["t5"]
    assert days(limit=0) == []


def test_parse_time() -> None:
    assert parse_time("1970-01-02") == 86_400_000
    assert parse_time("1970-01-01T01:00:00.25+01:00") == 250
    with pytest.raises(ReadError, match="'soon' is no date"):
        parse_time("soon")


def base(**fields: Any) -> dict[str, Any]:
    return {
        "transaction_id": "t",
        "user_id": "u",
        "merchant_id": "m",
        "amount": 1.5,
        "timestamp": "2020-01-01T00:00:00Z",
    } | fields


def test_json_lines(tmp_path: Path) -> None:
    good = [
        base(),
        base(user_id=42, timestamp=1577836800123, color={"r": [1, None]}, is_fraud=True),
        base(amount=3, lat=1.5, category=None, note='q"\u00e9\n'),
    ]
    bad: list[Any] = [
        base(amount="12"),
        {k: v for k, v in base().items() if k != "amount"},
        base(user_id=None),
        base(timestamp="yesterday"),
        base(lat="north"),
        [1],
    ]
    lines = [json.dumps(row) for row in good + bad] + ["{broken", "", "  "]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    records = read(path, DAFU)
    assert read(path, DAFU, batch_rows=1) == records
    assert len(records) == 10
    assert [json.loads(value) for _, value in records[:3]] == [
        base(timestamp="2020-01-01T00:00:00.000Z"),
        base(user_id="42", timestamp="2020-01-01T00:00:00.123Z", color={"r": [1, None]}),
        base(amount=3, lat=1.5, note='q"\u00e9\n', timestamp="2020-01-01T00:00:00.000Z"),
    ]
    assert [value for _, value in records[3:]] == [line.encode() for line in lines[3:10]]
    assert [key for key, _ in records[3:]] == [b"u", b"u", None, b"u", b"u", None, None]
    for _, value in records[3:]:
        with pytest.raises(InvalidRecordError):
            parse_transaction(value)
    window = {"since": parse_time("2019-01-01"), "until": parse_time("2021-01-01")}
    assert read(path, DAFU, **window) == records[:3]


def test_labels_are_not_published_even_on_lines_that_are_wrong(tmp_path: Path) -> None:
    line = json.dumps(base(amount="x", is_fraud=True))
    ((_, value),) = read(write(tmp_path / "a.jsonl", line), DAFU)
    assert json.loads(value) == base(amount="x")


def test_members_of_objects(tmp_path: Path) -> None:
    fields = {name: name for name in ("transaction_id", "merchant_id", "amount", "timestamp")}
    mapping = Mapping(
        {
            "fields": {**fields, "user_id": "holder.id"},
            "labels": {"is_fraud": "outcome.fraud"},
            "other_columns": "attributes",
        },
        "m.yaml",
    )
    row = base(holder={"id": 7, "name": "A."}, outcome={"fraud": True}, color="red")
    del row["user_id"]
    lines = [json.dumps(row), json.dumps({**row, "amount": "x"})]
    good, wrong = read(write(tmp_path / "a.jsonl", "\n".join(lines)), mapping)
    expected = base(user_id="7", timestamp="2020-01-01T00:00:00.000Z", color="red")
    assert (good[0], json.loads(good[1])) == (b"7", expected)
    assert wrong[0] == b"7"
    assert "outcome" not in json.loads(wrong[1])


def test_prefix_constant_divisor_and_epoch(tmp_path: Path) -> None:
    mapping = Mapping(
        {
            "fields": {
                "transaction_id": {"column": "id", "prefix": "shop-"},
                "user_id": "id",
                "merchant_id": {"constant": "me"},
                "currency": {"constant": "EUR"},
                "amount": {"column": "sum", "divide": 100},
                "timestamp": {"column": "at", "format": "epoch_s"},
            },
            "attributes": {"big": {"column": "big", "cast": "bool"}},
        },
        "m.yaml",
    )
    expected = {
        "transaction_id": "shop-1",
        "user_id": "1",
        "merchant_id": "me",
        "amount": 12.35,
        "timestamp": "2020-01-01T00:00:00.500Z",
        "currency": "EUR",
        "big": True,
    }
    csv = write(tmp_path / "a.csv", "id,sum,at,big\n1, 1235 ,1577836800.5,1\n")
    lines = write(tmp_path / "a.jsonl", '{"id":1,"sum":1235,"at":1577836800.5,"big":1}')
    for path in (csv, lines):
        ((_, value),) = read(path, mapping)
        assert json.loads(value) == expected


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no file"):
        TransactionReader(tmp_path / "a.csv", DAFU)
    for name, text, message in (
        ("a.txt", "x", "cannot tell what it is"),
        ("a.csv", "", "can not be read"),
        ("b.csv", "a,a\n1,2\n", "more than one column named a"),
        ("a.parquet", "x", "can not be read"),
    ):
        with pytest.raises(ReadError, match=message):
            read(write(tmp_path / name, text), DAFU)
    with pytest.raises(MappingError, match=r"x, y"):
        read(write(tmp_path / "c.csv", "x,y\n1,2\n"), DAFU)


def test_header_only(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", HEADER), DAFU) == []


cells = st.fixed_dictionaries(
    {},
    optional={
        "s": st.text(st.characters(codec="utf-8"), max_size=12),
        'k"ey': st.floats(allow_nan=True, allow_infinity=True),
        "i": st.integers(-(2**63), 2**63 - 1),
        "b": st.booleans(),
    },
)
KINDS = {"s": pa.string(), 'k"ey': pa.float64(), "i": pa.int64(), "b": pa.bool_()}


def columns_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: pa.array([r.get(name) for r in rows], kind) for name, kind in KINDS.items()}


@settings(deadline=None)
@given(rows=st.lists(cells, min_size=1, max_size=8))
def test_json_text_says_what_json_says(rows: list[dict[str, Any]]) -> None:
    texts = objects(columns_of(rows)).to_pylist()
    for row, text in zip(rows, texts, strict=True):
        finite = {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}
        assert (json.loads(text) if text is not None else {}) == finite
        assert objects(columns_of([row])).to_pylist() == [text]


def test_merged_objects() -> None:
    first = pa.array(['{"a":1}', '{"a":1}', None, None])
    second = pa.array(['{"b":"\u00e9"}', None, '{"b":2}', None])
    assert merged(first, second).to_pylist() == [
        '{"a":1,"b":"\u00e9"}',
        '{"a":1}',
        '{"b":2}',
        None,
    ]


def test_times_in_attributes() -> None:
    moment = datetime(2020, 1, 1, 0, 0, 0, 999_999)
    for kind in (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", tz="UTC")):
        array = pa.array([moment.replace(tzinfo=UTC) if kind.tz else moment], kind)
        assert objects({"at": array}).to_pylist() == ['{"at":"2020-01-01T00:00:00.999Z"}']
