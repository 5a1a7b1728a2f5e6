"""The harm that a chaos run does: when, to whom, and in which ways.

`plan` is a pure function of its arguments; the classes do what was planned, one harm at a time.
Where in the life of a batch a fault strikes is exact, how far the stream has come by then is not:
that depends on the machine.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import ClassVar, Final

import msgspec

from tests.chaos.crew import Crew, Place
from tests.chaos.faults import POINTS, RECOVERING, Fault
from tests.kafka import ApacheKafka, KafkaCluster

FROZEN_AT: Final = (
    "computed",
    "outputs-acked",
    "changelog-sending",
    "changelog-part-acked",
    "output-acked",
)
"""Where a worker that sleeps does harm when it wakes: it has something to send."""
FREEZE_SECONDS: Final = (9.0, 14.0)
"""Session timeout and rebalance take 3 s each at most; then another worker goes on for a while."""
STRIKE_SECONDS: Final = 15.0
"""How long a fault may take to strike; then the worker is killed as it stands."""
SETTLE_SECONDS: Final = 60.0
STORM_SECONDS: Final = 25.0
OVERLAP: Final = 0.25
"""Share of harms after which the next does not wait until the workers are ready again."""


class Harm(msgspec.Struct):
    """One harm of a plan. `seed` decides its details."""

    kind: str
    seed: int
    point: str = ""
    overlap: bool = False


def plan(
    seed: int, kills: int, zombies: int, broker_restarts: int, storms: int, skip: int = 0
) -> list[Harm]:
    """Harms in a random order, the points of kills and freezes taken in turn.

    `skip` is how many kills and zombies earlier plans had, so that several runs share the points.
    """
    choose = random.Random(f"harms {seed}")
    killed_at = (*POINTS, RECOVERING, "")  # the last: from outside, wherever it is
    kinds = [("kill", killed_at[(skip + k) % len(killed_at)]) for k in range(kills)]
    kinds += [("zombie", FROZEN_AT[(skip + k) % len(FROZEN_AT)]) for k in range(zombies)]
    kinds += [("broker restart", "")] * broker_restarts + [("storm", "")] * storms
    harms = [Harm(kind, choose.getrandbits(32), point) for kind, point in kinds]
    choose.shuffle(harms)
    for harm in harms:
        harm.overlap = choose.random() < OVERLAP
    return harms


class Doer:
    """Does harm to a crew and its broker."""

    def __init__(
        self, crew: Crew, regular: list[str], kafka: ApacheKafka | KafkaCluster | None
    ) -> None:
        self.crew = crew
        self.journal = crew.journal
        self.regular = [crew.places[name] for name in regular]
        self.extra = [p for name, p in crew.places.items() if name not in regular]
        self.kafka = kafka

    async def do(self, harm: Harm) -> None:
        """Do one harm, and wait until the workers have recovered unless it is to overlap."""
        choose = random.Random(harm.seed)
        await self._DO[harm.kind](self, harm, choose)
        if not harm.overlap:
            began = time.monotonic()
            ready = await self.crew.ready(SETTLE_SECONDS)
            took = time.monotonic() - began
            self.journal.note(f"workers {'' if ready else 'still not '}ready after {took:.1f} s")

    def _victim(self, choose: random.Random) -> Place:
        return choose.choice([p for p in self.regular if p.alive] or self.regular)

    async def _kill(self, harm: Harm, choose: random.Random) -> None:
        place = self._victim(choose)
        if harm.point == RECOVERING:
            place.send(signal.SIGKILL)
            self.journal.note(f"kill {place.name}, and again while it recovers")
            # For the next life, which is about to begin.
            place.arm(Fault(harm.point, "SIGKILL", choose.randrange(3)))
        elif harm.point:
            # Commits are far between, everything else comes with every batch.
            often = 5 if harm.point == "committed" else 40
            place.arm(Fault(harm.point, "SIGKILL", choose.randrange(often)))
        if harm.point and await self._struck(place):
            self.journal.note(f"kill {place.name} at {harm.point} of {place.fired}")
        else:
            place.disarm()
            await asyncio.sleep(choose.random())
            self.journal.note(f"kill {place.name} from outside")
            place.send(signal.SIGKILL)
        while place.alive and place.doomed:
            await asyncio.sleep(0.02)

    async def _struck(self, place: Place) -> bool:
        deadline = time.monotonic() + STRIKE_SECONDS
        while place.fired is None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _zombie(self, harm: Harm, choose: random.Random) -> None:
        place = self._victim(choose)
        place.arm(Fault(harm.point, "SIGSTOP", choose.randrange(40)))
        if await self._struck(place):
            where = f"at {harm.point} of {place.fired}"
        else:
            place.disarm()
            place.send(signal.SIGSTOP)
            where = "from outside"
        seconds = choose.uniform(*FREEZE_SECONDS)
        self.journal.note(f"freeze {place.name} {where} for {seconds:.1f} s")
        await asyncio.sleep(seconds)
        place.send(signal.SIGCONT)
        self.journal.note(f"wake {place.name}")
        await asyncio.sleep(2.0)

    async def _restart_broker(self, harm: Harm, choose: random.Random) -> None:
        assert self.kafka is not None, "the embedded broker would lose its records"
        sudden = choose.random() < 0.5
        node = choose.choice(self.kafka.nodes)
        which = f"broker {self.kafka.nodes.index(node) + 1} of {len(self.kafka.nodes)}"
        self.journal.note(f"kill -9 {which}" if sudden else f"stop {which}")
        await asyncio.to_thread(node.kill if sudden else node.stop)
        await asyncio.sleep(choose.uniform(0.0, 6.0))
        await asyncio.to_thread(node.start)
        self.journal.note(f"{which} is back")

    async def _storm(self, harm: Harm, choose: random.Random) -> None:
        self.journal.note(f"storm for {STORM_SECONDS:.0f} s")
        deadline = time.monotonic() + STORM_SECONDS
        while time.monotonic() < deadline:
            place = choose.choice([*self.regular, *self.extra])
            if not place.alive:
                self.crew.start(place)
            elif choose.random() < 0.5:
                self.journal.note(f"kill {place.name}")
                place.wanted = False
                place.send(signal.SIGKILL)
            else:
                await self.crew.stop(place)
            await asyncio.sleep(choose.uniform(1.0, 4.0))
        for place in self.extra:
            await self.crew.stop(place)
        for place in self.regular:
            if not place.alive:
                self.crew.start(place)

    _DO: ClassVar = {
        "kill": _kill,
        "zombie": _zombie,
        "broker restart": _restart_broker,
        "storm": _storm,
    }
