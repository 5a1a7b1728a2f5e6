#!/usr/bin/env python3
"""Writes dashboard.json, Grafana's dashboard for dafu's metrics (docs/metrics.md).

Change panels here and run this file; a test sees that the two agree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

TARGET: Final = Path(__file__).with_name("dashboard.json")
WIDTH: Final = 24
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
WHERE: Final = 'job=~"$job",instance=~"$instance"'


class Query(NamedTuple):
    """An expression and what its series are called."""

    expr: str
    legend: str = ""
    table: bool = False


class Panel(NamedTuple):
    """A panel; `width` in the 24 columns of a row, `unit` as Grafana calls it."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stack: bool = False
    red_from: float | None = None
    about: str = ""


def per_second(metric: str, by: str, matchers: str = "") -> str:
    """Events a second of a counter, by labels."""
    return f"sum by ({by}) (rate({metric}{_braces(matchers)}[$__rate_interval]))"


def total(metric: str, by: str = "", how: str = "sum", matchers: str = "") -> str:
    """A gauge over all workers."""
    grouped = f"{how} by ({by})" if by else how
    return f"{grouped} ({metric}{_braces(matchers)})"


def quantile(q: float, metric: str, by: str) -> str:
    """A quantile of a histogram, by labels."""
    return f"histogram_quantile({q}, {per_second(f'{metric}_bucket', f'{by}, le')})"


def _braces(matchers: str) -> str:
    return "{" + ",".join(filter(None, [WHERE, matchers])) + "}"


def quantiles(metric: str, by: str) -> tuple[Query, ...]:
    """p50 and p99."""
    return tuple(
        Query(quantile(q, metric, by), f"p{q * 100:.0f} {{{{{by}}}}}") for q in (0.5, 0.99)
    )


