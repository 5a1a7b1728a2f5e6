"""Packages on the shelf: loaded once, refused with a reason, replaced by a former champion."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from dafu.agents import shelf as module
from dafu.agents.shelf import Shelf
from dafu.models.errors import ModelPackageError
from dafu.models.model import Packaged
from dafu.registry import CONFIGURED, Level, Lineup, ModelRef
from tests.packages import flip_a_byte, forest, recurrent, ref

NOTHING: dict[Level, Packaged | None] = {"scoring": None, "sequence": None}


class Packages:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.forests = [forest(root / f"f{i}", seed=i) for i in range(3)]
        self.refs = [ref(m, root / f"f{i}") for i, m in enumerate(self.forests)]
        self.sequence = recurrent(root / "s", seed=1)

    @property
    def sequence_ref(self) -> ModelRef:
        return ref(self.sequence, self.root / "s")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return Packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def packages(made: Packages, tmp_path: Path) -> Packages:
    """Packages that a test may damage."""
    copy = object.__new__(Packages)
    copy.__dict__ |= made.__dict__
    copy.root = tmp_path / "packages"
    shutil.copytree(made.root, copy.root)
    copy.refs = [ref(m, copy.root / f"f{i}") for i, m in enumerate(made.forests)]
    return copy


async def test_a_package_is_loaded_once_and_kept(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    real = module.load_for

    def counted(level: Level, ref: ModelRef) -> Packaged:
        loads.append(ref)
        return real(level, ref)

    monkeypatch.setattr(module, "load_for", counted)
    shelf, first = Shelf(NOTHING), packages.refs[0]
    assert shelf.held("scoring", first) is None
    models = await asyncio.gather(*(shelf.get("scoring", first) for _ in range(5)))
    assert {m.version for m in models if m} == {first.version}
    shutil.rmtree(first.url)
    assert await shelf.get("scoring", first) is models[0] is shelf.held("scoring", first)
    assert len(loads) == 1
    assert shelf.alarms("scoring") == []


async def test_the_configured_model_needs_no_package(packages: Packages) -> None:
    model = packages.forests[0]
    shelf = Shelf({"scoring": model, "sequence": None})
    assert await shelf.get("scoring", CONFIGURED) is model
    assert await shelf.get("sequence", CONFIGURED) is None
    assert await shelf.champion("scoring", Lineup()) is model
    assert await shelf.champion("scoring", Lineup(None)) is None, "rules alone were asked for"


async def test_the_champion_before_stands_in(packages: Packages) -> None:
    first, second, third = packages.refs
    flip_a_byte(Path(third.url))
    configured = packages.forests[0]
    shelf = Shelf({"scoring": configured, "sequence": None})
    found = await shelf.champion("scoring", Lineup(third, (), (CONFIGURED, first, second)))
    assert found is not None
    assert found.version == second.version
    (alarm,) = shelf.alarms("scoring")
    assert third.version in alarm
    assert "SHA-256" in alarm
    assert shelf.alarms("sequence") == []
    nobody = ModelRef("gone", "g", str(packages.root / "gone"))
    assert await shelf.champion("scoring", Lineup(nobody, (), (None, third))) is configured
    assert len(shelf.alarms("scoring")) == 2
    shelf.keep_only("scoring", [third, second])
    assert len(shelf.alarms("scoring")) == 1
    assert shelf.held("scoring", second) is not None
    shelf.keep_only("sequence", [])
    assert shelf.held("scoring", second) is not None
    shelf.keep_only("scoring", [])
    assert shelf.held("scoring", second) is None


async def test_it_is_tried_again_after_a_while_and_nobody_waits_for_that(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, first = Shelf(NOTHING), packages.refs[0]
    hidden = Path(first.url).rename(packages.root / "hidden")
    assert await shelf.get("scoring", first) is None
    hidden.rename(first.url)
    assert await shelf.get("scoring", first) is None, "not yet"
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    assert await shelf.get("scoring", first) is None, "it is being loaded"
    for _ in range(1000):
        if (model := await shelf.get("scoring", first)) is not None:
            break
        await asyncio.sleep(0.01)
    assert model is not None
    assert model.version == first.version
    assert shelf.alarms("scoring") == []


async def test_a_load_without_end_is_given_up(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()
    monkeypatch.setattr(module, "LOAD_SECONDS", 0.05)
    monkeypatch.setattr(module, "load_for", lambda *_: done.wait(30))
    shelf = Shelf(NOTHING)
    assert await shelf.get("scoring", packages.refs[0]) is None
    done.set()
    assert "not loaded within 0.05 s" in shelf.alarms("scoring")[0]


async def test_what_a_library_makes_of_a_damaged_file_ends_nothing(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(module, "load_package", burst)
    shelf = Shelf(NOTHING)
    assert await shelf.get("scoring", packages.refs[0]) is None
    assert "RecursionError: too deep" in shelf.alarms("scoring")[0]


async def test_only_what_was_asked_for_and_fits_is_served(packages: Packages) -> None:
    shelf, (first, second, _) = Shelf(NOTHING), packages.refs
    swapped = ModelRef(first.name, first.version, second.url)
    with pytest.raises(ModelPackageError, match=f"holds version {second.version}"):
        await shelf.load("scoring", swapped)
    sequence = packages.sequence_ref
    with pytest.raises(ModelPackageError, match="does not serve at the level scoring"):
        await shelf.load("scoring", sequence)
    with pytest.raises(ModelPackageError, match="does not serve at the level sequence"):
        await shelf.load("sequence", first)
    assert (await shelf.load("sequence", sequence)).version == sequence.version
