"""Payments in Avro, written by fastavro with its own types, read as a mapping finds them."""

from __future__ import annotations

import json
import math
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.ingest import Mapping
from dafu.ingest.avro import AvroReader
from dafu.ingest.framing import RegisteredSchema
from dafu.ingest.messages import Translator
from dafu.schema import InvalidRecordError, iso
from tests.schema_registry import framed, in_avro


def decimal(precision: int, scale: int, **kind: Any) -> dict[str, Any]:
    given = {"type": "bytes"} | kind
    return given | {"logicalType": "decimal", "precision": precision, "scale": scale}


def long(logical: str) -> dict[str, Any]:
    return {"type": "long", "logicalType": logical}


TYPES: dict[str, Any] = {
    "text": "string",
    "maybe": ["null", "string"],
    "whole": "int",
    "real": "double",
    "yes": "boolean",
    "millis": long("timestamp-millis"),
    "micros": ["null", long("timestamp-micros")],
    "local": long("local-timestamp-micros"),
    "day": {"type": "int", "logicalType": "date"},
    "cents": decimal(38, 2),
    "units": decimal(38, 18, type="fixed", name="Units", size=16),
    "more": ["null", "Units"],
    "id": {"type": "string", "logicalType": "uuid"},
    "kind": {"type": "enum", "name": "Kind", "symbols": ["CARD", "CASH"]},
    "raw": "bytes",
    "tags": {"type": "array", "items": ["Kind", "long"]},
    "by_name": {"type": "map", "values": decimal(9, 3)},
    "holder": {"type": "record", "name": "Holder", "fields": [{"name": "id", "type": "string"}]},
    "payer": ["null", "Holder"],
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Payment",
    "namespace": "core",
    "fields": [{"name": name, "type": kind} for name, kind in TYPES.items()],
}


def reader(schema: Any, number: int = 7, *references: Any, kind: str = "AVRO") -> AvroReader:
    made = AvroReader()
    texts = tuple(json.dumps(each) for each in references)
    made.learn(number, RegisteredSchema(kind, json.dumps(schema), texts))
    return made


def only(kind: Any, value: Any) -> Any:
    """A value as it comes out of a record that holds nothing else."""
    schema = {"type": "record", "name": "R", "fields": [{"name": "v", "type": kind}]}
    return reader(schema).read(in_avro(7, schema, {"v": value}))["v"]


def raw_only(kind: Any, payload: bytes) -> Any:
    schema = {"type": "record", "name": "R", "fields": [{"name": "v", "type": kind}]}
    return reader(schema).read(framed(7, payload))["v"]


moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999))
money = st.decimals(-(10**9), 10**9, places=2)
payments = st.fixed_dictionaries(
    {
        "text": st.text(max_size=9),
        "maybe": st.none() | st.text(max_size=9),
        "whole": st.integers(-(2**31), 2**31 - 1),
        "real": st.floats(allow_nan=False),
        "yes": st.booleans(),
        "millis": moments.map(lambda m: m.replace(tzinfo=UTC)),
        "micros": st.none() | moments.map(lambda m: m.replace(tzinfo=UTC)),
        "local": moments,
        "day": st.dates(),
        "cents": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(f"{n}E-2")),
        "units": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(f"{n}E-18")),
        "more": st.none() | st.just(Decimal("1E-18")),
        "id": st.uuids().map(str),
        "kind": st.sampled_from(["CARD", "CASH"]),
        "raw": st.binary(max_size=9),
        "tags": st.lists(st.sampled_from(["CARD", "CASH"]) | st.integers(-(2**63), 2**63 - 1)),
        "by_name": st.dictionaries(st.text(max_size=3), st.just(Decimal("12.345")), max_size=3),
        "holder": st.fixed_dictionaries({"id": st.text(max_size=9)}),
        "payer": st.none() | st.fixed_dictionaries({"id": st.text(max_size=9)}),
    }
)

READER = reader(SCHEMA)


def as_text(moment: datetime | None) -> str | None:
    """By another way than the reader's: parts of a time, cut to milliseconds."""
    if moment is None:
        return None
    day = f"{moment.year:04}-{moment.month:02}-{moment.day:02}"
    millis = moment.microsecond // 1000
    return f"{day}T{moment.hour:02}:{moment.minute:02}:{moment.second:02}.{millis:03}Z"


@given(payments)
def test_all_types_arrive_as_mappings_want_them(payment: dict[str, Any]) -> None:
    expected = payment | {
        "millis": as_text(payment["millis"]),
        "micros": as_text(payment["micros"]),
        "local": as_text(payment["local"]),
        "day": payment["day"].isoformat(),
        "raw": payment["raw"].hex(),
    }
    found = READER.read(in_avro(7, SCHEMA, payment))
    assert found == expected
    assert str(found["cents"]) == str(payment["cents"]), "not a digit more or less"


