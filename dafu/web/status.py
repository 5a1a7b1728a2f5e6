"""The worker's state of health and what it holds, as plain data.

Reads the Faust app and the agents; knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from dafu import __version__
from dafu.agents.assembly import Agents
from dafu.agents.serving import ServingAgent
from dafu.agents.shell import WORKER_NAME, Counters, StageAgent
from dafu.agents.watchdog import Situation
from dafu.features.catalogue import CATALOGUE_HASH, FEATURES
from dafu.registry import Level, Lineup, ModelRef, Role
from dafu.stages.switches import last_switch
from dafu.tables.records import MemoryRecords
from dafu.tables.store import PartitionedStore
from dafu.tables.table import PackedTable
from dafu.tables.working_set import HEAD
from dafu.web.progress import PartitionProgress, ProgressMonitor

__all__ = ["Status", "TableSizes", "WorkerStatus"]

_SLICE: Final = 1_000  # counted at once: a few milliseconds, whatever the store
_SIZES_SECONDS: Final = 60.0


class WorkerStatus(Struct, frozen=True):
    """Which process this is."""

    name: str
    version: str
    url: str
    uptime_s: float


class RulesStatus(Struct, frozen=True):
    """Rules that hold for partitions here, by mode."""

    version: str
    partitions: list[int]
    live: int
    shadow: int
    off: int


class ModelStatus(Struct, frozen=True):
    """The model that the worker is configured with, which decides until others are deployed;
    `degraded` without one: rules decide alone."""

    name: str | None
    version: str | None
    degraded: bool


class ServedModel(Struct, frozen=True):
    """A model that holds for a partition; `loaded` is false until it is needed or if it can not be
    had. Without a name it is none: rules decide alone, or no sequence model looks on."""

    role: Role
    name: str | None
    version: str | None
    configured: bool
    loaded: bool


class LineupStatus(Struct, frozen=True):
    """What the last switch in a partition's log says; `switch` is its number, null for none yet."""

    partition: int
    switch: int | None
    models: list[ServedModel]


class LevelStatus(Struct, frozen=True):
    """The models of a level, by partition, and which packages can not be served here, and why."""

    partitions: list[LineupStatus]
    alarms: list[str]


class FeaturesStatus(Struct, frozen=True):
    """The feature catalogue in force."""

    hash: str
    count: int


class PartitionSize(Struct, frozen=True):
    """What a partition of a table holds here; `bytes` of keys and values, without overhead."""

    partition: int
    entities: int
    records: int
    bytes: int


class TableStatus(Struct, frozen=True):
    """A table's local partitions; `counted_s_ago` because counting is not done at every request."""

    store: str
    counted_s_ago: float
    partitions: list[PartitionSize]


class ConsumerStatus(Struct, frozen=True):
    """Lag by partition, how long ago it was read, and why it could not be read since, if so."""

    read_s_ago: float | None
    error: str | None
    partitions: list[PartitionProgress]


class AccessStatus(Struct, frozen=True):
    """Where rate limits are kept now, and how often they had to be kept here alone since Redis did
    not answer; entries of the audit log that were written, and that were not."""

    rate_limits: str
    rate_limits_alone: int
    audit_written: int
    audit_failed: int


class Status(Struct, frozen=True):
    """Everything that `/v1/status` says."""

    worker: WorkerStatus
    app_id: str
    ready: bool
    reasons: list[str]
    assignment: dict[str, list[int]]
    agents: dict[str, dict[str, Any]]
    rules: list[RulesStatus]
    model: ModelStatus
    models: dict[Level, LevelStatus]
    features: FeaturesStatus
    tables: dict[str, TableStatus]
    consumer: ConsumerStatus
    access: AccessStatus | None


