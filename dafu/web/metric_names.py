"""The metrics of a worker: names, kinds, labels and what they say.

Names follow the conventions of Prometheus: seconds and bytes, counters end in ``_total``. What is
counted starts from 0 with the worker. Dashboard, alert rules and docs/metrics.md are checked
against this catalogue; `dafu.web.collector` fills it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

__all__ = ["CATALOGUE", "Metric", "markdown"]

Kind = Literal["counter", "gauge", "histogram", "info"]


class Metric(NamedTuple):
    """A family of time series, by the name that queries use (histograms: without suffix)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, "counter", labels, meaning)


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, "gauge", labels, meaning)


WORKER: Final = Metric(
    "dafu_worker_info", "info", ("worker", "version", "app_id", "store"), "Which process this is."
)
LIVE: Final = _gauge("dafu_live", "1 unless the worker has crashed, as /health/live.")
READY: Final = _gauge("dafu_ready", "1 if the worker should get traffic, as /health/ready.")
REBALANCES: Final = _counter(
    "dafu_rebalances_total", "Rebalances of the consumer group that this worker went through."
)

DECISIONS: Final = _counter("dafu_decisions_total", "Decisions published.", "outcome")
DEGRADED_DECISIONS: Final = _counter(
    "dafu_decisions_degraded_total", "Of these, those made by rules alone, without a model."
)
DEGRADED: Final = _gauge(
    "dafu_degraded",
    "1 if rules alone made the latest decisions; before the first, if no model is configured.",
)
LATENCY: Final = Metric(
    "dafu_latency_seconds",
    "histogram",
    ("stage",),
    "From a record's timestamp on transactions until a stage published what it made of it: users "
    "to the topic by merchant, merchants the decision (the header dafu-latency-ms).",
)

BATCH: Final = Metric(
    "dafu_batch_seconds",
    "histogram",
    ("agent",),
    "How long a batch was in work, from its start to the last acknowledgement.",
)
BUSY: Final = _counter(
    "dafu_agent_busy_seconds_total", "Time that an agent's stage computed.", "agent"
)
RECORDS: Final = _counter("dafu_agent_records_total", "Records read.", "agent")
BATCHES: Final = _counter(
    "dafu_agent_batches_total",
    "Batches dealt with; one in which models change counts as several.",
    "agent",
)
OUTPUTS: Final = _counter("dafu_agent_outputs_total", "Records published.", "agent")
REJECTED: Final = _counter("dafu_agent_rejected_total", "Records set aside.", "agent")
DUPLICATES: Final = _counter(
    "dafu_agent_duplicates_total", "Transactions that came again from producers.", "agent"
)
LABELS: Final = _counter("dafu_agent_labels_total", "Labels applied.", "agent")
REPEATS: Final = _counter(
    "dafu_agent_repeats_total", "Forwarded again by a restarted worker, and dropped.", "agent"
)
FENCED: Final = _counter(
    "dafu_agent_fenced_total", "Read again after a restart, known from the state.", "agent"
)
REROUTED: Final = _counter(
    "dafu_agent_rerouted_total", "Came under a wrong key and were sent again.", "agent"
)
LAST_BATCH: Final = _gauge(
    "dafu_agent_last_batch_timestamp_seconds",
    "Unix time of the last batch; absent before it.",
    "agent",
)
DEAD_LETTERS: Final = _counter(
    "dafu_dead_letters_total",
    "Records set aside by why; a reason is there from its first record on, so for alerts take "
    "dafu_agent_rejected_total.",
    "agent",
    "reason",
)

LAG: Final = _gauge("dafu_consumer_lag_records", "Records to go.", "topic", "partition")
COMMITTED_AGE: Final = _gauge(
    "dafu_consumer_committed_age_seconds",
    "How long the committed offset has not moved although there was something to do.",
    "topic",
    "partition",
)
OFFSETS_AGE: Final = _gauge(
    "dafu_consumer_offsets_age_seconds",
    "Since the broker's offsets were read; absent before the first time.",
)

_COUNTED: Final = "counted every ten minutes at most, beside the work."
ENTITIES: Final = _gauge(
    "dafu_state_entities",
    f"Users, merchants and so on in a table's partition here; {_COUNTED}",
    "table",
    "partition",
)
STATE_RECORDS: Final = _gauge(
    "dafu_state_records", f"Records in it; {_COUNTED}", "table", "partition"
)
STATE_BYTES: Final = _gauge(
    "dafu_state_bytes",
    f"Their keys and values, without the store's own overhead; {_COUNTED}",
    "table",
    "partition",
)
STATE_AGE: Final = _gauge(
    "dafu_state_counted_age_seconds", "Since a table was counted; absent before.", "table"
)

RULES: Final = _gauge("dafu_rules", "Rules in force.", "version", "mode")
FIRED: Final = _counter(
    "dafu_rule_fired_total", "Transactions on which a rule fired.", "rule", "mode"
)
RULE_SET: Final = Metric("dafu_rule_set_info", "info", ("version",), "The rules in force.")
MODEL: Final = Metric(
    "dafu_model_info",
    "info",
    ("level", "role", "name", "version", "loaded"),
    "The models that hold for partitions here. Without a name: rules decide alone, or no sequence "
    "model looks on. Not loaded: not needed yet, or not to be had.",
)
MODEL_ALARMS: Final = _gauge(
    "dafu_model_alarms", "Deployed models that could not be loaded.", "level"
)

RINGS: Final = _gauge(
    "dafu_rings_open",
    "Fraud rings open; on the worker that holds links, from its first batch on.",
)
GRAPH: Final = _counter(
    "dafu_graph_events_total",
    "What the graph of links has met since it was built up; likewise.",
    "event",
)
ALERTS: Final = _counter(
    "dafu_alerts_total", "Alerts published: rings of accounts, bursts at a merchant.", "kind"
)
MEMBERSHIPS: Final = _counter(
    "dafu_memberships_total",
    "Users' places in rings: told (rings), noted with the user (users).",
    "agent",
)
IDENTIFIERS: Final = _counter(
    "dafu_identifiers_total",
    "What became of identifiers, as in /v1/status: told of, refused or capped by users; late, "
    "ignored or withdrawn by identifiers.",
    "agent",
    "fate",
)

CATALOGUE: Final = (
    WORKER, LIVE, READY, REBALANCES,
    DECISIONS, DEGRADED_DECISIONS, DEGRADED, LATENCY,
    BATCH, BUSY, RECORDS, BATCHES, OUTPUTS, REJECTED, DUPLICATES, LABELS, REPEATS, FENCED, REROUTED,
    LAST_BATCH, DEAD_LETTERS,
    LAG, COMMITTED_AGE, OFFSETS_AGE,
    ENTITIES, STATE_RECORDS, STATE_BYTES, STATE_AGE,
    RULES, RULE_SET, FIRED, MODEL, MODEL_ALARMS,
    RINGS, GRAPH, ALERTS, MEMBERSHIPS, IDENTIFIERS,
)  # fmt: skip
"""All of them, in the order of docs/metrics.md."""


def markdown() -> str:
    """The catalogue as a table for docs/metrics.md."""
    rows = ["| metric | kind | labels | |", "|---|---|---|---|"]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(rows) + "\n"