DECISION_P99: Final = (
    "histogram_quantile(0.99, "
    + per_second("dafu_latency_seconds_bucket", "le", 'stage="merchants"')
    + ")"
)
INSTANCE: Final = "{{instance}}"
SLOW: Final = 0.25
"""Seconds; the bound of the alert DafuDecisionsSlow. Set both to your own target."""

ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "At a glance": (
        Panel("Workers ready", (Query(total("dafu_ready")),), kind="stat", width=4, height=4),
        Panel(
            "Decisions a second",
            (Query(f"sum (rate(dafu_decisions_total{_braces('')}[$__rate_interval]))"),),
            "ops", "stat", 4, 4,
        ),
        Panel(
            "p99, publish to decision", (Query(DECISION_P99),), "s", "stat", 4, 4, red_from=SLOW
        ),
        Panel(
            "Records to go", (Query(total("dafu_consumer_lag_records")),), "short", "stat", 4, 4,
            red_from=10_000,
        ),
        Panel(
            "Longest stand of a commit",
            (Query(total("dafu_consumer_committed_age_seconds", how="max")),),
            "s", "stat", 4, 4, red_from=30,
        ),
        Panel(
            "Workers without a model", (Query(total("dafu_degraded")),), "short", "stat", 4, 4,
            red_from=1,
        ),
    ),
    "Decisions": (
        Panel(
            "Decisions a second by outcome",
            (Query(per_second("dafu_decisions_total", "outcome"), "{{outcome}}"),),
            "ops", stack=True,
        ),
        Panel(
            "Publish to decision, by stage",
            quantiles("dafu_latency_seconds", "stage"),
            "s",
            about="From a record's timestamp on transactions until a stage published its part: "
            "users the forwarded transaction, merchants the decision.",
        ),
        Panel(
            "Share blocked or sent to review",
            (
                Query(
                    per_second("dafu_decisions_total", "outcome", 'outcome!="approve"')
                    + " / ignoring (outcome) group_left () "
                    + f"sum (rate(dafu_decisions_total{_braces('')}[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
            "percentunit",
        ),
    ),
    "Agents": (
        Panel(
            "Records read a second",
            (Query(per_second("dafu_agent_records_total", "agent"), "{{agent}}"),),
            "ops",
        ),
        Panel("Time that a batch takes", quantiles("dafu_batch_seconds", "agent"), "s"),
        Panel(
            "Share of the time that stages compute",
            (Query(per_second("dafu_agent_busy_seconds_total", "instance, agent"),
                   f"{INSTANCE} {{{{agent}}}}"),),
            "percentunit", stack=True,
            about="A worker computes on one core: where its agents add up to nearly 100 %, it has "
            "no time left.",
        ),
        Panel(
            "Records a batch",
            (
                Query(
                    per_second("dafu_agent_records_total", "agent")
                    + " / "
                    + per_second("dafu_agent_batches_total", "agent"),
                    "{{agent}}",
                ),
            ),
        ),
        Panel(
            "Read again, and recognised",
            tuple(
                Query(per_second(f"dafu_agent_{what}_total", "agent"), f"{what} {{{{agent}}}}")
                for what in ("duplicates", "repeats", "fenced", "rerouted")
            ),
            "ops",
            about="duplicates: from producers. repeats, fenced: after a restart. rerouted: came "
            "under a wrong key.",
        ),
        Panel(
            "Labels applied a second",
            (Query(per_second("dafu_agent_labels_total", "agent"), "{{agent}}"),),
            "ops",
        ),
    ),
    "Progress": (
        Panel(
            "Records to go, by topic",
            (Query(total("dafu_consumer_lag_records", "topic"), "{{topic}}"),),
        ),
        Panel(
            "How long commits have stood still",
            (Query(total("dafu_consumer_committed_age_seconds", "topic", "max"), "{{topic}}"),),
            "s",
        ),
        Panel(
            "Rebalances",
            (Query(f"increase(dafu_rebalances_total{_braces('')}[$__rate_interval])", INSTANCE),),
        ),
        Panel(
            "Not ready or not alive",
            (
                Query(f"1 - dafu_ready{_braces('')}", f"not ready {INSTANCE}"),
                Query(f"1 - dafu_live{_braces('')}", f"crashed {INSTANCE}"),
            ),
        ),
        Panel(
            "Since the broker's offsets were read",
            (Query(f"dafu_consumer_offsets_age_seconds{_braces('')}", INSTANCE),), "s",
        ),
        Panel(
            "Since the last batch",
            (
                Query(
                    "time() - "
                    + total("dafu_agent_last_batch_timestamp_seconds", "agent", "max"),
                    "{{agent}}",
                ),
            ),
            "s",
        ),
    ),
    "State": (
        Panel(
            "Users, merchants, identifiers",
            (Query(total("dafu_state_entities", "table"), "{{table}}"),),
        ),
        Panel("Records", (Query(total("dafu_state_records", "table"), "{{table}}"),)),
        Panel(
            "Keys and values", (Query(total("dafu_state_bytes", "table"), "{{table}}"),), "bytes"
        ),
    ),
    "Rules and models": (
        Panel(
            "Live rules that fired, a second",
            (Query(per_second("dafu_rule_fired_total", "rule", 'mode="live"'), "{{rule}}"),),
            "ops",
        ),
        Panel(
            "Shadow rules that would have fired, a second",
            (Query(per_second("dafu_rule_fired_total", "rule", 'mode="shadow"'), "{{rule}}"),),
            "ops",
        ),
        Panel("Rules by mode", (Query(total("dafu_rules", "mode", "max"), "{{mode}}"),)),
        Panel(
            "Models",
            (
                Query(
                    f"count by (level, role, name, version, loaded) (dafu_model_info{_braces('')})",
                    table=True,
                ),
            ),
            kind="table", width=16,
            about="Value: workers on which the model holds for a partition.",
        ),
        Panel(
            "Decided without a model, and models that can not be loaded",
            (
                Query(f"sum (rate(dafu_decisions_degraded_total{_braces('')}[$__rate_interval]))",
                      "decisions a second"),
                Query(total("dafu_model_alarms", "level"), "{{level}} models"),
            ),
        ),
        Panel(
            "Versions",
            (
                Query(
                    f"count by (version) (dafu_rule_set_info{_braces('')})", "rules {{version}}"
                ),
                Query(f"count by (version) (dafu_worker_info{_braces('')})", "dafu {{version}}"),
            ),
            width=24, height=6,
            about="Workers by version: more than one line of a kind while a change is rolled out.",
        ),
    ),
    "Dead letters": (
        Panel(
            "Dead letters by reason",
            (Query(total("dafu_dead_letters_total", "agent, reason"), "{{agent}}: {{reason}}"),),
            width=12,
            about="Since the workers started.",
        ),
        Panel(
            "Records set aside a second",
            (Query(per_second("dafu_agent_rejected_total", "agent"), "{{agent}}"),),
            "ops", width=12,
        ),
    ),
    "Fraud rings": (
        Panel("Rings open", (Query(total("dafu_rings_open", how="max"), "rings"),)),
        Panel(
            "Alerts a second", (Query(per_second("dafu_alerts_total", "kind"), "{{kind}}"),), "ops"
        ),
        Panel(
            "Places in rings told and noted, a second",
            (Query(per_second("dafu_memberships_total", "agent"), "{{agent}}"),),
            "ops",
        ),
        Panel(
            "What becomes of identifiers, a second",
            (Query(per_second("dafu_identifiers_total", "agent, fate"), "{{agent}}: {{fate}}"),),
            "ops", width=12,
        ),
        Panel(
            "What the graph of links meets, a second",
            (Query(per_second("dafu_graph_events_total", "event"), "{{event}}"),),
            "ops", width=12,
        ),
    ),
    "Processes": (
        Panel(
            "Cores", (Query(per_second("process_cpu_seconds_total", "instance"), INSTANCE),)
        ),
        Panel(
            "Memory",
            (Query(f"process_resident_memory_bytes{_braces('')}", INSTANCE),), "bytes",
        ),
        Panel("Open files", (Query(f"process_open_fds{_braces('')}", INSTANCE),)),
        Panel(
            "Garbage collections a second",
            (Query(per_second("python_gc_collections_total", "instance, generation"),
                   f"{INSTANCE} {{{{generation}}}}"),),
            "ops", width=12,
        ),
        Panel(
            "Running for",
            (Query(f"time() - process_start_time_seconds{_braces('')}", INSTANCE),),
            "s", width=12,
        ),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model."""
    return {
        "uid": "dafu",
        "title": "dafu",
        "tags": ["dafu", "fraud"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": _variables()},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    def label(name: str, query: str) -> dict[str, Any]:
        return {
            "name": name,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": "All", "value": "$__all"},
        }

    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        label("job", "label_values(dafu_worker_info, job)"),
        label("instance", 'label_values(dafu_worker_info{job=~"$job"}, instance)'),
    ]


def _panels() -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        out.append({"id": len(out) + 1, "type": "row", "title": title, "gridPos": place})
        y += 1
        x = tallest = 0
        for panel in panels:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            out.append(_panel(panel, len(out) + 1, place))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return out


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stack else "none"}
        fill = 20 if panel.stack else 0
        defaults["custom"] = {"stacking": stacking, "fillOpacity": fill, "showPoints": "never"}
        defaults["min"] = 0
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    out = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + k),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                **({"instant": True, "format": "table"} if query.table else {}),
            }
            for k, query in enumerate(panel.queries)
        ],
    }
    if panel.kind == "table":
        hidden = {"excludeByName": {"Time": True}}
        out["transformations"] = [{"id": "organize", "options": hidden}]
    return out


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
