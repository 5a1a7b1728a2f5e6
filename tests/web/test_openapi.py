"""The OpenAPI document: what the endpoints declare, and nothing else."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import msgspec
import pytest
from aiohttp import web
from jsonschema_rs import Draft202012Validator
from markupsafe import escape
from msgspec import Meta, Struct

from dafu.schema import Moment
from dafu.web.endpoints import Call, Endpoint
from dafu.web.openapi import openapi
from dafu.web.principals import Permission
from dafu.web.problems import answer, problem
from tests.web.conftest import START, Worker, payment


class Query(Struct):
    limit: Annotated[int, Meta(ge=1, le=50)] = 10
    since: int | None = None


class Item(Struct):
    name: str
    value: float


class Dated(Struct):
    since: Moment | None = None


class Found(Struct):
    items: list[Item]
    mean: float


async def nothing(_: Call) -> web.Response:
    return answer(None)


def endpoint(**changes: Any) -> Endpoint:
    given: dict[str, Any] = {
        "method": "GET",
        "path": "/v1/items/{item_id}",
        "name": "get_item",
        "summary": "An item",
        "tag": "items",
        "permission": Permission.READ,
        "handler": nothing,
        **changes,
    }
    return Endpoint(**given)


def operation(declared: Endpoint) -> Any:
    return next(iter(next(iter(openapi([declared])["paths"].values())).values()))


def test_parameters_are_those_of_path_and_query() -> None:
    found = operation(endpoint(query=Query))
    by_name = {p["name"]: p for p in found["parameters"]}
    assert by_name["item_id"]["in"] == "path"
    assert by_name["item_id"]["required"] is True
    assert by_name["limit"]["in"] == "query"
    assert by_name["limit"]["required"] is False
    assert by_name["limit"]["schema"]["maximum"] == 50
    assert set(by_name) == {"item_id", "limit", "since"}
    assert by_name["since"]["schema"] == {"type": "integer"}, "never null"


def test_a_pattern_in_a_path_is_the_routers_own() -> None:
    document = openapi([endpoint(path="/v1/items/{item_id:[a-z]{2,5}}")])
    assert list(document["paths"]) == ["/v1/items/{item_id}"]


def test_what_can_go_wrong_follows_from_the_declaration() -> None:
    shut = operation(endpoint(problems={404: "There is none."}))
    assert set(shut["responses"]) == {"200", "400", "401", "403", "404", "429", "500", "504"}
    assert shut["responses"]["404"]["description"] == "There is none."
    assert shut["security"]
    wide = operation(endpoint(permission=None, method="POST", body=Item, status=202))
    assert set(wide["responses"]) == {"202", "400", "408", "413", "415", "500", "504"}
    assert wide["security"] == []
    for responses in (shut["responses"], wide["responses"]):
        for status, response in responses.items():
            assert (int(status) >= 400) == (
                "application/problem+json" in response.get("content", ())
            )


def test_what_is_written_may_be_null_where_json_knows_no_number() -> None:
    document = openapi([endpoint(returns=Found, body=Item, method="POST")])
    schemas = document["components"]["schemas"]
    assert schemas["Found"]["properties"]["mean"]["type"] == ["number", "null"]
    assert schemas["Item"]["properties"]["value"]["type"] == "number", "it is read as well"
    written = json.loads(msgspec.json.encode(Found([], math.nan)))
    Draft202012Validator(schemas["Found"] | {"components": document["components"]}).validate(
        written
    )


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("2024-01-31T23:59:59Z", True),
        ("2024-01-31t23:59:59.123456+05:30", True),
        ("2024-13-01T00:00:00Z", False),
        ("2024-01-31", False),
        ("soon", False),
    ],
)
def test_moments_are_told_from_other_texts(text: str, is_one: bool) -> None:
    document = openapi([endpoint(body=Dated, method="POST")])
    found = Draft202012Validator(document["components"]["schemas"]["Dated"])
    assert found.is_valid({"since": text}) == is_one
    try:
        msgspec.convert({"since": text}, Dated)
    except msgspec.ValidationError:
        assert not is_one
    else:
        assert is_one


def test_undocumented_endpoints_are_left_out() -> None:
    assert openapi([endpoint(documented=False)])["paths"] == {}


def test_where_tokens_are_had_is_named() -> None:
    shut = endpoint(permission=Permission.SCORE)
    assert set(openapi([shut])["components"]["securitySchemes"]) == {"bearer", "key"}
    token = endpoint(path="/token", permission=None, documented=False, grants=("password",))
    document = openapi([token, shut])
    scheme = document["components"]["securitySchemes"]["oauth2"]
    assert scheme["type"] == "oauth2"
    assert scheme["flows"]["password"]["tokenUrl"] == "/token"
    assert set(scheme["flows"]["password"]["scopes"]) == set(Permission)
    assert "/token" not in document["paths"]
    found = document["paths"]["/v1/items/{item_id}"]["get"]["security"]
    assert found == [{"bearer": []}, {"key": []}, {"oauth2": ["score"]}]


async def test_the_workers_document_describes_its_answers(worker: Worker) -> None:
    worker.apply([payment(i, "ann", "shop", 3.0 + i) for i in range(5)])
    document = (await worker.ask("/openapi.json")).json
    assert document["openapi"].startswith("3.1.")
    flows = document["components"]["securitySchemes"]["oauth2"]["flows"]
    assert {flow["tokenUrl"] for flow in flows.values()} == {"/oauth/token"}
    names = [op["operationId"] for ops in document["paths"].values() for op in ops.values()]
    assert len(names) == len(set(names))
    for path, concrete in (
        ("/v1/users/{user_id}", "/v1/users/ann"),
        ("/v1/merchants/{merchant_id}", "/v1/merchants/shop"),
        ("/v1/status", "/v1/status"),
        ("/v1/features", "/v1/features"),
        ("/health/ready", "/health/ready"),
    ):
        response = document["paths"][path]["get"]["responses"]["200"]
        schema = response["content"]["application/json"]["schema"]
        validator = Draft202012Validator(schema | {"components": document["components"]})
        validator.validate((await worker.ask(concrete)).json)
    missing = await worker.ask("/v1/users/nobody")
    schema = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    Draft202012Validator(schema).validate(missing.json)


async def test_the_page_shows_every_operation_and_runs_nothing(worker: Worker) -> None:
    found = await worker.ask("/docs")
    assert (found.status, found.content_type) == (200, "text/html")
    text = found.body.decode()
    for path, operations in (await worker.ask("/openapi.json")).json["paths"].items():
        assert path in text
        assert all(escape(op["summary"]) in text for op in operations.values())
    assert "<script" not in text
    policy = found.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


@pytest.mark.parametrize("status", [400, 404, 503])
def test_problems_are_of_the_declared_type(status: int) -> None:
    schemas = openapi([])["components"]["schemas"]
    body = problem(status, "why", field="amount", at=START).body
    Draft202012Validator(schemas["Problem"]).validate(json.loads(bytes(body)))  # type: ignore[arg-type]
