"""Commands without a broker: help, wrong usage, files, and errors in words."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dafu.broker import free_port
from dafu.cli import app
from tests.cli.conftest import Run

TRANSACTION = {
    "transaction_id": "t1",
    "user_id": "u",
    "merchant_id": "m",
    "amount": 60_000,
    "timestamp": "2020-01-01T03:00:00Z",
}
RULES = """\
version: 1
rules:
  - {id: big, condition: amount > 1000, risk_score: 0.9, action: block}
  - {id: fast, condition: user_count_5m > 10, risk_score: 0.8, action: review}
  - {id: shoe, condition: attributes.shoe == "red", risk_score: 0.8, action: review}
"""


def test_help_names_the_commands() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    names = "demo broker publish decisions dead-letters rules score train generate features schema"
    for name in [*names.split(), "config"]:
        assert f" {name} " in result.output


def test_help_needs_none_of_the_heavy_modules() -> None:
    heavy = ("numba", "pyarrow", "aiokafka", "faust", "numpy", "sklearn")
    code = f"import sys, dafu.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["publish"],
        ["publish", "a.csv", "--rate", "fast"],
        ["publish", "a.csv", "--rate", "0"],
        ["publish", "a.csv", "--rate", "10", "--speedup", "2"],
        ["publish", "a.csv", "--since", "soon"],
        ["publish", "a.csv", "--limit", "-1"],
        ["decisions", "--only", "block,maybe"],
        ["decisions", "--out", "a.txt"],
        ["dead-letters", "--dry-run"],
        ["rules", "explain", "a.yaml"],
        ["generate"],
        ["broker", "--port", "70000"],
    ],
)
def test_wrong_usage_ends_with_2(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert ran.err


def test_config(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAFU_WEB_PORT", "7000")
    ran = run("config")
    assert ran.code == 0
    assert ["web.port", "7000", "DAFU_WEB_PORT"] in [line.split() for line in ran.out.splitlines()]
    monkeypatch.setenv("DAFU_WEB_PORT", "x")
    ran = run("config")
    assert ran.code == 1
    assert ran.err.startswith("error: the settings have 1 problem")


def test_publish_says_what_is_wrong_with_files(run: Run, tmp_path: Path) -> None:
    ran = run("publish", "no.csv")
    assert (ran.code, ran.err) == (1, "error: there is no file no.csv\n")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    ran = run("publish", "a.csv", "--mapping", "nope")
    assert ran.code == 1
    assert "there is no mapping `nope`; there are: dafu, handbook, sparkov" in ran.err


def test_nobody_answers(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("DAFU_BROKER", address)
    (tmp_path / "a.jsonl").write_text(json.dumps(TRANSACTION))
    for arguments in (["publish", "a.jsonl"], ["decisions"], ["dead-letters"]):
        ran = run(*arguments)
        assert ran.code == 1
        assert ran.err.startswith(f"error: no Kafka broker can be reached at {address}")
        assert "with PLAINTEXT (Unable connect" in ran.err
        assert "dafu broker" in ran.err


def test_somebody_listens_and_says_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DAFU_BROKER", f"127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        ran = run("decisions")
    assert ran.code == 1
    assert "no Kafka broker can be reached" in ran.err
    assert time.monotonic() - begin < 8


def test_generate(run: Run, tmp_path: Path) -> None:
    arguments = ("generate", "--users", 20, "--merchants", 5, "--days", 2, "--seed", 3, "--out")
    ran = run(*arguments, "a.csv")
    assert ran.code == 0
    assert ran.out.startswith("wrote ")
    run(*arguments, "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    ran = run(*arguments, "c.xls")
    assert ran.code == 1
    assert ran.err.startswith("error: ")


def test_rules_check(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RULES)
    ran = run("rules", "check", "r.yaml")
    assert ran.code == 0
    assert "3 rules (3 live)" in ran.out
    (tmp_path / "r.yaml").write_text(RULES.replace("amount >", "amuont >"))
    ran = run("rules", "check", "r.yaml")
    assert ran.code == 1
    assert "amuont" in ran.err
    assert "Traceback" not in ran.err


def test_rules_explain(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RULES)
    ran = run("rules", "explain", "r.yaml", "--transaction", json.dumps(TRANSACTION))
    assert ran.code == 0
    assert "big (block, 0.9): FIRED" in ran.out
    assert "fast (flag_for_review, 0.8): did not fire" in ran.out
    assert "shoe (flag_for_review, 0.8): did not fire" in ran.out
    more = TRANSACTION | {"amount": 5, "user_count_5m": 14, "shoe": "red"}
    (tmp_path / "t.json").write_text(json.dumps(more))
    ran = run("rules", "explain", "r.yaml", "--transaction", "@t.json")
    assert "big (block, 0.9): did not fire" in ran.out
    assert "fast (flag_for_review, 0.8): FIRED" in ran.out
    assert "shoe (flag_for_review, 0.8): FIRED" in ran.out


@pytest.mark.parametrize("transaction", ["@no.json", "{", '{"amount": 1}'])
def test_rules_explain_wants_a_transaction(run: Run, tmp_path: Path, transaction: str) -> None:
    (tmp_path / "r.yaml").write_text(RULES)
    ran = run("rules", "explain", "r.yaml", "--transaction", transaction)
    assert ran.code == 1
    assert ran.err.startswith("error: ")
