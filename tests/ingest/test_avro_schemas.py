"""Schemas that say all by themselves: names replaced, and nothing that a decoder could drown in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dafu.ingest.avro_schemas import MAX_NODES, SchemaError, self_contained
from dafu.schema import MAX_DEPTH


def record(name: str, *fields: tuple[str, Any], **more: Any) -> dict[str, Any]:
    inside = [{"name": name, "type": kind} for name, kind in fields]
    return {"type": "record", "name": name, "fields": inside, **more}


def resolved(schema: Any, *references: Any) -> Any:
    return self_contained(json.dumps(schema), [json.dumps(each) for each in references])


def unnamed(schema: Any) -> Any:
    """Without the names that copies get, which must all be different."""
    names: list[str] = []

    def strip(part: Any) -> Any:
        if isinstance(part, list):
            return [strip(each) for each in part]
        if not isinstance(part, dict):
            return part
        if part.get("type") in ("record", "enum", "fixed"):
            names.append(part["name"])
            return {k: strip(v) for k, v in part.items() if k != "name"}
        return {k: strip(v) for k, v in part.items()}

    stripped = strip(schema)
    assert len(names) == len(set(names))
    return stripped


def fields(**types: Any) -> dict[str, Any]:
    return {"type": "record", "fields": [{"name": n, "type": t} for n, t in types.items()]}


def test_names_are_found_as_namespaces_say() -> None:
    money = record("Money", ("cents", "long"), namespace="core.types")
    other = {"type": "enum", "name": "Money", "symbols": ["CASH"]}
    payment = record(
        "Payment",
        ("a", money),
        ("b", "core.types.Money"),
        ("c", record("core.types.Inner", ("m", "Money"))),  # in the namespace of its record
        ("d", other),  # core.Money, by what is around it
        ("e", ["null", "Money"]),
        ("f", {"type": "map", "values": {"type": "array", "items": "core.types.Money"}}),
        ("g", {"type": "core.types.Money"}),
        namespace="core",
    )
    cents, cash = fields(cents="long"), {"type": "enum", "symbols": ["CASH"]}
    assert unnamed(resolved(payment)) == fields(
        a=cents,
        b=cents,
        c=fields(m=cents),
        d=cash,
        e=["null", cash],
        f={"type": "map", "values": {"type": "array", "items": cents}},
        g=cents,
    )


def test_references_come_first_and_may_refer_to_each_other() -> None:
    money = record("Money", ("cents", "long"))
    till = record("Till", ("m", "Money"), namespace="shops")  # which is in no namespace
    found = resolved(["shops.Till", "Money"], money, till)
    assert unnamed(found) == [fields(m=fields(cents="long")), fields(cents="long")]


def test_what_is_for_readers_is_left_out() -> None:
    field = {"name": "n", "type": {"type": "double"}, "default": 0, "aliases": ["m"], "doc": "d"}
    schema = {"type": "record", "name": "R", "doc": "d", "fields": [field]}
    assert unnamed(resolved(schema)) == fields(n="double")


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (record("L", ("next", ["null", "L"])), "L is within itself"),
        (
            record("a.T", ("b", record("B", ("t", {"type": "array", "items": "T"})))),
            "a.T is within itself",
        ),
        (record("R", ("x", "Missing")), "does not say what Missing is"),
        (record("R", ("x", "later.B"), ("y", record("later.B"))), "what later.B is"),
        ({"type": "array", "items": "null"}, "an array of what takes no bytes"),
        ({"type": "array", "items": record("E", ("n", record("F")))}, "takes no bytes"),
        (
            {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}},
            "takes no bytes",
        ),
        ({"type": "fixed", "name": "F", "size": -1}, "a size that is none"),
        ({"type": "fixed", "name": "F", "size": "16"}, "a size that is none"),
        ({"type": "record", "name": "R"}, "no `fields`"),
        ({"type": "record", "fields": []}, "no `name`"),
        ({"name": "R"}, "no `type`"),
        ({"type": "record", "name": 5, "fields": []}, "no schema of Avro"),
        ({"type": "record", "name": "R", "fields": 5}, "no schema of Avro"),
        (7, "no schema of Avro"),
        (None, "no schema of Avro"),
    ],
)
def test_what_can_not_be_used_says_why(schema: Any, why: str) -> None:
    with pytest.raises(SchemaError, match=why):
        resolved(schema)


def test_a_schema_that_is_no_json() -> None:
    for text in ("{", "[" * 100_000):
        with pytest.raises(SchemaError, match="no schema of Avro"):
            self_contained(text)


def test_arrays_whose_items_take_bytes_are_good() -> None:
    for items in (["null"], "string", record("R", ("a", "null"), ("b", "int")), {"type": "bytes"}):
        assert resolved({"type": "array", "items": items})["type"] == "array"


def test_neither_depth_nor_size_is_without_bounds() -> None:
    def nested(depth: int) -> Any:
        schema: Any = "int"
        for _ in range(depth):
            schema = {"type": "array", "items": schema}
        return schema

    resolved(nested(MAX_DEPTH))
    with pytest.raises(SchemaError, match="deep"):
        resolved(nested(MAX_DEPTH + 1))
    # Each of them twice in the next: 2**40 in all.
    kinds = ["int", *(f"R{n}" for n in range(40))]
    doubling = [record(f"R{n}", ("a", kind), ("b", kind)) for n, kind in enumerate(kinds)]
    resolved(doubling[5], *doubling[:5])
    with pytest.raises(SchemaError, match=f"more than {MAX_NODES} types"):
        resolved(doubling[40], *doubling[:40])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "bytes", "logicalType": "decimal"},
        {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3},
        {"type": "bytes", "logicalType": "decimal", "precision": 10**9},
        {"type": "bytes", "logicalType": "decimal", "precision": "9"},
        {"type": "fixed", "name": "F", "size": 8, "logicalType": "uuid"},
        {"type": "fixed", "name": "F", "size": 12, "logicalType": "duration"},
        {"type": "bytes"},
    ],
)
def test_bytes_with_a_logical_type_that_can_not_be_are_bytes(schema: Any) -> None:
    assert resolved(schema)["logicalType"] == "dafu-hex"
