"""Payments in other words, one JSON object each, against what the reader of files makes of them."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.ingest import Mapping, TransactionReader, load_mapping, to_records
from dafu.ingest.messages import Translator, framed_json_document
from dafu.schema import InvalidRecordError, parse_transaction
from tests.schema_registry import framed

CORE: dict[str, Any] = {
    "fields": {
        "transaction_id": {"column": "TXN_REF", "prefix": "eu-"},
        "user_id": "holder.id",
        "merchant_id": {"column": ["terminal.owner", "MID"]},
        "amount": "amount.value",
        "currency": {"constant": "EUR"},
        "timestamp": {"column": "booked", "format": "epoch_s"},
        "country": {"column": "COUNTRY", "optional": True},
    },
    "attributes": {"tier": "holder.tier", "visits": {"column": "VISITS", "cast": "int"}},
    "labels": {"is_fraud": {"column": "outcome.fraud", "optional": True}},
    "other_columns": "attributes",
}
PAYMENT: dict[str, Any] = {
    "TXN_REF": 77,
    "holder": {"id": "ann", "tier": "gold", "name": "Ann A."},
    "terminal": {"owner": "shop"},
    "amount": {"value": 12, "unit": "EUR"},
    "booked": 1_600_000_000.25,
    "VISITS": 3,
    "outcome": {"fraud": True},
    "channel": "pos",
    "note": None,
}


def translated(document: Any, **changes: Any) -> dict[str, Any]:
    user, value = Translator(Mapping({**CORE, **changes}, "m.yaml")).translate(
        document if isinstance(document, bytes) else json.dumps(document).encode()
    )
    found: dict[str, Any] = json.loads(value)
    assert user == found["user_id"]
    parse_transaction(value)
    return found


def test_fields_are_found_also_inside_of_objects() -> None:
    fields = {
        "transaction_id": "eu-77",
        "user_id": "ann",
        "merchant_id": "shop",
        "amount": 12.0,
        "timestamp": 1_600_000_000_250,
        "currency": "EUR",
    }
    mapped = {"tier": "gold", "visits": 3}
    assert translated(PAYMENT) == fields | mapped | {"channel": "pos"}
    assert translated(PAYMENT, other_columns="ignore") == fields | mapped
    assert translated({**PAYMENT, "holder.id": "bob"})["user_id"] == "bob"
    assert translated({**PAYMENT, "terminal": 5, "MID": "m"})["merchant_id"] == "m"
    # What is mapped is not said twice.
    other = translated({**PAYMENT, "currency": "USD", "user_id": 5, "tier": "none"})
    assert other == fields | mapped | {"channel": "pos"}


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"TXN_REF": None}, "missing_field", "`transaction_id` is missing: there is no `TXN_REF`"),
        ({"holder": {}}, "missing_field", "no `holder.id`"),
        ({"terminal": None}, "missing_field", "no `terminal.owner` or `MID`"),
        ({"amount": {"value": "4111-1111"}}, "invalid_field", "from `amount.value`, is no float"),
        ({"amount": {"value": 10**400}}, "invalid_field", "is no float"),
        ({"amount": {"value": -1}}, "invalid_field", "amount"),
        ({"booked": "never"}, "invalid_field", "`timestamp`, from `booked`, is no timestamp"),
        ({"booked": 1}, "absurd_timestamp", "outside 2000"),
        ({"COUNTRY": "x" * 100}, "invalid_field", "country"),
        ({"VISITS": 1.5}, "invalid_field", "`visits`, from `VISITS`, is no int"),
        ({"note": 10**60}, "invalid_field", "no JSON can say it"),
    ],
)
def test_what_is_no_payment_is_refused_and_not_repeated(
    changes: dict[str, Any], reason: str, detail: str
) -> None:
    with pytest.raises(InvalidRecordError) as refused:
        translated({**PAYMENT, **changes})
    assert refused.value.reason == reason
    assert detail in refused.value.detail
    assert "4111" not in refused.value.detail


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b"{", "not_json"),
        (b"[1]", "not_an_object"),
        (b"[" * 5000, "too_deep"),
        (b'{"a":"' + b"x" * 70_000 + b'"}', "oversized"),
    ],
)
def test_what_is_no_object_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidRecordError) as refused:
        translated(raw)
    assert refused.value.reason == reason


def test_amounts_in_cents() -> None:
    fields = {**CORE["fields"], "amount": {"column": "cents", "divide": 100}}
    assert translated({**PAYMENT, "cents": 1235}, fields=fields)["amount"] == 12.35


def exact(document: dict[str, Any], divide: float = 1.0) -> dict[str, Any]:
    """What becomes of a document that has exact numbers, as JSON has none."""
    fields = {**CORE["fields"], "amount": {"column": "cents", "divide": divide}}
    mapping = Mapping({**CORE, "fields": fields}, "m.yaml")
    _, value = Translator(mapping, lambda _: {**PAYMENT, **document}).translate(b"")
    found: dict[str, Any] = json.loads(value, parse_float=Decimal)
    return found


@given(
    st.decimals(0, 10**11, places=6) | st.decimals(0, 10**6, places=18),
    st.sampled_from([1.0, 100.0, 1000.0, 0.1, 3.0]),
)
def test_exact_numbers_are_rounded_once(cents: Decimal, divide: float) -> None:
    expected = float(Fraction(cents) / Fraction(divide))
    assert float(exact({"cents": cents}, divide)["amount"]) == expected


def test_exact_numbers_keep_their_digits_where_they_are_no_amounts() -> None:
    digits = Decimal("-12345678901234567890.123456789012345678")
    document = {"cents": 1, "note": digits, "TXN_REF": Decimal("123456789012345678901")}
    found = exact({**document, "VISITS": Decimal("9007199254740993")})
    assert found["note"] == digits
    assert found["transaction_id"] == "eu-123456789012345678901"
    assert found["visits"] == 2**53 + 1
    assert exact({"cents": Decimal(1), "booked": Decimal("1600000000.25")})["timestamp"] == (
        1_600_000_000_250
    )


@pytest.mark.parametrize(
    "document",
    [
        {"cents": Decimal("1E+400")},
        {"cents": 1, "VISITS": Decimal("9007199254740992.5")},
        {"cents": 1, "VISITS": Decimal("1E+19")},
    ],
)
def test_exact_numbers_that_do_not_fit(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecordError) as refused:
        exact(document)
    assert refused.value.reason == "invalid_field"


def test_a_quotient_that_is_no_number() -> None:
    with pytest.raises(InvalidRecordError, match="is no float"):
        exact({"cents": Decimal("1E+300")}, 1e-300)


def test_json_behind_the_id_of_a_schema() -> None:
    translator = Translator(Mapping(CORE, "m.yaml"), framed_json_document)
    text = json.dumps(PAYMENT).encode()
    assert translator.translate(framed(12, text)) == Translator(Mapping(CORE, "m.yaml")).translate(
        text
    )
    for raw, reason in (
        (text, "not_framed"),
        (framed(12, b"{"), "not_json"),
        (framed(12, b""), "empty"),
        (framed(12, b"[]"), "not_an_object"),
        (None, "empty"),
    ):
        with pytest.raises(InvalidRecordError) as refused:
            translator.translate(raw)
        assert refused.value.reason == reason


def test_a_mapping_may_insist_on_knowing_everything() -> None:
    known = {k: v for k, v in PAYMENT.items() if k != "channel"}
    translated(known, other_columns="error")
    with pytest.raises(InvalidRecordError, match=r"says nothing of: channel, z$"):
        translated({**PAYMENT, "z": 1}, other_columns="error")


values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(0, 1e6)
    | st.sampled_from(["u", "", "12.5", "2020-01-01", "2020-01-01T10:00:00+02:00", "\u00e9"])
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["transaction_id", "user_id", "merchant_id", "amount", "timestamp", "lat", "color"]
        ),
        values,
    )
)
def test_says_what_the_reader_of_files_says(document: dict[str, Any]) -> None:
    mapping = load_mapping("dafu")
    full = {
        "transaction_id": "t",
        "user_id": "u",
        "merchant_id": "m",
        "amount": 1.5,
        "timestamp": "2020-01-01",
        **document,
    }
    line = json.dumps(full).encode()
    try:
        _, value = Translator(mapping).translate(line)
    except InvalidRecordError:
        value = b"{}"
    expected = _from_file(line, mapping)
    try:
        transaction, time = parse_transaction(expected)
    except InvalidRecordError:
        assert value == b"{}"
        return
    found, found_time = parse_transaction(value)
    assert (found_time, found.amount, found.lat) == (time, transaction.amount, transaction.lat)
    assert json.loads(value).get("color") == json.loads(expected).get("color")
    assert found.user_id == transaction.user_id


def _from_file(line: bytes, mapping: Mapping) -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "a.jsonl"
        path.write_bytes(line)
        ((_, value),) = [r for b in TransactionReader(path, mapping) for r in to_records(b)]
    return value
