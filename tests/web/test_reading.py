"""Queries and bodies: what is read, what is refused, and which field is named."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct, structs

from dafu.web.problems import answer, protect
from dafu.web.reading import _decoded, read_body, read_bytes, read_query


class Query(Struct):
    limit: Annotated[int, Meta(ge=1, le=50)] = 10
    since: int | None = None
    exact: bool = False


class Item(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    count: int = 0
    price: float = 0.0


class Order(Struct):
    items: list[Item]
    more: dict[str, Any] = {}


async def ask(path: str, **options: Any) -> tuple[int, Any]:
    async def show_query(request: web.Request) -> web.Response:
        return answer(structs.asdict(read_query(request, Query)))

    async def show_body(request: web.Request) -> web.Response:
        return answer(await read_body(request, Order, 500))

    app = web.Application()
    app.router.add_get("/q", show_query)
    app.router.add_post("/b", show_body)
    protect(app)
    async with TestClient(TestServer(app)) as client:
        method = "GET" if path.startswith("/q") else "POST"
        async with client.request(method, path, **options) as response:
            return response.status, await response.json()


async def test_parameters_become_values() -> None:
    assert await ask("/q?limit=7&exact=true&since=5") == (
        200,
        {"limit": 7, "since": 5, "exact": True},
    )
    assert (await ask("/q?since="))[1]["since"] is None


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("limit=", "limit"), ("what=1", "what"),
     ("limit=1&limit=2", "limit"), ("exact=maybe", "exact")],
)  # fmt: skip
async def test_the_parameter_that_is_wrong_is_named(query: str, field: str) -> None:
    status, document = await ask(f"/q?{query}")
    assert (status, document["field"]) == (400, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "items"),
        ({"items": [{"name": "a"}, {"name": ""}]}, "items[1].name"),
        ({"items": [{"count": 1}]}, "items[0].name"),
        ({"items": [{"name": "a", "count": 1.5}]}, "items[0].count"),
        ({"items": [{"name": "a", "count": "1"}]}, "items[0].count"),
        ({"items": [{"name": "a", "what": 1}]}, "items[0]"),
    ],
)
async def test_the_field_that_is_wrong_is_named(body: Any, field: str) -> None:
    status, document = await ask("/b", json=body)
    assert (status, document["field"]) == (400, field)


async def test_what_is_no_sound_body() -> None:
    form = {"Content-Type": "application/json"}
    assert (await ask("/b", data=b"{", headers=form))[0] == 400
    assert (await ask("/b", data=b'"\xff"', headers=form))[0] == 400
    assert (await ask("/b", data=b"[" * 499, headers=form))[0] == 400
    assert (await ask("/b", data=b"{}", headers={"Content-Type": "text/plain"}))[0] == 415
    status, document = await ask("/b", data=b" " * 501, headers=form)
    assert (status, document["max_bytes"]) == (413, 500)


async def test_a_body_can_be_had_again_as_far_as_it_may_be_that_long() -> None:
    async def read_twice(request: web.Request) -> web.Response:
        return answer([(await read_bytes(request, n)).decode() for n in (500, 500, 3)])

    app = web.Application()
    app.router.add_post("/", read_twice)
    protect(app)
    async with TestClient(TestServer(app)) as client:
        async with client.post("/", data=b"abc") as response:
            assert await response.json() == ["abc"] * 3
        async with client.post("/", data=_pieces(b"ab", b"cd")) as response:
            assert response.status == 413


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@given(count=st.integers(-(2**53), 2**53), price=st.floats(allow_nan=False, allow_infinity=False))
def test_whole_numbers_may_have_a_point(count: int, price: float) -> None:
    raw = json.dumps({"items": [{"name": "a", "count": float(count), "price": price}]}).encode()
    (item,) = _decoded(raw, Order).items
    assert (item.count, type(item.count)) == (count, int)
    assert item.price == price
    assert type(item.price) is float
    assert math.copysign(1, item.price) == math.copysign(1, price) or price == 0
