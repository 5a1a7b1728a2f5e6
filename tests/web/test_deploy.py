"""Dashboard, alert rules and documentation against what a worker exposes."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from dafu.web.metric_names import CATALOGUE, markdown
from tests.web.conftest import Worker
from tests.web.scraping import Memory, Scraped, everything

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"

ADDED = {"job", "instance"}
"""Labels that Prometheus adds to what it scrapes."""
WORDS = {
    "sum", "max", "count", "rate", "increase", "deriv", "changes", "histogram_quantile", "time",
    "and", "label_values", *ADDED,
}  # fmt: skip
"""What else than metrics may stand in an expression: functions, operators, Grafana's variables."""


class Used(NamedTuple):
    """A series as an expression asks for it: its name, matchers and the labels it is grouped by."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    expression: str


def metrics_in(expression: str) -> tuple[list[Used], set[str]]:
    """The series that a PromQL expression selects, and the labels it groups by.

    Whatever name is left once groupings and ranges are taken away counts as a series, unless it is
    one of WORDS: what is misspelt is a series that nobody exposes.
    """
    groups: set[str] = set()

    def group(found: re.Match[str]) -> str:
        groups.update(re.findall(r"\w+", found[1]))
        return " "

    left = re.sub(r"\b(?:by|ignoring|on|group_left)\s*\(([^)]*)\)", group, expression)
    left = re.sub(r"\[[^\]]*\]", " ", left)
    used = []
    for name, matchers in re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?", left):
        if name in WORDS and not matchers:
            continue
        one = r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"'
        rest = re.sub(one, "", matchers)
        assert not re.sub(r"[{},\s]", "", rest), f"not understood: {rest!r} in {expression}"
        used.append(Used(name, tuple(re.findall(one, matchers)), expression))
    return used, groups


def test_how_expressions_are_read() -> None:
    used, groups = metrics_in(
        'sum by (job, le) (rate(a_total{x="1",y=~".+"}[5m])) / ignoring (z) group_left () b > 1e3'
    )
    assert [(u.name, u.matchers) for u in used] == [
        ("a_total", (("x", "=", "1"), ("y", "=~", ".+"))),
        ("b", ()),
    ]
    assert groups == {"job", "le", "z"}
    assert [u.name for u in metrics_in("sum(typo_of(a))")[0]] == ["typo_of", "a"]


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text())
    return document


def dashboard_queries() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def check(expression: str, seen: Scraped) -> set[str]:
    """See that all series of an expression are exposed with the labels used; gives their names."""
    used, groups = metrics_in(expression)
    assert used, expression
    have: set[str] = set()
    for each in used:
        if each.name == "up":
            have |= ADDED
            continue
        series = [dict(labels) for name, labels in seen.series if name == each.name]
        assert series, f"{each.name} is not exposed: {expression}"
        have |= {label for labels in series for label in labels} | ADDED
        for label, operator, value in each.matchers:
            assert label in have, f"{each.name} has no label {label}: {expression}"
            if label not in ADDED and operator in ("=", "!="):
                values = {labels[label] for labels in series}
                assert value in values, f"{each.name} is never {label}={value}: {expression}"
    assert groups <= have, f"{groups - have} are no labels here: {expression}"
    return {each.name for each in used}


async def test_every_metric_of_the_dashboard_is_exposed(worker: Worker, memory: Memory) -> None:
    seen = await everything(worker, memory)
    queries = list(dashboard_queries())
    assert len(queries) > 40
    shown = {name for query in queries for name in check(query, seen)}
    left_out = {
        metric.name for metric in CATALOGUE if not shown & {metric.name, f"{metric.name}_bucket"}
    }
    assert left_out == {"dafu_agent_outputs_total", "dafu_state_counted_age_seconds"}


async def test_every_metric_of_the_alert_rules_is_exposed(worker: Worker, memory: Memory) -> None:
    seen = await everything(worker, memory)
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) == 12
    for rule in rules:
        check(rule["expr"], seen)
        told = " ".join(rule["annotations"].values())
        grouped = metrics_in(rule["expr"])[1] or {"instance", *ADDED}
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= grouped, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_names_that_are_not_exposed_are_found() -> None:
    seen = Scraped([])
    with pytest.raises(AssertionError, match="dafu_nothing is not exposed"):
        check("sum(dafu_nothing)", seen)
    seen.series["dafu_some", frozenset({("stage", "users")})] = 1.0
    assert check('dafu_some{stage="users"}', seen) == {"dafu_some"}
    for wrong in ('dafu_some{stag="users"}', 'dafu_some{stage="user"}', "sum by (x) (dafu_some)"):
        with pytest.raises(AssertionError):
            check(wrong, seen)


def test_the_dashboard_is_what_its_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("dashboard", GRAFANA / "dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == (GRAFANA / "dashboard.json").read_text(), (
        "run deploy/grafana/dashboard.py"
    )


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    panels = dashboard()["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for of in ("id", "title"):
        assert len({panel[of] for panel in panels}) == len(panels)


def promtool(*arguments: str) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    done = subprocess.run([found, *arguments], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alert_rules_are_sound() -> None:
    promtool("check", "rules", "alerts.yml")


def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", "alerts.test.yml")


def test_the_example_configuration_is_sound() -> None:
    promtool("check", "config", "--syntax-only", "prometheus.yml")
    document = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (job,) = document["scrape_configs"]
    assert job["job_name"] == "dafu", "as the alert rules have it"
    assert set(job["authorization"]) == {"type", "credentials_file"}


def test_the_documentation_has_every_metric() -> None:
    assert markdown() in (ROOT / "docs" / "metrics.md").read_text(), (
        "put what dafu.web.metric_names.markdown() returns into docs/metrics.md"
    )
