"""Model packages: a directory that holds a model, says where it came from, and proves it.

    manifest.json      what `Manifest` lists, with the SHA-256 of every other file
    feature.npy ...    the arrays of the forest, NumPy's own format without pickles

A package is immutable and its bytes follow from its content: the same training writes the same
files, and `version` is a hash of all of it. Loading trusts nothing: it reads each file once, hashes
what it read, and checks what the kernel relies on before a model comes out.

This is the one module of `dafu.models` that touches files. It knows no Kafka and no feature code;
whoever loads passes the hash of the feature catalogue in force.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dafu.models.calibration import Calibration
from dafu.models.errors import ModelError, ModelPackageError
from dafu.models.forest import ARRAYS, Forest
from dafu.models.isolation import IsolationForestModel, Provenance

FORMAT_VERSION: Final = 1
KIND: Final = "isolation_forest"
MANIFEST: Final = "manifest.json"
MAX_FILE_BYTES: Final = 256 * 1024 * 1024
DEFAULT_PACKAGE: Final = Path(__file__).parent / "default"
"""Where the package that ships with dafu lives."""

RETRAIN: Final = "retrain the model and deploy the new package"
COPY_AGAIN: Final = "copy the package again from where it was made, or retrain the model"


class CreatedFrom(Struct, frozen=True, forbid_unknown_fields=True):
    """Description of the training data and version of the code."""

    data: str
    code: str


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """Size and SHA-256 (hexadecimal) of a file beside the manifest."""

    bytes: int
    sha256: str


class CalibrationEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """Knots (score, risk). `type` says what the risk is: a rank, no probability."""

    type: Literal["rank"]
    knots: list[tuple[float, float]]


class FeatureEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A column of the forest: its name, its group and what replaces a missing value."""

    name: str
    group: str
    fill: float


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of manifest.json."""

    format_version: int
    kind: str
    name: str
    version: str
    created_from: CreatedFrom
    seed: int
    catalogue_hash: str
    groups: list[str]
    features: list[FeatureEntry]
    max_samples: int
    calibration: CalibrationEntry
    thresholds: dict[str, float]
    metrics: dict[str, float]
    files: dict[str, FileEntry]


def save_package(
    model: IsolationForestModel, path: Path | str, *, overwrite: bool = False
) -> IsolationForestModel:
    """Write a model to the directory `path`, all of it or nothing.

    Parameters
    ----------
    model
        Any `version` it carries is replaced by the hash of what is written.
    path
        A directory that does not exist yet, or an empty one.
    overwrite
        Replace the package that is there. Refused for a directory that is not a package.

    Returns
    -------
    IsolationForestModel
        The model with its `version`.

    Raises
    ------
    ModelPackageError
        If the directory is taken or cannot be written.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if not path.is_dir() or not (path / MANIFEST).is_file():
            raise ModelPackageError(f"{path} exists and is no model package; choose another path")
        if not overwrite:
            raise ModelPackageError(
                f"{path} already holds a model package, and packages do not change; choose "
                "another path, or ask for it to be overwritten"
            )
    contents = {f"{name}.npy": _npy(getattr(model.forest, name)) for name in ARRAYS}
    manifest = _manifest(model, contents)
    contents[MANIFEST] = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside the target and renamed, so that nobody ever sees half a package.
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            for name, data in contents.items():
                (staging / name).write_bytes(data)
            staging.chmod(0o755)
            if path.exists():
                shutil.rmtree(path)
            staging.rename(path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as exc:
        raise ModelPackageError(f"cannot write the model package {path}: {exc}") from exc
    return dataclasses.replace(model, version=manifest.version)


def load_package(path: Path | str, catalogue_hash: str | None) -> IsolationForestModel:
    """Read and verify a package.

    Parameters
    ----------
    path
        The package's directory.
    catalogue_hash
        The feature catalogue in force; a model trained with another one is refused. None to
        inspect a package without serving it.

    Raises
    ------
    ModelPackageError
        With the file and the defect, and what to do about it.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    if catalogue_hash is not None and manifest.catalogue_hash != catalogue_hash:
        raise ModelPackageError(
            f"{path / MANIFEST}: the model was trained with feature catalogue "
            f"{manifest.catalogue_hash or '(none)'}, this code computes {catalogue_hash}; {RETRAIN}"
        )
    wanted = {f"{name}.npy" for name in ARRAYS}
    if set(manifest.files) != wanted:
        odd = ", ".join(sorted(wanted ^ set(manifest.files)))
        raise ModelPackageError(
            f"{path / MANIFEST}: must list exactly the files of a {KIND}, differs in {odd}; "
            f"{COPY_AGAIN}"
        )
    arrays = {
        name: _parse_npy(path / f"{name}.npy", _verified(path, f"{name}.npy", manifest))
        for name in ARRAYS
    }
    try:
        return IsolationForestModel(
            name=manifest.name,
            feature_names=tuple(f.name for f in manifest.features),
            feature_groups=tuple(f.group for f in manifest.features),
            fill=tuple(f.fill for f in manifest.features),
            forest=Forest(n_features=len(manifest.features), **arrays),
            max_samples=manifest.max_samples,
            calibration=Calibration(
                tuple(s for s, _ in manifest.calibration.knots),
                tuple(r for _, r in manifest.calibration.knots),
            ),
            groups=tuple(manifest.groups),
            catalogue_hash=manifest.catalogue_hash,
            thresholds=manifest.thresholds,
            metrics=manifest.metrics,
            provenance=Provenance(
                manifest.created_from.data, manifest.created_from.code, manifest.seed
            ),
            version=manifest.version,
        )
    except ModelError as exc:
        raise ModelPackageError(f"{path}: {exc}; {RETRAIN}") from exc


def _manifest(model: IsolationForestModel, contents: dict[str, bytes]) -> Manifest:
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        kind=KIND,
        name=model.name,
        version="",
        created_from=CreatedFrom(model.provenance.data, model.provenance.code),
        seed=model.provenance.seed,
        catalogue_hash=model.catalogue_hash,
        groups=list(model.groups),
        features=[
            FeatureEntry(n, g, f)
            for n, g, f in zip(model.feature_names, model.feature_groups, model.fill, strict=True)
        ],
        max_samples=model.max_samples,
        calibration=CalibrationEntry(
            "rank", list(zip(model.calibration.scores, model.calibration.risks, strict=True))
        ),
        thresholds=dict(sorted(model.thresholds.items())),
        metrics=dict(sorted(model.metrics.items())),
        files={
            name: FileEntry(len(data), hashlib.sha256(data).hexdigest())
            for name, data in sorted(contents.items())
        },
    )
    return msgspec.structs.replace(manifest, version=_version(manifest))


def _version(manifest: Manifest) -> str:
    """Sixteen hex digits over everything the package says, its files by their hashes."""
    content = msgspec.json.encode(msgspec.structs.replace(manifest, version=""), order="sorted")
    return hashlib.sha256(content).hexdigest()[:16]


def _npy(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    np.lib.format.write_array(out, little_endian, version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _parse_npy(path: Path, data: bytes) -> NDArray[Any]:
    source = io.BytesIO(data)
    try:
        array: NDArray[Any] = np.load(source, allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as exc:
        raise ModelPackageError(f"{path}: is no NumPy array: {exc}; {COPY_AGAIN}") from exc
    if source.read(1):
        raise ModelPackageError(f"{path}: has bytes after its array; {COPY_AGAIN}")
    return array


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelPackageError(
                f"{path}: has {size} bytes, at most {MAX_FILE_BYTES} are read; this is no package "
                "that dafu wrote"
            )
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise ModelPackageError(f"{path}: file not found; {COPY_AGAIN}") from exc
    except OSError as exc:
        raise ModelPackageError(f"{path}: cannot be read: {exc}; {COPY_AGAIN}") from exc


def _verified(path: Path, name: str, manifest: Manifest) -> bytes:
    entry = manifest.files[name]
    data = _read(path / name)
    if len(data) != entry.bytes:
        raise ModelPackageError(
            f"{path / name}: has {len(data)} bytes, the manifest says {entry.bytes}; {COPY_AGAIN}"
        )
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ModelPackageError(
            f"{path / name}: its SHA-256 is not the manifest's, the file was changed; {COPY_AGAIN}"
        )
    return data


def _read_manifest(path: Path) -> Manifest:
    where = path / MANIFEST
    if not path.is_dir():
        raise ModelPackageError(
            f"{path}: no such directory; give the directory that holds {MANIFEST}"
        )
    raw = _read(where)
    try:
        head = msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ModelPackageError(f"{where}: is no JSON object: {exc}; {COPY_AGAIN}") from exc
    # Before the rest, which another format version may spell differently.
    if head.get("format_version") != FORMAT_VERSION:
        raise ModelPackageError(
            f"{where}: format version {head.get('format_version')!r}, this code reads "
            f"{FORMAT_VERSION}; retrain with this version of dafu, or run the version that wrote it"
        )
    if head.get("kind") != KIND:
        raise ModelPackageError(
            f"{where}: kind {head.get('kind')!r} is unknown; this code serves: {KIND}"
        )
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.ValidationError as exc:
        raise ModelPackageError(f"{where}: {exc}; {COPY_AGAIN}") from exc
    if manifest.version != _version(manifest):
        raise ModelPackageError(
            f"{where}: the version is {manifest.version!r} but its content hashes to "
            f"{_version(manifest)!r}, the manifest was edited; {COPY_AGAIN}"
        )
    return manifest
