"""`dafu rules` and `dafu lists`: checked here first, published, answers waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dafu.cli.kafka import read_topic
from dafu.cli.rules import _lines
from dafu.lists import ListEvent
from dafu.registry import CONTROL_KEY, Event, decode_event
from dafu.rulesets import RulesEvent, RulesState, StoredRules
from dafu.settings import load_settings
from dafu.stages.names import compile_document
from tests.cli.conftest import Run

RULES = """
version: 1
rules:
  - {id: large, condition: amount > 100, risk_score: 0.5, action: review}
"""


def test_bad_rules_are_not_even_asked_for(run: Run, tmp_path: Path) -> None:
    bad = RULES.replace("amount", "amuont") + "  - {id: b, condition: 1km > 1h}\n"
    (tmp_path / "bad.yaml").write_text(bad)
    ran = run("rules", "put", "bad.yaml")
    assert ran.code == 1
    assert "did you mean amount" in ran.err
    assert "rule 'b'" in ran.err
    assert run("rules", "mode", "large", "lively").code == 2


def test_bad_entries_are_not_even_asked_for(run: Run, tmp_path: Path) -> None:
    assert run("lists", "add", "deny", "user").code == 2
    for arguments in (("grey", "user", "u"), ("deny", "shoe", "u"), ("deny", "user", "x" * 513)):
        ran = run("lists", "add", *arguments)
        assert ran.code == 1
        assert f"{arguments[0]} {arguments[1]}" in ran.err
    assert run("lists", "add", "deny", "user", "u", "--until", "soon").code == 2
    ran = run("lists", "add", "deny", "user", "--file", "nowhere")
    assert ran.code == 1
    assert "nowhere can not be read" in ran.err


def test_the_rules_in_force_and_how_they_changed_are_told() -> None:
    rules = compile_document(
        {"large": {"condition": "amount > 1", "risk_score": 0.5, "action": "review",
                   "mode": "shadow"}}
    )  # fmt: skip
    asked = RulesEvent(
        "e", "set_rule_mode", rule_id="large", mode="shadow", by="ann", why="too many",
        at=1_767_225_600_000,
    )  # fmt: skip
    state = RulesState().after(asked, 0, StoredRules(rules.version, rules.document()))
    assert _lines(state) == [
        f"version    {rules.version}",
        "shadow     large (review)",
        "former     configured",
        f"changed    2026-01-01T00:00:00Z to {rules.version} by ann, set_rule_mode large shadow: "
        "too many",
    ]


@pytest.mark.broker
def test_requests_are_published_and_answers_waited_for(
    run: Run, topics: str, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "values.txt").write_text("".join(f" u{k} \n\n" for k in range(501)) + "u0\n")
    assert "rules were never put in force" in run("rules", "list").out
    assert run("rules", "list", "--json").out == "null\n"
    assert run("lists", "show").out == "0 entries\n"
    assert run("lists", "show", "--json").out == "[]\n"
    at_once = ("--wait", "0", "--by", "ann")
    for arguments in (
        ("rules", "put", "rules.yaml", "--why", "stricter"),
        ("rules", "mode", "large", "shadow"),
        ("lists", "add", "deny", "user", "--file", "values.txt", "--until", "2026-12-01"),
        ("lists", "remove", "watch", "ip", "10.0.0.1", "10.0.0.2"),
    ):
        ran = run(*arguments, *at_once)
        assert (ran.code, ran.err) == (0, "")
        assert "not waiting for an answer" in ran.out
    ran = run("rules", "rollback", "--wait", "0.5")
    assert ran.code == 1
    assert "no worker has answered within 0.5 s" in ran.err

    async def published() -> list[Event]:
        batches = [b async for b in read_topic(load_settings(), f"{topics}control")]
        records = [record for batch in batches for record in batch]
        assert {r.key for r in records} == {CONTROL_KEY}
        return [decode_event(r.value) for r in records]

    put, mode, first, second, removed, back = asyncio.run(published())
    assert isinstance(put, RulesEvent)
    assert put.rules is not None
    assert (put.by, put.why, [r["id"] for r in put.rules["rules"]]) == (
        "ann",
        "stricter",
        ["large"],
    )
    assert isinstance(mode, RulesEvent)
    assert (mode.rule_id, mode.mode) == ("large", "shadow")
    assert isinstance(first, ListEvent)
    assert isinstance(second, ListEvent)
    assert [e.value for e in (*first.entries, *second.entries)] == [f"u{k}" for k in range(501)]
    assert len(second.entries) == 1
    assert {(e.list, e.kind, e.until) for e in first.entries} == {
        ("deny", "user", 1_796_083_200_000)
    }
    assert isinstance(removed, ListEvent)
    assert (removed.action, [e.value for e in removed.entries]) == (
        "remove_entries", ["10.0.0.1", "10.0.0.2"],
    )  # fmt: skip
    assert back.action == "rollback_rules"
