"""A real Redis of its own for tests: started and stopped through `scripts/redis`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from dafu.broker import free_port

SCRIPT: Final = Path(__file__).resolve().parents[1] / "scripts" / "redis"


class Redis:
    """A Redis server of the tests' own."""

    def __init__(self, directory: Path) -> None:
        self.port, self.directory = free_port(), directory
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __call__(self, command: str) -> None:
        arguments = ["--dir", str(self.directory)]
        if command == "start":
            arguments += ["--port", str(self.port)]
        subprocess.run(
            [SCRIPT, command, *arguments],
            check=True,
            capture_output=True,
            timeout=30,
        )
