"""Packages: round trip, deterministic bytes, and every way to be refused."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import numpy as np
import pytest

from dafu.models import package
from dafu.models.errors import ModelError, ModelPackageError
from dafu.models.isolation import IsolationForestModel
from dafu.models.kinds import KINDS
from dafu.models.model import Arrays, Manifest, ModelBase, base_fields
from dafu.models.package import load_model, load_package, save_package
from tests.models.forests import train_isolation_forest

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
    assert isinstance(loaded, IsolationForestModel)
    assert replace(loaded, forest=model.forest) == replace(saved, forest=model.forest)
    assert len(saved.version) == 16
    x = np.random.default_rng(5).lognormal(0, 2, (200, 3))
    assert model.score(x, COLUMNS).raw.tobytes() == loaded.score(x, COLUMNS).raw.tobytes()
    assert model.score(x, COLUMNS).risk.tobytes() == loaded.score(x, COLUMNS).risk.tobytes()
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
            manifest = msgspec.json.decode(raw, type=Manifest)
        except msgspec.ValidationError:
            (path / "manifest.json").write_bytes(raw)
            return
        manifest = msgspec.structs.replace(manifest, version=package._version(manifest))
        (path / "manifest.json").write_bytes(msgspec.json.encode(manifest))

    return edit


def parameter_edit(**changes: Any) -> Callable[[Path], None]:
    """As `manifest_edit`, of the parameters of the kind."""

    def edit(path: Path) -> None:
        document = json.loads((path / "manifest.json").read_text())
        manifest_edit(parameters={**document["parameters"], **changes})(path)

    return edit


def file_edit(change: Callable[[Any], Any], copy: str | None = None) -> Callable[[Path], None]:
    """As `manifest_edit`, of the list of files; `copy` is copied to x.npy."""

    def edit(path: Path) -> None:
        document = json.loads((path / "manifest.json").read_text())
        change(document["files"])
        if copy:
            (path / "x.npy").write_bytes((path / copy).read_bytes())
        manifest_edit(files=document["files"])(path)

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
    "a later format": (manifest_edit(format_version=3), "format version 3, this code reads 2"),
    "an unknown kind": (manifest_edit(kind="oracle"), "kind 'oracle' is unknown"),
    "a wrong type": (
        manifest_edit(provenance={"seed": "one"}),
        r"Expected `int`, got `str` - at `\$.provenance.seed`",
    ),
    "a field too many": (manifest_edit(extra=1), "unknown field `extra`"),
    "a file too few": (
        file_edit(lambda files: files.pop("left.npy")),
        "exactly its arrays, differs in left",
    ),
    "a file too many": (
        file_edit(lambda files: files.update({"x.npy": files["left.npy"]}), copy="left.npy"),
        "exactly its arrays, differs in x",
    ),
    "a path that leaves": (
        manifest_edit(files={"../../etc/passwd": {"bytes": 1, "sha256": ""}}),
        r"lists '\.\./\.\./etc/passwd', and no package has such a file",
    ),
    "a path that leaves to an array": (
        manifest_edit(files={"../m/left.npy": {"bytes": 1, "sha256": ""}}),
        "and no package has such a file",
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
    "a parameter too many": (parameter_edit(extra=1), "unknown field `extra`"),
    "an unknown group": (manifest_edit(groups=["amount", "behavior"]), "'merchant' is none of"),
    "a calibration that descends": (
        parameter_edit(calibration={"type": "rank", "scores": [0.1, 0.2], "risks": [0.5, 0.4]}),
        "risks must not descend",
    ),
    "a calibration of another type": (
        parameter_edit(calibration={"type": "isotonic", "scores": [0, 1], "risks": [0, 1]}),
        "Invalid value 'isotonic'",
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


def test_an_object_store_holds_packages_as_a_directory_does(
    model: IsolationForestModel, tmp_path: Path
) -> None:
    fs = fsspec.filesystem("memory")
    saved = save_package(model, "memory://models/m")
    assert save_package(model, tmp_path / "m").version == saved.version
    stored = {Path(name).name: fs.cat_file(name) for name in fs.find("/models/m")}
    assert stored == contents(tmp_path / "m")
    assert load_package("memory://models/m", "abc123").version == saved.version

    with pytest.raises(ModelPackageError, match="already holds a model package"):
        save_package(model, "memory://models/m")
    fs.pipe_file("/models/m/left_over.npy", b"of an older kind")
    newer = save_package(train(seed=2), "memory://models/m", overwrite=True)
    assert load_package("memory://models/m", None).version == newer.version
    assert not fs.exists("/models/m/left_over.npy")

    fs.pipe_file("/models/m/left.npy", stored["left.npy"])  # a mixture of two packages
    with pytest.raises(ModelPackageError, match=r"memory://models/m/left\.npy: "):
        load_package("memory://models/m", None)
    fs.rm_file("/models/m/left.npy")
    with pytest.raises(ModelPackageError, match=r"memory://models/m/left\.npy: file not found"):
        load_package("memory://models/m", None)

    fs.pipe_file("/letters/one.txt", b"dear")
    with pytest.raises(ModelPackageError, match="is no model package"):
        save_package(model, "memory://letters", overwrite=True)
    with pytest.raises(ModelPackageError, match="nothing is stored there"):
        load_package("memory://nowhere", None)
    with pytest.raises(ModelPackageError, match="can not be opened"):
        load_package("gopher://models/m", None)


def test_urls_without_fsspec_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ModelPackageError, match=r"pip install 'dafu\[objectstore\]'"):
        load_package("memory://models/m", None)


def test_a_failed_replacement_leaves_no_manifest(
    model: IsolationForestModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a new package over an old one is no package, which readers are told."""
    fs = fsspec.filesystem("memory")
    save_package(model, "memory://halves/m")
    whole = type(fs).pipe_file

    def failing(self: Any, path: str, value: bytes, **options: Any) -> None:
        if path.endswith("right.npy"):
            raise RuntimeError("connection lost")
        whole(self, path, value, **options)

    with monkeypatch.context() as context:
        context.setattr(type(fs), "pipe_file", failing)
        with pytest.raises(ModelPackageError, match="RuntimeError: connection lost"):
            save_package(train(seed=2), "memory://halves/m", overwrite=True)
    with pytest.raises(ModelPackageError, match=r"manifest\.json: file not found"):
        load_package("memory://halves/m", None)


