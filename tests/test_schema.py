"""What counts as a transaction, and what is said of a record that does not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.schema import (
    MAX_AMOUNT,
    MAX_DEPTH,
    MAX_RECORD_BYTES,
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    TRANSACTION_FIELDS,
    InvalidRecordError,
    Transaction,
    json_schemas,
    parse_transaction,
    timestamp_ms,
    too_deep,
)

NOW = 1_700_000_000_123
GOOD: dict[str, Any] = {
    "transaction_id": "t1",
    "user_id": "u1",
    "merchant_id": "m1",
    "amount": 12.5,
    "timestamp": NOW,
}
REASONS = {
    "empty",
    "oversized",
    "too_deep",
    "not_json",
    "not_an_object",
    "missing_field",
    "invalid_field",
    "absurd_timestamp",
}


def raw(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def text(timestamp: str) -> bytes:
    """A good record with the given JSON text as its timestamp."""
    return raw(timestamp="@").replace(b'"@"', timestamp.encode())


def without(name: str) -> bytes:
    return json.dumps({k: v for k, v in GOOD.items() if k != name}).encode()


MALFORMED: list[tuple[str, bytes | None, str]] = [
    ("empty", None, ""),
    ("empty", b"", ""),
    ("not_json", b" ", ""),
    ("not_json", b"\x00\x01", ""),
    ("not_json", b"\xef\xbb\xbf{}", ""),
    ("not_json", raw()[:-1], ""),
    ("not_json", raw() + b"x", ""),
    ("not_json", raw(country="@").replace(b"@", b"\xff"), ""),
    ("not_json", raw(user_id="\ud800"), ""),
    ("not_json", raw(more="\udc00\ud800"), ""),
    ("not_json", text("NaN"), ""),
    ("not_json", raw(amount=float("inf")), ""),
    ("not_json", raw(amount="@").replace(b'"@"', b"1e999"), "range"),
    ("not_json", text("1e999"), "range"),
    ("not_json", text("1" + "0" * 5000), "range"),
    ("not_an_object", b"[]", "list"),
    ("not_an_object", b'"text"', "str"),
    ("not_an_object", b"null", "NoneType"),
    ("not_an_object", b"1", "int"),
    ("too_deep", raw(more="@").replace(b'"@"', b"[" * 64 + b"]" * 64), "64"),
    ("too_deep", b'{"a":' * 1000 + b"1" + b"}" * 1000, "64"),
    ("too_deep", b"[" * 60_000, "64"),
    ("oversized", raw(more="x" * MAX_RECORD_BYTES), "65536"),
    ("missing_field", b"{}", "transaction_id"),
    *[("missing_field", without(name), name) for name in GOOD],
    ("invalid_field", raw(transaction_id=""), "transaction_id"),
    ("invalid_field", raw(user_id=1), "user_id"),
    ("invalid_field", raw(merchant_id="m" * 257), "merchant_id"),
    ("invalid_field", raw(user_id=None), "user_id"),
    ("invalid_field", raw(amount=-0.01), "amount"),
    ("invalid_field", raw(amount=MAX_AMOUNT * 1.1), "amount"),
    ("invalid_field", raw(amount="12"), "amount"),
    ("invalid_field", raw(lat=90.1), "lat"),
    ("invalid_field", raw(merchant_long=-180.1), "merchant_long"),
    ("invalid_field", raw(currency="x" * 17), "currency"),
    ("invalid_field", raw(country=["DE"]), "country"),
    ("invalid_field", raw(timestamp=None), "timestamp"),
    ("invalid_field", raw(timestamp=True), "timestamp"),
    ("invalid_field", raw(timestamp="yesterday"), "timestamp"),
    ("invalid_field", raw(timestamp="2023-11-14"), "timestamp"),
    ("invalid_field", raw(timestamp=str(NOW)), "timestamp"),
    ("absurd_timestamp", raw(timestamp=NOW // 1000), "epoch seconds"),
    ("absurd_timestamp", raw(timestamp=NOW / 1000), "epoch seconds"),
    ("absurd_timestamp", raw(timestamp=-1), "2000"),
    ("absurd_timestamp", raw(timestamp=0), "2000"),
    ("absurd_timestamp", raw(timestamp=MIN_TIMESTAMP_MS - 1), "2000"),
    ("absurd_timestamp", raw(timestamp=MAX_TIMESTAMP_MS), "2100"),
    ("absurd_timestamp", raw(timestamp=2**63), "2100"),
    ("absurd_timestamp", raw(timestamp=10**30), "2100"),
    ("absurd_timestamp", raw(timestamp=10**400), "2100"),
    ("absurd_timestamp", raw(timestamp=1e300), "2100"),
    ("absurd_timestamp", raw(timestamp="1999-12-31T23:59:59.999Z"), "2000"),
    ("absurd_timestamp", raw(timestamp="2100-01-01T00:00:00Z"), "2100"),
    ("absurd_timestamp", raw(timestamp="0001-01-01T00:00:00+14:00"), "2000"),
]


@pytest.mark.parametrize(("reason", "record", "says"), MALFORMED)
def test_malformed_records_get_a_reason(reason: str, record: bytes | None, says: str) -> None:
    with pytest.raises(InvalidRecordError) as error:
        parse_transaction(record)
    assert error.value.reason == reason
    assert says in error.value.detail
    assert len(error.value.detail) < 500


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        (f"{NOW}", NOW),
        (f"{NOW}.9", NOW),
        ("1.7e12", 1_700_000_000_000),
        ('"2023-11-14T22:13:20Z"', 1_700_000_000_000),
        ('"2023-11-14T22:13:20"', 1_700_000_000_000),
        ('"2023-11-14 22:13:20.5"', 1_700_000_000_500),
        ('"2023-11-14T22:13:20.123Z"', NOW),
        ('"2023-11-14T22:13:20.123999Z"', NOW),
        ('"2023-11-15T00:13:20.123+02:00"', NOW),
        ('"2023-11-14T14:43:20.123-07:30"', NOW),
        ('"2000-01-01T00:00:00"', MIN_TIMESTAMP_MS),
        ('"2099-12-31T23:59:59.999Z"', MAX_TIMESTAMP_MS - 1),
    ],
)
def test_timestamps_are_exact_to_the_millisecond(timestamp: str, expected: int) -> None:
    _, time = parse_transaction(text(timestamp))
    assert time == expected
    assert isinstance(time, int)


@given(
    ms=st.integers(MIN_TIMESTAMP_MS, MAX_TIMESTAMP_MS - 1),
    micros=st.integers(0, 999),
    minutes=st.integers(-14 * 60, 14 * 60),
)
def test_every_way_to_write_a_time_means_the_same(ms: int, micros: int, minutes: int) -> None:
    exact = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    finer = exact + timedelta(microseconds=micros)
    zone = timezone(timedelta(minutes=minutes))
    written = [
        exact.isoformat(),
        finer.isoformat(),
        finer.astimezone(zone).isoformat(),
        finer.replace(tzinfo=None).isoformat(),
        finer.replace(tzinfo=None).isoformat() + "Z",
    ]
    for value in [*written, ms, float(ms)]:
        assert parse_transaction(raw(timestamp=value))[1] == ms
    assert timestamp_ms(ms + micros / 1000) in (ms, ms + (micros > 998))


def test_unknown_fields_are_accepted_and_the_last_of_two_stands() -> None:
    more = {"custom": {"nested": [1, {"deep": None}]}, "": 0, "TIMESTAMP": "x"}
    transaction, _ = parse_transaction(raw(**more))
    assert transaction == parse_transaction(raw())[0]
    double = raw()[:-1] + b', "amount": 99, "user_id": "u2"}'
    transaction, _ = parse_transaction(double)
    assert (transaction.amount, transaction.user_id) == (99, "u2")


def test_optional_fields_may_be_null_or_empty() -> None:
    optional = [f for f in TRANSACTION_FIELDS if f not in GOOD]
    transaction, _ = parse_transaction(raw(**dict.fromkeys(optional)))
    assert transaction == parse_transaction(raw())[0]
    assert parse_transaction(raw(device_fingerprint=""))[0].device_fingerprint == ""


@pytest.mark.parametrize("user", ["\u00fc", "\U0001f600", "\x00", " ", "a" * 256, '"\\'])
def test_ids_are_any_text(user: str) -> None:
    transaction, _ = parse_transaction(raw(user_id=user))
    assert transaction.user_id == user
    assert (
        parse_transaction(json.dumps({**GOOD, "user_id": user}, ensure_ascii=False).encode())[0]
        == transaction
    )


@pytest.mark.parametrize("brackets", ["[", "{}", '[]"', '\\"[{'])
def test_brackets_in_text_are_no_depth(brackets: str) -> None:
    assert not too_deep(raw(more=brackets * 500))
    assert parse_transaction(raw(more=brackets * 500))[1] == NOW


@pytest.mark.parametrize("depth", range(MAX_DEPTH - 2, MAX_DEPTH + 3))
def test_depth_is_that_of_the_whole_record(depth: int) -> None:
    nested: Any = {}
    for k in range(depth - 1):
        nested = [nested, []] if k % 2 else {"a": [], "b": nested}
    assert too_deep(json.dumps(nested).encode()) is (depth > MAX_DEPTH)


def only_refuses(record: bytes) -> None:
    try:
        transaction, time = parse_transaction(record)
    except InvalidRecordError as error:
        assert error.reason in REASONS
        assert error.detail
    else:
        assert isinstance(transaction, Transaction)
        assert MIN_TIMESTAMP_MS <= time < MAX_TIMESTAMP_MS
        transaction.user_id.encode()


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(record: bytes) -> None:
    only_refuses(record)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.datetimes().map(datetime.isoformat)
    | st.integers(-(10**400), 10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=300)
@given(
    changes=st.dictionaries(st.sampled_from([*TRANSACTION_FIELDS, "more"]), values, max_size=4),
    dropped=st.sets(st.sampled_from(sorted(GOOD)), max_size=1),
    ascii_only=st.booleans(),
)
def test_changed_fields_are_refused_or_read(
    changes: dict[str, Any], dropped: set[str], ascii_only: bool
) -> None:
    document = {k: v for k, v in {**GOOD, **changes}.items() if k not in dropped}
    only_refuses(json.dumps(document, ensure_ascii=ascii_only).encode(errors="surrogatepass"))


@settings(max_examples=300)
@given(
    at=st.integers(0, 1000),
    removed=st.integers(0, 5),
    put=st.binary(max_size=4) | st.sampled_from((b'"', b"\\u", b"{", b"[", b"1e9", b"\\")),
)
def test_changed_bytes_are_refused_or_read(at: int, removed: int, put: bytes) -> None:
    record = raw(country="DE", lat=1.0)
    at %= len(record)
    only_refuses(record[:at] + put + record[at + removed :])


def test_the_json_schemas_name_every_field() -> None:
    schema = json_schemas()["transaction"]
    assert tuple(schema["$defs"]["Transaction"]["properties"]) == TRANSACTION_FIELDS
    assert schema["$defs"]["Transaction"]["required"] == list(GOOD)
