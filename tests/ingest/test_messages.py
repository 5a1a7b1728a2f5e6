"""Payments in other words, one JSON object each, against what the reader of files makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dafu.ingest import Mapping, TransactionReader, load_mapping, to_records
from dafu.ingest.messages import Translator
from dafu.schema import InvalidRecordError, parse_transaction

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
