"""Packages: round trip, deterministic bytes, and every way to be refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dafu.models import package
from dafu.models.errors import ModelPackageError
from dafu.models.isolation import IsolationForestModel
from dafu.models.package import load_package, save_package
from dafu.models.training import train_isolation_forest

NAMES = ("amount", "count", "merchant_mean")
GROUPS = ("amount", "behavior", "merchant")
COLUMNS = np.arange(3, dtype=np.int32)


def train(seed: int = 1) -> IsolationForestModel:
    x = np.random.default_rng(0).lognormal(0, 1, (500, 3))
    return train_isolation_forest(
        x,
        NAMES,
        GROUPS,
        seed=seed,
        n_estimators=8,
        catalogue_hash="abc123",
        data="500 lognormal rows",
        code="0.1.0",
    )


@pytest.fixture(scope="module")
def model() -> IsolationForestModel:
    return train()


def contents(path: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(path.iterdir())}


def test_round_trip(model: IsolationForestModel, tmp_path: Path) -> None:
    saved = save_package(model, tmp_path / "m")
    loaded = load_package(tmp_path / "m", "abc123")
    assert replace(loaded, forest=model.forest) == replace(saved, forest=model.forest)
    assert len(saved.version) == 16
    x = np.random.default_rng(5).lognormal(0, 2, (200, 3))
    for a, b in zip(model.score(x, COLUMNS), loaded.score(x, COLUMNS), strict=True):
        assert a.tobytes() == b.tobytes()
    assert load_package(tmp_path / "m", None).catalogue_hash == "abc123"


def test_the_same_training_writes_the_same_bytes(tmp_path: Path) -> None:
    first = save_package(train(), tmp_path / "a")
    second = save_package(train(), tmp_path / "b")
    other = save_package(train(seed=2), tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert first.version == second.version != other.version
    again = save_package(load_package(tmp_path / "a", None), tmp_path / "d")
    assert again.version == first.version
    assert contents(tmp_path / "d") == contents(tmp_path / "a")


def test_what_is_there_is_not_replaced_unasked(model: IsolationForestModel, tmp_path: Path) -> None:
    save_package(model, tmp_path / "m")
    with pytest.raises(ModelPackageError, match="already holds a model package"):
        save_package(model, tmp_path / "m")
    newer = save_package(train(seed=2), tmp_path / "m", overwrite=True)
    assert load_package(tmp_path / "m", None).version == newer.version
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(ModelPackageError, match="is no model package"):
        save_package(model, tmp_path / "other", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "other"]


def manifest_edit(**changes: Any) -> Callable[[Path], None]:
    """Edit the manifest and sign it again, so that only the edit itself can be what is refused."""

    def edit(path: Path) -> None:
        document = json.loads((path / "manifest.json").read_text())
        document.update(changes)
        raw = json.dumps(document).encode()
        try:
            manifest = msgspec.json.decode(raw, type=package.Manifest)
        except msgspec.ValidationError:
            (path / "manifest.json").write_bytes(raw)
            return
        manifest = msgspec.structs.replace(manifest, version=package._version(manifest))
        (path / "manifest.json").write_bytes(msgspec.json.encode(manifest))

    return edit


def array_edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change an array and put its new checksum into the manifest."""

    def edit(path: Path) -> None:
        where = path / f"{name}.npy"
        np.save(where, change(np.load(where)))
        raw = where.read_bytes()
        document = json.loads((path / "manifest.json").read_text())
        document["files"][where.name] = {
            "bytes": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
        }
        manifest_edit(files=document["files"])(path)

    return edit


