"""The workers of a chaos run, and somebody who starts them again whenever they end.

Each place in the crew keeps its data directory over the lives of its processes. What happens is
written to a journal with times, for the one who looks for causes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.chaos.faults import Fault
from tests.integration.worker import STOP_SECONDS, System, Worker, is_ready

APP: Final = "tests.chaos.worker"
_ERROR: Final = re.compile(r"^(?:[\w.]*(?:Error|Exception)\b.*|dafu can not start.*)", re.M)
HOPELESS: Final = 25
"""Ends for one and the same reason after which a run is given up."""
_LATER: Final = ("RuntimeError: Event loop is closed", "asyncio.exceptions.CancelledError")
"""What a worker says while it goes down for another reason."""


class Journal:
    """What happened when, in seconds since the run began."""

    def __init__(self) -> None:
        self.began = time.time()
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Write down that something happens now."""
        self.lines.append(f"{time.time() - self.began:7.1f} s  {text}")

    def at(self, timestamp_ms: int) -> str:
        """A record's time in the journal's."""
        return f"{timestamp_ms / 1000 - self.began:.1f} s"


class Place:
    """One worker of the crew, in whichever life."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.data = directory / "data"
        self.chaos = directory / "chaos"
        self.chaos.mkdir(parents=True)
        self.worker: Worker | None = None
        self.wanted = False
        self.lives = 0
        self.doomed = False  # it was told to die, so its end surprises nobody

    @property
    def alive(self) -> bool:
        """Whether its process runs or is suspended."""
        return self.worker is not None and self.worker.process.poll() is None

    @property
    def killing(self) -> bool:
        """Whether an order to die waits for the worker."""
        try:
            order = (self.chaos / "fault").read_bytes()
        except OSError:
            return False
        return msgspec.json.decode(order, type=Fault).action == "SIGKILL"

    @property
    def fired(self) -> str | None:
        """Where the armed fault struck, None if it did not yet."""
        with contextlib.suppress(OSError):
            return (self.chaos / "fired").read_text()
        return None

    def arm(self, fault: Fault) -> None:
        """Order a fault; it strikes in this life or a later one."""
        (self.chaos / "fired").unlink(missing_ok=True)
        # In one step, because the worker looks at any time.
        order = self.chaos / "order"
        order.write_bytes(msgspec.json.encode(fault))
        order.rename(self.chaos / "fault")
        self.doomed = fault.action == "SIGKILL"

    def disarm(self) -> None:
        """Take an order back, whether the worker has read it or not."""
        self.arm(Fault("", ""))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it lives."""
        if self.alive and self.worker is not None:
            self.doomed = self.doomed or number == signal.SIGKILL
            self.worker.process.send_signal(number)


class Crew:
    """Starts workers, and starts them again.

    Parameters
    ----------
    system : System
        What they work on.
    names : sequence of str
        Its places.
    choose : random.Random
        How large the batches of each life are and how slow its acknowledgements.
    broken : str or None
        One of `tests.chaos.faults.BREAKS`.
    roles : mapping of str to str, optional
        Roles of those places that do not do everything.
    """

    def __init__(
        self,
        system: System,
        names: Sequence[str],
        choose: random.Random,
        journal: Journal,
        broken: str | None = None,
        roles: Mapping[str, str] | None = None,
    ) -> None:
        self.system = system
        self.places = {name: Place(name, system.directory / name) for name in names}
        self._roles = roles or {}
        self.journal = journal
        self.unexpected: list[str] = []
        self.hopeless = asyncio.Event()
        self._choose = choose
        self._broken = broken
        self._watching: asyncio.Task[None] | None = None

    def start(self, place: Place) -> None:
        """Begin the next life of a place."""
        choose = self._choose
        place.lives += 1
        place.doomed = place.killing  # ordered before it was born
        place.wanted = True
        environment = {
            "DAFU_DATA_DIR": str(place.data),
            "DAFU_BATCH_RECORDS": str(choose.choice([20, 50, 100, 300])),
            "CHAOS_DIR": str(place.chaos),
            "CHAOS_SEED": str(choose.random()),
            "CHAOS_SLOW": choose.choice(["0,0", "0.2,0.08", "0.02,0.6"]),
        }
        if choose.random() < 0.5:
            environment["CHAOS_BATCH_BYTES"] = str(choose.choice([4_000, 16_000, 60_000]))
        if roles := self._roles.get(place.name):
            environment["DAFU_WORKER_ROLES"] = roles
        if self._broken:
            environment["CHAOS_BREAK"] = self._broken
        place.worker = self.system.worker(APP, **environment)
        place.worker.start()
        what = " ".join(f"{k}={v}" for k, v in sorted(environment.items()) if "DIR" not in k)
        self.journal.note(f"{place.name} starts, life {place.lives}: {what}")

    def __enter__(self) -> Crew:
        self._watching = asyncio.create_task(self._watch())
        return self

    def __exit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
        for place in self.places.values():
            if place.alive and place.worker is not None:
                place.worker.process.kill()
                place.worker.process.wait()

    async def _watch(self) -> None:
        while True:
            for place in self.places.values():
                if place.wanted and place.worker is not None and not place.alive:
                    self._bury(place)
                    self.start(place)
            await asyncio.sleep(0.1)

    def _bury(self, place: Place) -> None:
        assert place.worker is not None
        status = place.worker.process.returncode
        if place.doomed and status == -signal.SIGKILL:
            self.journal.note(f"{place.name} is dead")
            return
        why = _reason(place.worker.output)
        self.journal.note(
            f"{place.name} ended by itself with status {status}: {why[:100]}; "
            f"log {place.worker.log.name}"
        )
        self.unexpected.append(f"status {status}: {why[:300]}")
        if self.unexpected.count(self.unexpected[-1]) >= HOPELESS:
            self.hopeless.set()

    async def ready(self, within: float) -> bool:
        """Wait until all wanted workers can decide; whether that came true in time."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            wanted = [p for p in self.places.values() if p.wanted]
            if all([p.alive and p.worker and await is_ready(p.worker.base) for p in wanted]):
                return True
            await asyncio.sleep(0.2)
        return False

    async def stop(self, place: Place) -> None:
        """Ask a worker to stop, as a deployment does; kill it if it does not."""
        place.wanted = False
        worker = place.worker
        if worker is None or not place.alive:
            return
        worker.process.send_signal(signal.SIGTERM)
        try:
            status = await asyncio.to_thread(worker.process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = await asyncio.to_thread(worker.process.wait)
        if status:
            text = f"was asked to stop and ended with status {status}"
            self.journal.note(f"{place.name} {text}; log {worker.log.name}")
            self.unexpected.append(text)
        else:
            self.journal.note(f"{place.name} stopped")


def _reason(output: str) -> str:
    """The error for which a worker ended: the first of its own, else the last of any."""
    said = [line for line in _ERROR.findall(output) if not line.startswith(_LATER)]
    own = [line for line in said if line.startswith("dafu")]
    return str([*own[:1], *said[-1:], "(no error in its log)"][0])
