"""How good the decisions were, worked out beside the worker so that it goes on deciding meanwhile.

Reading and joining whole topics takes a processor for seconds. So it is done by `dafu performance`
in a process of its own, with this worker's settings, once at a time, and kept for a minute.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web
from msgspec import Struct

from dafu.errors import DafuError
from dafu.performance import Report
from dafu.processes import dying_with_parent

__all__ = ["JudgingError", "PerformanceDesk"]

KEPT_SECONDS: Final = 60.0
MOST_SECONDS: Final = 300.0
_COMMAND: Final = ("-c", "from dafu.cli import main; main()", "performance", "--json")
_ERROR_CHARS: Final = 500


class JudgingError(DafuError):
    """The decisions could not be judged."""


class _Written(Struct):
    report: Report


class PerformanceDesk:
    """Has the decisions judged that are on the topics.

    Parameters
    ----------
    command : sequence of str
        Of the interpreter that runs this worker; the name of a file is appended.
    """

    def __init__(self, command: tuple[str, ...] = _COMMAND) -> None:
        self._command = command
        self._task: asyncio.Task[Report] | None = None
        self._report: Report | None = None
        self._made = 0.0

    async def report(self, version: str | None = None, wait: float | None = None) -> Report | None:
        """Figures of all models, or of those of a version; not older than a minute.

        None if they are not ready within `wait` seconds; they are then being worked out, and who
        asks again gets them.

        Raises
        ------
        JudgingError
            If they could not be worked out; the message says why.
        """
        report = self._report
        if report is None or time.monotonic() - self._made > KEPT_SECONDS:
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name="dafu-performance")
            task = self._task
            done, _ = await asyncio.wait([task], timeout=wait)
            if not done:
                return None
            if self._task is task:
                self._task = None
            report = self._report = task.result()
            self._made = time.monotonic()
        if version is None:
            return report
        return msgspec.structs.replace(
            report,
            rows=tuple(row for row in report.rows if row.version == version),
            totals=tuple(row for row in report.totals if row.version == version),
        )

    async def _run(self) -> Report:
        with tempfile.TemporaryDirectory(prefix="dafu-performance-") as directory:
            path = Path(directory) / "report.json"
            process = await asyncio.create_subprocess_exec(
                *dying_with_parent([sys.executable, *self._command, str(path)]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "LOG_LEVEL": "WARNING"},
            )
            try:
                async with asyncio.timeout(MOST_SECONDS):
                    _, said = await process.communicate()
            except TimeoutError:
                raise JudgingError(f"not done within {MOST_SECONDS:.0f} s") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if not path.is_file():
                why = said.decode(errors="replace").strip()[-_ERROR_CHARS:]
                raise JudgingError(f"the decisions could not be judged: {why}")
            return msgspec.json.decode(path.read_bytes(), type=_Written).report

    async def close(self, _: web.Application | None = None) -> None:
        """End what still runs."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