class TableSizes:
    """Counts the entities and records of a table now and then, without holding up decisions.

    Parameters
    ----------
    table : PackedTable
    """

    def __init__(self, table: PackedTable) -> None:
        self.table = table
        self._sizes: list[PartitionSize] = []
        self._counted: float | None = None
        self._lock = asyncio.Lock()

    @property
    def age_s(self) -> float | None:
        """Seconds since the last count, None before the first."""
        return None if self._counted is None else time.monotonic() - self._counted

    @property
    def latest(self) -> list[PartitionSize]:
        """What was counted last, of the partitions that are still held."""
        held = self.table.records.open_partitions()
        return [size for size in self._sizes if size.partition in held]

    async def status(self, within_s: float = _SIZES_SECONDS) -> TableStatus:
        """The sizes, counted anew if they are older than this."""
        async with self._lock:
            held = self.table.records.open_partitions()
            if (
                self._counted is None
                or time.monotonic() - self._counted > within_s
                or held != [size.partition for size in self._sizes]
            ):
                self._sizes = [await _count(self.table.records, number) for number in held]
                self._counted = time.monotonic()
            ago = round(time.monotonic() - self._counted, 3)
            return TableStatus(self.table.app.settings.store, ago, self._sizes)


async def _count(store: PartitionedStore, number: int) -> PartitionSize:
    records = entities = size = 0
    held = _records(store, number)
    while number in store.open_partitions() and (part := list(islice(held, _SLICE))):
        records += len(part)
        entities += sum(key.startswith(HEAD) for key, _ in part)
        size += sum(len(key) + len(value) for key, value in part)
        await asyncio.sleep(0)
    return PartitionSize(number, entities, records, size)


def _records(store: PartitionedStore, number: int) -> Iterator[tuple[bytes, bytes]]:
    records = store.partition(number)
    if isinstance(records, MemoryRecords):
        data = records.data  # a dictionary that changes can not be iterated in parts, its keys can
        return ((key, data[key]) for key in list(data) if key in data)
    return store.items(number)


