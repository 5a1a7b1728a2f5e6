"""Mappings: what they refuse, what they find, and that the shipped ones are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dafu.ingest.mapping import Mapping, MappingError, load_mapping
from dafu.schema import TRANSACTION_FIELDS

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.stem for path in (ROOT / "conf" / "mappings").glob("*.yaml"))

REQUIRED: dict[str, Any] = {
    "transaction_id": "id",
    "user_id": "who",
    "merchant_id": "where",
    "amount": "much",
    "timestamp": "when",
}
COLUMNS = ["id", "who", "where", "much", "when"]


def mapping(**changes: Any) -> Mapping:
    fields = REQUIRED | changes.pop("fields", {})
    return Mapping({"fields": fields, **changes}, "m.yaml")


def test_there_are_the_shipped_mappings() -> None:
    assert {"dafu", "handbook", "sparkov"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_mappings_load(name: str) -> None:
    assert load_mapping(name, {"DAFU_CONF": str(ROOT / "conf")}).description


def test_the_own_mapping_has_every_field_and_needs_five() -> None:
    own = load_mapping("dafu", {"DAFU_CONF": str(ROOT / "conf")})
    assert tuple(own.fields) == TRANSACTION_FIELDS
    plan = own.plan(["transaction_id", "user_id", "merchant_id", "amount", "timestamp"], "f")
    assert [c.name for c in plan.fields if c.required] == [c.name for c in plan.fields]
    assert len(plan.fields) == 5


def test_casts_follow_the_schema() -> None:
    own = load_mapping("dafu", {"DAFU_CONF": str(ROOT / "conf")})
    casts = {c.name: c.cast for c in own.plan(list(TRANSACTION_FIELDS), "f").fields}
    floats = {"amount", "lat", "long", "merchant_lat", "merchant_long"}
    assert {name for name, cast in casts.items() if cast == "float"} == floats
    assert {name for name, cast in casts.items() if cast == "timestamp"} == {"timestamp"}
    assert set(casts.values()) == {"text", "float", "timestamp"}


@pytest.mark.parametrize("index", ["", "Unnamed: 0", "index"])
def test_a_leading_index_column_does_not_count(index: str) -> None:
    strict = mapping(other_columns="error")
    assert strict.plan([index, *COLUMNS], "f") == strict.plan(COLUMNS, "f")
    with pytest.raises(MappingError, match="says nothing of: extra"):
        strict.plan([*COLUMNS, "extra"], "f")


def test_case_and_blanks_in_headers_are_forgiven() -> None:
    plan = mapping().plan([" ID", "Who ", "WHERE", "much", "when"], "f")
    assert [c.source for c in plan.fields] == [" ID", "Who ", "much", "when", "WHERE"] or {
        c.name: c.source for c in plan.fields
    } == {
        "transaction_id": " ID",
        "user_id": "Who ",
        "merchant_id": "WHERE",
        "amount": "much",
        "timestamp": "when",
    }


def test_exact_names_come_first() -> None:
    plan = mapping().plan(["ID", *COLUMNS], "f")
    assert plan.fields[0].source == "id"


def test_everything_that_is_missing_is_named_with_the_columns_there_are() -> None:
    with pytest.raises(MappingError) as caught:
        mapping(labels={"is_fraud": "fraud"}).plan(["id", "who", "x", "y"], "pay.csv")
    text = str(caught.value)
    for part in ("m.yaml", "pay.csv", "`where`", "`much`", "`when`", "`fraud`", "id, who, x, y"):
        assert part in text


def test_first_of_several_columns() -> None:
    several = mapping(fields={"user_id": {"column": ["card", "who"]}})
    assert several.plan(COLUMNS, "f").fields[1].source == "who"
    assert several.plan(["card", *COLUMNS], "f").fields[1].source == "card"
    with pytest.raises(MappingError, match="`card` or `who`"):
        several.plan(["id"], "f")


def test_rest_becomes_attributes_unless_ignored_or_a_label() -> None:
    found = mapping(other_columns="attributes", ignore=["name"], labels={"is_fraud": "fraud"}).plan(
        [*COLUMNS, "name", "fraud", "shoe", "hat"], "f"
    )
    assert [c.name for c in found.attributes] == ["shoe", "hat"]
    assert [c.name for c in found.labels] == ["is_fraud"]


def test_attributes_are_optional() -> None:
    found = mapping(attributes={"size": {"column": "shoe", "cast": "int"}, "hat": "hat"})
    assert found.plan(COLUMNS, "f").attributes == []
    (size,) = found.plan([*COLUMNS, "shoe"], "f").attributes
    assert (size.name, size.source, size.cast) == ("size", "shoe", "int")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "Expected `object`"),
        ({}, "missing required field `fields`"),
        ({"fields": {}}, "`transaction_id` is missing"),
        ({"fields": REQUIRED, "field": {}}, "unknown field `field`"),
        ({"fields": REQUIRED | {"usr_id": "x"}}, "did you mean `user_id`"),
        ({"fields": REQUIRED | {"category": {}}}, "either a column or a constant"),
        ({"fields": REQUIRED | {"category": {"colum": "x"}}}, "unknown field `colum`"),
        (
            {"fields": REQUIRED | {"category": {"column": "x", "constant": "y"}}},
            "either a column or a constant",
        ),
        ({"fields": REQUIRED | {"category": {"column": "x", "format": "iso"}}}, "has a format"),
        ({"fields": REQUIRED | {"category": {"column": "x", "cast": "int"}}}, "type is fixed"),
        ({"fields": REQUIRED | {"lat": {"column": "x", "prefix": "p"}}}, "is no text"),
        ({"fields": REQUIRED | {"timestamp": {"constant": 1}}}, "can not be a constant"),
        ({"fields": REQUIRED | {"timestamp": {"column": "t", "format": "epoch"}}}, "epoch"),
        ({"fields": REQUIRED | {"lat": {"column": "x", "divide": 100}}}, "only `amount` can have"),
        ({"fields": REQUIRED | {"amount": {"column": "x", "divide": 0}}}, "divide"),
        ({"fields": REQUIRED, "labels": {"fraud": "x"}}, "no label `fraud`"),
        ({"fields": REQUIRED, "attributes": ["is_fraud"]}, "name of a field or label"),
        ({"fields": REQUIRED, "other_columns": "drop"}, "drop"),
    ],
)
def test_what_is_no_mapping(document: Any, message: str) -> None:
    with pytest.raises(MappingError, match=message) as caught:
        Mapping(document, "m.yaml")
    assert "m.yaml" in str(caught.value)


def test_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="dafu, handbook, sparkov"):
        load_mapping("nope", {})
    with pytest.raises(MappingError, match="no mapping file"):
        load_mapping(str(tmp_path / "nope.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(MappingError, match=r"bad\.yaml can not be read"):
        load_mapping(str(tmp_path / "bad.yaml"))
