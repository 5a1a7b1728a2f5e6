"""A schema registry for tests, as far as those who read see it, and records framed for it."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import fastavro
from aiohttp import web

REFUSED = {40401: "Subject", 40402: "Version", 40403: "Schema"}


def framed(number: int, payload: bytes) -> bytes:
    """A record whose payload was written with the schema of this id."""
    return b"\0" + struct.pack(">i", number) + payload


def in_avro(number: int, schema: Any, document: Any) -> bytes:
    """A framed record, written by fastavro."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), document)
    return framed(number, out.getvalue())


class Registry:
    """Answers what schemas are behind ids, and behind versions of subjects."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.versions: dict[tuple[str, int], dict[str, Any]] = {}
        self.deleted: set[tuple[str, int]] = set()
        self.asked: list[str] = []
        self.headers: list[Any] = []
        self.failing: Callable[[], web.Response | None] = lambda: None
        """Gives an answer in place of the right one, or None."""
        self.url = ""

    def register(
        self, number: int, schema: Any, *references: tuple[str, str, int], kind: str | None = None
    ) -> None:
        """Give a schema an id; references are names, subjects and versions."""
        self.schemas[number] = _described(schema, references, kind)

    def add_version(
        self, subject: str, version: int, schema: Any, *references: tuple[str, str, int]
    ) -> None:
        """Register a schema that others refer to."""
        described = _described(schema, references, None)
        self.versions[subject, version] = described | {"subject": subject, "version": version}

    async def _by_id(self, request: web.Request) -> web.Response:
        return self._answer(request, self.schemas.get(int(request.match_info["id"])), 40403)

    async def _by_version(self, request: web.Request) -> web.Response:
        place = request.match_info["subject"], int(request.match_info["version"])
        hidden = place in self.deleted and request.query.get("deleted") != "true"
        return self._answer(request, None if hidden else self.versions.get(place), 40402)

    def _answer(self, request: web.Request, found: Any, code: int) -> web.Response:
        self.asked.append(request.raw_path)
        self.headers.append(request.headers)
        wrong = self.failing()
        if wrong is not None:
            return wrong
        if found is None:
            refused = {"error_code": code, "message": f"{REFUSED[code]} not found"}
            return _json(refused, 404)
        return _json(found, 200)

    @contextlib.asynccontextmanager
    async def running(self, ssl_context: Any = None) -> AsyncIterator[Registry]:
        """It, at `url`."""
        app = web.Application()
        app.router.add_get("/schemas/ids/{id}", self._by_id)
        app.router.add_get("/subjects/{subject}/versions/{version}", self._by_version)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        scheme = "https" if ssl_context else "http"
        self.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


def _described(schema: Any, references: Any, kind: str | None) -> dict[str, Any]:
    described: dict[str, Any] = {"schema": json.dumps(schema)}
    if kind is not None:
        described["schemaType"] = kind
    if references:
        keys = ("name", "subject", "version")
        described["references"] = [dict(zip(keys, each, strict=True)) for each in references]
    return described


def _json(document: Any, status: int) -> web.Response:
    return web.json_response(
        document, status=status, content_type="application/vnd.schemaregistry.v1+json"
    )
