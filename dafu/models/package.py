"""Model packages: a directory that holds a model, says where it came from, and proves it.

    manifest.json      what `Manifest` lists, with the SHA-256 of every other file
    <array>.npy ...    the arrays of the model, NumPy's own format without pickles

A package is immutable and its bytes follow from its content: the same training writes the same
files, and `version` is a hash of all of it. Loading trusts nothing: it reads each file once, hashes
what it read, and the model's kind checks what its kernels rely on before a model comes out.

With `storage` this is what touches files in `dafu.models`. It knows no Kafka and no feature code;
whoever loads passes the hash of the feature catalogue in force.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from dafu.models.errors import ModelError, ModelPackageError
from dafu.models.kinds import KINDS
from dafu.models.model import FileEntry, Manifest, Model, Packaged, is_array_name
from dafu.models.storage import MANIFEST, Storage, storage

FORMAT_VERSION: Final = 2
SUFFIX: Final = ".npy"
DEFAULT_PACKAGE: Final = Path(__file__).parent / "default"
"""Where the package that ships with dafu lives."""

RETRAIN: Final = "retrain the model and deploy the new package"
COPY_AGAIN: Final = "copy the package again from where it was made, or retrain the model"

M = TypeVar("M", bound=Packaged)


def save_package(model: M, path: Path | str, *, overwrite: bool = False) -> M:
    """Write a model to the directory or URL `path`, all of it or nothing.

    Parameters
    ----------
    model
        Any `version` it carries is replaced by the hash of what is written.
    path
        A directory that does not exist yet, or an empty one; or a URL such as `s3://bucket/x`,
        which needs the `objectstore` extra.
    overwrite
        Replace the package that is there. Refused for a directory that is not a package.

    Returns
    -------
    The model with its `version`, assembled from what was written.

    Raises
    ------
    ModelPackageError
        If the place is taken or cannot be written, or the model cannot be packaged.
    """
    place = storage(path)
    contents, saved = _pack(model, place)
    try:
        if place.exists():
            if not place.has(MANIFEST):
                raise ModelPackageError(
                    f"{place.where()} exists and is no model package; choose another path"
                )
            if not overwrite:
                raise ModelPackageError(
                    f"{place.where()} already holds a model package, and packages do not change; "
                    "choose another path, or ask for it to be overwritten"
                )
        place.write(contents)
    except OSError as exc:
        raise ModelPackageError(
            f"cannot write the model package {place.where()}: {exc}; choose another path"
        ) from exc
    return saved


def read_manifest(path: Path | str) -> Manifest:
    """What a package says of itself; its other files are not looked at.

    Raises
    ------
    ModelPackageError
        If there is no manifest, or none that this code reads, or it was edited.
    """
    return _read_manifest(storage(path))


def load_package(path: Path | str, catalogue_hash: str | None) -> Packaged:
    """Read and verify a package of any kind.

    Parameters
    ----------
    path
        The package's directory, or its URL.
    catalogue_hash
        The feature catalogue in force; a model trained with another one is refused. None to
        inspect a package without serving it.

    Raises
    ------
    ModelPackageError
        With the file and the defect, and what to do about it.
    """
    place = storage(path)
    manifest = _read_manifest(place)
    if catalogue_hash is not None and manifest.catalogue_hash != catalogue_hash:
        raise ModelPackageError(
            f"{place.where(MANIFEST)}: the model was trained with feature catalogue "
            f"{manifest.catalogue_hash or '(none)'}, this code computes {catalogue_hash}; {RETRAIN}"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in manifest.files.items():
        stem = name.removesuffix(SUFFIX)
        if not name.endswith(SUFFIX) or not is_array_name(stem):
            raise ModelPackageError(
                f"{place.where(MANIFEST)}: lists {name!r}, and no package has such a file; "
                f"{COPY_AGAIN}"
            )
        arrays[stem] = _parse_npy(place.where(name), _verified(place, name, entry))
    try:
        return KINDS[manifest.kind].assemble(manifest, arrays)
    except ModelError as exc:
        raise ModelPackageError(f"{place.where()}: {exc}; {RETRAIN}") from exc


def load_model(path: Path | str, catalogue_hash: str | None) -> Model:
    """Read and verify a package whose model scores rows of the feature matrix.

    Raises
    ------
    ModelPackageError
        As `load_package` does, and if the package is of a kind that is served elsewhere.
    """
    loaded = load_package(path, catalogue_hash)
    if not isinstance(loaded, Model):
        raise ModelPackageError(
            f"{storage(path).where()}: a model of kind {loaded.kind} does not score transactions "
            "by itself; give a package that does"
        )
    return loaded


def _pack(model: M, place: Storage) -> tuple[dict[str, bytes], M]:
    """All files of a model's package, and the model that loading them gives."""
    arrays = model.arrays()
    for name in arrays:
        if not is_array_name(name):
            raise ModelPackageError(f"a model of kind {model.kind} names an array {name!r}")
    try:
        contents = {f"{name}{SUFFIX}": _npy(array) for name, array in sorted(arrays.items())}
        manifest = _manifest(model, contents)
        raw = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        # What is not finite would become null, and be missed only when it is loaded.
        saved = type(model).assemble(msgspec.json.decode(raw, type=Manifest), arrays)
    except (ModelError, msgspec.ValidationError) as exc:
        raise ModelPackageError(
            f"cannot write the model package {place.where()}: {exc}; {RETRAIN}"
        ) from exc
    return {**contents, MANIFEST: raw}, saved


