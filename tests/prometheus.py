"""A Prometheus of its own for a test: started and stopped through `scripts/prometheus`."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from dafu.broker import free_port

SCRIPT: Final = Path(__file__).resolve().parents[1] / "scripts" / "prometheus"


class Prometheus:
    """Scrapes workers every half a second.

    Parameters
    ----------
    directory
        For configuration, data, log and pid file.
    workers
        What to scrape, as ``host:port``.
    key
        What it shows to them.
    """

    def __init__(self, directory: Path, *workers: str, key: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        credentials = directory / "key"
        credentials.write_text(key)
        self.directory = directory
        self.port = free_port()
        self._workers = [option for worker in workers for option in ("--worker", worker)]
        self._workers += ["--credentials", str(credentials)]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series of an instant vector now, with their values."""
        found = self.ask("query", query=expression)
        assert found["resultType"] in ("vector", "scalar"), found
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def ask(self, path: str, **parameters: str) -> Any:
        """The data that its API answers with."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=10) as response:
            document = json.load(response)
        assert document["status"] == "success", document
        return document["data"]

    def _run(self, command: str, *options: str) -> str:
        done = subprocess.run(
            [str(SCRIPT), command, "--dir", str(self.directory), *options],
            text=True,
            capture_output=True,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"scripts/prometheus {command} failed:\n{said}"
        return said

    def __enter__(self) -> Self:
        self._run("start", "--port", str(self.port), "--interval", "500ms", *self._workers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        said = self._run("stop")
        assert "stopped" in said, f"Prometheus did not stop: {said}"