@given(st.binary(max_size=60))
def test_bytes_that_are_no_such_record_are_refused_and_nothing_else_happens(payload: bytes) -> None:
    try:
        READER.read(framed(7, payload))
    except InvalidRecordError as refused:
        assert refused.reason == "not_avro"


@given(payments, st.data())
def test_damage_is_refused_or_read(payment: dict[str, Any], data: st.DataObject) -> None:
    payload = bytearray(in_avro(7, SCHEMA, payment)[5:])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    try:
        READER.read(framed(7, bytes(payload)))
    except InvalidRecordError as refused:
        assert refused.reason == "not_avro"


@given(payments, st.integers(1, 10))
def test_a_payload_that_is_cut_or_goes_on_does_not_fit(payment: dict[str, Any], size: int) -> None:
    record = in_avro(7, SCHEMA, payment)
    with pytest.raises(InvalidRecordError, match=f"schema 7: {size} bytes are left over"):
        READER.read(record + b"\0" * size)
    with pytest.raises(InvalidRecordError, match=r"not fit schema 7: it ends too early"):
        READER.read(record[:-1])


def test_uuids_as_fixed_bytes_are_text() -> None:
    number = uuid.uuid4()
    kind = {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}
    assert raw_only(kind, number.bytes) == str(number)


def test_nanoseconds_are_cut_towards_the_past() -> None:
    for name in ("timestamp-nanos", "local-timestamp-nanos"):
        assert only(long(name), 1_600_000_000_123_999_999) == "2020-09-13T12:26:40.123Z"
        assert only(long(name), -1) == "1969-12-31T23:59:59.999Z"


def test_times_without_a_name_stay_numbers() -> None:
    # As some write for a time that never comes; nothing has to use it.
    assert raw_only(long("timestamp-millis"), b"\xfe" + b"\xff" * 8 + b"\x01") == 2**63 - 1
    assert (
        raw_only(long("timestamp-micros"), b"\xfe" + b"\xff" * 8 + b"\x01") == (2**63 - 1) // 1000
    )
    day = {"type": "int", "logicalType": "date"}
    assert raw_only(day, b"\xfe\xff\xff\xff\x0f") == 2**31 - 1
    assert only(day, date.max) == "9999-12-31"
    last = datetime.max.replace(tzinfo=UTC)
    assert only(long("timestamp-micros"), last) == "9999-12-31T23:59:59.999Z"


def test_other_logical_types_are_what_they_are_made_of() -> None:
    assert raw_only({"type": "int", "logicalType": "time-millis"}, b"\x02") == 1
    assert raw_only({"type": "string", "logicalType": "iban"}, b"\x04ab") == "ab"
    assert raw_only(decimal(9, 2, type="long"), b"\x02") == 1


@pytest.mark.parametrize("payload", [b"\x00", b"\x04\x03\xe8", b"\x04\xfc\x18"])
def test_a_decimal_with_more_digits_than_it_may_have_is_no_amount(payload: bytes) -> None:
    assert raw_only(decimal(3, 1), b"\x04\x03\xe7") == Decimal("99.9")
    assert raw_only(decimal(3, 1), b"\x04\xfc\x19") == Decimal("-99.9")
    with pytest.raises(InvalidRecordError, match="values that the schema does not allow"):
        raw_only(decimal(3, 1), payload)


def test_records_need_their_own_schema() -> None:
    first = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]}
    second = first | {"fields": [*first["fields"], {"name": "b", "type": "int", "default": 0}]}
    made = reader(first, 1)
    made.learn(2, RegisteredSchema("AVRO", json.dumps(second)))
    old, new = in_avro(1, first, {"a": "x"}), in_avro(2, second, {"a": "y", "b": 5})
    assert [made.read(old), made.read(new)] == [{"a": "x"}, {"a": "y", "b": 5}]
    unknown = framed(3, b"")
    assert made.unknown([old, None, unknown, new, b"{}", unknown]) == {3}
    with pytest.raises(InvalidRecordError, match="no schema 3") as refused:
        made.read(unknown)
    assert refused.value.reason == "unknown_schema"


