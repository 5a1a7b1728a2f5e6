"""Runs commands in this process and gives back what they printed and how they ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dafu.cli import main
from dafu.settings import ENVIRONMENT


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `dafu ARGUMENTS` with default settings, in an empty directory, without a terminal."""
    for variable in [*ENVIRONMENT, "DAFU_CONF"]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        else:
            code = 0
        return Ran(code, *capfd.readouterr())

    return call


@pytest.fixture
def topics(
    run: Run, bootstrap: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """A running broker, and a topic prefix that is nobody else's."""
    prefix = unique("p.")
    monkeypatch.setenv("DAFU_BROKER", bootstrap)
    monkeypatch.setenv("DAFU_TOPIC_PREFIX", prefix)
    monkeypatch.setenv("DAFU_PARTITIONS", "2")
    return prefix