def test_a_failed_replacement_of_a_directory_keeps_the_old_package(
    model: IsolationForestModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save_package(model, tmp_path / "m")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("disk full")
        return rename(self, target)

    with monkeypatch.context() as context:
        context.setattr(Path, "rename", failing)
        with pytest.raises(ModelPackageError, match=r"cannot write .*: disk full"):
            save_package(train(seed=2), tmp_path / "m", overwrite=True)
    assert load_package(tmp_path / "m", "abc123").version == saved.version
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_figures_that_json_lacks_are_refused(model: IsolationForestModel) -> None:
    with pytest.raises(ModelError, match="metric 'auc' is nan"):
        replace(model, metrics={"auc": float("nan")})


def test_a_kind_that_does_not_score_rows_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Embedding(ModelBase):
        kind = "embedding"

        def parameters(self) -> dict[str, Any]:
            return {}

        def arrays(self) -> dict[str, Any]:
            return {"weights": np.arange(3.0)}

        @classmethod
        def assemble(cls, manifest: Manifest, arrays: Arrays) -> Embedding:
            return cls(**base_fields(manifest))

    monkeypatch.setitem(KINDS, "embedding", Embedding)
    saved = save_package(Embedding(name="e", feature_names=("amount",)), tmp_path / "e")
    assert load_package(tmp_path / "e", None) == saved
    with pytest.raises(ModelPackageError, match="kind embedding does not score transactions"):
        load_model(tmp_path / "e", None)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelPackageError, match="no such directory"):
        load_package(tmp_path / "nowhere", None)
