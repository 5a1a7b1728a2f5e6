"""Connections that nobody uses, on the worker's own web server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from dafu.web import server
from tests.web.conftest import Worker

BEGUN = (b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Never: ends")
ASKED = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("sent", [*BEGUN, ASKED])
async def test_a_connection_without_a_request_is_closed(
    app_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "KEEPALIVE_SECONDS", 0.3)
    worker = Worker(app_class, tmp_path, "memory")
    await worker.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(worker.base).port)
        writer.write(sent)
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200") if sent == ASKED else answer == b""
        writer.close()
    finally:
        await worker.stop()
