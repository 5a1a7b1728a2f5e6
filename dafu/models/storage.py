"""Where packages are kept: a local directory, or a prefix of an object store.

`Storage` is what `package` needs of either: read a file, and put all files of a package in place.
A local path needs no library; a URL such as `s3://bucket/models/x` goes through fsspec (the
`objectstore` extra) and the library that fsspec names for its protocol.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from dafu.models.errors import ModelPackageError

MANIFEST: Final = "manifest.json"
MAX_FILE_BYTES: Final = 256 * 1024 * 1024


class Storage(Protocol):
    """A place for one package."""

    def where(self, name: str = "") -> str:
        """The path or URL of a file, or of the place itself, for messages."""

    def exists(self) -> bool:
        """Whether a file, or a directory with anything in it, is there."""

    def missing(self) -> str | None:
        """Why there can be no package to read, None if there may be one."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def read(self, name: str) -> bytes:
        """The whole file.

        Raises
        ------
        FileNotFoundError
        OSError
            If it cannot be read.
        ModelPackageError
            If it is larger than `MAX_FILE_BYTES`.
        """

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Put these files there, in place of what is there.

        No reader takes a half-written package for a whole one.

        Raises
        ------
        OSError
        """


def storage(path: Path | str) -> Storage:
    """The place that a local path or a URL (anything with `://`) names.

    Raises
    ------
    ModelPackageError
        If the URL's protocol is unknown or needs a library that is not installed.
    """
    return _Objects(path) if isinstance(path, str) and "://" in path else _Directory(Path(path))


def _refuse_large(where: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ModelPackageError(
            f"{where}: has {size} bytes, at most {MAX_FILE_BYTES} are read; this is no package "
            "that dafu wrote"
        )


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def where(self, name: str = "") -> str:
        return str(self._path / name)

    def exists(self) -> bool:
        path = self._path
        return path.exists() and (not path.is_dir() or any(path.iterdir()))

    def missing(self) -> str | None:
        return None if self._path.is_dir() else "no such directory; give the directory"

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def read(self, name: str) -> bytes:
        file = self._path / name
        _refuse_large(str(file), file.stat().st_size)
        return file.read_bytes()

    def write(self, contents: Mapping[str, bytes]) -> None:
        path = self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside the target and renamed, so that nobody ever sees half a package.
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        new, old = staging / "new", staging / "old"
        try:
            new.mkdir()
            for name, data in contents.items():
                (new / name).write_bytes(data)
            new.chmod(0o755)
            if path.exists():
                path.rename(old)
            try:
                new.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)


class _Objects:
    """Objects under a common prefix. There is no renaming, so the manifest goes last.

    While a package is replaced, a reader finds no manifest, or files whose hashes are not the
    manifest's: it refuses, and never serves a mixture.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as exc:
            raise ModelPackageError(
                f"{url}: reading and writing URLs needs fsspec, which is not installed; install "
                "it with pip install 'dafu[objectstore]'"
            ) from exc
        self._url = url.rstrip("/")
        try:
            self._fs: Any
            self._root: str
            # No listings from memory: another process may have written since.
            self._fs, self._root = url_to_fs(self._url, use_listings_cache=False)
        except (ImportError, ValueError) as exc:
            raise ModelPackageError(f"{url}: this address can not be opened: {exc}") from exc

    def where(self, name: str = "") -> str:
        return f"{self._url}/{name}" if name else self._url

    def exists(self) -> bool:
        with _as_os_error():
            return bool(self._fs.exists(self._root)) and bool(self._fs.find(self._root))

    def missing(self) -> str | None:
        return None if self.exists() else "nothing is stored there; give the address"

    def has(self, name: str) -> bool:
        with _as_os_error():
            return bool(self._fs.exists(f"{self._root}/{name}"))

    def read(self, name: str) -> bytes:
        with _as_os_error():
            _refuse_large(self.where(name), int(self._fs.info(f"{self._root}/{name}")["size"]))
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))

    def write(self, contents: Mapping[str, bytes]) -> None:
        with _as_os_error():
            if self._fs.exists(f"{self._root}/{MANIFEST}"):
                self._fs.rm_file(f"{self._root}/{MANIFEST}")
            old = self._fs.find(self._root) if self._fs.exists(self._root) else []
            self._fs.makedirs(self._root, exist_ok=True)
            for name in sorted(contents, key=lambda name: name == MANIFEST):
                if name == MANIFEST:
                    kept = {f"{self._root}/{each}" for each in contents}
                    for path in old:
                        if path not in kept:
                            self._fs.rm_file(path)
                self._fs.pipe_file(f"{self._root}/{name}", contents[name])


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Stores raise errors of their own (credentials, connections): make them OSErrors."""
    try:
        yield
    except (OSError, ModelPackageError):
        raise
    except Exception as exc:
        raise OSError(f"{type(exc).__name__}: {exc}") from exc
