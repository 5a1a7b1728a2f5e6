"""What a worker's agents have counted, read at the moment of a scrape.

The agents count as they go, a batch at a time, whether anybody asks or not; all that Prometheus
needs beyond that is done here, where it costs no decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from msgspec import structs
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from dafu import __version__
from dafu.agents.assembly import Agents
from dafu.agents.histogram import Histogram
from dafu.agents.merchants import MerchantsAgent
from dafu.agents.shell import WORKER_NAME, Counters
from dafu.web import metric_names as names
from dafu.web.metric_names import Metric
from dafu.web.rings import PARTITION
from dafu.web.status import Reporter

__all__ = ["WorkerCollector", "family", "histogram_family"]

_BY_AGENT: Final = (
    (names.BUSY, "busy_seconds"),
    (names.RECORDS, "records"),
    (names.BATCHES, "batches"),
    (names.OUTPUTS, "outputs"),
    (names.REJECTED, "rejected"),
    (names.DUPLICATES, "duplicates"),
    (names.LABELS, "labels"),
    (names.REPEATS, "repeats"),
    (names.FENCED, "fenced"),
    (names.REROUTED, "rerouted"),
)
"""Metrics with the fields of `Counters` that they show."""

Sample = tuple[tuple[str, ...], float]
"""Values of the labels, in order, and the value."""


def family(metric: Metric, samples: Iterable[Sample]) -> Family:
    """Samples of a counter, gauge or info, as the library has them."""
    if metric.kind == "info":
        info = InfoMetricFamily(
            metric.name.removesuffix("_info"), metric.meaning, labels=metric.labels
        )
        for labels, _ in samples:
            info.add_metric(labels, {})
        return info
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    out = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in samples:
        out.add_metric(labels, value)
    return out


def histogram_family(
    metric: Metric, histograms: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Family:
    """Histograms by labels, as the library has them."""
    out = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, histogram in histograms:
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, histogram.cumulative()), strict=True))
        out.add_metric(labels, buckets, histogram.sum)
    return out


def _one(metric: Metric, value: float) -> Family:
    return family(metric, [((), value)])


def _fired(merchants: MerchantsAgent) -> dict[tuple[str, ...], float]:
    """Transactions by rule and mode; loaded rules are there before they fire."""
    loaded = merchants.rules_by_version().values()
    found: dict[tuple[str, ...], float] = {
        (rule.id, rule.mode): 0 for rules in loaded for rule in rules if rule.mode != "off"
    }
    for rule, counts in merchants.fired.items():
        by_mode = {"live": counts.live, "shadow": counts.shadow}
        found |= {(rule, mode): count for mode, count in by_mode.items() if count}
    return found


class WorkerCollector(Collector):
    """Gives the metrics of `dafu.web.metric_names`.

    Parameters
    ----------
    reporter : Reporter
    agents : Agents
    """

    def __init__(self, reporter: Reporter, agents: Agents) -> None:
        self._reporter = reporter
        self._agents = agents

    def collect(self) -> Iterator[Family]:
        """All families, those without a sample included."""
        yield from self._worker()
        yield from self._decisions()
        yield from self._work()
        yield from self._progress()
        yield from self._state()
        yield from self._versions()
        yield from self._rings()

    def _worker(self) -> Iterator[Family]:
        reporter, app = self._reporter, self._reporter.app
        who = WORKER_NAME.decode(), __version__, app.conf.id, app.settings.store
        yield family(names.WORKER, [(who, 1.0)])
        yield _one(names.LIVE, not reporter.dead())
        yield _one(names.READY, not reporter.not_ready())
        yield _one(names.REBALANCES, app.rebalancing_count)

    def _decisions(self) -> Iterator[Family]:
        users, merchants = self._agents.users, self._agents.merchants
        yield family(names.DECISIONS, (((k,), n) for k, n in merchants.by_outcome.items()))
        yield _one(names.DEGRADED_DECISIONS, merchants.degraded)
        yield _one(names.DEGRADED, merchants.is_degraded)
        yield histogram_family(
            names.LATENCY, [(("users",), users.latency), (("merchants",), merchants.latency)]
        )

    def _work(self) -> Iterator[Family]:
        agents = self._agents.by_name()
        counters: dict[str, Counters] = {name: agent.counters for name, agent in agents.items()}
        yield histogram_family(names.BATCH, (((n,), a.batch_seconds) for n, a in agents.items()))
        for metric, field in _BY_AGENT:
            yield family(metric, (((n,), getattr(c, field)) for n, c in counters.items()))
        yield family(
            names.LAST_BATCH,
            (((n,), c.last_batch_at) for n, c in counters.items() if c.last_batch_at),
        )
        yield family(
            names.DEAD_LETTERS,
            (
                ((name, reason), count)
                for name, c in counters.items()
                for reason, count in c.rejected_by_reason.items()
            ),
        )

    def _progress(self) -> Iterator[Family]:
        monitor = self._reporter.monitor
        at = [((p.topic, str(p.partition)), p) for p in monitor.progress.partitions]
        yield family(names.LAG, ((labels, p.lag) for labels, p in at))
        yield family(names.COMMITTED_AGE, ((labels, p.committed_age_s) for labels, p in at))
        age = monitor.age_s
        yield family(names.OFFSETS_AGE, [] if age is None else [((), age)])

    def _state(self) -> Iterator[Family]:
        tables = self._reporter.sizes
        held = [
            ((name, str(size.partition)), size)
            for name, sizes in tables.items()
            for size in sizes.latest
        ]
        yield family(names.ENTITIES, ((labels, size.entities) for labels, size in held))
        yield family(names.STATE_RECORDS, ((labels, size.records) for labels, size in held))
        yield family(names.STATE_BYTES, ((labels, size.bytes) for labels, size in held))
        ages = ((name, sizes.age_s) for name, sizes in tables.items())
        yield family(names.STATE_AGE, (((n,), age) for n, age in ages if age is not None))

    def _versions(self) -> Iterator[Family]:
        rules, levels = self._reporter.rules(), self._reporter.models()
        modes = [
            ((each.version, mode), float(n))
            for each in rules
            for mode, n in (("live", each.live), ("shadow", each.shadow), ("off", each.off))
        ]
        yield family(names.RULES, modes)
        yield family(names.RULE_SET, (((each.version,), 1.0) for each in rules))
        yield family(names.FIRED, _fired(self._agents.merchants).items())
        served = {
            (level, m.role, m.name or "", m.version or "", "true" if m.loaded else "false"): 1.0
            for level, status in levels.items()
            for lineup in status.partitions
            for m in lineup.models
        }
        yield family(names.MODEL, served.items())
        yield family(names.MODEL_ALARMS, (((k,), len(v.alarms)) for k, v in levels.items()))

    def _rings(self) -> Iterator[Family]:
        agents = self._agents
        engine: Any = None
        if agents.rings is not None and PARTITION in agents.rings.table.records.open_partitions():
            engine = agents.rings.stage.engine(PARTITION)
        met = {} if engine is None else structs.asdict(engine.counters)
        yield family(names.RINGS, [] if engine is None else [((), len(engine.book.rings))])
        yield family(names.GRAPH, (((event,), n) for event, n in met.items()))
        alerts = {"merchant": agents.merchants.alerts}
        memberships = {"users": agents.users.memberships}
        fates = {"users": agents.users.by_identifier}
        if agents.rings is not None:
            alerts["accounts"] = agents.rings.counters.outputs
            memberships["rings"] = agents.rings.memberships
        if agents.identifiers is not None:
            fates["identifiers"] = agents.identifiers.by_fate
        yield family(names.ALERTS, (((kind,), n) for kind, n in alerts.items()))
        yield family(names.MEMBERSHIPS, (((n,), count) for n, count in memberships.items()))
        yield family(
            names.IDENTIFIERS,
            (((name, fate), n) for name, by in fates.items() for fate, n in by.items()),
        )
