"""A real worker in a process of its own, as `faust -A dafu.app worker` starts it.

Knows processes, files and environment variables; no topic and no record.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final, Self

from dafu.broker import HOST
from dafu.errors import DafuError
from dafu.processes import dying_with_parent

COMMAND: Final = ("-A", "dafu.app", "worker", "-l", "info")
PARTITIONS: Final = 1
ADMIN_KEY: Final = "DAFU_ADMIN_KEY"
"""The environment variable with the key that may do everything."""
MAX_SKEW_S: Final = 3.2e9
"""Generated time may run ahead of the clock by decades."""
_STOP_SECONDS: Final = 30.0
_TAIL_BYTES: Final = 3000


class WorkerError(DafuError):
    """The worker could not be started, or ended by itself."""


def worker_environment(
    environ: Mapping[str, str], bootstrap: str, directory: Path, web_port: int
) -> dict[str, str]:
    """The environment of the worker, and of everything that watches it.

    Rules, model, thresholds and store stay as `environ` sets them, and so does the key; where
    things are does not. Without a key in `environ` a random one is made.
    """
    return {
        **environ,
        "DAFU_APP_ID": "dafu-demo",
        "DAFU_BROKER": bootstrap,
        "DAFU_SECURITY_PROTOCOL": "PLAINTEXT",
        "DAFU_TOPIC_PREFIX": "demo-",
        "DAFU_TOPIC_NAMES": "",
        "DAFU_PARTITIONS": environ.get("DAFU_PARTITIONS") or str(PARTITIONS),
        "DAFU_REPLICATION_FACTOR": "1",
        "DAFU_DATA_DIR": str(directory / "data"),
        "DAFU_AUTH_FILE": str(directory / "auth.yaml"),
        "DAFU_WEB_HOST": HOST,
        "DAFU_WEB_PORT": str(web_port),
        "DAFU_MAX_FUTURE_SKEW": str(MAX_SKEW_S),
        ADMIN_KEY: environ.get(ADMIN_KEY) or secrets.token_urlsafe(24),
    }


class Worker:
    """One worker process.

    Parameters
    ----------
    environment
        Its environment variables.
    log_file
        Where what it prints goes.

    Notes
    -----
    It has its own process group, so that Ctrl-C in a terminal reaches the demonstration alone,
    which then stops the worker in its turn.
    """

    def __init__(self, environment: Mapping[str, str], log_file: Path) -> None:
        self.log_file = log_file
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self) -> Self:
        """Start the process; it is ready when it decides.

        Raises
        ------
        WorkerError
            If there is no such program.
        """
        self._log = self.log_file.open("ab")
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program and arguments
                _command(),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as exc:
            self._log.close()
            raise WorkerError(f"the worker can not be started: {exc}") from exc
        return self

    @property
    def pid(self) -> int | None:
        """Its process id, None before the start."""
        return None if self._process is None else self._process.pid

    def check(self) -> None:
        """Raise if it ended by itself.

        Raises
        ------
        WorkerError
        """
        status = None if self._process is None else self._process.poll()
        if status is not None:
            raise WorkerError(f"the worker ended by itself with status {status}")

    def stop(self) -> None:
        """Ask it to stop and wait for it; kill it if it does not."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.close()

    def log_tail(self) -> str:
        """The last lines that it printed."""
        try:
            text = self.log_file.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
        except OSError as exc:
            return f"(no log: {exc})"
        return text if len(text) < _TAIL_BYTES else text.partition("\n")[2]


def _command() -> list[str]:
    script = Path(sys.executable).with_name("faust")
    faust = [str(script)] if script.is_file() else [sys.executable, "-m", "faust"]
    command = [*faust, *COMMAND]
    return dying_with_parent(command)
