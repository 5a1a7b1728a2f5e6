"""Asking a schema registry: what it has, what it has not, and what says nothing of either."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dafu.ingest.framing import RegisteredSchema
from dafu.settings import SchemaRegistry, SettingsError
from dafu.streaming import schema_registry
from dafu.streaming.schema_registry import SchemaRegistryClient, SchemaRegistryError
from tests.schema_registry import Registry
from tests.web.certificates import certified

NOBODY = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_registry, "GRACE_SECONDS", 0.01)
    monkeypatch.setattr(schema_registry, "FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(schema_registry, "PATIENCE_SECONDS", 0.2)


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    async with Registry().running() as made:
        yield made


def client(*urls: str, **settings: Any) -> SchemaRegistryClient:
    return SchemaRegistryClient(SchemaRegistry(urls=urls, **settings))


async def test_schemas_come_by_their_ids(registry: Registry) -> None:
    registry.register(1, "string")
    registry.register(2, {"type": "object"}, kind="JSON")
    found = await client(f"{registry.url}/").schemas({2, 1})
    assert found == {
        1: RegisteredSchema("AVRO", '"string"'),
        2: RegisteredSchema("JSON", '{"type": "object"}'),
    }
    assert registry.asked == ["/schemas/ids/1", "/schemas/ids/2"]
    assert "Authorization" not in registry.headers[0]


async def test_what_it_refers_to_comes_in_order_and_once(registry: Registry) -> None:
    subject = "money/of: all%2Ftypes"
    registry.add_version(subject, 3, "money")
    registry.deleted.add((subject, 3))
    registry.add_version("tills", 1, "till", ("a.Money", subject, 3))
    registry.register(7, "payment", ("a.Till", "tills", 1), ("a.Money", subject, 3))
    found = await client(registry.url).schemas([7])
    assert found[7] == RegisteredSchema("AVRO", '"payment"', ('"money"', '"till"'))
    assert registry.asked == [
        "/schemas/ids/7",
        "/subjects/tills/versions/1?deleted=true",
        "/subjects/money%2Fof:%20all%252Ftypes/versions/3?deleted=true",
    ]


async def test_references_may_be_null(registry: Registry) -> None:
    registry.register(1, "string")
    registry.schemas[1]["references"] = None
    assert await client(registry.url).schemas([1]) == {1: RegisteredSchema("AVRO", '"string"')}


async def test_what_it_does_not_know_is_asked_once_more(registry: Registry) -> None:
    registry.register(1, "string")
    registry.register(8, "payment", ("a.Till", "tills", 1))
    assert list(await client(registry.url).schemas([8, 9, 1])) == [1]
    ones = "/schemas/ids/1"
    eights = ["/schemas/ids/8", "/subjects/tills/versions/1?deleted=true"]
    nines = "/schemas/ids/9"
    assert registry.asked == [ones, *eights, nines, *eights, nines]


async def test_a_schema_that_has_just_been_registered_is_found(registry: Registry) -> None:
    def late() -> web.Response | None:
        registry.register(9, "string")  # at another replica, at the first question
        if len(registry.asked) > 1:
            return None
        return web.json_response({"error_code": 40403}, status=404)

    registry.failing = late
    found = await client(registry.url).schemas([9])
    assert found == {9: RegisteredSchema("AVRO", '"string"')}


@pytest.mark.parametrize(
    ("status", "text", "why"),
    [
        (500, "sorry" * 1000, r"500 .*: (sorry){40}\. Payments wait"),
        (503, "", "503 Service Unavailable"),
        (429, "", "429"),
        (401, '{"error_code": 401}', "401 Unauthorized"),
        (403, '{"error_code": 40301}', "403 Forbidden"),
        (404, "no such page", "404 Not Found: no such page"),
        (404, '{"error_code": 404}', "404 Not Found"),  # of a path that no registry has
        (404, "[]", "404 Not Found"),
        (302, "", "302"),
        (200, "<html>", "malformed"),
        (200, '{"id": 1}', "missing required field `schema`"),
    ],
)
async def test_other_answers_say_nothing_of_the_schema(
    registry: Registry, status: int, text: str, why: str
) -> None:
    location = {"Location": f"{registry.url}/elsewhere"}
    registry.failing = lambda: web.Response(status=status, text=text, headers=location)
    asking = client(registry.url, user="u", password="hunter2")
    with pytest.raises(SchemaRegistryError, match=why) as caught:
        await asking.schemas([5])
    assert f"{registry.url}/schemas/ids/5" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert set(registry.asked) == {"/schemas/ids/5"}, "a redirect is not followed"
    assert len(registry.asked) > 2


async def test_it_is_asked_again_until_it_answers(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register(5, "string")
    registry.failing = lambda: web.Response(status=503) if len(registry.asked) < 4 else None
    assert list(await client(registry.url).schemas([5])) == [5]
    assert len(registry.asked) == 4
    assert caplog.text.count(f"no schema from {registry.url}/schemas/ids/5: 503") == 3


async def test_one_that_is_away_or_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    monkeypatch.setattr(schema_registry, "TIMEOUT_SECONDS", 0.05)
    with pytest.raises(SchemaRegistryError, match=r"no schema from .*imeout"):
        await client(url).schemas([5])
    server.close()
    with pytest.raises(SchemaRegistryError, match=f"no schema from {NOBODY}/schemas/ids/5"):
        await client(NOBODY).schemas([5])


async def test_the_next_address_is_asked_where_one_does_not_answer(registry: Registry) -> None:
    registry.register(5, "string")
    assert list(await client(NOBODY, registry.url).schemas([5])) == [5]


async def test_user_and_password_are_shown(registry: Registry) -> None:
    registry.register(5, "string")
    await client(registry.url, user="d\u00e4fu", password="s3:cret").schemas([5])
    kind, _, login = registry.headers[0]["Authorization"].partition(" ")
    assert (kind, base64.b64decode(login).decode()) == ("Basic", "d\u00e4fu:s3:cret")


async def test_certificates_are_asked_for_and_shown(tmp_path: Path) -> None:
    certified(tmp_path, b"s3cret")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    asks = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
    asks.load_cert_chain(cert, key, "s3cret")
    asks.verify_mode = ssl.CERT_REQUIRED
    own = {"ssl_certfile": cert, "ssl_keyfile": key, "ssl_key_password": "s3cret"}
    async with Registry().running(asks) as registry:
        registry.register(5, "string")
        assert list(await client(registry.url, ssl_cafile=cert, **own).schemas([5])) == [5]
        for settings, why in (({"ssl_cafile": cert}, "no schema"), (own, "CERTIFICATE_VERIFY")):
            with pytest.raises(SchemaRegistryError, match=why):
                await client(registry.url, **settings).schemas([5])
    with pytest.raises(SettingsError, match=r"schema_registry.ssl_certfile.* belong together"):
        client(registry.url, **own | {"ssl_key_password": "other"})