class Reporter:
    """Says how the worker does.

    Parameters
    ----------
    app : faust.App
    agents : Agents
    max_stall_s : float
        How long a committed offset may stand still while there is lag, in seconds.
    """

    def __init__(
        self,
        app: Any,
        agents: Agents,
        *,
        max_stall_s: float,
    ) -> None:
        self.app = app
        self.agents = agents
        self.max_stall_s = max_stall_s
        self.monitor = ProgressMonitor(app)
        self._sizes = {a.table.name: TableSizes(a.table) for a in agents.keepers}
        self.access: Callable[[], AccessStatus] | None = None
        self._started = time.monotonic()

    def dead(self) -> list[str]:
        """Why the worker can not go on; empty if it can."""
        if self.app.crashed:
            return [f"the worker has crashed: {self.app.crash_reason!r}"]
        return []

    def recovering(self) -> list[str]:
        """Why the state here is not to be relied on now; empty if it is."""
        reasons = self.dead()
        if self.app.should_stop:
            reasons.append("the worker is stopping")
        if not self.app.assignor.tables_metadata():
            reasons.append("no partitions have been assigned yet")
        elif self.app.rebalancing:
            reasons.append("the consumer group is rebalancing")
        elif not self.app.tables.actives_ready:
            reasons.append("the tables are being recovered from their changelogs")
        return reasons

    def not_ready(self) -> list[str]:
        """Why the worker should get no traffic; empty if it should."""
        if reasons := self.recovering():
            return reasons
        monitor = self.monitor
        reasons = [
            f"{p.topic}[{p.partition}] has {p.lag} records to go and its committed offset "
            f"{p.committed} has not moved for {p.committed_age_s:.0f} s"
            for p in monitor.progress.stalled(self.max_stall_s)
        ]
        if monitor.silent_s > self.max_stall_s:
            why = monitor.error or "nobody tried"
            reasons.append(f"the offsets have not been read for {monitor.silent_s:.0f} s: {why}")
        return reasons

    def situation(self) -> Situation:
        """What the worker is at, for its watchdog."""
        waiting = self.recovering()
        recovered = self.app.tables.recovery.active_offsets
        step = (
            self.app.rebalancing_count,
            self.app.consumer_generation_id,
            tuple(sorted(recovered.items())),
        )
        oldest = max(
            self.monitor.progress.stalled(0.0), key=lambda p: p.committed_age_s, default=None
        )
        if oldest is None:
            return Situation("; ".join(waiting) or None, step, 0.0, "")
        what = (
            f"{oldest.topic}[{oldest.partition}] has {oldest.lag} records to go and its committed "
            f"offset stands at {oldest.committed}"
        )
        return Situation("; ".join(waiting) or None, step, oldest.committed_age_s, what)

    @property
    def sizes(self) -> Mapping[str, TableSizes]:
        """What is counted of each table, by name."""
        return self._sizes

    def rules(self) -> list[RulesStatus]:
        """The rules in force: one version, unless a change is on its way through the log."""
        merchants, found = self.agents.merchants, []
        versions = merchants.rules_in_force()
        for version, rules in merchants.rules_by_version().items():
            modes = Counter(rule.mode for rule in rules)
            held = [number for number, holds in versions.items() if holds == version]
            found.append(RulesStatus(version, held, modes["live"], modes["shadow"], modes["off"]))
        return found

    def models(self) -> dict[Level, LevelStatus]:
        """The models of both levels."""
        return {agent.level: _level(agent) for agent in (self.agents.users, self.agents.merchants)}

    async def status(self) -> Status:
        """All there is to say."""
        reasons = self.not_ready()
        model = self.agents.merchants.stage.model
        age = self.monitor.age_s
        return Status(
            WorkerStatus(
                WORKER_NAME.decode(),
                __version__,
                str(self.app.conf.canonical_url),
                round(time.monotonic() - self._started, 3),
            ),
            self.app.conf.id,
            not reasons,
            reasons,
            _by_topic(self.app.assignor.assigned_actives()),
            {name: _described(agent) for name, agent in self.agents.by_name().items()},
            self.rules(),
            ModelStatus(
                None if model is None else model.name,
                None if model is None else model.version,
                model is None,
            ),
            self.models(),
            FeaturesStatus(CATALOGUE_HASH, len(FEATURES)),
            {name: await sizes.status() for name, sizes in self._sizes.items()},
            ConsumerStatus(
                None if age is None else round(age, 3),
                self.monitor.error,
                self.monitor.progress.partitions,
            ),
            None if self.access is None else self.access(),
        )


def _level(agent: ServingAgent[Any]) -> LevelStatus:
    records = agent.table.partition
    partitions = []
    for number in sorted(agent.table.records.open_partitions()):
        switch = last_switch(records, number)
        lineup = Lineup() if switch is None else switch.lineup
        served = [_served(agent, "champion", lineup.champion)]
        served += [_served(agent, c.role, c.model) for c in lineup.candidates]
        partitions.append(LineupStatus(number, None if switch is None else switch.number, served))
    return LevelStatus(partitions, agent.shelf.alarms(agent.level))


def _served(agent: ServingAgent[Any], role: Role, ref: ModelRef | None) -> ServedModel:
    if ref is None:
        return ServedModel(role, None, None, configured=False, loaded=False)
    model = agent.shelf.held(agent.level, ref)
    if ref.configured:
        name, version = (None, None) if model is None else (model.name, model.version)
    else:
        name, version = ref.name, ref.version
    return ServedModel(role, name, version, ref.configured, model is not None)


def _described(agent: Any) -> dict[str, Any]:
    more = agent.details() if isinstance(agent, StageAgent) else {}
    return _counted(agent.counters) | more


def _counted(counters: Counters) -> dict[str, Any]:
    out: dict[str, Any] = msgspec.to_builtins(counters)
    at = out["last_batch_at"]
    out["last_batch_at"] = (
        datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if at
        else None
    )
    out["busy_seconds"] = round(out["busy_seconds"], 6)
    return out


def _by_topic(partitions: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    out: defaultdict[str, list[int]] = defaultdict(list)
    for topic, partition in sorted(partitions):
        out[topic].append(partition)
    return dict(out)