@pytest.mark.parametrize(
    ("schema", "kind", "why"),
    [
        ("message P {}", "PROTOBUF", "of the kind PROTOBUF, not AVRO"),
        ({"type": "record", "name": "R", "fields": [{"name": "r", "type": "R"}]}, "AVRO", "itself"),
        ({"type": "enum", "name": "E", "symbols": [5]}, "AVRO", "schema 7 can not be used"),
        ({"type": "enum", "name": "E", "symbols": ["not a name"]}, "AVRO", "can not be used"),
        ({"type": "enum", "name": "E", "symbols": 5}, "AVRO", "schema 7 can not be used"),
    ],
)
def test_a_schema_that_can_not_be_used_is_told_with_each_record(
    schema: Any, kind: str, why: str
) -> None:
    made = reader(schema, kind=kind)
    record = framed(7, b"\0")
    assert made.unknown([record]) == set(), "it is not asked for again"
    for _ in range(2):
        with pytest.raises(InvalidRecordError, match=why) as refused:
            made.read(record)
        assert refused.value.reason == "unusable_schema"


def test_a_payment_is_a_record() -> None:
    with pytest.raises(InvalidRecordError, match="this is str") as refused:
        reader("string").read(in_avro(7, "string", "x"))
    assert refused.value.reason == "not_an_object"


def test_one_of_several_kinds_of_records() -> None:
    money = {"type": "record", "name": "a.Money", "fields": [{"name": "m", "type": "long"}]}
    refund = {"type": "record", "name": "a.Refund", "fields": [{"name": "of", "type": "a.Money"}]}
    made = reader(["a.Money", "a.Refund"], 7, money, refund)
    assert made.read(framed(7, b"\x00\x02")) == {"m": 1}
    assert made.read(framed(7, b"\x02\x04")) == {"of": {"m": 2}}


def test_what_does_not_fit_is_not_repeated() -> None:
    made = reader(SCHEMA)
    card = b"4111-1111-1111"
    with pytest.raises(InvalidRecordError) as refused:
        made.read(framed(7, bytes([2 * len(card) - 1]) + card))
    assert "4111" not in refused.value.detail


MAPPING = {
    "fields": {
        "transaction_id": "id",
        "user_id": "holder.id",
        "merchant_id": "cents",  # an id that some database calls a number
        "amount": "by_name.total",
        "timestamp": "millis",
    },
    "attributes": {"units": "units", "exact": {"column": "cents", "cast": "float"}},
    "other_columns": "attributes",
}


def translated(payment: dict[str, Any], **changes: Any) -> dict[str, Any]:
    translator = Translator(Mapping(MAPPING | changes, "m.yaml"), READER.read)
    user, value = translator.translate(in_avro(7, SCHEMA, payment))
    found: dict[str, Any] = json.loads(value, parse_float=Decimal)
    assert user == found["user_id"]
    return found


@given(payments, st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)), money)
def test_a_mapping_reads_it_like_json(
    payment: dict[str, Any], moment: datetime, amount: Decimal
) -> None:
    amount = abs(amount) / 10**4
    total = {"total": amount.quantize(Decimal("0.001"))}
    payment |= {"millis": moment.replace(tzinfo=UTC), "holder": {"id": "ann"}, "by_name": total}
    # JSON of other systems has no numbers beyond these.
    payment |= {"real": 0.5, "tags": [1], "cents": Decimal("12.50")}
    found = translated(payment)
    assert found["transaction_id"] == payment["id"]
    assert found["merchant_id"] == "12.50"
    assert float(found["amount"]) == float(total["total"])
    elapsed = moment - datetime(1970, 1, 1)
    assert found["timestamp"] == elapsed // timedelta(milliseconds=1)
    assert found["units"] == payment["units"], "all digits"
    assert found["exact"] == Decimal("12.5")
    assert found["kind"] == payment["kind"]
    assert found["payer"] == payment["payer"] if payment["payer"] else "payer" not in found


def test_any_format_of_times_reads_a_time_that_is_one() -> None:
    payment = {
        **dict.fromkeys(["maybe", "micros", "more", "payer"]),
        **{"text": "", "whole": 0, "real": math.pi, "yes": True, "local": 0, "day": 0},
        **{"cents": Decimal(0), "units": Decimal(0), "id": "t", "kind": "CARD", "raw": b""},
        **{"tags": [], "by_name": {"total": Decimal("1234.100")}, "holder": {"id": "ann"}},
        "millis": 1_600_000_000_123,
    }
    for name in ("iso", "epoch_ms", "epoch_s"):
        fields = MAPPING["fields"] | {"timestamp": {"column": "millis", "format": name}}  # type: ignore[operator]
        assert translated(payment, fields=fields)["timestamp"] == 1_600_000_000_123
    assert iso(1_600_000_000_123) == as_text(datetime(2020, 9, 13, 12, 26, 40, 123_000))