def _manifest(model: Packaged, contents: Mapping[str, bytes]) -> Manifest:
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        kind=model.kind,
        name=model.name,
        version="",
        provenance=model.provenance,
        catalogue_hash=model.catalogue_hash,
        groups=list(model.groups),
        features=list(model.feature_names),
        requires=dict(sorted(model.requires.items())),
        parameters=model.parameters(),
        thresholds=dict(sorted(model.thresholds.items())),
        metrics=dict(sorted(model.metrics.items())),
        files={
            name: FileEntry(len(data), hashlib.sha256(data).hexdigest())
            for name, data in sorted(contents.items())
        },
        reference=model.reference,
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


def _parse_npy(where: str, data: bytes) -> NDArray[Any]:
    source = io.BytesIO(data)
    try:
        array: NDArray[Any] = np.load(source, allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as exc:
        raise ModelPackageError(f"{where}: is no NumPy array: {exc}; {COPY_AGAIN}") from exc
    if source.read(1):
        raise ModelPackageError(f"{where}: has bytes after its array; {COPY_AGAIN}")
    return array


def _read(place: Storage, name: str) -> bytes:
    try:
        return place.read(name)
    except FileNotFoundError as exc:
        raise ModelPackageError(f"{place.where(name)}: file not found; {COPY_AGAIN}") from exc
    except OSError as exc:
        raise ModelPackageError(
            f"{place.where(name)}: cannot be read: {exc}; {COPY_AGAIN}"
        ) from exc


def _verified(place: Storage, name: str, entry: FileEntry) -> bytes:
    data = _read(place, name)
    if len(data) != entry.bytes:
        raise ModelPackageError(
            f"{place.where(name)}: has {len(data)} bytes, the manifest says {entry.bytes}; "
            f"{COPY_AGAIN}"
        )
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ModelPackageError(
            f"{place.where(name)}: its SHA-256 is not the manifest's, the file was changed; "
            f"{COPY_AGAIN}"
        )
    return data


def _read_manifest(place: Storage) -> Manifest:
    where = place.where(MANIFEST)
    try:
        missing = place.missing()
    except OSError as exc:
        raise ModelPackageError(f"{where}: cannot be read: {exc}; {COPY_AGAIN}") from exc
    if missing:
        raise ModelPackageError(f"{place.where()}: {missing} that holds {MANIFEST}")
    raw = _read(place, MANIFEST)
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
    if head.get("kind") not in KINDS:
        raise ModelPackageError(
            f"{where}: kind {head.get('kind')!r} is unknown; this code serves: "
            f"{', '.join(sorted(KINDS))}"
        )
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.ValidationError, ModelError) as exc:
        raise ModelPackageError(f"{where}: {exc}; {COPY_AGAIN}") from exc
    if manifest.version != _version(manifest):
        raise ModelPackageError(
            f"{where}: the version is {manifest.version!r} but its content hashes to "
            f"{_version(manifest)!r}, the manifest was edited; {COPY_AGAIN}"
        )
    return manifest
