"""What a container asks of its worker, as the Dockerfile has it: as a process, of real servers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from dafu.broker import free_port
from dafu.settings import Web
from dafu.web.tls import server_context
from tests.web.certificates import certified

ROOT = Path(__file__).resolve().parents[2]


async def asked(settings: Web) -> tuple[int, str]:
    """How the command of the Dockerfile ends, and what it says."""
    found = re.search(
        r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.M
    )
    assert found is not None
    command = json.loads(found[1])
    assert command[0] == "python"
    environment = {
        **os.environ,
        "DAFU_WEB_HOST": settings.host,
        "DAFU_WEB_PORT": str(settings.port),
        "http_proxy": "http://127.0.0.1:9",  # is not for this
    }
    if settings.tls_cert is not None:
        environment |= {
            "DAFU_TLS_CERT": str(settings.tls_cert),
            "DAFU_TLS_KEY": str(settings.tls_key),
        }
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command[1:], cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told.decode()


async def answered(settings: Web, status: int = 200) -> tuple[int, str]:
    """The same, of a worker that answers with a status."""

    async def live(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/health/live", live)
    runner = web.AppRunner(app)
    await runner.setup()
    context = server_context(settings)
    await web.TCPSite(runner, settings.host, settings.port, ssl_context=context).start()
    try:
        return await asked(settings)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost"])
async def test_it_asks_where_the_worker_listens(host: str) -> None:
    assert await answered(Web(host=host, port=free_port())) == (0, "")


async def test_it_speaks_tls_where_the_worker_does(tmp_path: Path) -> None:
    settings = certified(tmp_path)
    assert await answered(settings) == (0, "")
    assert await answered(settings, 503) == (1, "the worker answers with 503\n")


async def test_a_worker_that_does_not_live_or_answer_is_none() -> None:
    settings = Web(port=free_port())
    assert await answered(settings, 503) == (1, "the worker answers with 503\n")
    status, told = await asked(settings)
    assert status == 1
    assert told.startswith("the worker can not be asked: ")
    assert "Traceback" not in told


def test_it_imports_little() -> None:
    program = "import sys, dafu.web.health; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"numba", "tensorflow", "keras", "faust", "aiohttp"} & set(done.stdout.split())
