"""`dafu models`: packages shown and compared, requests published, answers waited for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dafu.cli.kafka import read_topic
from dafu.generator import generate_traffic, write
from dafu.registry import CONTROL_KEY, ControlEvent, decode_event
from dafu.settings import load_settings
from tests.cli.conftest import Run
from tests.packages import flip_a_byte, forest, recurrent


def test_show_verifies_and_tells(run: Run, tmp_path: Path) -> None:
    model = forest(tmp_path / "m", seed=1, sequence="abc")
    ran = run("models", "show", "m")
    assert (ran.code, ran.err) == (0, "")
    told = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert (told["kind"], told["version"]) == ("isolation_forest", model.version)
    assert told["requires"] == "sequence abc"
    assert told["checksums"].startswith("good: 6 files")
    assert "sequence_risk" in told["features"]
    assert json.loads(run("models", "show", "m", "--json").out)["version"] == model.version
    file = flip_a_byte(tmp_path / "m")
    ran = run("models", "show", "m")
    assert ran.code == 1
    assert file.name in ran.err
    assert run("models", "show", "nowhere").code == 1


def test_compare_marks_what_differs(run: Run, tmp_path: Path) -> None:
    a = forest(tmp_path / "a", seed=1)
    b = forest(tmp_path / "b", seed=2, sequence="abc")
    ran = run("models", "compare", "a", "b")
    assert ran.code == 0
    lines = {line[:12].strip(): line for line in ran.out.splitlines()}
    assert a.version in lines["version"]
    assert b.version in lines["version"]
    assert lines["version"].endswith("*")
    assert not lines["kind"].endswith("*")
    assert "only B reads: sequence_risk" in ran.out
    assert "only A reads" not in ran.out


def test_compare_on_labelled_transactions(run: Run, tmp_path: Path) -> None:
    a = forest(tmp_path / "a", seed=1)
    forest(tmp_path / "b", seed=2)
    write(generate_traffic(users=60, merchants=10, days=12, seed=4).batches, tmp_path / "p.parquet")
    options = ("--on", "p.parquet", "--replicates", "20")
    ran = run("models", "compare", "a", "b", *options)
    assert (ran.code, ran.err) == (0, "")
    figures = ran.out.split("\n\n")[1]
    assert "auc_roc" in figures
    assert "precision at the threshold" in figures
    same = run("models", "compare", "a", "a", *options).out.split("\n\n")[1]
    assert "*" not in same
    assert "*" in figures
    one = run("evaluate", "p.parquet", "--model", "a", "--replicates", "20", "--out", "report",
              "--detection", "risk")  # fmt: skip
    assert one.code == 0, one.err
    value = next(line.split()[1] for line in one.out.splitlines() if line.startswith("  auc_roc"))
    row = next(line.split() for line in same.splitlines() if line.startswith("auc_roc"))
    assert row[1] == value, a.version
    recurrent(tmp_path / "r", seed=1)
    ran = run("models", "compare", "a", "r", "--on", "p.parquet")
    assert ran.code == 1
    assert "does not score transactions by itself" in ran.err


def test_what_can_not_be_served_is_not_even_asked_for(run: Run, tmp_path: Path) -> None:
    forest(tmp_path / "m", seed=1)
    ran = run("models", "deploy", "m", "--role", "champion", "--level", "sequence")
    assert ran.code == 1
    assert "does not serve at the level sequence" in ran.err
    flip_a_byte(tmp_path / "m")
    ran = run("models", "deploy", "m", "--role", "champion")
    assert ran.code == 1
    assert "SHA-256" in ran.err
    assert run("models", "deploy", "m", "--role", "boss").code == 2
    assert run("models", "rollback", "--level", "third").code == 2


@pytest.mark.broker
def test_requests_are_published_and_answers_waited_for(
    run: Run, topics: str, tmp_path: Path
) -> None:
    model = recurrent(tmp_path / "m", seed=1)
    assert "nothing was ever deployed" in run("models", "list").out
    assert run("models", "list", "--json").out == "null\n"
    ran = run("models", "deploy", "m", "--role", "shadow", "--why", "a try", "--wait", "0")
    assert (ran.code, ran.err) == (0, "")
    ran = run("models", "stop", "configured", "--by", "ann", "--wait", "0.5")
    assert ran.code == 1
    assert "no worker has answered within 0.5 s" in ran.err

    async def published() -> list[tuple[bytes, bytes, int]]:
        topic = f"{topics}control"
        batches = [b async for b in read_topic(load_settings(), topic)]
        return [(r.key, r.value, r.partition) for batch in batches for r in batch]

    records = asyncio.run(published())
    assert {key for key, _, _ in records} == {CONTROL_KEY}
    assert len({partition for _, _, partition in records}) == 1
    first, second = (decode_event(value) for _, value, _ in records)
    assert isinstance(first, ControlEvent)
    assert isinstance(second, ControlEvent)
    assert (first.action, first.level, first.role, first.why) == (
        "deploy", "sequence", "shadow", "a try",
    )  # fmt: skip
    assert first.model is not None
    assert first.model.version == model.version
    assert first.model.url == str(tmp_path / "m")
    assert (second.action, second.version, second.by) == ("stop", "", "ann")
    assert first.event_id != second.event_id
    assert "nothing was ever deployed" in run("models", "list").out
