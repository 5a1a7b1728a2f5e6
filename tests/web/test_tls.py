"""A server that speaks TLS, and a worker that asks another one by it."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from dafu.settings import Web
from dafu.web.tls import client_context, server_context
from tests.web.certificates import certified


@pytest.fixture
def settings(tmp_path: Path) -> Web:
    return certified(tmp_path)


async def test_it_is_spoken_and_checked(settings: Web) -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=request.scheme)

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    context, trusted = server_context(settings), client_context(settings)
    assert context is not None
    assert trusted is not None
    await web.TCPSite(runner, "127.0.0.1", settings.port, ssl_context=context).start()
    url = f"https://127.0.0.1:{settings.port}/"
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(url, ssl=trusted) as response:
                assert await response.text() == "https"
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(url)
            with pytest.raises(aiohttp.ClientError):
                await session.get(url.replace("127.0.0.1", "localhost"), ssl=trusted)
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
            old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            old.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises(aiohttp.ClientError):
                await session.get(url, ssl=old)
            with pytest.raises(aiohttp.ClientError):
                await session.get(url.replace("https", "http"))
    finally:
        await runner.cleanup()