def at(index: int, value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


def flip_last_byte(path: Path) -> None:
    raw = bytearray((path / "threshold.npy").read_bytes())
    raw[-1] ^= 1
    (path / "threshold.npy").write_bytes(raw)


def truncate(path: Path) -> None:
    (path / "left.npy").write_bytes((path / "left.npy").read_bytes()[:-8])


def unsigned_edit(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace("500 lognormal rows", "other rows"))


def pickled(path: Path) -> None:
    np.save(path / "value.npy", np.array([{}], dtype=object), allow_pickle=True)
    raw = (path / "value.npy").read_bytes()
    document = json.loads((path / "manifest.json").read_text())
    document["files"]["value.npy"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    manifest_edit(files=document["files"])(path)


def missing(name: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        (path / name).unlink()

    return edit


def no_json(path: Path) -> None:
    (path / "manifest.json").write_bytes(b"\xff{")


CORRUPTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a changed byte": (flip_last_byte, r"threshold\.npy: its SHA-256 is not the manifest's"),
    "a truncated file": (truncate, r"left\.npy: has \d+ bytes, the manifest says"),
    "a missing file": (missing("roots.npy"), r"roots\.npy: file not found"),
    "no manifest": (missing("manifest.json"), r"manifest\.json: file not found"),
    "no JSON": (no_json, "is no JSON object"),
    "an edited manifest": (unsigned_edit, "the manifest was edited"),
    "a later format": (manifest_edit(format_version=2), "format version 2, this code reads 1"),
    "an unknown kind": (manifest_edit(kind="oracle"), "kind 'oracle' is unknown"),
    "a wrong type": (manifest_edit(seed="one"), r"Expected `int`, got `str` - at `\$.seed`"),
    "a field too many": (manifest_edit(extra=1), "unknown field `extra`"),
    "a file too many": (
        manifest_edit(files={"x.npy": {"bytes": 1, "sha256": ""}}),
        "must list exactly the files .* x.npy",
    ),
    "a path that leaves": (
        manifest_edit(files={"../../etc/passwd": {"bytes": 1, "sha256": ""}}),
        "must list exactly the files",
    ),
    "a pickle": (pickled, r"value\.npy: is no NumPy array: .*pickle"),
    "another dtype": (
        array_edit("feature", lambda a: a.astype(np.int64)),
        "'feature' must be int32 of one dimension, is int64",
    ),
    "another shape": (array_edit("right", lambda a: a[:-1]), "'right' has"),
    "a cycle": (array_edit("left", at(0, 0)), "a cycle is possible"),
    "a child elsewhere": (array_edit("right", at(0, 10**6)), "lies outside its tree"),
    "a feature it lacks": (array_edit("feature", at(0, 3)), "node 0: 3 is no feature index"),
    "a threshold NaN": (array_edit("threshold", at(0, np.nan)), "node 0: nan is not finite"),
    "a wrong expectation": (array_edit("value", at(0, 99.0)), "99.0 is not between"),
    "a negative path": (array_edit("value", lambda a: a - 50.0), "path length .* is negative"),
    "an unknown group": (manifest_edit(groups=["amount", "behavior"]), "'merchant' is none of"),
    "a calibration that descends": (
        manifest_edit(calibration={"type": "rank", "knots": [[0.1, 0.5], [0.2, 0.4]]}),
        "risks must not descend",
    ),
    "a calibration of another type": (
        manifest_edit(calibration={"type": "probability", "knots": []}),
        "Invalid enum value 'probability'",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupt_package_is_refused(
    name: str, model: IsolationForestModel, tmp_path: Path
) -> None:
    corrupt, says = CORRUPTIONS[name]
    path = tmp_path / "m"
    save_package(model, path)
    load_package(path, "abc123")
    corrupt(path)
    with pytest.raises(ModelPackageError, match=says) as refusal:
        load_package(path, "abc123")
    assert str(path) in str(refusal.value)
    assert ";" in str(refusal.value), "says what to do"


def test_a_model_for_other_features_is_refused(model: IsolationForestModel, tmp_path: Path) -> None:
    save_package(model, tmp_path / "m")
    with pytest.raises(ModelPackageError, match=r"catalogue abc123, this code computes def456"):
        load_package(tmp_path / "m", "def456")


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelPackageError, match="no such directory"):
        load_package(tmp_path / "nowhere", None)
