"""The file of keys, users and clients: read as it changes, changed as a whole, readable to one.

Several workers on one machine share it, and commands change it while they run: a change is written
beside it and takes its place in one step, under a lock that commands hold meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import yaml

from dafu.errors import DafuError
from dafu.web.auth.records import AuthRecords

__all__ = ["AuthFile", "AuthFileError", "write_private"]

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""How often the file is looked at for changes."""

_HEAD: Final = (
    "# Who may call dafu. Written by `dafu keys`, `dafu users`, `dafu clients`; workers read it\n"
    "# again within a second. Keys, secrets and passwords are hashed: they can not be read here.\n"
)


class AuthFileError(DafuError):
    """The file can not be read, is not what it should be, or can not be written."""


class AuthFile:
    """The records in a file; none while there is no file.

    Parameters
    ----------
    path : Path
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._looked = -LOOK_SECONDS
        self._seen: tuple[int, int, int] | None = None
        self._records = AuthRecords()

    def records(self) -> AuthRecords:
        """What holds now. A file that became unreadable changes nothing, and an error is logged.

        Raises
        ------
        AuthFileError
            If the file can not be read the first time.
        """
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._records

    def change(self, change: Callable[[AuthRecords], AuthRecords]) -> AuthRecords:
        """Replace the records by what a function makes of them; others wait meanwhile.

        Raises
        ------
        AuthFileError
            If the file can not be read or written.
        """
        with self._locked():
            records = change(self._read())
            text = _HEAD + yaml.safe_dump(msgspec.to_builtins(records), sort_keys=False)
            write_private(self.path, text.encode())
            self._look()
        return records

    def create(self, records: AuthRecords) -> bool:
        """Write the first records; False if others were there first."""
        with self._locked():
            if self.path.exists():
                return False
            text = _HEAD + yaml.safe_dump(msgspec.to_builtins(records), sort_keys=False)
            write_private(self.path, text.encode())
            self._look()
        return True

    def _look(self) -> None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self._seen, self._records = None, AuthRecords()
            return
        except OSError as exc:
            raise AuthFileError(f"{self.path} can not be read: {exc}") from exc
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return
        if stat.st_mode & 0o077:
            logger.warning(
                "%s can be read by others: `chmod 600 %s`; hashes are no secrets, but who may "
                "write here decides who may what",
                self.path,
                self.path,
            )
        try:
            self._records = self._read()
        except AuthFileError:
            if self._seen is None:
                raise
            logger.exception("what was read before holds on")
        self._seen = seen

    def _read(self) -> AuthRecords:
        try:
            document = yaml.safe_load(self.path.read_text(encoding="utf-8"))
            return msgspec.convert(document or {}, AuthRecords)
        except FileNotFoundError:
            return AuthRecords()
        except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as exc:
            text = " ".join(str(exc).split())
            raise AuthFileError(f"{self.path} can not be read: {text}") from exc

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            _make_directory(self.path.parent)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise AuthFileError(f"{self.path} can not be changed: {exc}") from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def write_private(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """Write a file that only its owner may read, in one step.

    Parameters
    ----------
    replace : bool
        Whether it takes the place of one that is there.

    Returns
    -------
    bool
        False if one was there and stays.

    Raises
    ------
    AuthFileError
        If it can not be written.
    """
    try:
        _make_directory(path.parent)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                Path(name).replace(path)
            else:
                os.link(name, path)
        except FileExistsError:
            return False
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as exc:
        raise AuthFileError(f"{path} can not be written: {exc}") from exc
    return True


def _make_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
